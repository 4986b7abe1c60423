"""Recipes whose [model] describes other layers than the paper's: LLaMA's, T5's, BERT's."""

import numpy as np
import pytest
from conftest import REPOSITORY
from models import assert_same_bits, num_threads, randomised, token_ids

from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, Texts
from pyx_transformer.training.gradients import Dropout
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.recipe import load_recipe

# By recipe: the validation's loss after 60 steps of small batches, and what else is changed.
SHORT = {
    "training.steps": 60,
    "training.batch_tokens": 512,
    "training.warmup": 20,
    "training.validate_every": 60,
}
MEASURED = {
    "llama": (2.68572, {"data.dev_share": 0.005}),
    "t5": (3.08448, {"text.min_count": 100}),
    "bert": (4.36708, {"text.min_count": 100}),
}


def path_of(name):
    return REPOSITORY / "bench" / "recipes" / f"{name}.toml"


@pytest.mark.parametrize("name", MEASURED)
def test_a_run_learns_what_it_learned_before(name, shared_data, tmp_path):
    """To 5e-4. A learning rate that is 1e-6 larger, as rounding might be, moves a loss by 3e-5 at
    most; a gradient that is not there moves it by 0.0012 (of T5's biases by distance) to 0.1 (of
    queries and keys)."""
    loss, changes = MEASURED[name]
    files = {
        f"data.{key}": str(shared_data / value.removeprefix("../shared/data/"))
        for key, value in load_recipe(path_of(name)).data.items()
        if isinstance(value, str)
    }
    with num_threads(1):  # which changes no bit, and is not slowed down by a busy machine
        load_recipe(path_of(name), {**SHORT, **files, **changes}).run(tmp_path / "run")
    figures = read_log(tmp_path / "run" / "log.jsonl")[-1]["validation"]
    assert abs(figures["loss"] - loss) < 5e-4


@pytest.mark.parametrize("name", MEASURED)
def test_without_dropout_logits_are_those_of_the_model_itself(name):
    recipe = load_recipe(path_of(name))
    model = randomised(recipe.kind(recipe.config(*(23 for _ in recipe.sides)), rng=0), seed=3)
    rng = np.random.default_rng(0)
    texts, others = ([token_ids(rng, 23, n) for n in counts] for counts in ((5, 1, 13), (7, 12, 2)))
    examples = Texts(texts)
    if model.has_decoder:
        sources = others if model.has_encoder else None
        examples = Examples(sources, texts, start_id=1, end_id=2)
    batch = examples.batch(np.arange(3))
    rows, _ = model.forward(batch, Parameters(model).whole(), Dropout(0.0))

    ids = np.split(batch.inputs, batch.input_sequences.starts[1:])
    given = (ids,)
    if model.has_decoder and model.has_encoder:
        given = (others, ids)
    expected = batch.input_sequences.rows(model(*given))
    assert_same_bits(model.output_projection.apply(rows), expected)
