"""Gradients that transformers on PyTorch gave for small models whose architecture is ours: GPT-2
is a `TransformerLM`, Marian a `Transformer`."""

import json

import numpy as np
import pytest
import safetensors.numpy

import pyx_transformer as pt
from pyx_transformer.training.batches import Batch, as_rows
from pyx_transformer.training.model import add_gradients
from pyx_transformer.training.parameters import Parameters

TOLERANCE = 2e-5  # of the largest value of a gradient

GPT2_LAYER = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "self_attn.in_proj_": "attn.c_attn.",
    "self_attn.out_proj": "attn.c_proj",
    "linear1": "mlp.c_fc",
    "linear2": "mlp.c_proj",
}
MARIAN_LAYER = {
    "self_attn.out_proj": "self_attn.out_proj",
    "multihead_attn.out_proj": "encoder_attn.out_proj",
    "linear1": "fc1",
    "linear2": "fc2",
}
MARIAN_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


@pytest.fixture
def stored(shared_data):
    """A function that reads the config, the weights and the expected values of a model."""

    def read(name):
        folder = shared_data / "hf-tiny" / name
        config = json.loads((folder / "config.json").read_text())
        weights = safetensors.numpy.load_file(folder / "model.safetensors")
        expected = dict(np.load(folder / "expected.npz"))
        gradients = {
            key.removeprefix("grad|"): array
            for key, array in expected.items()
            if key.startswith("grad|")
        }
        return config, weights, expected, gradients

    return read


def gpt2_state(theirs, layers):
    """Our names for their arrays; their linear weights are (in, out)."""
    state = {
        "tgt_embedding.weight": theirs["transformer.wte.weight"],
        "tgt_positions.weight": theirs["transformer.wpe.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"decoder.norm.{kind}"] = theirs[f"transformer.ln_f.{kind}"]
        for i in range(layers):
            for ours, name in GPT2_LAYER.items():
                array = theirs[f"transformer.h.{i}.{name.rstrip('.')}.{kind}"]
                dot = "" if ours.endswith("_") else "."
                state[f"decoder.layers.{i}.{ours}{dot}{kind}"] = (
                    array.T if array.ndim > 1 else array
                )
    return state


def marian_state(theirs, layers):
    """Our names for their arrays."""
    state = {"src_embedding.weight": theirs["model.shared.weight"]}
    for stack, norms in MARIAN_NORMS.items():
        for i in range(layers):
            ours, name = f"{stack}.layers.{i}", f"model.{stack}.layers.{i}"
            attentions = {"self_attn": "self_attn", "multihead_attn": "encoder_attn"}
            for kind in ("weight", "bias"):
                for n, norm in enumerate(norms, 1):
                    state[f"{ours}.norm{n}.{kind}"] = theirs[f"{name}.{norm}.{kind}"]
                for our_name, their_name in MARIAN_LAYER.items():
                    if f"{name}.{their_name}.{kind}" in theirs:
                        state[f"{ours}.{our_name}.{kind}"] = theirs[f"{name}.{their_name}.{kind}"]
                for our_name, their_name in attentions.items():
                    parts = [f"{name}.{their_name}.{part}_proj.{kind}" for part in "qkv"]
                    if parts[0] in theirs:
                        state[f"{ours}.{our_name}.in_proj_{kind}"] = np.concatenate(
                            [theirs[part] for part in parts]
                        )
    return state


def assert_gradients(model, batch, expected, padding=None):
    """The loss is returned; every expected gradient is met and none is missing.

    PyTorch keeps the gradient of looking up the padding token from the embedding.
    """
    parameters = Parameters(model)
    tokens = len(batch.targets)
    loss = add_gradients(model, parameters, batch, tokens=tokens) / tokens
    gradients = parameters.state_dict(parameters.gradients)
    for key in expected:
        scale = max(np.abs(expected[key]).max(), 1e-3)
        errors = np.abs(gradients[key] - expected[key])
        if key == "src_embedding.weight" and padding is not None:
            errors[padding] = 0
        error = errors.max()
        assert error <= TOLERANCE * scale, (key, error / scale)
    assert gradients.keys() - expected.keys() <= {"output_projection.bias"}
    return loss


def test_gpt2(stored):
    config, weights, expected, gradients = stored("gpt2")
    ours = pt.TransformerConfig(
        1,
        config["vocab_size"],
        d_model=config["n_embd"],
        num_heads=config["n_head"],
        num_decoder_layers=config["n_layer"],
        d_ff=4 * config["n_embd"],
        activation="gelu_tanh",
        norm_first=True,
        final_norm=True,
        layer_norm_eps=config["layer_norm_epsilon"],
        positions="learned",
        max_length=config["n_positions"],
        scale_embeddings=False,
        tie_output=True,
        output_bias=False,
    )
    model = pt.TransformerLM(ours, rng=0)
    model.load_state_dict(gpt2_state(weights, ours.num_decoder_layers))
    ids = expected["input_ids"]
    inputs, sequences = as_rows(list(ids[:, :-1]))
    targets, _ = as_rows(list(ids[:, 1:]))
    batch = Batch(np.arange(len(ids)), inputs, targets, sequences, None, None)
    assert len(gradients) == 40
    loss = assert_gradients(model, batch, gpt2_state(gradients, ours.num_decoder_layers))
    assert abs(loss - expected["loss"]) < 1e-5


def test_marian(stored):
    config, weights, expected, gradients = stored("marian")
    size = config["vocab_size"]
    ours = pt.TransformerConfig(
        size,
        size,
        d_model=config["d_model"],
        num_heads=config["encoder_attention_heads"],
        num_encoder_layers=config["encoder_layers"],
        num_decoder_layers=config["decoder_layers"],
        d_ff=config["encoder_ffn_dim"],
        activation="silu",
        position_layout="halves",
        share_embeddings=True,
        tie_output=True,
        start_id=config["decoder_start_token_id"],
        end_id=config["eos_token_id"],
    )
    model = pt.Transformer(ours, rng=0)
    state = marian_state(weights, ours.num_encoder_layers)
    state["output_projection.bias"] = weights["final_logits_bias"].reshape(-1)
    model.load_state_dict(state)
    counts = expected["attention_mask"].sum(axis=1)
    sources = [ids[:n] for ids, n in zip(expected["input_ids"], counts, strict=True)]
    source_rows, source_sequences = as_rows(sources)
    inputs, sequences = as_rows(list(expected["decoder_input_ids"]))
    labels = np.roll(expected["decoder_input_ids"], -1, axis=1)  # the start last, not the end
    batch = Batch(
        np.arange(3), inputs, labels.reshape(-1), sequences, source_rows, source_sequences
    )
    assert len(gradients) == 127
    loss = assert_gradients(
        model, batch, marian_state(gradients, ours.num_encoder_layers), config["pad_token_id"]
    )
    assert abs(loss - expected["loss"]) < 1e-5
