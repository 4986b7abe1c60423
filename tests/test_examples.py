"""Examples to train on: what they are checked for, before any kernel reads them."""

import pytest
from models import small_config

import pyx_transformer as pt
from pyx_transformer.training import Examples, TrainingOptions, train


@pytest.mark.parametrize("name", ["start_id", "end_id"])
@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (-1, ValueError, "is -1, expected at least 0"),
        (1.0, TypeError, "is 1.0, expected an integer"),
        ("1", TypeError, "is '1', expected an integer"),
        (True, TypeError, "is True, expected an integer"),
    ],
)
def test_special_ids_are_whole_numbers(name, value, error, says):
    with pytest.raises(error, match=f"Examples: {name} {says}"):
        Examples([[3]], [[4]], **{"start_id": 1, "end_id": 2, name: value})


def test_an_end_is_needed():
    with pytest.raises(TypeError, match=r"Examples: end_id is None, expected an integer"):
        Examples([[3]], [[4]], start_id=1, end_id=None)


@pytest.mark.parametrize("name", ["start_id", "end_id"])
@pytest.mark.parametrize("value", [0, 3, 22, 23, 10**9, 2**70])
@pytest.mark.parametrize("part", ["examples", "validation"])
def test_special_ids_are_those_of_the_model(name, value, part, tmp_path):
    """Ids that the vocabulary lacks would be read from outside of the table."""
    good = Examples([[3]], [[4]], start_id=1, end_id=2)
    bad = Examples([[3]], [[4]], **{"start_id": 1, "end_id": 2, name: value})
    parts = {"examples": good, "validation": good, part: bad}
    model = pt.Transformer(small_config(), rng=0)
    says = f"train: {part}: {name} is {value}, expected {getattr(good, name)} as in the model's"
    with pytest.raises(ValueError, match=says):
        train(model, *parts.values(), TrainingOptions(steps=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
