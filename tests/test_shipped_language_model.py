"""The language model that comes with the package."""

import hashlib
import importlib.resources
import re

import numpy as np
import pytest
from conftest import REPOSITORY

import pyx_transformer as pt
from pyx_transformer import _runtime
from pyx_transformer.training.recipe import load_recipe
from pyx_transformer.training.validation import mean_loss

FOLDER = importlib.resources.files("pyx_transformer") / "models" / "shakespeare"
GREEDY = pt.GenerationOptions(max_length=300)
DIGEST = "d34fc48a15460551800d5f281b6eb863c18b44327eca6ce9708fe59280423731"
LOSS = 1.721  # of characters held out, in bench/results/shakespeare.md


@pytest.fixture(scope="module")
def generator():
    return pt.TextGenerator("shakespeare")


def test_it_writes_a_speech(generator, shared_data):
    """Lines of words that the plays have, with the options that it comes with."""
    options = generator.model.generation_options
    assert options.is_sampling
    (text,) = generator.generate(["ROMEO:"], seed=1)
    assert text.startswith("ROMEO:\n")
    assert text == "ROMEO:" + "".join(generator.stream("ROMEO:", seed=1))
    assert text != generator.generate(["ROMEO:"], seed=2)[0]
    plays = (shared_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    words, known = (re.findall(r"[a-z]+", one.lower()) for one in (text, plays))
    assert len(words) > 10
    assert np.isin(words, known).mean() > 0.8


def test_the_same_text_on_every_instruction_set(generator, kernels, monkeypatch):
    if kernels.ISA_NAME == "x86-64-v2":
        pytest.skip("x86-64-v2 has no fused multiply-add: its bits are its own")
    monkeypatch.setattr(_runtime, "kernels", kernels)
    model = pt.load("shakespeare")
    prompt = model.tgt_tokenizer.encode("ROMEO:")
    found = model.generate([prompt], options=GREEDY, return_token_scores=True)
    ((best,),) = found.hypotheses
    whole = hashlib.sha256(best.sequence.astype("<i8").tobytes())
    whole.update(best.token_scores.astype("<f4").tobytes())
    assert len(best.sequence) > 100
    assert whole.hexdigest() == DIGEST


def test_a_text_may_be_longer_than_those_that_it_learned_from(generator):
    """Heads see 128 characters: after 2,000 it is as sure of what comes next as after 400."""
    end = generator.model.config.end_id
    settings = {"seed": 0, "suppress_tokens": [end], "return_token_scores": True}
    ((one,),) = generator.hypotheses(["ROMEO:"], max_length=2000, **settings)
    scores = one.token_scores
    assert len(scores) == 2000
    assert scores[-400:].mean() > scores[:400].mean() - 0.3


def test_it_is_small_and_says_where_it_comes_from():
    sizes = {path.name: len(path.read_bytes()) for path in FOLDER.iterdir()}
    assert sum(sizes.values()) < 3e6
    attribution = (FOLDER / "ATTRIBUTION").read_text(encoding="utf-8")
    assert "public domain" in attribution and "karpathy/char-rnn" in attribution


def test_it_is_as_good_as_its_results_say(generator, shared_data):
    """Nats per character of the 40 examples that are held out last, to a hundredth."""
    path = str(shared_data / "tinyshakespeare" / "input.txt")
    recipe = load_recipe(
        REPOSITORY / "bench/recipes/tinyshakespeare.toml", {"data.train_target": path}
    )
    _, held_out = recipe.split(generator.model)
    last = held_out.split(40 / len(held_out))[1]
    assert len(last) == 40
    assert np.isclose(mean_loss(generator.model, last), LOSS, atol=0.01)
