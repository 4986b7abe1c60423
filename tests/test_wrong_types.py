"""Contract 5: what is no model, no tokenizer, no list of texts, no path and no function is told by
the name of the argument, what came and what was expected, and never by Python's own words."""

import re

import numpy as np
import pytest
from models import continue_texts, translate
from runs import OPTIONS, new_model, some_examples

import pyx_transformer as pt
from pyx_transformer import checkpoints, metrics, plots, text
from pyx_transformer.generation import KeyValueCache, memory_estimate, score, score_alone
from pyx_transformer.tokenizers import listed
from pyx_transformer.training import Examples, Texts, evaluate, train
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.recipe import TextOptions, load_recipe

TOKENS = [*listed.SPECIAL, "a", "b"]
WORDS, CHARACTERS = text.Words(TOKENS), text.Characters(TOKENS)
CONFIG = pt.TransformerConfig(
    5, 5, d_model=8, num_heads=2, d_ff=8, num_encoder_layers=1, num_decoder_layers=1
)
TRANSLATOR, LM = pt.Transformer(CONFIG, rng=0), pt.TransformerLM(CONFIG, rng=0)
TRANSLATOR.src_tokenizer = TRANSLATOR.tgt_tokenizer = LM.tgt_tokenizer = WORDS
IDS = np.array([[3, 4]])
CACHE = KeyValueCache(LM, 1)


class Nothing:
    """Something of no use anywhere."""

    def __repr__(self):
        return "<something>"


NOTHING = Nothing()
NO_LIST = (None, 3, NOTHING, np.array(3), "text", [None], [NOTHING])
NO_LIST_OF_IDS = (None, 3, NOTHING, np.array(3), "text", ["a"], [None], [99], [-1], [1.5])
NO_TEXT = (None, 3, NOTHING, b"a", ["a"], "\ud800")
NO_PATH = (None, 3, NOTHING, b"a", ["a"], "a\0")
NO_PATH_OR_TEXTS = (None, 3, NOTHING, b"a", [3], "a\0")
NO_MODEL = (None, 3, NOTHING, "en-ja", [], pt.Transformer, WORDS)
NO_TRANSLATOR = tuple(value for value in NO_MODEL if value != "en-ja")  # which is one
NO_FLAG = (None, 3, NOTHING, "text")
NO_FUNCTION = (3, NOTHING, "text", [])
NO_CORPUS = (3, NOTHING, "text", [[3]], TRANSLATOR)
# Functions, arguments that are right, and wrong ones in the place of each.
CASES = [
    (
        Examples,
        {"sources": [[3]], "targets": [[3]], "start_id": 1, "end_id": 2},
        {
            "sources": (3, NOTHING, np.array(3), "text", [None], ["a"], [[None]], [[-1]], [[[3]]]),
            "targets": (None, *NO_LIST, [[1.5]]),
            "references": (3, NOTHING, "text", [None]),
            "start_id": ("text", NOTHING),
        },
    ),
    (Texts, {"texts": [[3]]}, {"texts": (*NO_LIST, [["a"]])}),
    (
        train,
        {
            "model": new_model(),
            "examples": some_examples(),
            "validation": None,
            "options": OPTIONS,
            "folder": "never",
        },
        {
            "model": NO_MODEL,
            "examples": (None, *NO_CORPUS),
            "validation": NO_CORPUS,
            "options": (None, 3, NOTHING, "text"),
            "folder": NO_PATH,
            "resume": NO_FLAG,
            "report": NO_FUNCTION,
        },
    ),
    (
        evaluate,
        {"model": TRANSLATOR, "source": "never", "target": "never"},
        {
            "model": NO_TRANSLATOR,
            "with_bleu": NO_FLAG,
        },
    ),
    (
        evaluate,
        {"model": TRANSLATOR, "source": ["a"], "target": ["b"], "with_bleu": False},
        {
            "source": NO_PATH_OR_TEXTS,
            "target": NO_PATH_OR_TEXTS[1:],
        },
    ),
    (
        load_recipe,
        {"path": None},
        {
            "path": NO_PATH[1:],
            "changes": (3, "text", NOTHING, [], {3: 4}),
        },
    ),
    (
        TextOptions,
        {"kind": "words"},
        {
            "source_language": (None, 3, NOTHING, "fr"),
            "target_language": (None, 3, NOTHING, "fr"),
        },
    ),
    (
        translate,
        {"model": TRANSLATOR, "texts": ["a"]},
        {
            "model": NO_TRANSLATOR,
            "texts": NO_LIST,
            "spaced": NO_FLAG,
            "options": (3, NOTHING, "text"),
        },
    ),
    (continue_texts, {"model": LM, "prompts": ["a"]}, {"model": NO_MODEL, "prompts": NO_LIST}),
    (
        text.make,
        {"kind": "words", "texts": ["a"]},
        {
            "kind": (None, 3, NOTHING, "text"),
            "texts": NO_LIST,
            "language": (None, 3, NOTHING),
        },
    ),
    (text.make, {"kind": "characters", "texts": ["a"]}, {"texts": NO_LIST}),
    (
        text.save,
        {"tokenizer": WORDS, "path": "never"},
        {
            "tokenizer": (None, 3, NOTHING, "text", text.Words, LM),
            "path": NO_PATH,
        },
    ),
    (text.load, {"kind": "words", "path": "never"}, {"kind": (None, 3), "path": NO_PATH}),
    (text.Words, {"vocabulary": TOKENS}, {"vocabulary": NO_LIST, "language": (None, 3, NOTHING)}),
    (text.Characters, {"vocabulary": TOKENS}, {"vocabulary": NO_LIST}),
    (text.english, {"text": "a"}, {"text": NO_TEXT}),
    *(
        case
        for tokenizer in (WORDS, CHARACTERS)
        for case in (
            (tokenizer.encode, {"text": "a"}, {"text": NO_TEXT}),
            (tokenizer.spaced, {"text": "a"}, {"text": NO_TEXT}),
            (tokenizer.decode, {"ids": [3]}, {"ids": NO_LIST_OF_IDS, "spaced": NO_FLAG}),
            (tokenizer.tokens, {"ids": [3]}, {"ids": NO_LIST_OF_IDS}),
        )
    ),
    (
        metrics.bleu,
        {"texts": ["a"], "references": ["a"]},
        {"texts": NO_LIST, "references": NO_LIST},
    ),
    (
        plots.plot_curves,
        {"entries": [], "path": "never.png"},
        {"entries": [[], *(value for value in NO_LIST if value != "text")], "path": NO_PATH},
    ),
    (
        plots.plot_attention,
        {
            "weights": np.ones((1, 1, 1, 1)),
            "source": ["a"],
            "target": ["a"],
            "path": "never.png",
        },
        {
            "weights": (None, NOTHING, "text", np.array(3), [None]),
            "source": NO_LIST,
            "target": NO_LIST,
            "path": NO_PATH,
            "title": (3, NOTHING, b"a", ["a"], "\ud800"),
            "layers": ("text", NOTHING, 1.5, [None], [[0]], [], [0, 1], -1),
            "heads": ("text", NOTHING, 1.5, [None], [[0]], [], [0, 1], -1),
            "axis_names": (*NO_LIST, ["a"]),
        },
    ),
    (plots.require, {"path": "never.png"}, {"path": (*NO_PATH, "never", "a.jpg")}),
    (read_log, {"path": "never"}, {"path": NO_PATH}),
    (
        KeyValueCache,
        {"model": TRANSLATOR, "sequences": 1},
        {
            "model": NO_MODEL,
            "sequences": (None, "text", NOTHING),
            "memory": (3, NOTHING, "text", [], [None]),
        },
    ),
    (
        CACHE.extend,
        {"ids": [3], "sequences": [0], "counts": [1]},
        {
            "ids": NO_LIST_OF_IDS,
            "sequences": (None, NOTHING, "text", 3),
            "counts": (None, "text", 3),
        },
    ),
    (score, {"model": TRANSLATOR, "src": IDS, "tgt": IDS}, {"model": (*NO_MODEL, LM)}),
    (score_alone, {"model": LM, "tgt": IDS}, {"model": (*NO_MODEL, TRANSLATOR)}),
    (
        memory_estimate,
        {
            "model": TRANSLATOR,
            "encoder": TRANSLATOR.encoder,
            "batch": 1,
            "src_len": 1,
            "max_length": 1,
            "beam_size": 1,
        },
        {"model": NO_MODEL, "encoder": (3, NOTHING, "text")},
    ),
    (pt.perplexity, {"scores": [[0.0]]}, {"scores": NO_LIST}),
    (
        checkpoints.save,
        {"model": LM, "directory": "never"},
        {
            "model": NO_MODEL,
            "directory": NO_PATH,
            "dtype": (None, 3, NOTHING),
        },
    ),
    (checkpoints.load, {"path": "never"}, {"path": NO_PATH}),
    (pt.TransformerLMConfig.of_decoder, {"config": CONFIG}, {"config": (None, 3, "text")}),
    (
        pt.GenerationOptions,
        {},
        {
            "prefix": (3, NOTHING, np.array(3), "text", [None], ["a"], [NOTHING]),
            "suppress_tokens": (None, NOTHING, "text", [None], ["a"]),
            "suppress_sequences": (None, *NO_LIST),
            "end_tokens": (3, NOTHING, "text", [None]),
            "on_token": NO_FUNCTION,
            "stop_when": NO_FUNCTION,
            "constraint": NO_FUNCTION,
            "logits_processor": NO_FUNCTION,
            "return_scores": NO_FLAG,
        },
    ),
]
EVERY = [
    pytest.param(function, {**right, name: value}, name, id=f"{function.__qualname__}-{name}-{i}")
    for function, right, wrong in CASES
    for name, values in wrong.items()
    for i, value in enumerate(values)
]


@pytest.mark.parametrize(("function", "arguments", "name"), EVERY)
def test_wrong_types_are_told(function, arguments, name):
    with pytest.raises((TypeError, ValueError)) as error:
        function(**arguments)
    assert type(error.value) in (TypeError, ValueError)
    said = str(error.value)
    assert re.search(rf": (a key of )?{name}\b", said), said
    assert re.search(", expected | cannot be read as | is no (Unicode|regular)", said), said


def test_sentencepiece():
    pytest.importorskip("sentencepiece")
    tokenizer = text.make("sentencepiece", ["a b c d e f"] * 5, size=12)
    for ids in NO_LIST_OF_IDS:
        for function in (tokenizer.decode, tokenizer.tokens):
            with pytest.raises((TypeError, ValueError), match=r"^SentencePiece: ids"):
                function(ids)
    for value in NO_TEXT:
        for function in (tokenizer.encode, tokenizer.spaced):
            with pytest.raises((TypeError, ValueError), match=r"^SentencePiece: text is "):
                function(value)
    for model in (None, 3, NOTHING, "text", [None]):
        with pytest.raises(TypeError, match=r"^SentencePiece: model is .*, expected bytes"):
            text.SentencePiece(model)
    for texts in NO_LIST:
        with pytest.raises(TypeError, match=r"^text\.make: texts"):
            text.make("sentencepiece", texts, size=12)


@pytest.mark.parametrize("value", [3, "text", NOTHING, text.Words])
def test_what_is_no_tokenizer_of_a_model(value, tmp_path):
    model = pt.Transformer(CONFIG, rng=0)
    model.src_tokenizer, model.tgt_tokenizer = value, WORDS
    (tmp_path / "text").write_text("a\n")
    for function in (
        lambda: model.save(tmp_path / "model"),
        lambda: translate(model, ["a"]),
        lambda: evaluate(model, tmp_path / "text", tmp_path / "text", with_bleu=False),
        lambda: train(model, some_examples(), None, OPTIONS, tmp_path / "run"),
    ):
        with pytest.raises(TypeError, match=r": src_tokenizer is .*, expected one of pyx_"):
            function()


def test_ids_may_be_any_iterable():
    for ids in ([3, 4], (3, 4), np.array([3, 4]), np.uint8([3, 4]), range(3, 5), iter([3, 4])):
        assert WORDS.decode(ids) == "a b"
    assert WORDS.decode([]) == WORDS.decode([1, 2]) == ""
    assert text.make("words", (line for line in ["a b"])).vocabulary == TOKENS
