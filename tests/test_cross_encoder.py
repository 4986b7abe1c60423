"""CrossEncoder: pairs of texts to scores, beside transformers' logits in float64, with the rules of
sentence-transformers for what becomes of them."""

import json
import shutil

import directories
import numpy as np
import pytest
from models import assert_same_bits, num_threads, randomised

import pyx_transformer as pt
from pyx_transformer import text

QUERY = "who destroyed the animals ?"
TEXTS = [
    "many animals have been destroyed by men .",
    "i know him well .",
    "",
    "animals",
    'She said " no " , didn\'t she ?',
    "i know him well .",
]
PAIRS = [(QUERY, one) for one in TEXTS] + [("", "a"), ("no", QUERY)]
KINDS = {"bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification"}


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """A function that gives the directory of a family with so many labels, made once."""
    made = {}

    def of(name, labels=1):
        if (name, labels) not in made:
            folder = tmp_path_factory.mktemp(name)
            build = getattr(directories, name)
            made[name, labels] = build(folder, shared_data, KINDS[name], num_labels=labels)
        return made[name, labels]

    return of


@pytest.fixture(scope="module")
def logits(folder):
    """A function that gives what transformers makes of pairs, in float64."""
    tf = directories.library()
    import torch

    def of(folder, pairs, longest=64):
        tokenizer = tf.AutoTokenizer.from_pretrained(folder)
        model = tf.AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
        found = []
        for first, second in pairs:
            ids = tokenizer(
                [first], [second], return_tensors="pt", truncation=True, max_length=longest
            )
            with torch.no_grad():
                found.append(model(**ids).logits[0].numpy())
        return np.array(found)

    return of


@pytest.fixture
def changed(tmp_path):
    """A function that copies a directory with other values in one of its files."""

    def change(folder, file="config.json", **values):
        new = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, new)
        own = json.loads((new / file).read_text("utf-8"))
        (new / file).write_text(json.dumps({**own, **values}))
        return new

    return change


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("name", KINDS)
def test_scores_of_pairs(name, folder, logits):
    encoder = pt.CrossEncoder(folder(name))
    expected = sigmoid(logits(folder(name), PAIRS)[:, 0])
    assert_close(encoder.predict(PAIRS), expected)
    assert np.ptp(expected) > 0.05
    assert_same_bits(encoder.predict([list(one) for one in PAIRS]), encoder.predict(PAIRS))


@pytest.mark.parametrize("name", KINDS)
def test_several_labels_are_logits(name, folder, logits):
    encoder = pt.CrossEncoder(folder(name, 3))
    assert_close(encoder.predict(PAIRS), logits(folder(name, 3), PAIRS))
    assert encoder.predict([]).shape == (0, 3)
    with pytest.raises(ValueError, match="rank: the model has 3 labels, expected one: a score"):
        encoder.rank(QUERY, TEXTS)


IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
OLDER = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("labels", "values", "is_sigmoid"),
    [
        (1, {}, True),
        (1, {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}}, False),
        (1, {"sentence_transformers": {"activation_fn": SIGMOID}}, True),
        (1, {"sentence_transformers": {"version": "4.1.0"}}, True),
        (1, {OLDER: IDENTITY}, False),
        (1, {OLDER: SIGMOID}, True),
        (1, {OLDER: IDENTITY, "sentence_transformers": {"activation_fn": SIGMOID}}, True),
        (1, {OLDER: IDENTITY, "sentence_transformers": {"activation_fn": None}}, True),
        # Others than PyTorch's are not run there either, unless told so.
        (1, {"sentence_transformers": {"activation_fn": "my.own.Identity"}}, True),
        # The kind of problem says nothing of pairs.
        (1, {"problem_type": "regression"}, True),
        (1, {"problem_type": "multi_label_classification", OLDER: IDENTITY}, False),
        (3, {}, False),
        (3, {OLDER: IDENTITY}, False),
        (3, {"sentence_transformers": {"activation_fn": SIGMOID}}, True),
        (3, {"problem_type": "multi_label_classification"}, False),
    ],
)
def test_what_becomes_of_logits(labels, values, is_sigmoid, folder, changed, logits):
    own = changed(folder("bert", labels), **values)
    expected = logits(folder("bert", labels), PAIRS)
    expected = sigmoid(expected) if is_sigmoid else expected
    expected = expected[:, 0] if labels == 1 else expected
    found = pt.CrossEncoder(own).predict(PAIRS)
    assert_close(found, expected)
    model = pt.load(own)
    model.save(own / "ours")
    assert_same_bits(pt.CrossEncoder(own / "ours").predict(PAIRS), found)


def test_activations_that_there_are_not(folder, changed):
    for values in (
        {OLDER: "torch.nn.Softmax"},
        {"sentence_transformers": {"activation_fn": "torch.nn.Softmax"}},
    ):
        says = "activation_fn is 'Softmax', expected one of 'Identity', 'Sigmoid'"
        with pytest.raises(ValueError, match=f"^load: .*config.json.*{says}"):
            pt.CrossEncoder(changed(folder("bert"), **values))
    with pytest.raises(ValueError, match=r"^load: .*sentence_transformers is 3, expected a table"):
        pt.CrossEncoder(changed(folder("bert"), sentence_transformers=3))


def test_ranking(folder):
    encoder = pt.CrossEncoder(folder("bert"))
    scores = encoder.predict([(QUERY, one) for one in TEXTS])
    order = sorted(range(len(TEXTS)), key=lambda i: (-scores[i], i))
    ranked = encoder.rank(QUERY, TEXTS)
    assert ranked == [(i, float(scores[i]), TEXTS[i]) for i in order]
    assert order.index(1) < order.index(5)  # of equal scores the first one comes first
    assert ranked[0].corpus_id == order[0] and ranked[0].text == TEXTS[order[0]]
    assert encoder.rank(QUERY, TEXTS, top_k=2) == ranked[:2]
    assert encoder.rank(QUERY, TEXTS, top_k=99, max_batch_tokens=1) == ranked
    assert encoder.rank(QUERY, []) == []
    with pytest.raises(ValueError, match="rank: top_k is 0, expected at least 1"):
        encoder.rank(QUERY, TEXTS, top_k=0)
    with pytest.raises(TypeError, match="rank: query is None, expected a string"):
        encoder.rank(None, TEXTS)
    with pytest.raises(TypeError, match="rank: texts is 'a', expected a list of texts"):
        encoder.rank(QUERY, "a")


@pytest.mark.parametrize("name", KINDS)
def test_every_pair_gives_the_same_bits_in_any_company(name, folder):
    encoder = pt.CrossEncoder(folder(name))
    alone = np.concatenate([encoder.predict([pair]) for pair in PAIRS])
    for tokens in (None, 1, 40, 10**9):
        for threads in (1, 2, 3) if tokens is None else (1,):
            with num_threads(threads):
                assert_same_bits(encoder.predict(PAIRS, max_batch_tokens=tokens), alone)
    assert_same_bits(encoder.predict(PAIRS[::-1]), alone[::-1])


def test_pairs_that_are_too_long(folder, changed, logits):
    """An error that names the pair; cut, the longer text of each, where the file says so."""
    long = "many animals have been destroyed " * 9
    pairs = [("a", "b"), (long, QUERY), (QUERY, long), (long, long)]
    encoder = pt.CrossEncoder(folder("bert"))
    with pytest.raises(
        ValueError, match=r"predict: pairs\[1\] has \d+ tokens, expected at most 64"
    ):
        encoder.predict(pairs)
    with pytest.raises(ValueError, match=r"rank: texts\[1\] has \d+ tokens, expected at most 64"):
        encoder.rank("a", ["b", long])
    cut = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    own = changed(folder("bert"), "tokenizer.json", truncation=cut)
    with pytest.warns(UserWarning, match="predict: 3 of 4 pairs cut to 64 tokens: numbers 2, 3, 4"):
        found = pt.CrossEncoder(own).predict(pairs)
    assert_close(found, sigmoid(logits(folder("bert"), pairs)[:, 0]))
    own = changed(own, "tokenizer_config.json", model_max_length=20)
    with pytest.warns(UserWarning, match="predict: 3 of 4 pairs cut to 20 tokens"):
        found = pt.CrossEncoder(own).predict(pairs)
    assert_close(found, sigmoid(logits(folder("bert"), pairs, 20)[:, 0]))


# What needs no files of others.


def own_model(**head):
    tokenizer = text.make("words", ["a b c d"])
    config = pt.EncoderConfig(
        tokenizer.vocab_size, d_model=12, num_heads=2, head=pt.ClassifierConfig(**head)
    )
    model = randomised(pt.EncoderModel(config, rng=0))
    model.src_tokenizer = tokenizer
    return model


@pytest.mark.parametrize(
    ("pairs", "error", "says"),
    [
        ("ab", TypeError, "pairs is 'ab', expected a list of pairs of texts"),
        (("a", "b"), TypeError, r"pairs\[0\] is 'a', expected two texts"),
        ([("a",)], TypeError, r"pairs\[0\] is .*, expected two texts"),
        ([("a", "b"), ("a", "b", "c")], TypeError, r"pairs\[1\] is .*, expected two texts"),
        ([("a", 3)], TypeError, r"pairs\[0\]\[1\] is 3, expected a string"),
        ([("\udcff", "b")], ValueError, r"pairs\[0\]\[0\] is '\\udcff', which is no Unicode"),
        ([("a", "b")], ValueError, "Words: pairs are asked for, expected none of this tokenizer"),
    ],
)
def test_pairs_are_checked(pairs, error, says):
    """The last ones are pairs, but nothing of ours puts a token between two texts."""
    with pytest.raises(error, match=says):
        pt.CrossEncoder(own_model(labels=("x",))).predict(pairs)


def test_other_models_are_refused():
    with pytest.raises(
        ValueError, match="no head for labels of texts; TokenClassifier is for such"
    ):
        pt.CrossEncoder(own_model(labels=("O", "B-X"), of_tokens=True))
    model = own_model(labels=("x",))
    plain = pt.EncoderModel(pt.EncoderConfig(7, d_model=8, num_heads=2))
    says = "CrossEncoder: model has no head for labels of texts; SentenceEncoder is for such models"
    with pytest.raises(ValueError, match=says):
        pt.CrossEncoder(plain)
    says = "CrossEncoder: model is a Transformer, expected an EncoderModel; Translator is for those"
    with pytest.raises(TypeError, match=says):
        pt.CrossEncoder("en-ja")
    model.src_tokenizer = None
    with pytest.raises(ValueError, match="CrossEncoder: model has no src_tokenizer"):
        pt.CrossEncoder(model)
    with pytest.raises(ValueError, match="pair_scores is 'tanh', expected one of None, 'logits'"):
        pt.ClassifierConfig(("a",), pair_scores="tanh")
