"""TextClassifier and TokenClassifier beside the pipelines of transformers."""

import json
import shutil

import directories
import numpy as np
import pytest
from models import assert_same_bits, num_threads, randomised

import pyx_transformer as pt
from pyx_transformer import text

TEXTS = ["I know him well .", "Many animals", "", 'she said " no " , didn\'t she ? zebra', "a"]


@pytest.fixture(scope="module")
def made(shared_data, tmp_path_factory):
    """A function that gives the directory of a family with a head and labels, made once."""
    known = {}

    def of(name, kind, labels):
        key = (name, kind, labels)
        if key not in known:
            own = {
                "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)},
                "num_labels": len(labels),
                "initializer_range": 0.5,
            }
            folder = tmp_path_factory.mktemp(name)
            short = {"tokenizer": short_pieces(shared_data)} if name == "bert" else {}
            kind = f"{'Bert' if name == 'bert' else 'Roberta'}For{kind}Classification"
            known[key] = getattr(directories, name)(folder, shared_data, kind, **own, **short)
        return known[key]

    return of


def short_pieces(shared_data):
    """With few whole words, so that most words have several pieces."""
    return directories.word_pieces(directories.lines(shared_data), 30)


@pytest.fixture
def changed(tmp_path):
    """A function that copies a directory with other values in its config.json."""

    def change(folder, **values):
        new = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, new)
        own = json.loads((new / "config.json").read_text("utf-8"))
        (new / "config.json").write_text(json.dumps({**own, **values}))
        return new

    return change


def pipeline(task, kind, folder, **settings):
    """One of transformers, in float64."""
    tf = directories.library()
    model = getattr(tf, f"AutoModelFor{kind}Classification").from_pretrained(folder).double()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    return tf.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **settings)


# Labels of texts.


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("no", "maybe", "yes"), None),
        (("no", "maybe", "yes"), "single_label_classification"),
        (("no", "maybe", "yes"), "multi_label_classification"),
        (("no", "maybe", "yes"), "regression"),
        (("score",), None),
        (("score",), "multi_label_classification"),
        (("score",), "regression"),
    ],
)
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_scores_are_those_of_transformers(name, labels, problem, made, changed):
    """Of one label the sigmoid, unless it is a number."""
    folder = changed(made(name, "Sequence", labels), problem_type=problem)
    theirs = pipeline("text-classification", "Sequence", folder)
    found = theirs(TEXTS, top_k=None)
    classifier = pt.TextClassifier(folder)
    assert classifier.labels == labels
    scores = classifier.scores(TEXTS)
    expected = [[{d["label"]: d["score"] for d in one}[label] for label in labels] for one in found]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert scores.dtype == np.float32 and np.ptp(scores, axis=0).max() > 0.01
    best = classifier.classify(TEXTS)
    assert [one.label for one in best] == [one[0]["label"] for one in found]
    assert [one.score for one in best] == scores.max(axis=1).tolist()
    if problem is None and len(labels) > 1:
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-6)


def test_what_cross_encoders_do_is_not_what_classifiers_do(made, changed):
    folder = made("bert", "Sequence", ("score",))
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    own = changed(folder, sentence_transformers=identity)
    assert_same_bits(pt.TextClassifier(own).scores(TEXTS), pt.TextClassifier(folder).scores(TEXTS))


def test_problems_that_there_are_not(made, changed):
    folder = made("bert", "Sequence", ("score",))
    for value, says in (("ranking", "problem_type is 'ranking', expected one of"), (3, "is 3")):
        with pytest.raises(ValueError, match=f"^load: .*config.json.*{says}"):
            pt.TextClassifier(changed(folder, problem_type=value))


# Labels of tokens.

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
SENTENCES = [
    "Tom Smith went to Tokyo-Yokohama, in a well-known country .",
    'she said " no " , didn\'t she ? 1,234.50',
    "Destroyed  animals\tand mountains\n",
    "é ü naïve Straße",
    "",
    " a",
]


def fields(spans):
    return [(one.label, one.start, one.end) for one in spans]


def assert_as_theirs(spans, wanted, sentence):
    name = "entity" if not wanted or "entity" in wanted[0] else "entity_group"
    assert fields(spans) == [(one[name], one["start"], one["end"]) for one in wanted]
    np.testing.assert_allclose(
        [one.score for one in spans], [one["score"] for one in wanted], rtol=0, atol=1e-5
    )
    assert [one.text for one in spans] == [sentence[one.start : one.end] for one in spans]


@pytest.mark.parametrize(
    ("name", "aggregation"),
    [
        *(("bert", aggregation) for aggregation in ("none", "simple", "first", "max")),
        ("roberta", "none"),
        ("roberta", "simple"),
    ],
)
def test_spans_are_those_of_transformers(name, aggregation, made):
    """Not of words over bytes: theirs takes what stands between spaces for a word, "said," too, and
    a token that is a space for another; ours are the words of the tokenizer."""
    folder = made(name, "Token", TAGS)
    theirs = pipeline("token-classification", "Token", folder, aggregation_strategy=aggregation)
    classifier = pt.TokenClassifier(folder)
    assert classifier.labels == TAGS
    labels = set()
    for one, spans in zip(SENTENCES, classifier.tag(SENTENCES, aggregation), strict=True):
        assert_as_theirs(spans, theirs(one) if one else [], one)
        labels |= {span.label for span in spans}
    assert len(labels) > 1


def reference_spans(labels, text, words, probabilities, offsets, aggregation):
    """The rules in plain Python: of tokens or words, then of what is joined."""
    units = []
    for i, word in enumerate(words):
        if aggregation in ("first", "max") and units and words[units[-1][-1]] == word:
            units[-1].append(i)
        else:
            units.append([i])
    named = []
    for unit in units:
        said = unit[0]
        if aggregation == "max":
            said = max(unit, key=lambda i: probabilities[i].max())
        best = int(probabilities[said].argmax())
        begin, end = offsets[unit[0]][0], offsets[unit[-1]][1]
        named.append((labels[best], float(probabilities[said][best]), begin, end))
    if aggregation == "none":
        return [one for one in named if one[0] != "O"]
    joined = []
    for label, score, begin, end in named:
        kind = label[2:] if label[:2] in ("B-", "I-") else label
        if joined and joined[-1][0] == kind and not label.startswith("B-"):
            joined[-1][1].append(score)
            joined[-1][3] = end
        else:
            joined.append([kind, [score], begin, end])
    return [(k, float(np.mean(s)), b, e) for k, s, b, e in joined if k != "O"]


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "max"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_spans_by_the_rules(name, aggregation, made):
    """With words of several tokens, as the tokenizer has them."""
    folder = made(name, "Token", TAGS)
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    classifier, model = pt.TokenClassifier(folder), pt.load(folder)
    for one, spans in zip(SENTENCES, classifier.tag(SENTENCES, aggregation), strict=True):
        encoding = own.encode(one)
        logits = model([encoding.ids])[0].astype(float)[1:-1]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        words, offsets = encoding.word_ids[1:-1], encoding.offsets[1:-1]
        wanted = reference_spans(TAGS, one, words, probabilities, offsets, aggregation)
        assert [(s.label, s.start, s.end) for s in spans] == [(w[0], *w[2:]) for w in wanted]
        np.testing.assert_allclose(
            [s.score for s in spans], [w[1] for w in wanted], rtol=0, atol=1e-5
        )


# What both promise.


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_every_text_gives_the_same_bits_in_any_company(name, made):
    of_texts = pt.TextClassifier(made(name, "Sequence", ("no", "maybe", "yes")))
    of_tokens = pt.TokenClassifier(made(name, "Token", TAGS))
    many = [one for one in SENTENCES + TEXTS for _ in range(2)]
    scores = np.concatenate([of_texts.scores([one]) for one in many])
    spans = [of_tokens.tag([one])[0] for one in many]
    for tokens in (None, 1, 30, 10**9):
        for threads in (1, 2, 3) if tokens is None else (1,):
            with num_threads(threads):
                assert_same_bits(of_texts.scores(many, max_batch_tokens=tokens), scores)
                assert of_tokens.tag(many, max_batch_tokens=tokens) == spans
    assert of_tokens.tag(many[::-1]) == spans[::-1]


def test_nothing_to_classify(made):
    of_texts = pt.TextClassifier(made("bert", "Sequence", ("no", "maybe", "yes")))
    of_tokens = pt.TokenClassifier(made("bert", "Token", TAGS))
    assert of_texts.classify([]) == of_tokens.tag([]) == []
    assert of_texts.scores([]).shape == (0, 3)
    assert of_tokens.tag(["", " "]) == [[], []]
    assert len(of_texts.classify(["", "a"])) == 2


def test_texts_that_are_too_long(made):
    long = "many animals " * 40
    for kind, labels, this, call in (
        ("Sequence", ("no", "maybe", "yes"), "classify", lambda m, t: m.classify(t)),
        ("Sequence", ("no", "maybe", "yes"), "scores", lambda m, t: m.scores(t)),
        ("Token", TAGS, "tag", lambda m, t: m.tag(t)),
    ):
        pipeline = pt.TokenClassifier if kind == "Token" else pt.TextClassifier
        says = rf"{this}: texts\[2\] has \d+ tokens, expected at most 64"
        with pytest.raises(ValueError, match=says):
            call(pipeline(made("bert", kind, labels)), ["a", "", long])


def test_texts_are_cut_where_the_file_says_so(made, changed):
    folder = changed(made("bert", "Token", TAGS))
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text("utf-8"))
    values["truncation"] = {
        "direction": "Right",
        "max_length": 5,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    path.write_text(json.dumps(values))
    whole = "many animals have been " * 30
    classifier = pt.TokenClassifier(folder)
    with pytest.warns(UserWarning, match="tag: 1 of 2 texts cut to 64 tokens: number 2"):
        found = classifier.tag(["a", whole], "none")
    assert found[0] == pt.TokenClassifier(made("bert", "Token", TAGS)).tag(["a"], "none")[0]
    assert max(span.end for span in found[1]) < len(whole) / 2


# What needs no files of others.


def own_model(**head):
    tokenizer = text.make("words", ["a b c d"])
    config = pt.EncoderConfig(
        tokenizer.vocab_size, d_model=12, num_heads=2, head=pt.ClassifierConfig(**head)
    )
    model = randomised(pt.EncoderModel(config, rng=0))
    model.src_tokenizer = tokenizer
    return model


@pytest.mark.parametrize("problem", [None, "single_label", "multi_label", "regression"])
def test_a_model_of_our_own(problem, tmp_path):
    model = own_model(labels=("x", "y"), problem=problem)
    logits = np.array([model([[3, 4]])[0], model([[5]])[0]], float)
    expected = {
        "multi_label": 1 / (1 + np.exp(-logits)),
        "regression": logits,
    }.get(problem, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    scores = pt.TextClassifier(model).scores(["a b", "c"])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    model.save(tmp_path / "model")
    assert_same_bits(pt.TextClassifier(tmp_path / "model").scores(["a b", "c"]), scores)


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        ("a b", TypeError, "texts is 'a b', expected a list of texts"),
        (["a", 3], TypeError, r"texts\[1\] is 3, expected a string"),
        (["a", "\udcff"], ValueError, r"texts\[1\] is '\\udcff', which is no Unicode text"),
        (3, TypeError, "texts is 3, expected a list of texts"),
    ],
)
def test_texts_are_checked(texts, error, says):
    of_texts = pt.TextClassifier(own_model(labels=("x", "y")))
    with pytest.raises(error, match=f"classify: {says}"):
        of_texts.classify(texts)
    with pytest.raises(error, match=f"scores: {says}"):
        of_texts.scores(texts)
    of_tokens = pt.TokenClassifier(own_model(labels=("O", "x"), of_tokens=True))
    with pytest.raises(error, match=f"tag: {says}"):
        of_tokens.tag(texts)


def test_settings_are_checked():
    of_tokens = pt.TokenClassifier(own_model(labels=("O", "x"), of_tokens=True))
    with pytest.raises(ValueError, match="tag: aggregation is 'average', expected one of 'none'"):
        of_tokens.tag(["a"], "average")
    with pytest.raises(ValueError, match="classify: max_batch_tokens is 0, expected at least 1"):
        pt.TextClassifier(own_model(labels=("x",))).classify(["a"], max_batch_tokens=0)


def test_other_models_are_refused():
    of_texts, of_tokens = own_model(labels=("x", "y")), own_model(labels=("x",), of_tokens=True)
    scores, plain = own_model(labels=("x",)), pt.EncoderConfig(7, d_model=8, num_heads=2)
    for pipeline, model, right in (
        (pt.TextClassifier, of_tokens, "TokenClassifier"),
        (pt.TokenClassifier, of_texts, "TextClassifier"),
        (pt.TokenClassifier, scores, "CrossEncoder"),
        (pt.TextClassifier, pt.EncoderModel(plain), "SentenceEncoder"),
    ):
        says = f"{pipeline.__name__}: model has no head for labels of .*; {right} is for such"
        with pytest.raises(ValueError, match=says):
            pipeline(model)
    for pipeline in (pt.TextClassifier, pt.TokenClassifier):
        says = "model is a Transformer, expected an EncoderModel; Translator is for those"
        with pytest.raises(TypeError, match=f"{pipeline.__name__}: {says}"):
            pipeline("en-ja")
    of_texts.src_tokenizer = of_tokens.src_tokenizer = None
    with pytest.raises(ValueError, match="TextClassifier: model has no src_tokenizer"):
        pt.TextClassifier(of_texts)
    with pytest.raises(ValueError, match="TokenClassifier: model has no src_tokenizer"):
        pt.TokenClassifier(of_tokens)
