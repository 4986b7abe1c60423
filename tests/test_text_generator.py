"""TextGenerator: beginnings of texts to whole ones, beside transformers, and a part at a time."""

import json
import shutil

import directories
import numpy as np
import pytest
from models import assert_same_bits, lively, num_threads, randomised, small_config

import pyx_transformer as pt
from pyx_transformer import text

PROMPTS = ["i can 't tell", " many  animals", "私 は", "ünï ☃", "she said"]


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    return directories.gpt2(tmp_path_factory.mktemp("gpt2"), shared_data)


@pytest.fixture(scope="module")
def generator(folder):
    return pt.TextGenerator(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    tf = directories.library()
    return (
        tf.AutoTokenizer.from_pretrained(folder),
        tf.AutoModelForCausalLM.from_pretrained(folder).eval(),
    )


def options(beams, **changes):
    return {"beam_size": beams, "early_stopping": beams == 1, "max_length": 12, **changes}


@pytest.mark.parametrize("beams", [1, 4])
def test_texts_are_those_of_transformers(beams, generator, theirs):
    """Alone: theirs pads on the left, which moves positions unless told."""
    tokenizer, model = theirs
    found = generator.hypotheses(PROMPTS, **options(beams))
    different = set()
    for prompt, (best, *_) in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        wanted = model.generate(
            **ids, num_beams=beams, max_new_tokens=12, early_stopping=False, pad_token_id=0
        )[0].tolist()
        begin = ids["input_ids"].shape[1]
        assert best.ids.tolist() == wanted[begin:]
        assert tokenizer.decode(wanted, skip_special_tokens=True) == best.text
        different.add(tuple(wanted[begin:]))
    assert len(different) == len(PROMPTS)
    assert generator.generate(PROMPTS, **options(beams)) == [one[0].text for one in found]


def test_scores_are_those_of_transformers(generator, theirs):
    import torch

    tokenizer, model = theirs
    for prompt, own in zip(PROMPTS, generator.score(PROMPTS), strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            rows = torch.log_softmax(model(ids).logits[0].double(), -1).numpy()
        targets = [*ids[0, 1:].tolist(), model.config.eos_token_id]
        np.testing.assert_allclose(own, rows[np.arange(len(targets)), targets], rtol=0, atol=1e-4)


def test_an_empty_prompt_is_what_begins_texts(folder, generator, theirs, tmp_path):
    tokenizer, model = theirs
    start = model.generate(
        input_ids=model.dummy_inputs["input_ids"].new_tensor([[model.config.bos_token_id]]),
        max_new_tokens=8,
        pad_token_id=0,
    )[0]
    (found,) = generator.generate([""], max_length=8)
    assert found == tokenizer.decode(start, skip_special_tokens=True)
    assert "".join(generator.stream("", max_length=8)) == found
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    values = json.loads(path.read_text("utf-8"))
    del values["bos_token"]
    path.write_text(json.dumps(values))
    says = r"prompts\[1\] is empty, expected a text because no token begins one"
    with pytest.raises(ValueError, match=says):
        pt.TextGenerator(tmp_path / "model").generate(["a", ""])


# A part at a time.


@pytest.mark.parametrize("beams", [1, 3])
def test_parts_are_what_is_generated(beams, generator):
    for prompt in PROMPTS:
        parts = list(generator.stream(prompt, **options(beams, max_length=30)))
        assert [prompt + "".join(parts)] == generator.generate(
            [prompt], **options(beams, max_length=30)
        )
        assert all(parts) and not any(part.endswith("\ufffd") for part in parts[:-1])
        if beams == 1:
            assert len(parts) > 3


def test_what_is_drawn_is_streamed_too(generator):
    settings = {"temperature": 1.4, "seed": 3, "max_length": 30}
    for prompt in PROMPTS:
        parts = list(generator.stream(prompt, **settings))
        assert [prompt + "".join(parts)] == generator.generate([prompt], **settings)
    assert list(generator.stream("i", temperature=1.4, seed=4, max_length=9)) != list(
        generator.stream("i", temperature=1.4, seed=5, max_length=9)
    )


def forced(model, ids):
    """The model's own generation, which is these ids whatever it would say."""
    it = iter(ids)

    def only(logits):
        out = np.full_like(logits, -np.inf)
        out[:, next(it)] = 0
        return out

    return {"logits_processor": only, "max_length": len(ids)}


def test_no_part_ends_within_a_character(generator):
    """Every byte of these is a token, or two of them."""
    told = "é☃🙂漢"
    tokenizer = generator.tokenizer
    ids = tokenizer.encode(told).tolist()
    assert len(ids) > 6
    parts = list(generator.stream("i", **forced(generator.model, ids)))
    assert "".join(parts) == told
    assert all("\ufffd" not in part for part in parts)
    assert len(parts) == 4
    # What ends within one is shown at the end, as `generate` has it.
    parts = list(generator.stream("i", **forced(generator.model, ids[:-1])))
    assert parts[:3] == list("é☃🙂") and parts[3].strip("\ufffd") == ""
    (whole,) = generator.generate(["i"], **forced(generator.model, ids[:-1]))
    assert whole == "i" + "".join(parts)


def test_bytes_among_pieces(shared_data, tmp_path):
    """Of SentencePiece, which strips texts: no part is lost, none split."""
    generator = pt.TextGenerator(directories.llama(tmp_path, shared_data))
    for prompt in ("i know", "é", "私"):
        for settings in ({"max_length": 25}, {"temperature": 1.5, "seed": 0, "max_length": 25}):
            parts = list(generator.stream(prompt, **settings))
            assert [prompt + "".join(parts)] == generator.generate([prompt], **settings)
    told = " she é☃🙂 him"
    ids = generator.tokenizer.encode(told).tolist()
    assert len(ids) > 12
    parts = list(generator.stream("i", **forced(generator.model, ids)))
    assert "".join(parts).strip() == told.strip()
    assert not any("\ufffd" in part for part in parts)


def test_a_character_that_stands_for_others_is_text(generator):
    """U+FFFD itself is no half of a character for ever."""
    told = "a\ufffd\ufffd b c"
    ids = generator.tokenizer.encode(told).tolist()
    parts = list(generator.stream("i", **forced(generator.model, ids)))
    assert "".join(parts) == told


def test_a_prompt_that_ends_within_a_word(generator):
    """The prompt stays what it was, whatever its tokens decode to."""
    for prompt in ("i  ", " ", "\n", "  many", "a\tb "):
        found = generator.generate([prompt], max_length=5)[0]
        assert found.startswith(prompt)
        assert prompt + "".join(generator.stream(prompt, max_length=5)) == found


def test_on_token_is_told_too(generator):
    told = []
    parts = list(generator.stream("she", max_length=6, on_token=lambda *one: told.append(one)))
    (best,) = generator.hypotheses(["she"], max_length=6)[0]
    assert [token for _, token in told] == best.ids.tolist() and parts


def test_streaming_checks_at_once_and_can_be_left(generator):
    with pytest.raises(TypeError, match="stream: prompt is 3, expected a string"):
        generator.stream(3)
    with pytest.raises(TypeError, match=r"stream: prompt is \['a'\], expected a string"):
        generator.stream(["a"])
    with pytest.raises(ValueError, match=r"stream: prompt is 'a\\udcff', which is no Unicode text"):
        generator.stream("a\udcff")
    with pytest.raises(TypeError, match=r"stream: unknown options .'colour'."):
        generator.stream("a", colour=1)
    with pytest.raises(ValueError, match="num_hypotheses is 3, expected 1 because one text"):
        generator.stream("a", num_hypotheses=3, return_alternatives=True)
    with pytest.raises(ValueError, match=r"prompts\[0\] has .* tokens, expected at most 80"):
        generator.stream("many animals " * 40)
    parts = generator.stream("i", max_length=20)
    first = next(parts)
    parts.close()
    assert generator.generate(["i"], max_length=20)[0].startswith("i" + first)


# What needs no other library.


def own_generator(**changes):
    tokenizer = text.make("characters", ["abc def", "fed \n cba"])
    model = pt.TransformerLM(small_config(tgt_vocab_size=tokenizer.vocab_size, **changes), rng=0)
    model = lively(randomised(model))
    model.tgt_tokenizer = tokenizer
    return pt.TextGenerator(model)


MANY = ["abc def"[i % 3 : 3 + i % 5] for i in range(17)] + ["", "d"]


def bits(found):
    return [
        [(one.text, one.ids.tolist(), np.float64(one.score).tobytes()) for one in best]
        for best in found
    ]


@pytest.mark.parametrize("changes", [{}, {"beam_size": 3}, {"num_samples": 2, "seed": 5}])
def test_every_prompt_gives_the_same_bits_in_any_company(changes):
    own = own_generator()
    settings = {"max_length": 9, **changes}
    alone = bits([own.hypotheses([one], **settings)[0] for one in MANY])
    for tokens in (None, 1, 60, 100_000):
        for threads in (1, 2, 3) if tokens is None else (1,):
            with num_threads(threads):
                assert bits(own.hypotheses(MANY, max_batch_tokens=tokens, **settings)) == alone
    assert bits(own.hypotheses(MANY[::-1], **settings)) == alone[::-1]


@pytest.mark.parametrize("start", [1, None])
def test_what_is_known_of_texts_is_the_models(start):
    own = own_generator()
    if start is None:
        tokenizer, sizes = own.tokenizer, {"d_model": 24, "num_heads": 3, "d_ff": 41}
        config = pt.TransformerLMConfig(tokenizer.vocab_size, start_id=None, **sizes)
        own.model = lively(randomised(pt.TransformerLM(config, rng=0)))
        own.model.tgt_tokenizer = tokenizer
    prompts = [one for one in MANY if one]
    ids = [own.tokenizer.encode(one) for one in prompts]
    drawn = {"max_length": 6, "temperature": 2.0, "seed": 0}
    asked = {"return_scores": True, "return_token_scores": True, **drawn}
    generation = own.model.generate(ids, suppress_tokens=own.tokenizer.never_generated, **asked)
    ends = set()
    found = own.generate(prompts, **drawn)
    for one, (wanted,), prompt in zip(found, generation.hypotheses, ids, strict=True):
        end = [own.model.config.end_id] * wanted.is_finished
        assert [*prompt.tolist(), *one.ids.tolist()] == [*wanted.sequence.tolist(), *end]
        assert one.tokens == [own.tokenizer.vocabulary[i] for i in one.ids]
        assert one.source_tokens == [own.tokenizer.vocabulary[i] for i in prompt]
        assert_same_bits(one.token_scores, wanted.token_scores[len(prompt) :])
        assert len(one.tokens) == len(one.token_scores)
        assert (one.score, one.finished) == (wanted.score, wanted.is_finished)
        assert one.attention is None
        ends.add(one.finished)
    assert ends == {True, False}


def test_streams_of_our_own():
    own = own_generator()
    for prompt in ("ab", "", "\n"):
        for settings in ({}, {"beam_size": 4}, {"temperature": 1.2, "seed": 0}):
            parts = list(own.stream(prompt, max_length=12, **settings))
            assert [prompt + "".join(parts)] == own.generate([prompt], max_length=12, **settings)
    assert list(own.stream("ab", max_length=0)) == []


def test_a_directory_is_as_good_as_a_model(tmp_path):
    own = own_generator()
    own.model.save(tmp_path / "model")
    expected = own.generate(MANY, max_length=6)
    assert pt.TextGenerator(tmp_path / "model").generate(MANY, max_length=6) == expected
    scores = pt.TextGenerator(str(tmp_path / "model")).score(MANY)
    for one, other in zip(scores, own.score(MANY), strict=True):
        assert_same_bits(one, other)
    assert own.generate([]) == own.score([]) == own.hypotheses([]) == []


def test_one_text_is_returned_of_each():
    own = own_generator()
    with pytest.raises(ValueError, match="generate: num_samples is 3, expected 1 because one text"):
        own.generate(["a"], num_samples=3)
    assert [len(one) for one in own.hypotheses(["a", "b"], num_samples=3, seed=1)] == [3, 3]
    assert len(own.generate(["a"], num_samples=1, seed=1)) == 1


def test_prompts_that_are_too_long():
    own = own_generator(positions="learned", max_length=6)
    with pytest.raises(
        ValueError, match=r"generate: prompts\[2\] has 7 tokens, expected at most 6"
    ):
        own.generate(["a", "", "abc def"])


def test_other_models_are_refused():
    tokenizer = text.make("words", ["a b"])
    size = tokenizer.vocab_size
    small = {"d_model": 8, "num_heads": 2}
    for model, came, right in (
        (pt.Transformer(pt.TransformerConfig(size, size, **small)), "a Transformer", "Translator"),
        (
            pt.EncoderModel(pt.EncoderConfig(size, head=pt.MaskedLMConfig(), **small)),
            "an EncoderModel",
            "SentenceEncoder",
        ),
    ):
        says = f"TextGenerator: model is {came}, expected a TransformerLM; {right} is for those"
        with pytest.raises(TypeError, match=says):
            pt.TextGenerator(model)
    bare = pt.TransformerLM(pt.TransformerLMConfig(size, **small))
    with pytest.raises(ValueError, match="TextGenerator: model has no tgt_tokenizer"):
        pt.TextGenerator(bare)
