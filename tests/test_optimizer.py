"""AdamW at the limits of float32."""

import math

import numpy as np
import pytest
from models import small_config

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, TrainingOptions, train
from pyx_transformer.training.optimizer import AdamW
from pyx_transformer.training.shards import Step

LARGEST = math.sqrt(np.finfo(np.float32).max)  # whose square float32 still holds


def state(optimizer):
    arrays = optimizer.parameters.values, optimizer.means, optimizer.squares
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("value", [1.01 * LARGEST, -2e19, 1e30, -3e38])
@pytest.mark.parametrize("max_norm", [math.inf, 1e25])
def test_a_gradient_whose_square_overflows_is_skipped(value, max_norm):
    optimizer = AdamW(Parameters(pt.Transformer(small_config(), rng=0)), max_norm=max_norm)
    before = state(optimizer)
    optimizer.parameters.gradients[7] = value
    assert math.isnan(optimizer.step(1e-3))
    assert state(optimizer) == before
    assert optimizer.steps == 0
    assert not optimizer.parameters.gradients.any()


@pytest.mark.parametrize(
    ("value", "count", "max_norm"),
    [
        (0.99 * LARGEST, 1, math.inf),
        (0.99 * LARGEST, 1000, math.inf),  # the norm alone is too large
        (1e30, 1000, 1.0),  # once it is clipped, all is well
    ],
)
def test_large_gradients_that_fit_are_taken(value, count, max_norm):
    optimizer = AdamW(Parameters(pt.Transformer(small_config(), rng=0)), max_norm=max_norm)
    optimizer.parameters.gradients[:count] = value
    assert optimizer.step(1e-3) == pytest.approx(value * math.sqrt(count))
    assert all(np.isfinite(array).all() for array in (optimizer.means, optimizer.squares))
    assert np.isfinite(optimizer.parameters.values).all()


def test_a_run_reports_the_step_and_goes_on(tmp_path, monkeypatch):
    def poisoned(step, model, parameters):
        loss = original(step, model, parameters)
        calls.append(step.batch.numbers.tolist())
        if len(calls) == 2:
            parameters.gradients[7] = 1e25
        return loss

    calls, original, entries = [], Step.add_gradients, []
    monkeypatch.setattr(Step, "add_gradients", poisoned)
    model = pt.Transformer(small_config(), rng=0)
    examples = Examples([[3, 4], [5], [6, 7]], [[4], [5, 6], [7]], start_id=1, end_id=2)
    options = TrainingOptions(steps=4, batch_tokens=4, warmup=1)
    progress = train(model, examples, None, options, tmp_path, report=entries.append)
    assert progress.skipped == 1
    (skipped,) = [entry for entry in entries if "skipped" in entry]
    assert (skipped["step"], skipped["skipped"]) == (2, calls[1])
    assert all(np.isfinite(array).all() for array in model.state_dict().values())
