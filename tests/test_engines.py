"""One test, all engines: out comes what a plain loop gives, to the bit, however rows are cut.

Translations of 1,000 sentences, and their vectors by an encoder that some of them are too long for,
which are kept with the reason. Partition counts are 1, 3 and 7, batch sizes 1, 8 and 64; one of
these where only the kind of batches is another, or how processes start. Engines that are not
installed are skipped, and Spark where there is no Java too.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import stand_ins
from cuts import in_cuts

import pyx_transformer as pt
from pyx_transformer import batch
from pyx_transformer.batch import Embed, Translate

COUNT = 1000
SEARCH = {"beam_size": 1, "max_length": 4}
ALL = [(partitions, size) for partitions in (1, 3, 7) for size in (1, 8, 64)]
ONE = [(3, 8)]
COLUMNS = ["n", "text", "ja", "vector", "vector_error"]


@pytest.fixture(scope="module", autouse=True)
def scratch():
    """A folder of temporary files for all processes of these tests: of a short name, because
    engines have sockets there."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = tempfile.mkdtemp()
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    yield Path(folder)
    tempfile.tempdir = before[0]
    if before[1] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[1]
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def encoder(shared_data, tmp_path_factory):
    """An encoder of up to 64 characters."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    stand_ins.encoder(folder, shared_data)
    size = len((folder / "vocab.txt").read_text("utf-8").splitlines())
    letters = "abcdefghijklmnopqrstuvwxyz.,?'"
    tokens = [*stand_ins.SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    tokens += [f"[unused{i}]" for i in range(size - len(tokens))]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(shared_data):
    """Short ones, so that there is time for so many; a few that are none, empty or too long."""
    lines = (shared_data / "tanaka-en-ja/train.en").read_text("utf-8").splitlines()
    found: list = list(dict.fromkeys(line for line in lines if len(line) <= 18))[: COUNT - 5]
    found[10:10] = [None, ""]
    found[500:500] = ["i love music " * 8, "dogs " * 20]
    return [*found, "a long end " * 9]


@pytest.fixture(scope="module")
def jobs(encoder):
    return [
        Translate("en-ja", "text", "ja", **SEARCH),
        Embed(encoder, "text", "vector", on_error="keep"),
    ]


@pytest.fixture(scope="module")
def expected(texts, encoder):
    """Rows as the pipelines make them, one text after the other."""
    translator, vectors = pt.Translator("en-ja"), pt.SentenceEncoder(encoder)
    rows = []
    for n, text in enumerate(texts):
        translation, vector, reason = text, None, None
        if text:
            (translation,) = translator.translate([text], **SEARCH)
        if text is not None:
            try:
                vector = vectors.encode([text])[0].tobytes()
            except ValueError as error:
                reason = str(error)
        rows.append((n, text, translation, vector, reason))
    assert len(rows) == COUNT and sum(reason is not None for *_, reason in rows) == 3
    assert len({vector for *_, vector, _ in rows}) > 0.95 * COUNT
    assert len({translation for _, _, translation, *_ in rows}) > 0.7 * COUNT
    return rows


def row(values):
    """A row of any engine's, to compare."""
    n, text, ja, vector, reason = (None if is_missing(value) else value for value in values)
    return int(n), text, ja, None if vector is None else np.float32(vector).tobytes(), reason


def is_missing(value):
    """Whether a value is None, or what pandas and NumPy have for that."""
    if np.ndim(value):
        return bool(np.isnan(value).all())
    return value is None or type(value).__name__ == "NAType" or value != value


def assert_rows(found, expected):
    assert sorted((row(one) for one in found), key=lambda one: one[0]) == expected


def parts(values, count):
    """Values in so many runs, of nearly the same length."""
    ends = np.linspace(0, len(values), count + 1).astype(int)
    return [values[first:last] for first, last in pairwise(ends)]


def cuts(values, size):
    return [values[i : i + size] for i in range(0, len(values), size)]


# Python alone.


def as_batch(rows):
    return {"n": np.array([n for n, _ in rows]), "text": [text for _, text in rows]}


def rows_of(found):
    return list(zip(*(found[name] for name in COLUMNS), strict=True))


@pytest.mark.parametrize(("partitions", "size"), ALL)
def test_a_plain_loop(partitions, size, texts, jobs, expected):
    found = []
    for part in parts(list(enumerate(texts)), partitions):
        for one in cuts(part, size):
            rows = as_batch(one)
            for job in jobs:
                rows = job(rows)
            found += rows_of(rows)
    assert_rows(found, expected)


@pytest.fixture(scope="module")
def pool(request, jobs, expected):
    """Two processes, of which each has one thread. Where they are forks they have what this one
    has loaded."""
    with get_context(request.param).Pool(2, pt.set_num_threads, (1,)) as made:
        yield made
        made.close()
        made.join()


@pytest.mark.parametrize(
    ("pool", "partitions", "size"),
    [*(("fork", *cut) for cut in ALL), *(("spawn", *cut) for cut in ONE)],
    indirect=["pool"],
)
def test_multiprocessing(partitions, size, pool, texts, jobs, expected):
    """A partition is a run of batches that one process gets."""
    batches = [as_batch(one) for one in cuts(list(enumerate(texts)), size)]
    for job in jobs:
        batches = pool.map(job, batches, -(-len(batches) // partitions))
    assert_rows([one for rows in batches for one in rows_of(rows)], expected)


# Engines: each is given rows and settings, and gives rows back.


@pytest.fixture(scope="module")
def ray(scratch):
    """Ray with two processes, on this machine."""
    found = pytest.importorskip("ray", reason="needs Ray")
    pytest.importorskip("ray.data", reason="needs Ray Data", exc_type=ImportError)
    found.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = found.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield found
    found.shutdown()


def by_ray(ray, rows, jobs, partitions, size, batch_format):
    items = [{"n": n, "text": text} for n, text in rows]
    data = ray.data.from_items(items, override_num_blocks=partitions)
    for job in jobs:
        data = data.map_batches(job, batch_size=size, batch_format=batch_format)
    return [tuple(one[name] for name in COLUMNS) for one in data.take_all()]


@pytest.mark.parametrize(
    ("batch_format", "partitions", "size"),
    [
        *(("pyarrow", *cut) for cut in ALL),
        *((kind, *cut) for kind in ("numpy", "pandas") for cut in ONE),
    ],
)
def test_ray(batch_format, partitions, size, ray, jobs, expected):
    if batch_format == "pandas":  # Ray has no column of vectors and None of a DataFrame's
        expected = [one for one in expected if one[3] is not None]
    rows = [one[:2] for one in expected]
    assert_rows(by_ray(ray, rows, jobs, partitions, size, batch_format), expected)


@pytest.fixture(scope="module")
def dask(scratch):
    """A client of two processes on this machine."""
    pytest.importorskip("dask.dataframe", reason="needs Dask", exc_type=ImportError)
    distributed = pytest.importorskip("distributed", reason="needs Dask's distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(scratch)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def by_dask(rows, jobs, partitions, size):
    import dask.dataframe as dd
    import pandas as pd

    frame = dd.from_pandas(pd.DataFrame(rows, columns=["n", "text"]), npartitions=partitions)
    for job in jobs:
        # A batch is a partition, unless it is cut.
        frame = frame.map_partitions(in_cuts, job, size, meta=job.meta(frame))
    found = frame.compute()
    assert found.dtypes.to_dict() == frame.dtypes.to_dict()
    return list(found[COLUMNS].itertuples(index=False, name=None))


@pytest.mark.parametrize(("partitions", "size"), ALL)
def test_dask(partitions, size, dask, texts, jobs, expected):
    assert_rows(by_dask(list(enumerate(texts)), jobs, partitions, size), expected)


@pytest.fixture(scope="module")
def spark(scratch):
    """A session of two threads, each of which has a Python."""
    pytest.importorskip("pandas", reason="needs the extra `scale`")
    pytest.importorskip("pyarrow", reason="needs the extra `scale`")
    sql = pytest.importorskip("pyspark.sql", reason="needs PySpark", exc_type=ImportError)
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.local.dir": str(scratch),
    }
    session = sql.SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def by_spark(spark, rows, jobs, partitions, size, method):
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(size))
    frame = spark.createDataFrame(rows, "n int, text string").repartition(partitions)
    for job in jobs:
        frame = getattr(frame, method)(job.partitions, job.schema(frame))
    return [tuple(one) for one in frame.collect()]


@pytest.mark.parametrize(
    ("method", "partitions", "size"),
    [*(("mapInArrow", *cut) for cut in ALL), *(("mapInPandas", *cut) for cut in ONE)],
)
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_spark(method, partitions, size, spark, texts, jobs, expected):
    rows = list(enumerate(texts))
    assert_rows(by_spark(spark, rows, jobs, partitions, size, method), expected)


# Threads: as many as engines say, by OMP_NUM_THREADS.


def test_threads_of_ray(ray):
    assert ray.get(ray.remote(pt.get_num_threads).remote()) == 1


def test_threads_of_dask(dask):
    assert dask.submit(pt.get_num_threads).result() == 1


# A row that fails ends a job, and is named.


@pytest.mark.parametrize("engine", ("multiprocessing", "ray", "dask", "spark"))
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_a_row_that_fails_is_named(engine, encoder, request, texts):
    job = Embed(encoder, "text", "vector")
    rows = list(enumerate(texts))[495:505]
    runs = {
        "multiprocessing": lambda: get_context("fork").Pool(1).map(job, [as_batch(rows)]),
        "ray": lambda: by_ray(request.getfixturevalue("ray"), rows, [job], 1, 10, "pyarrow"),
        "dask": lambda: request.getfixturevalue("dask") and by_dask(rows, [job], 1, 10),
        "spark": lambda: by_spark(
            request.getfixturevalue("spark"), rows, [job], 1, 10, "mapInArrow"
        ),
    }
    with pytest.raises(Exception, match=r"Embed: row 5, .*'i love music .* has \d+ tokens, expect"):
        runs[engine]()


# What the documentation says, run as it is written.

EXAMPLES = dict(re.findall(r"^(\w+)[^\n]*:\n\n((?:    .*\n|\n)+)", batch.__doc__, re.M))


@pytest.fixture(scope="module")
def folder_of_examples(texts, tmp_path_factory):
    """A folder with the model and the file that they read, and what they are to write."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra `scale`")
    import pyarrow as pa

    folder = tmp_path_factory.mktemp("examples")
    native = Path(pt.__file__).parent / "models/en-ja"
    shutil.copytree(native, folder / "model")
    some = texts[:50]
    parquet.write_table(pa.table({"n": range(50), "text": some}), folder / "in.parquet")
    wanted = [text and pt.Translator("en-ja").translate([text])[0] for text in some]
    return folder, list(zip(range(50), some, wanted, strict=True))


def test_there_are_examples():
    assert list(EXAMPLES) == ["Ray", "Dask", "Spark", "multiprocessing"]


@pytest.mark.parametrize(
    ("name", "package"), [("Ray", "ray.data"), ("Dask", "dask.dataframe"), ("Spark", "pyspark.sql")]
)
def test_examples_of_engines(name, package, folder_of_examples, tmp_path):
    from pyarrow.parquet import read_table

    pytest.importorskip(package, reason=f"needs {name}", exc_type=ImportError)
    if name == "Spark" and not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java")
    run_example(name, folder_of_examples[0], tmp_path)
    # Of Spark, Dask and Ray all write files of several parts into a folder.
    columns = read_table(tmp_path / "out").to_pydict()
    rows = zip(columns["n"], columns["text"], columns["translation"], strict=True)
    assert sorted(rows, key=lambda row: row[0]) == folder_of_examples[1]


def test_the_example_of_multiprocessing(folder_of_examples, tmp_path):
    folder, rows = folder_of_examples
    code = f"batches = {cuts([text for _, text, _ in rows], 8)!r}\n"
    after = "\nimport json\njson.dump(translations, open('out.json', 'w'))\n"
    run_example("multiprocessing", folder, tmp_path, code, after)
    found = json.loads((tmp_path / "out.json").read_text())
    assert [one for part in found for one in part] == [wanted for *_, wanted in rows]


def run_example(name, folder, place, before="", after=""):
    for file in folder.iterdir():
        (place / file.name).symlink_to(file)
    code = before + re.sub("^    ", "", EXAMPLES[name], flags=re.M) + after
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
