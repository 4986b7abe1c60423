"""BLEU: SacreBLEU's numbers, for every tokenizer, and its signatures."""

import re

import pytest

from pyx_transformer.metrics import (
    BLEU_TOKENIZERS,
    bleu,
    bleu_tokenizer_for,
    bleu_with_signature,
)

ENGLISH = ["The cat, it sat on the mat.", 'He said: "no" - twice!', "1,000.5 &amp; 3-4 (five)", ""]
JAPANESE = ["私は音楽が好きです。", "彼は\u3000犬を飼っている 。", "𠮷野家で食べた", "ええ"]
PAIRS = {
    "english": (ENGLISH, [f"{text} And so on" for text in ENGLISH]),
    "japanese": (JAPANESE, ["私は音楽が好きだ。", *JAPANESE[1:]]),
    "no longer match": (["a b x y z"], ["a b c d e"]),
    "no match": (["x y z w"], ["a b c d"]),
    "too short": (["a b c"], ["a b c"]),
    "empty": (["", " "], ["a b", ""]),
    "longer than the references": (["a b c d e f g"], ["a b c d"]),
}


@pytest.mark.parametrize("tokenizer", BLEU_TOKENIZERS)
@pytest.mark.parametrize("name", PAIRS)
def test_it_is_that_of_sacrebleu(name, tokenizer):
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs the extra `train`")
    texts, references = PAIRS[name]
    expected = sacrebleu.corpus_bleu(texts, [references], tokenize=tokenizer, force=True).score
    assert bleu(texts, references, tokenizer=tokenizer) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tokenizer", BLEU_TOKENIZERS)
def test_signatures(tokenizer):
    score, signature = bleu_with_signature(*PAIRS["english"], tokenizer)
    assert score == bleu(*PAIRS["english"], tokenizer=tokenizer) > 10
    assert re.fullmatch(
        rf"nrefs:1\|case:mixed\|eff:no\|tok:{tokenizer}\|smooth:exp\|version:.*", signature
    )


def test_texts_without_spaces_are_measured_by_characters():
    assert bleu_tokenizer_for(JAPANESE) == "char"
    assert bleu_tokenizer_for([" ".join(text) for text in JAPANESE]) == "none"
    assert bleu_tokenizer_for([*ENGLISH, "Yes."]) == "none"


def test_texts_with_spaces_beside_texts_without_are_told():
    pytest.importorskip("sacrebleu", reason="needs the extra `train`")
    texts = ["".join(text.split()) for text in JAPANESE]
    spaced = [" ".join(text) for text in texts]
    with pytest.warns(UserWarning, match="references do: tokenizer='char'"):
        assert bleu(texts, spaced) == 0
    assert bleu(texts, spaced, tokenizer="char") == pytest.approx(100)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("a", ["a"]), TypeError, "bleu: texts is 'a', expected a list of texts"),
        ((["a"], [3]), TypeError, r"bleu: references\[0\] is 3"),
        ((["a"], ["a", "b"]), ValueError, "there are 1 texts and 2 references"),
        (([], []), ValueError, "there are 0 texts and 0 references"),
    ],
)
def test_bad_input(arguments, error, says):
    with pytest.raises(error, match=says):
        bleu(*arguments)
    with pytest.raises(ValueError, match="bleu: tokenizer is 'mecab', expected"):
        bleu(["a"], ["a"], tokenizer="mecab")
