"""Jobs over batches: every class over every kind of batch, beside the pipelines a row at a time."""

import copy
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import stand_ins
from models import assert_same_bits, small_model

import pyx_transformer as pt
from pyx_transformer import _jobs, batch
from pyx_transformer.batch import Classify, Embed, Generate, Rank, Score, Translate
from pyx_transformer.pipelines import opened

N = 7
NUMBERS = [3, 1, 4, 1, 5, 9, 2]
TEXTS = [
    "I love music .",
    None,
    "where is the dog ?",
    "",
    "I love music .",
    "wait",
    "He knows it .",
]
OTHERS = ["音楽", "a dog", "", "wait", None, "待", "he"]
LONG = "dog " * 600
SURROGATE = "no \ud800 text"


def optional(name):
    return pytest.importorskip(name, reason="needs the extra `scale`")


@pytest.fixture(autouse=True, scope="module")
def weights_of_this_module_alone(tmp_path_factory):
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("weights"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """A function that gives the directory of a kind of model, made once."""
    made = {"translator": "en-ja"}

    def of(kind):
        if kind not in made:
            path = tmp_path_factory.mktemp("models") / kind
            if kind in ("reranker", "language_model"):
                getattr(stand_ins, kind)(path, shared_data)
            else:
                name = "bert_classifier" if kind == "classifier" else "bert"
                stand_ins.encoder(path, shared_data, name)
            made[kind] = path
        return made[kind]

    return of


# Of each: the job, its model, the columns that it reads, its settings, the kinds of its outputs,
# and the outputs of one row by the pipeline. `same` is what becomes of an empty text.


class Case:
    def __init__(self, job, model, pipeline, columns, kinds, run, same=True, **settings):
        self.job, self.model, self.pipeline, self.columns = job, model, pipeline, columns
        self.kinds, self.run, self.same, self.settings = kinds, run, same, settings

    def made(self, folder, **changes):
        column = self.columns[0] if len(self.columns) == 1 else self.columns
        return self.job(folder(self.model), column, **{**self.settings, **changes})

    def wanted(self, folder, columns=None):
        """The outputs' values by their names, a row at a time."""
        columns = columns or {"text": TEXTS, "other": OTHERS}
        pipeline = self.pipeline(folder(self.model))
        rows = []
        for texts in zip(*(columns[name] for name in self.columns), strict=True):
            if None in texts:
                rows.append([None] * len(self.kinds))
            elif self.same and "" in texts:
                rows.append(["", None][: len(self.kinds)])
            else:
                rows.append(self.run(pipeline, *texts))
        values = zip(*rows, strict=True) if rows else [[]] * len(self.kinds)
        return {name: list(one) for name, one in zip(self.kinds, values, strict=True)}


SEARCH = {"beam_size": 2, "max_length": 20}
CASES = {
    "Translate": Case(
        Translate,
        "translator",
        pt.Translator,
        ["text"],
        {"translation": "text"},
        lambda one, text: one.translate([text], **SEARCH),
        **SEARCH,
    ),
    "Generate": Case(
        Generate,
        "language_model",
        pt.TextGenerator,
        ["text"],
        {"generated": "text"},
        lambda one, text: one.generate([text], max_length=6, temperature=0.9, seed=3),
        max_length=6,
        temperature=0.9,
        seed=3,
    ),
    "Embed": Case(
        Embed,
        "encoder",
        lambda path: pt.SentenceEncoder(path, pooling="max"),
        ["text"],
        {"embedding": "vector"},
        lambda one, text: [one.encode([text], normalize=True, truncate_dim=9, prompt="find ")[0]],
        same=False,
        normalize=True,
        truncate_dim=9,
        prompt="find ",
        pooling="max",
    ),
    "Rank": Case(
        Rank,
        "reranker",
        pt.CrossEncoder,
        ["text", "other"],
        {"score": "number"},
        lambda one, query, text: [float(one.predict([(query, text)])[0])],
        same=False,
    ),
    "Classify": Case(
        Classify,
        "classifier",
        pt.TextClassifier,
        ["text"],
        {"label": "text", "sure": "number"},
        lambda one, text: list(one.classify([text])[0]),
        score="sure",
    ),
    "Score": Case(
        Score,
        "translator",
        pt.Translator,
        ["text", "other"],
        {"score": "number"},
        lambda one, text, other: [float(one.score([text], [other])[0].sum(dtype=float))],
        same=False,
    ),
    "Score of texts": Case(
        Score,
        "language_model",
        pt.TextGenerator,
        ["text"],
        {"score": "number"},
        lambda one, text: [float(one.score([text])[0].sum(dtype=float))],
        same=False,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def wanted(folder):
    """A function that gives what is expected of a case, computed once."""
    known = {}

    def of(case):
        if id(case) not in known:
            known[id(case)] = case.wanted(folder)
        return known[id(case)]

    return of


# The kinds of batches: a function makes each of columns; `columns_of` reads any.


def object_array(values):
    return np.fromiter(values, object, len(values))


def arrays(columns):
    kinds = {"n": lambda values: np.array(values, np.int16)}
    return {name: kinds.get(name, object_array)(values) for name, values in columns.items()}


def lists(columns):
    return {name: list(values) for name, values in columns.items()}


def dicts(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def frame(dtype, index=None):
    def make(columns):
        pd = optional("pandas")
        if "pyarrow" in dtype:
            optional("pyarrow")
        texts = {name: pd.Series(v, dtype=dtype) for name, v in columns.items() if name != "n"}
        made = pd.DataFrame({"n": pd.Series(columns["n"], dtype="int16"), **texts})
        return made if index is None else made.set_axis(index[: len(made)])

    return make


def strings_of_pandas_3(columns):
    pd = optional("pandas")
    if int(pd.__version__.partition(".")[0]) < 3:
        pytest.skip("needs pandas 3, whose texts are of a dtype of their own")
    return frame("str")(columns)


def with_nan(columns):
    """Objects, where pandas has NaN for what is missing."""
    pd = optional("pandas")
    made = frame("object")(columns)
    for i, name in enumerate(("text", "other")):
        missing = (np.nan, pd.NA)[i]
        made[name] = pd.Series([missing if v is None else v for v in columns[name]], dtype=object)
    return made


def table(kind="string", build="table"):
    def make(columns):
        pa = optional("pyarrow")
        own = {
            "string": pa.string(),
            "large_string": pa.large_string(),
            "dictionary": pa.dictionary(pa.int8(), pa.string()),
        }[kind]
        arrays = {
            name: pa.array(values, pa.int16())
            if name == "n"
            else pa.array(values, pa.string()).cast(own)
            for name, values in columns.items()
        }
        if build == "record batch":
            return pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
        made = pa.table(arrays)
        if build == "chunked":
            made = pa.concat_tables([made[:2], made[2:2], made[2:5], made[5:]])
        return made

    return make


KINDS = {
    "arrays": arrays,
    "lists": lists,
    "dicts": dicts,
    "str of pandas 3": strings_of_pandas_3,
    "objects": frame("object"),
    "objects with NaN": with_nan,
    "string": frame("string"),
    "string[pyarrow]": frame("string[pyarrow]"),
    "categories": frame("category"),
    "odd index": frame("object", ["b", "a", "b", None, 3.5, ("x", 1), "a"]),
    "table": table(),
    "chunked table": table(build="chunked"),
    "record batch": table(build="record batch"),
    "large strings": table("large_string"),
    "dictionary": table("dictionary"),
}
COLUMNS = {"n": NUMBERS, "text": TEXTS, "other": OTHERS}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def is_none(value):
    return value is None or type(value).__name__ == "NAType" or value != value


def plain(value):
    """A value as it can be compared: a vector as its bytes, None for all that is missing."""
    if isinstance(value, (np.ndarray, list)):
        array = np.asarray(value)
        assert array.dtype == np.float32 or isinstance(value, list)
        return None if np.isnan(array).all() else array.astype(np.float32).tobytes()
    return None if is_none(value) else value


def columns_of(found):
    """The columns of any batch as lists."""
    if isinstance(found, list):
        names = list(found[0])
        assert all(list(row) == names for row in found)
        found = {name: [row[name] for row in found] for name in names}
    elif hasattr(found, "to_pylist"):
        found = {name: found.column(name).to_pylist() for name in found.schema.names}
    return {str(name): [plain(value) for value in found[name]] for name in found}


def as_plain(columns):
    return {name: [plain(value) for value in values] for name, values in columns.items()}


def assert_unchanged(before, found):
    """All columns of a batch are there as they were, and come first."""
    if isinstance(before, dict):
        assert list(found)[: len(before)] == list(before)
        for name, values in before.items():
            assert found[name] is values or type(found[name]) is type(values)
            np.testing.assert_array_equal(found[name], values)
    elif isinstance(before, list):
        assert [{name: row[name] for name in before[0]} for row in found] == before
    elif hasattr(before, "to_pylist"):
        assert found.select(before.schema.names).equals(before)
        assert found.schema.names[: len(before.schema.names)] == before.schema.names
    else:
        import pandas as pd

        pd.testing.assert_frame_equal(found[list(before.columns)], before)
        assert list(found.columns)[: len(before.columns)] == list(before.columns)


@pytest.mark.parametrize("on_error", ("raise", "keep"))
def test_every_job_over_every_kind_of_batch(case, kind, on_error, folder, wanted):
    job = case.made(folder, on_error=on_error)
    given = kind(COLUMNS)
    before = copy.deepcopy(given)
    found = job(given)
    assert type(found) is type(given)
    assert_unchanged(before, given)
    assert_unchanged(given, found)
    expected = as_plain(wanted(case))
    if on_error == "keep":
        expected[f"{job.output}_error"] = [None] * N
    columns = columns_of(found)
    assert {name: columns[name] for name in list(columns)[len(COLUMNS) :]} == expected


def test_results_depend_on_the_texts(folder, wanted):
    """Or the test above would say little."""
    for name, case in CASES.items():
        first = next(iter(wanted(case).values()))
        assert len({plain(value) for value in first}) >= (3 if name == "Classify" else 5), name


def test_lists_of_texts_and_of_tuples(case, folder, wanted):
    """They become lists of the first output."""
    job = case.made(folder, on_error="keep")
    pairs = list(zip(TEXTS, OTHERS, strict=True))
    given = TEXTS[:] if len(case.columns) == 1 else [*pairs[:3], list(pairs[3]), *pairs[4:]]
    before = copy.deepcopy(given)
    found = job(given)
    assert given == before and type(found) is list
    assert [plain(value) for value in found] == as_plain(wanted(case))[job.output]
    assert job(tuple(given)[4:]) is not None and job([]) == []
    if len(case.columns) == 2:
        assert job([None]) == [None]


def test_arrays_of_numpys_own_strings(folder, wanted):
    """And of str_, which are strings too."""
    texts = [one for one in TEXTS if one]
    case = CASES["Translate"]
    expected = case.wanted(folder, {"text": texts})["translation"]
    job = case.made(folder)
    for given in (np.array(texts), object_array([np.str_(one) for one in texts])):
        found = job({"text": given})["translation"]
        assert found.dtype == object and found.tolist() == expected
        assert all(type(one) is str for one in found)


def test_vectors_beside_arrays_are_one_array(folder):
    """Of one shape and dtype in each batch, as engines need it; elsewhere there are lists of them,
    with None."""
    job = CASES["Embed"].made(folder)
    for texts in (["wait", "dog"], ["wait", None], [None, None], []):
        found = job(arrays({"text": texts}))["embedding"]
        assert (found.shape, found.dtype) == ((len(texts), 9), np.float32)
        assert np.isnan(found).all(axis=1).tolist() == [text is None for text in texts]
    for found in (job({"text": ["wait", None]})["embedding"], job(["wait", None])):
        assert (found[0].shape, found[0].dtype, found[1]) == ((9,), np.float32, None)


# Types.


def types_of(found):
    if isinstance(found, dict):
        return {name: getattr(values, "dtype", list) for name, values in found.items()}
    if isinstance(found, list):
        return list
    if hasattr(found, "to_pylist"):
        return dict(zip(found.schema.names, found.schema.types, strict=True))
    return found.dtypes.to_dict()


@pytest.mark.parametrize("on_error", ("raise", "keep"))
def test_types_do_not_depend_on_the_rows(case, kind, on_error, folder):
    """Those of no rows, of texts alone and of None alone; meta and schema say them before."""
    job = case.made(folder, on_error=on_error)
    full = kind({"n": [1, 2], "text": ["dog", "wait"], "other": ["a", "b"]})
    is_dict = isinstance(full, dict)
    none = job({name: values[:0] for name, values in full.items()} if is_dict else full[:0])
    found = job(full)
    found_missing = job(kind({"n": [1, 2], "text": [None, None], "other": [None, None]}))
    types, of_missing = types_of(found), types_of(found_missing)
    assert types_of(none) == types
    if types is not list:
        names = [name for name in columns_of(found) if name not in COLUMNS]
        assert [of_missing[name] for name in names] == [types[name] for name in names]
    assert all(all(map(is_none, columns_of(found_missing)[name])) for name in case.kinds)
    if hasattr(full, "to_pylist"):
        assert job.schema(full) == job.schema(full.schema) == found.schema
    elif hasattr(full, "dtypes"):
        meta = job.meta(full)
        assert meta.dtypes.to_dict() == types and len(meta) == 0
        assert list(meta.columns) == list(found.columns)
        assert meta.index.dtype == full.index.dtype


def test_columns_that_are_missing_wholly_may_be_of_any_type(folder):
    """As pandas and pyarrow make them of a part of a file without a text."""
    pd, pa = optional("pandas"), optional("pyarrow")
    job = CASES["Translate"].made(folder)
    for given in (
        pd.DataFrame({"text": [np.nan, np.nan]}),
        pa.table({"text": pa.nulls(2)}),
        {"text": np.array([np.nan, np.nan])},
        {"text": np.full(2, np.nan, np.float32)},
        {"text": [pd.NA, pd.NaT]},
    ):
        assert columns_of(job(given))["translation"] == [None, None]
    assert job.schema(pa.schema({"text": pa.null()})).names == ["text", "translation"]


# Bits.


def test_bits_do_not_depend_on_the_cuts(case, folder, wanted, shared_data):
    texts = (shared_data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()[:40]
    others = texts[::-1]
    job = case.made(folder)

    def values(first, last):
        rows = list(zip(texts, others, strict=True))[first:last]
        found = job([row[: len(case.columns)] if len(case.columns) > 1 else row[0] for row in rows])
        return [plain(value) for value in found]

    whole = values(0, 40)
    for size in (1, 7, 16):
        assert [one for i in range(0, 40, size) for one in values(i, i + size)] == whole


def test_threads_share_one_job(folder):
    """All begin at once, before anything is loaded."""
    case = CASES["Embed"]
    expected = plain(case.wanted(folder)["embedding"][0])
    for _ in range(3):
        job, barrier = case.made(folder, truncate_dim=9), Barrier(4)
        _jobs._PIPELINES.clear()

        def work(_, job=job, barrier=barrier):
            barrier.wait()
            return [plain(job(TEXTS)[0]) for _ in range(5)]

        with ThreadPoolExecutor(4) as pool:
            assert {one for found in pool.map(work, range(4)) for one in found} == {expected}


# Pickles, and what is loaded.


def test_pickles_are_a_path_and_options(case, folder):
    job = case.made(folder, on_error="keep")
    want = job(lists(COLUMNS))
    for one in (job, pickle.loads(pickle.dumps(job))):
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            assert len(pickle.dumps(one, protocol)) < 600
    assert str(as_plain(pickle.loads(pickle.dumps(job))(lists(COLUMNS)))) == str(as_plain(want))


def test_pickles_of_cloudpickle(folder):
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    job = CASES["Translate"].made(folder)
    job(["wait"])
    content = cloudpickle.dumps(job)
    assert len(content) < 600
    assert cloudpickle.loads(content)(["wait"]) == job(["wait"])


def test_a_model_is_loaded_once_in_a_process(folder, monkeypatch):
    loads = []
    load = opened.load
    monkeypatch.setattr(opened, "load", lambda path: loads.append(path) or load(path))
    monkeypatch.setattr(_jobs, "_PIPELINES", {})
    path = folder("encoder")
    job = Embed(path)
    assert loads == []
    other = Embed(path, "words", "vector", normalize=True, on_error="keep")
    for one in (job, pickle.loads(pickle.dumps(job)), job):
        one(["dog"])
    other({"words": ["dog"]})
    assert loads == [path]
    Embed(path, pooling="cls")(["dog"])
    assert loads == [path] * 2


def test_a_job_shows_all_that_it_was_told(folder):
    path = str(folder("encoder"))
    job = Embed(path, pooling="max", truncate_dim=3)
    assert repr(job).endswith(", output='embedding', pooling='max', truncate_dim=3)")
    path = str(folder("classifier"))
    assert repr(Classify(path, score="sure")).endswith(", output='label', score='sure')")


def test_a_model_in_place_of_a_path(folder):
    """It is pickled whole."""
    model = pt.load(folder("encoder"))
    job = Embed(model, pooling="max")
    expected = pt.SentenceEncoder(model, pooling="max").encode(["dog", ""])
    for one in (job, pickle.loads(pickle.dumps(job)), copy.deepcopy(job)):
        found = one({"text": np.array(["dog", ""])})["embedding"]
        assert_same_bits(found, expected)
        assert "_own" not in one.__getstate__()


# Bad input: settings and models, as a job is made.


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda of: Translate("en-ja", beam=4),
            TypeError,
            r"Translate: unknown options \['beam'\]",
        ),
        (lambda of: Translate("en-ja", prefix=[[1]]), TypeError, r"options \['prefix'\]"),
        (lambda of: Translate("en-ja", beam_size=0), ValueError, "Translate: beam_size is 0"),
        (lambda of: Translate("en-ja", max_length="9"), TypeError, "Translate: max_length is '9'"),
        (lambda of: Translate("en-ja", num_samples=2), ValueError, "num_samples is 2, expected 1"),
        (lambda of: Translate("en-ja", options=4), TypeError, "Translate: options is 4"),
        (
            lambda of: Translate("en-ja", options=pt.GenerationOptions(prefix=[[1]])),
            TypeError,
            r"unknown options \['prefix'\]",
        ),
        (lambda of: Translate("en-ja", src_lang=3), TypeError, "Translate: src_lang is 3"),
        (lambda of: Translate("en-ja", on_error="skip"), ValueError, "on_error is 'skip'"),
        (lambda of: Translate("en-ja", 3), TypeError, "column is 3, expected a list of names"),
        (
            lambda of: Translate("en-ja", ["a", "b"]),
            ValueError,
            r"\['a', 'b'\], expected 1 because",
        ),
        (lambda of: Translate("en-ja", "a", 3), TypeError, "Translate: output is 3"),
        (lambda of: Translate("en-ja", "a", "a"), ValueError, r"\['a', 'a'\].* that differ"),
        (lambda of: Translate(of("encoder")), ValueError, "encoder is a model to embed, expected"),
        (lambda of: Translate(pt.load(of("encoder"))), ValueError, "model is a model to embed"),
        (lambda of: Translate(5), TypeError, "Translate: model is 5, expected TokenModel"),
        (lambda of: Translate("nowhere"), FileNotFoundError, "nowhere"),
        (lambda of: Generate("en-ja"), ValueError, "en-ja is a model to translate or score"),
        (lambda of: Embed(of("encoder"), max_length=4), TypeError, "max_length"),
        (lambda of: Embed(of("encoder"), normalize=1), TypeError, "Embed: normalize is 1"),
        (lambda of: Embed(of("encoder"), truncate_dim=0), ValueError, "Embed: truncate_dim is 0"),
        (lambda of: Embed(of("encoder"), pooling="first"), ValueError, "Embed: pooling is 'first'"),
        (lambda of: Embed(of("encoder"), prompt=b"a"), TypeError, "Embed: prompt is b'a'"),
        (
            lambda of: Embed(of("encoder"), max_batch_tokens=0),
            ValueError,
            "Embed: max_batch_tokens is 0",
        ),
        (
            lambda of: Rank(of("classifier")),
            ValueError,
            "a model to classify, expected one to rank",
        ),
        (lambda of: Rank(of("reranker"), "text"), ValueError, r"\['text'\], expected 2 because"),
        (
            lambda of: Score("en-ja", "text"),
            ValueError,
            r"column is \['text'\], expected 2 because",
        ),
        (
            lambda of: Score(of("language_model")),
            ValueError,
            r"'translation'\], expected 1 because",
        ),
        (
            lambda of: Score(of("language_model"), "text", src_lang="en"),
            TypeError,
            r"Score: src_lang was given, but .* a language model",
        ),
        (lambda of: Score(of("encoder")), ValueError, "a model to embed, expected one to score"),
        (lambda of: Classify(of("classifier"), score="label"), ValueError, "that differ"),
        (lambda of: Classify(of("classifier"), score=1), TypeError, "Classify: score is 1"),
        (
            lambda of: Classify(of("classifier"), score="label_error", on_error="keep"),
            ValueError,
            "that differ",
        ),
    ],
)
def test_what_is_wrong_as_a_job_is_made(make, error, message, folder):
    with pytest.raises(error, match=message):
        make(folder)


def test_a_model_without_a_tokenizer(tmp_path):
    small_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="model is a model without a tokenizer, expected one to"):
        Translate(tmp_path / "model")
    with pytest.raises(ValueError, match="src_tokenizer"):
        Translate(small_model())


def test_settings_that_only_the_model_can_judge(folder):
    """Before the first row, whatever on_error says."""
    for job, message in (
        (Translate("en-ja", src_lang="en", on_error="keep"), "src_lang and tgt_lang"),
        (Translate("en-ja", min_length=9, max_length=3, on_error="keep"), "min_length is 9"),
        (Embed(folder("encoder"), truncate_dim=9999, on_error="keep"), "truncate_dim is 9999"),
    ):
        for rows in (["wait"], []):
            with pytest.raises(ValueError, match=message):
                job(rows)
    with pytest.raises(ValueError, match="truncate_dim is 9999"):
        Embed(pt.load(folder("encoder")), truncate_dim=9999)


# Bad input: batches.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (5, TypeError, "Translate: batch is 5, expected a dict of arrays, a list,"),
        ("wait", TypeError, "Translate: batch is 'wait'"),
        (np.array(["wait"]), TypeError, "Translate: batch is a <U4 array"),
        ({}, ValueError, "there is no column 'text'"),
        ({"a": ["b"], "c": []}, ValueError, "no column 'text', expected one of 'a', 'c'"),
        ({"text": ["a"], "translation": ["b"]}, ValueError, "a column 'translation' already"),
        ({"text": "wait"}, TypeError, "Translate: column 'text' is 'wait', expected a list"),
        ({"text": 3}, TypeError, "Translate: column 'text' is 3, expected a list of texts"),
        ({"text": np.array([1, 2])}, TypeError, "column 'text' has .*1.* in row 0, expected texts"),
        ({"text": ["a", b"b"]}, TypeError, "column 'text' has b'b' in row 1, expected texts"),
        ([{"a": 1}], ValueError, "Translate: there is no column 'text', expected one of 'a'"),
        ([{"text": "a"}, 3], TypeError, "Translate: a row is 3, expected a dict as others"),
        (["a", 3], TypeError, "has 3 in row 1, expected texts"),
        ([("a", "b")], TypeError, "has .* in row 0, expected texts"),
    ],
)
def test_batches_that_do_not_fit(given, error, message):
    with pytest.raises(error, match=message):
        Translate("en-ja")(given)


def test_pairs_that_are_none(folder):
    job = CASES["Rank"].made(folder)
    for row in ("ab", ("a",), ("a", "b", "c"), 3):
        with pytest.raises(
            TypeError, match=r"row 1 is .*, expected a tuple of 2 texts: text, other"
        ):
            job([("a", "b"), row])
    with pytest.raises(TypeError, match="column 'other' has 3 in row 0"):
        job([("a", 3)])
    with pytest.raises(ValueError, match=r"columns 'text', 'other' have \[1, 2\] rows"):
        job({"text": ["a"], "other": ["a", "b"]})


def test_frames_and_tables_that_do_not_fit():
    """Where there are no rows yet, by their types."""
    pd, pa = optional("pandas"), optional("pyarrow")
    job = Translate("en-ja")
    frame, table = pd.DataFrame({"text": [1, 2]}), pa.table({"text": [1, 2]})
    with pytest.raises(TypeError, match="column 'text' has 2 in row 1, of index 'y', expected"):
        job(pd.DataFrame({"text": ["a", 2]}, index=["x", "y"]))
    with pytest.raises(TypeError, match="column 'text' has 1 in row 0"):
        job(table)
    with pytest.raises(TypeError, match="Translate: column 'text' is of dtype int64, expected"):
        job.meta(frame)
    with pytest.raises(TypeError, match="Translate: column 'text' is of dtype category, expected"):
        job.meta(frame.astype("category"))
    for dtype in (pa.int64(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())):
        with pytest.raises(TypeError, match=r"column 'text' is of type .*, expected texts") as told:
            job.schema(pa.schema({"text": dtype}))
        assert str(dtype) in str(told.value)
    for other in (pd.DataFrame({"a": ["b"]}), pa.table({"a": ["b"]})):
        say = job.meta if isinstance(other, pd.DataFrame) else job.schema
        for function in (job, say):
            with pytest.raises(ValueError, match="there is no column 'text', expected one of 'a'"):
                function(other)
    for other in (
        pd.DataFrame({"text": ["b"], "translation": ["c"]}),
        pa.table({"text": ["b"], "translation": ["c"]}),
    ):
        say = job.meta if isinstance(other, pd.DataFrame) else job.schema
        for function in (job, say):
            with pytest.raises(ValueError, match="there is a column 'translation' already"):
                function(other)
    twice = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    for function in (job, job.meta):
        with pytest.raises(ValueError, match="there are 2 columns 'text', expected one"):
            function(twice)
    with pytest.raises(ValueError, match="there are 2 columns 'text', expected one"):
        job(pa.table([["a"], ["b"]], ["text", "text"]))
    with pytest.raises(TypeError, match=r"Translate: of is .*, expected a DataFrame of Spark"):
        job.schema(frame)


def test_what_a_table_says_of_itself_stays():
    """Its own metadata, and those of its columns."""
    pa = optional("pyarrow")
    field = pa.field("text", pa.string(), metadata={"language": "en"})
    given = pa.table([["wait"]], pa.schema([field], {"source": "a file"}))
    found = Translate("en-ja")(given)
    assert found.schema.metadata == {b"source": b"a file"}
    assert found.schema.field("text").metadata == {b"language": b"en"}


def test_vectors_for_which_offsets_are_too_small():
    """A batch of more than 2^31 numbers is no list of pyarrow's; that it cannot be is said."""
    pa = optional("pyarrow")
    from pyx_transformer import _tables

    huge = np.broadcast_to(np.float32(0), (1 << 16, 1 << 15))
    with pytest.raises(pa.ArrowInvalid):
        _tables.arrow_array(_tables.Column("vector", huge), pa.list_(pa.float32()))


# Rows that fail.

FAILING = {2: SURROGATE, 3: SURROGATE, 17: "\udfff", 39: SURROGATE}


def with_failing(texts, failing):
    return [failing.get(i, text) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def forty(shared_data):
    return (shared_data / "tanaka-en-ja/test.en").read_text("utf-8").splitlines()[:40]


def test_the_row_that_fails_is_named(forty, folder):
    job = Translate("en-ja", beam_size=1)
    given = with_failing(forty, FAILING)
    message = r"Translate: row 2, 'no \\ud800 text': .* no Unicode text"
    for rows in (given, arrays({"text": given}), dicts({"text": given})):
        with pytest.raises(ValueError, match=message):
            job(rows)
    with pytest.raises(ValueError, match=r"Embed: row 1, 'dog .*has \d+ tokens, expected at most"):
        Embed(folder("encoder"))(["dog", LONG])


def test_the_row_of_a_frame_is_named_by_its_index_too(forty):
    pd = optional("pandas")
    index = [f"line {i}" for i in range(40)]
    given = pd.DataFrame(
        {"text": pd.Series(with_failing(forty, {17: SURROGATE}), index, dtype=object)}
    )
    with pytest.raises(ValueError, match="Translate: row 17, of index 'line 17', 'no "):
        Translate("en-ja", beam_size=1)(given)


@pytest.mark.parametrize("kind", ("arrays", "lists", "dicts", "objects"))
def test_rows_that_fail_are_kept(kind, forty):
    """The others are what they would be without them."""
    job = Translate("en-ja", beam_size=1, on_error="keep")
    want = Translate("en-ja", beam_size=1)(forty)
    given = with_failing(forty, FAILING)
    numbers = list(range(40))
    found = columns_of(job(KINDS[kind]({"n": numbers, "text": given})))
    assert found["translation"] == [None if i in FAILING else one for i, one in enumerate(want)]
    for i, reason in enumerate(found["translation_error"]):
        assert "no Unicode text" in reason if i in FAILING else reason is None
    assert job(given) == found["translation"]
    every = job(lists({"text": [SURROGATE] * 3}))
    assert every["translation"] == [None] * 3 and all(every["translation_error"])


@pytest.mark.parametrize("name", ("Embed", "Classify", "Rank"))
def test_texts_that_are_too_long_are_kept(name, kind, folder):
    case = CASES[name]
    failing = {0: LONG, 4: LONG, 5: LONG}
    texts, others = with_failing(TEXTS, failing), ["a"] * N
    job = case.made(folder, on_error="keep")
    found = columns_of(job(kind({"n": NUMBERS, "text": texts, "other": others})))
    left = {"text": [None if i in failing else t for i, t in enumerate(TEXTS)], "other": others}
    expected = as_plain(case.wanted(folder, left))
    assert {name: found[name] for name in expected} == expected
    for i, reason in enumerate(found[f"{job.output}_error"]):
        assert "tokens, expected at most" in reason if i in failing else reason is None
    with pytest.raises(ValueError, match=f"{name}: row 0, .*'dog dog"):
        case.made(folder)(kind({"n": NUMBERS, "text": texts, "other": others}))


def test_work_is_done_once_for_rows_that_do_not_fail(forty, monkeypatch):
    """However many fail: each of the others comes to the model once."""
    job = Translate("en-ja", beam_size=1, on_error="keep")
    job(["wait"])
    seen = []
    generate = pt.Transformer.generate_as_completed

    def counted(self, ids, **settings):
        seen.extend(map(len, ids))
        return generate(self, ids, **settings)

    monkeypatch.setattr(pt.Transformer, "generate_as_completed", counted)
    job(with_failing(forty, FAILING))
    assert len(seen) == 40 - len(FAILING)


def test_errors_that_are_no_rows_fault_are_not_kept(folder, monkeypatch):
    job = Embed(folder("encoder"), on_error="keep")
    job(["dog"])

    def broken(self, *_):
        raise MemoryError("no memory")

    monkeypatch.setattr(pt.SentenceEncoder, "_vectors", broken)
    with pytest.raises(MemoryError):
        job(["dog", "wait"])


# What a worker finds.


def test_a_path_that_a_worker_does_not_see(folder, tmp_path):
    path = shutil.copytree(folder("encoder"), tmp_path / "model")
    content = pickle.dumps(Embed(path))
    shutil.rmtree(path)
    with pytest.raises(
        FileNotFoundError, match=f"Embed: {path} is missing on {socket.gethostname()}"
    ):
        pickle.loads(content)(["dog"])


@pytest.mark.parametrize("change", ("content", "new file", "file in a folder", "missing file"))
def test_files_that_changed_between_two_workers(change, folder, tmp_path):
    path = shutil.copytree(folder("encoder"), tmp_path / "model")
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text("{}")
    content = pickle.dumps(Embed(path))
    before = pickle.loads(content)(["dog"])
    _jobs._PIPELINES.clear()
    assert plain(pickle.loads(content)(["dog"])[0]) == plain(before[0])
    _jobs._PIPELINES.clear()
    if change == "content":
        weights = bytearray((path / "model.safetensors").read_bytes())
        weights[-3] ^= 1
        (path / "model.safetensors").write_bytes(weights)
    elif change == "new file":
        (path / "config_sentence_transformers.json").write_text("{}")
    elif change == "file in a folder":
        (path / "1_Pooling/config.json").write_text('{"pooling_mode": "max"}')
    else:
        (path / "vocab.txt").unlink()
    with pytest.raises(
        ValueError, match=f"Embed: the files of {path} on .* have the digest .*, exp"
    ):
        pickle.loads(content)(["dog"])
    assert plain(Embed(shutil.copytree(folder("encoder"), tmp_path / "b"))(["dog"])[0])


def test_what_is_not_of_the_model_may_change(folder, tmp_path):
    path = shutil.copytree(folder("encoder"), tmp_path / "model")
    content = pickle.dumps(Embed(path))
    (path / "README.md").write_text("a card")
    (path / ".cache").mkdir()
    (path / ".cache/download").write_text("")
    (path / "model.onnx").write_bytes(b"of another engine")
    assert len(pickle.loads(content)(["dog"])) == 1


def test_the_path_is_where_the_job_was_made(folder, tmp_path, monkeypatch):
    shutil.copytree(folder("encoder"), tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    job = Embed("model")
    monkeypatch.chdir("/")
    assert job.model == str(tmp_path / "model") and len(job(["dog"])) == 1


# Processes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_another_thread_loads(folder):
    """The child has what the parent has, and no lock that nobody gives back."""
    code = f"""
    import os, signal, sys, threading, time
    from pyx_transformer.batch import Embed
    from pyx_transformer import _jobs
    from pyx_transformer.checkpoints import mapped

    job = Embed({str(folder("encoder"))!r})
    begun, use = threading.Event(), mapped.use

    def slow(*arguments, **settings):
        begun.set()
        time.sleep(0.5)
        use(*arguments, **settings)

    mapped.use = slow
    thread = threading.Thread(target=job.open)
    thread.start()
    begun.wait()
    child = os.fork()
    signal.alarm(20)
    found = job(["dog"])[0].tobytes()
    if child == 0:
        os._exit(0 if len(found) and len(_jobs._PIPELINES) == 1 else 1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr


def test_only_numpy_is_needed():
    """A job over dicts and lists loads neither pandas nor pyarrow."""
    code = """
    import sys
    from pyx_transformer.batch import Translate
    assert "待" in Translate("en-ja")({"text": ["wait"]})["translation"][0]
    assert not {"pandas", "pyarrow", "torch", "pyspark", "dask", "ray"} & {*sys.modules}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_names():
    assert batch.__all__ == ["Classify", "Embed", "Generate", "Rank", "Score", "Translate"]
