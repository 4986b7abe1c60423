"""Texts in, texts out: what `translate` and `continue_texts` are given, and give back."""

import pytest
from models import small_config

import pyx_transformer as pt
from pyx_transformer import text
from pyx_transformer.translation import continue_texts, translate

SENTENCES = ["a b c", "b c d e", "e d"]


def tokenizer(kind="words"):
    if kind == "sentencepiece":
        pytest.importorskip("sentencepiece", reason="needs the extra `text`")
    return text.make(kind, SENTENCES, size=11 if kind == "sentencepiece" else None)


def translator(kind="words", **changes):
    own = tokenizer(kind)
    sizes = {"src_vocab_size": own.vocab_size, "tgt_vocab_size": own.vocab_size}
    model = pt.Transformer(small_config(**sizes, **changes), rng=0)
    model.src_tokenizer = model.tgt_tokenizer = own
    return model


def language_model(kind="words", **changes):
    own = tokenizer(kind)
    model = pt.TransformerLM(small_config(tgt_vocab_size=own.vocab_size, **changes), rng=0)
    model.tgt_tokenizer = own
    return model


CALLS = {"translate": (translate, translator), "continue_texts": (continue_texts, language_model)}


@pytest.mark.parametrize("kind", text.KINDS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["a", "b\udcff"], ValueError, r"texts\[1\] is 'b\\udcff', which is no Unicode text"),
        ("a b", TypeError, "texts is 'a b', expected a list of texts"),
        (["a", 3], TypeError, "texts holds 3, expected strings"),
        ([None], TypeError, "texts holds None"),
        (3, TypeError, "texts is 3, expected a list of texts"),
    ],
)
def test_texts_are_checked(name, kind, texts, error, says):
    function, build = CALLS[name]
    with pytest.raises(error, match=f"{name}: {says}"):
        function(build(kind), texts)
