"""Weights alone, with a config and names of the caller's: what PyTorch's own modules save gives
what they give; and names and files that do not fit."""

import re

import numpy as np
import pytest
import safetensors.numpy
from cases import normal
from models import assert_close, assert_same_bits, small_config, small_model

import pyx_transformer as pt
from pyx_transformer.checkpoints import state_dicts


@pytest.fixture
def torch():
    module = pytest.importorskip("torch", exc_type=ImportError)
    module.manual_seed(0)
    return module


def lively(module, torch):
    """The module in float64, all its parameters random: fresh ones hide what is left out."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


SIZES = {"d_model": 24, "num_heads": 4, "d_ff": 40}


def reference(module, *inputs, **arguments):
    """What a module of PyTorch's gives in float64."""
    import torch

    with torch.no_grad():
        arrays = (torch.from_numpy(array.astype(float)) for array in inputs)
        return module.double()(*arrays, **arguments).numpy()


@pytest.mark.parametrize("ending", ["pt", "safetensors", "npz"])
def test_a_plain_encoder(ending, torch, rng, tmp_path):
    layer = torch.nn.TransformerEncoderLayer(24, 4, 40, norm_first=True, batch_first=True)
    module = lively(
        torch.nn.TransformerEncoder(
            layer, 2, norm=torch.nn.LayerNorm(24), enable_nested_tensor=False
        ),
        torch,
    )
    state, path = module.state_dict(), tmp_path / f"weights.{ending}"
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    if ending == "pt":
        torch.save(state, path)
    elif ending == "npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    made = pt.TransformerEncoder(2, 24, 4, 40, norm_first=True, final_norm=True)
    for place in (path, tmp_path):
        encoder = pt.load(place, made.config)
        assert type(encoder) is pt.TransformerEncoder
        for key, array in encoder.state_dict().items():
            assert_same_bits(array, arrays[key])
    x = normal(rng, 2, 7, 24)
    assert_close(encoder(x), reference(module, x))


def test_both_stacks_of_a_plain_transformer(torch, rng, tmp_path):
    module = lively(torch.nn.Transformer(24, 4, 2, 3, 40, batch_first=True), torch)
    torch.save(module.state_dict(), tmp_path / "weights.bin")
    config = pt.TransformerConfig(
        9, 9, **SIZES, num_encoder_layers=2, num_decoder_layers=3, final_norm=True
    )
    encoder = pt.load(tmp_path, config.encoder, {"encoder": "", "decoder": None})
    decoder = pt.load(tmp_path, config.decoder, {"decoder": "", "encoder": None})
    assert type(decoder) is pt.TransformerDecoder
    source, target = normal(rng, 2, 7, 24), normal(rng, 2, 5, 24)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    expected = reference(module, source, target, tgt_mask=mask)
    assert_close(decoder(target, encoder(source)), expected)


def test_a_model_around_a_plain_transformer(torch, rng, tmp_path):
    """A table of positions as a buffer of a batch, as PyTorch's tutorial has it."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = torch.nn.Embedding(17, 24)
            self.register_buffer("pe", torch.randn(11, 1, 24))
            self.register_buffer("steps", torch.tensor(5))
            self.net = torch.nn.Transformer(24, 4, 2, 2, 40, batch_first=True)
            self.head = torch.nn.Linear(24, 17)

        def forward(self, source, target):
            rows = [
                self.tokens(ids.long()) + self.pe[: ids.shape[1], 0] for ids in (source, target)
            ]
            mask = self.net.generate_square_subsequent_mask(target.shape[1], dtype=torch.float64)
            return self.head(self.net(*rows, tgt_mask=mask))

    module = lively(Model(), torch)
    torch.save({"model_state_dict": module.state_dict(), "epoch": 3}, tmp_path / "last.pth")
    config = pt.TransformerConfig(
        17,
        17,
        **SIZES,
        num_encoder_layers=2,
        num_decoder_layers=2,
        final_norm=True,
        positions="learned",
        max_length=11,
        scale_embeddings=False,
        share_embeddings=True,
    )
    names = {
        "net": "",
        "tokens": "src_embedding",
        "pe": ("src_positions.weight", "tgt_positions.weight"),
        "head": "output_projection",
        "steps": None,
    }
    model = pt.load(tmp_path / "last.pth", config, names)
    source, target = rng.integers(0, 17, (2, 7)), rng.integers(0, 17, (2, 5))
    assert_close(model(source, target), reference(module, source, target))
    model.save(tmp_path / "ours")
    assert_close(pt.load(tmp_path / "ours")(source, target), reference(module, source, target))


@pytest.mark.parametrize(
    "model",
    [
        pt.TransformerLM(pt.TransformerLMConfig(19, **SIZES, num_decoder_layers=2), rng=0),
        pt.EncoderModel(pt.EncoderConfig(19, **SIZES, num_encoder_layers=2, pooler=True), rng=0),
        pt.Transformer(small_config(tie_output=True), rng=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_of_every_kind(model, tmp_path):
    state = {f"module.{key}": array for key, array in model.state_dict().items()}
    np.savez(tmp_path / "weights.npz", **state)
    loaded = pt.load(tmp_path / "weights.npz", model.config, {"module": ""})
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    for key, array in loaded.state_dict().items():
        assert_same_bits(array, model.state_dict()[key])


# Names.


def our_names(name, names):
    return state_dicts.our_names(name, state_dicts.as_rules(names))


@pytest.mark.parametrize(
    ("name", "names", "ours"),
    [
        ("a.b.c", {}, ["a.b.c"]),
        ("a.b.c", {"a": ""}, ["b.c"]),
        ("a.b.c", {"b": "x.y"}, ["a.x.y.c"]),
        ("a.b.c", {"a": "x", "b.c": "y"}, ["x.y"]),
        ("a.b.c", {"a": "x", "a.b": "y", "b": "z"}, ["y.c"]),
        ("a.b.c", {"a.b": None, "c": "d"}, []),
        ("a.a", {"a": "b", "b": "c"}, ["b.b"]),
        ("ab.c", {"a": "x", "b.c": "y"}, ["ab.c"]),
        ("l.7.n", {"l.*.n": "m.*.o"}, ["m.7.o"]),
        ("l.7.k.8", {"*.k.*": "*.x.*"}, ["l.7.x.8"]),
        ("l.7.n", {"l.*": "m.*", "l.7": "first"}, ["first.n"]),
        ("a.w", {"a": ("x", "y.z")}, ["x.w", "y.z.w"]),
        ("a.a", {"a": ("x", "y")}, ["x.x", "y.x", "x.y", "y.y"]),
        ("l.7.n", {"l.*.n": ["a.*", "b.*"]}, ["a.7", "b.7"]),
    ],
)
def test_names(name, names, ours):
    assert sorted(our_names(name, names)) == sorted(ours)


CONFIG = pt.TransformerEncoder(1, 8, 2, 16).config


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (3, TypeError, "load: names is 3, expected Mapping"),
        ([("a", "b")], TypeError, "load: names is .*, expected Mapping"),
        ({3: "a"}, TypeError, "load: names holds 3, expected strings"),
        ({"a": 3}, TypeError, "load: names holds 3, expected strings"),
        ({"a": ("b", None)}, TypeError, "load: names holds None, expected strings"),
        ({"": "a"}, ValueError, "load: names has '', expected whole parts of dotted names"),
        ({"a.": "b"}, ValueError, r"load: names has 'a\.', expected whole parts"),
        ({"a": "b."}, ValueError, r"load: names has 'b\.' for 'a', expected whole parts"),
        ({"a.*": "b"}, ValueError, r"load: names has 'b' for 'a\.\*', .* names, 1 of them \*"),
        ({"a": "b.*"}, ValueError, r"load: names has 'b\.\*' for 'a', .* names, 0 of them \*"),
    ],
)
def test_names_that_are_none(names, error, says, tmp_path):
    with pytest.raises(error, match=says):
        pt.load(tmp_path / "never.pt", CONFIG, names)


def test_names_need_a_config(tmp_path):
    with pytest.raises(ValueError, match="load: names were given, expected a config too"):
        pt.load(tmp_path, names={"a": "b"})


# Files and configs that do not fit.


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = pt.TransformerEncoder(1, 8, 2, 16, rng=0).state_dict()
    safetensors.numpy.save_file(state, path)
    return path


@pytest.mark.parametrize("config", [3, {"d_model": 8}, pt.TransformerConfig, CONFIG.layers[0]])
def test_configs_that_are_none(config, weights):
    says = "load: config is .*, expected TransformerConfig or TransformerLMConfig or EncoderConfig "
    with pytest.raises(TypeError, match=says + "or StackConfig"):
        pt.load(weights, config)


def test_all_that_does_not_fit_is_told_at_once(weights):
    state = safetensors.numpy.load_file(weights)
    state["layers.0.norm1.gain"] = state.pop("layers.0.norm1.weight")
    state["layers.0.linear1.weight"] = state["layers.0.linear1.weight"].T.copy()
    safetensors.numpy.save_file(state, weights)
    with pytest.raises(ValueError) as refused:
        pt.load(weights, pt.TransformerEncoder(1, 8, 2, 16, final_norm=True).config)
    assert str(refused.value) == (
        f"load: {weights}: TransformerEncoder.load_state_dict: "
        "missing: layers.0.norm1.weight, norm.bias, norm.weight; "
        "unexpected: layers.0.norm1.gain; "
        "misshapen: layers.0.linear1.weight is (8, 16), expected (16, 8); "
        "norm.weight is not there with final_norm=False"
    )


def test_what_is_left_out_is_told(weights):
    """A final norm that the config does not have would change every answer."""
    state = safetensors.numpy.load_file(weights)
    state |= {f"net.{key}": state.pop(key) for key in list(state)}
    with_norm = state | {f"net.norm.{kind}": np.ones(8, np.float32) for kind in ("weight", "bias")}
    safetensors.numpy.save_file(with_norm, weights)
    says = r"unexpected: norm\.bias, norm\.weight; norm\.weight is there with final_norm=True"
    with pytest.raises(ValueError, match=says):
        pt.load(weights, CONFIG, {"net": ""})
    assert pt.load(weights, CONFIG, {"net": "", "net.norm": None}).norm is None
    safetensors.numpy.save_file(state, weights)
    with pytest.raises(ValueError, match=r"these begin with 'net\.', expected the same without it"):
        pt.load(weights, CONFIG)


def test_two_tensors_of_one_name(weights):
    says = r"load: .*: layers\.0\..*_bias and .*_weight are both layers\.0\.self_attn\.x by names"
    names = {"in_proj_weight": "x", "in_proj_bias": "x"}
    with pytest.raises(ValueError, match=says):
        pt.load(weights, CONFIG, names)


def test_a_config_that_is_far_too_large(weights):
    large = pt.EncoderConfig(1 << 30, d_model=1 << 12, num_heads=2, d_ff=16)
    for one in (large, large.encoder):
        with pytest.raises(
            ValueError, match=r"load: .* holds \d+ numbers, expected \d+ because of"
        ):
            pt.load(weights, one)


def test_tables_of_positions_that_do_not_fit(tmp_path):
    model = small_model(positions="learned")
    state = model.state_dict()
    state["src_positions.weight"] = state["src_positions.weight"][None, :90]
    np.savez(tmp_path / "weights.npz", **state)
    with pytest.raises(
        ValueError, match=r"src_positions.weight is \(1, 90, 24\), expected \(97, 24"
    ):
        pt.load(tmp_path, model.config)


def test_folders_and_files_that_are_none(weights, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"")
    says = r"has 2 files of weights \(other\.pt, weights\.safetensors\), expected one that ends in"
    with pytest.raises(FileNotFoundError, match=says):
        pt.load(tmp_path, CONFIG)
    with pytest.raises(ValueError, match=r"load: .*other\.pt cannot be read as PyTorch's"):
        pt.load(tmp_path / "other.pt", CONFIG)
    weights.unlink()
    (tmp_path / "other.pt").unlink()
    with pytest.raises(FileNotFoundError, match="has 0 files of weights, expected one"):
        pt.load(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors is missing"):
        pt.load(weights, CONFIG)


def test_a_file_needs_a_config(weights):
    says = f"load: {re.escape(str(weights))} is no folder, expected one, or the config of these"
    with pytest.raises(ValueError, match=says):
        pt.load(weights)


def test_weights_that_are_not_finite(weights):
    state = safetensors.numpy.load_file(weights)
    state["layers.0.linear1.bias"][3] = np.nan
    safetensors.numpy.save_file(state, weights)
    with pytest.warns(
        UserWarning, match=r"layers\.0\.linear1\.bias holds values that are not"
    ) as w:
        pt.load(weights, CONFIG)
    assert w[0].filename == __file__
