"""`python -m bench encoder`: encoder stacks, a padded batch, import time and installed size."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial

import numpy as np
from cases import normal

import pyx_transformer as pt
from bench import footprint
from bench.rows import Bar, Benchmark, Figure, Row
from bench.timing import Contestant
from pyx_transformer.description import plain_stack
from pyx_transformer.sizes import operations, row_weights

ENCODER, PADDED = "encoder", "encoder, half padding"
MODELS = ((6, 512, 8, 2048), (12, 768, 12, 3072))  # (layers, d_model, heads, d_ff)
SMALLEST = (1, 16)
BATCHES = (SMALLEST, (1, 128), (8, 128), (1, 512))  # (B, T)
LENGTHS = (128, 8, 112, 24, 96, 40, 72, 32)  # of 8 times 128 positions, half
EPS = 1e-5


def rows():
    for model in MODELS:
        for B, T in BATCHES:
            yield Row(
                ENCODER,
                sizes(model, B, T),
                partial(contestants, model, B, T),
                flop=flop(model, [T] * B),
                bytes=weight_bytes(model),
                quick=model == MODELS[0] and (B, T) in BATCHES[:2],
            )
    for model in MODELS:
        yield Row(
            PADDED,
            sizes(model, len(LENGTHS), max(LENGTHS)),
            partial(padded_contestants, model),
            flop=flop(model, LENGTHS),
            bytes=weight_bytes(model),
            quick=model == MODELS[0],
        )


def sizes(model, B, T):
    layers, d_model, _, d_ff = model
    return {"layers": layers, "d": d_model, "ff": d_ff, "B": B, "T": T}


def flop(model, lengths):
    """Of the products of all layers, on sequences of these lengths."""
    return operations(plain_stack(*model), lengths)


def weight_bytes(model):
    """Of the weights of all layers, each of which has to be read once."""
    return 4 * row_weights(plain_stack(*model))


def contestants(model, B, T, peers):
    encoder = our_encoder(model)
    x = normal(np.random.default_rng(1), B, T, encoder.d_model)
    yield Contestant("ours", partial(encoder, x))
    if peers.torch:
        for is_fast, name in ((True, "torch"), (False, "torch slow-path")):
            theirs = torch_encoder(model, peers.torch)
            call = partial(on_path, peers.torch, is_fast, theirs, peers.torch.from_numpy(x))
            yield Contestant(name, call)
    if peers.onnxruntime:
        from bench import graphs

        graph = graphs.encoder(encoder.state_dict(), encoder.num_heads, EPS)
        yield Contestant("onnxruntime", peers.onnx_call(graph, {"x": x}, x.shape))
        graph = graphs.fused(graph, encoder.num_heads, encoder.d_model)
        yield Contestant("onnxruntime fused", peers.onnx_call(graph, {"x": x}, x.shape))


def padded_contestants(model, peers):
    """Beside the padded batch, the full one of the same shape, which is other work on purpose."""
    encoder = our_encoder(model)
    lengths = np.array(LENGTHS)
    x = normal(np.random.default_rng(1), len(lengths), max(lengths), encoder.d_model)
    yield Contestant("ours", partial(encoder, x, lengths))
    yield Contestant("full", partial(encoder, x), is_compared=False)
    if peers.torch:
        torch = peers.torch
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
        padding = torch.arange(int(max(lengths))) >= torch.from_numpy(lengths)[:, None]
        call = partial(torch_encoder(model, torch), src_key_padding_mask=padding)
        yield Contestant("torch", partial(on_path, torch, True, call, torch.from_numpy(x)))


@lru_cache(maxsize=1)
def our_encoder(model):
    """The encoder of these sizes: post-norm, with ReLU."""
    return pt.TransformerEncoder(*model, layer_norm_eps=EPS, rng=0)


@lru_cache(maxsize=1)
def torch_encoder(model, torch):
    """Torch's encoder with our weights."""
    layers, d_model, heads, d_ff = model
    layer = torch.nn.TransformerEncoderLayer(
        d_model, heads, d_ff, dropout=0.0, layer_norm_eps=EPS, batch_first=True
    )
    encoder = torch.nn.TransformerEncoder(layer, layers)
    state = our_encoder(model).state_dict()
    encoder.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return encoder.eval()


def on_path(torch, is_fast, call, x):
    """Call with torch's fast path for whole layers on or off: neither is always the faster one."""
    torch.backends.mha.set_fastpath_enabled(is_fast)
    return call(x)


def is_encoder(batches):
    return lambda row: row.group == ENCODER and (row.sizes["B"], row.sizes["T"]) in batches


BENCHMARK = Benchmark(
    "encoder",
    rows=tuple(rows()),
    bars=(
        Bar(
            "encoder: ONNX Runtime",
            "x",
            1.15,
            is_encoder(BATCHES[1:]),
            lambda result: result.ratio_to_best("onnxruntime"),
        ),
        Bar(
            "encoder: PyTorch",
            "x",
            1.3,
            is_encoder(BATCHES[1:]),
            lambda result: result.ratio_to_best("torch"),
        ),
        Bar(
            "encoder, B = 1, T = 16: ONNX Runtime",
            "x",
            1.4,
            is_encoder([SMALLEST]),
            lambda result: result.ratio_to_best("onnxruntime"),
        ),
        Bar(
            "encoder, half padding: time of the full batch",
            "%",
            0.6,
            lambda row: row.group == PADDED,
            lambda result: 1 / result.ratio("full"),
            at_most=True,
        ),
    ),
    figures=(
        Figure("import pyx_transformer, beyond import numpy", "ms", 60, footprint.import_ms),
        Figure("installed size, without NumPy", "MB", 15, footprint.installed_mb),
    ),
)
