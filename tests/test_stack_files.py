"""Stacks alone as directories: saved, loaded, and refused where they do not fit."""

import json
import pickle

import numpy as np
import pytest
import safetensors.numpy
from cases import normal
from models import assert_same_bits, randomised, small_model
from test_described import DESCRIPTIONS, inputs_of, made_of

import pyx_transformer as pt
from pyx_transformer.pipelines.conversion import convert
from pyx_transformer.pipelines.inspection import inspect
from pyx_transformer.training import evaluate

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def encoder(**changes):
    return randomised(pt.TransformerEncoder(2, 24, 3, 41, norm_first=True, **changes))


@pytest.fixture
def saved(tmp_path):
    encoder().save(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_description_goes_round(name, tmp_path):
    stack, _ = made_of(DESCRIPTIONS[name])
    stack.save(tmp_path)
    kind, (x, others) = type(stack), inputs_of(stack.config)
    for again in (pt.load(tmp_path), kind.load(str(tmp_path))):
        assert type(again) is kind and again.config == stack.config
        before, after = stack.state_dict(), again.state_dict()
        assert [*before] == [*after]
        for key, array in before.items():
            assert_same_bits(array, after[key])
        assert_same_bits(again(x, **others), stack(x, **others))


def test_the_config_says_the_kind(tmp_path):
    for kind in (pt.TransformerEncoder, pt.TransformerDecoder):
        stack = kind(2, 24, 3, 41, final_norm=True, rng=0)
        stack.save(tmp_path)  # one over the other
        values = json.loads((tmp_path / CONFIG).read_text())
        assert values["architecture"] == kind.__name__
        assert values["num_layers"] == 2 and len(values["layers"]) == 1
        assert type(pt.load(tmp_path)) is kind


def test_keys_are_those_of_torch(saved, rng):
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(24, 3, 41, 0.0, batch_first=True, norm_first=True)
    theirs = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    tensors = safetensors.numpy.load_file(saved / WEIGHTS)
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    x = normal(rng, 2, 5, 24)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(pt.load(saved)(x), wanted, atol=1e-5)


def test_a_stack_over_a_model_leaves_nothing_of_it(tmp_path):
    model = small_model()
    model.generation_options = pt.GenerationOptions(beam_size=2)
    model.src_vocabulary = [str(i) for i in range(23)]
    model.save(tmp_path)
    assert len([*tmp_path.iterdir()]) > 2
    encoder().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    model.save(tmp_path)
    assert type(pt.load(tmp_path)) is pt.Transformer


def test_int8(saved, tmp_path):
    encoder().save(tmp_path / "small", dtype="int8")
    assert (tmp_path / "small" / WEIGHTS).stat().st_size < (saved / WEIGHTS).stat().st_size / 2
    whole, small = pt.load(saved).state_dict(), pt.load(tmp_path / "small").state_dict()
    for key, array in whole.items():
        step = np.abs(array).max() / 127 if array.ndim == 2 else 0
        np.testing.assert_allclose(small[key], array, atol=step, rtol=0)


def test_what_does_not_fit_is_refused(saved):
    values = json.loads((saved / CONFIG).read_text())
    block = {"num_heads": 3, "is_cross": True}
    cross = [{"sub_layers": [*values["layers"][0]["sub_layers"], {"block": block}]}]
    path = f"load: {saved / CONFIG}: "
    for changes, says in (
        ({"architecture": "Encoder"}, f"{path}architecture is 'Encoder', expected one of Transfo"),
        ({"x": 1}, f"{path}TransformerEncoder: unknown keys ['x']"),
        ({"num_layers": 10**9}, f"{path}TransformerEncoder: StackConfig: num_layers is 1000000000"),
        ({"num_layers": "2"}, f"{path}TransformerEncoder: StackConfig: num_layers is '2'"),
        ({"d_model": 25}, f"{path}TransformerEncoder: StackConfig: num_heads is 3"),
        ({"layers": 3}, f"{path}TransformerEncoder: StackConfig: layers is 3"),
        ({"layers": cross}, f"{path}TransformerEncoder: layers have a cross-attention, expected"),
        ({"num_layers": 10_000}, f"load: {saved / WEIGHTS} holds "),
        ({"d_model": 24 * 10**6}, f"load: {saved / WEIGHTS} holds "),
        (
            {"num_layers": 3},
            f"load: {saved / WEIGHTS}: TransformerEncoder.load_state_dict: miss",
        ),
        ({"d_model": 27}, f"load: {saved / WEIGHTS}: TransformerEncoder.load_state_dict: misshap"),
    ):
        (saved / CONFIG).write_text(json.dumps(values | changes))
        with pytest.raises(ValueError) as error:
            pt.load(saved)
        assert str(error.value).startswith(says)
    (saved / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        pt.load(saved)


def test_a_stack_is_no_whole_model(saved, tmp_path):
    with pytest.raises(TypeError, match=r"Transformer\.load: .* is a TransformerEncoder, expected"):
        pt.Transformer.load(saved)
    with pytest.raises(TypeError, match=r"TransformerDecoder\.load: .* is a TransformerEncoder, "):
        pt.TransformerDecoder.load(saved)
    with pytest.raises(TypeError, match=r"Translator: model is Trans.*, expected a Transformer"):
        pt.Translator(saved)
    with pytest.raises(TypeError, match=r"evaluate: .* is a TransformerEncoder alone, exp"):
        evaluate(saved, ["a"], ["b"])
    found = inspect(saved)
    assert (found["model"], found["stack"]) == (
        "TransformerEncoder",
        "2 layers of 24, 3 heads, d_ff 41",
    )
    assert found["parameters"] == encoder().num_parameters and found["commands"] == []
    copy = convert(saved, tmp_path / "copy")
    assert (tmp_path / "copy" / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert copy.config == pt.load(saved).config


def test_saving_asks_for_a_folder(tmp_path):
    with pytest.raises(TypeError, match="save: directory is 3, expected"):
        encoder().save(3)
    with pytest.raises(ValueError, match="save: dtype is 'half', expected one of"):
        encoder().save(tmp_path, dtype="half")
    assert pickle.loads(pickle.dumps(encoder())).config == encoder().config
