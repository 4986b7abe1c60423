"""`python -m bench train`: training steps beside torch.nn.Transformer, backward attention, memory.

Both train the same weights on the same batch: embeddings times sqrt(d) with sinusoidal positions, a
post-norm Transformer without dropout, cross-entropy with label smoothing, Adam. Before anything is
timed, the losses of the first steps have to agree.
"""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

import pyx_transformer as pt
from bench.peers import Peers
from bench.rows import Bar, Benchmark, Figure, Row
from bench.timing import Contestant
from pyx_transformer import _runtime
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, TrainingOptions, functions
from pyx_transformer.training.optimizer import AdamW
from pyx_transformer.training.shards import Step

STEP, BACKWARD = "training step", "attention, backward"
# layers of each stack, d, heads, d_ff, vocabulary, B, T, and whether all embeddings are one
BASE = (3, 512, 8, 2048, 8000, 64, 24, False)
TINY = (4, 128, 4, 256, 10000, 160, 24, True)
HEADS = (1, 8, 1024, 64)  # B, H, T, K
SMOOTHING = 0.1
# RATE is small: Adam turns the rounding errors of gradients that are zero into whole steps.
RATE = 2e-5
EPS = 1e-8
BETAS = (0.9, 0.98)
SAME_STEPS = 20
MEMORY_STEPS = 3


def rows():
    for sizes in (BASE, TINY):
        layers, d, _, d_ff, vocabulary, B, T, _ = sizes
        yield Row(
            STEP,
            {"layers": layers, "d": d, "ff": d_ff, "V": vocabulary, "B": B, "T": T},
            partial(steps, sizes),
            flop=flop(sizes),
            made=(B * T, "target tokens"),
        )
    B, H, T, K = HEADS
    yield Row(
        BACKWARD,
        {"B": B, "H": H, "T": T, "K": K},
        partial(backward, HEADS),
        flop=10 * B * H * T * T * K,
        quick=True,
    )


def flop(sizes):
    """Of the products, forward and twice back; attention is a hundredth of them."""
    layers, d, _, d_ff, vocabulary, B, T, _ = sizes
    weights = layers * (12 * d * d + 4 * d * d_ff) + d * vocabulary
    return 6 * B * T * weights


def steps(sizes, peers):
    """A call is a step, and returns its loss."""
    contestants = [Contestant("ours", our_step(sizes))]
    if peers.torch:
        contestants.append(Contestant("torch", torch_step(sizes, peers.torch)))
        losses = [[contestant.call() for _ in range(SAME_STEPS)] for contestant in contestants]
        np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-4)
    yield from contestants


def model_and_examples(sizes):
    layers, d, heads, d_ff, vocabulary, B, T, is_shared = sizes
    config = pt.TransformerConfig(
        vocabulary,
        vocabulary,
        d_model=d,
        num_heads=heads,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        d_ff=d_ff,
        share_embeddings=is_shared,
        tie_output=is_shared,
    )
    rng = np.random.default_rng(0)
    sources = list(rng.integers(3, vocabulary, (B, T)))
    targets = list(rng.integers(3, vocabulary, (B, T - 1)))
    return pt.Transformer(config, rng=0), Examples(sources, targets, start_id=1, end_id=2)


def our_step(sizes):
    model, examples = model_and_examples(sizes)
    batch = examples.batch(np.arange(len(examples)))
    step = Step([batch], TrainingOptions(dropout=0.0, label_smoothing=SMOOTHING), 1)
    parameters = Parameters(model)
    optimizer = AdamW(parameters, betas=BETAS, eps=EPS)

    def call():
        with _runtime.freed_memory_kept():  # as in a training run
            loss = step.add_gradients(model, parameters)
            optimizer.step(RATE)
        return loss / step.tokens

    return call


def torch_step(sizes, torch):
    from bench.torch_translator import Translator

    model, examples = model_and_examples(sizes)
    batch = examples.batch(np.arange(len(examples)))
    with torch.inference_mode(False), torch.enable_grad():
        theirs = Translator(model.config)
        theirs.load(model.state_dict())
        optimizer = torch.optim.Adam(theirs.parameters(), lr=RATE, betas=BETAS, eps=EPS)
        cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
        src = torch.tensor(np.stack(examples.sources))
        tgt = torch.tensor(batch.inputs.reshape(src.shape))
        targets = torch.tensor(batch.targets)

    def step():
        with torch.inference_mode(False), torch.enable_grad():
            optimizer.zero_grad()
            loss = cross_entropy(theirs(src, tgt).flatten(0, 1), targets)
            loss.backward()
            optimizer.step()
            return loss.item()

    return step


def backward(sizes, peers):
    """What query, key and value get back, one after the other."""
    query, key, value, grad = np.random.default_rng(0).standard_normal((4, *sizes), np.float32)
    _, back = functions.scaled_dot_product_attention(query, key, value)
    yield Contestant("ours", lambda: np.stack(back(grad)))
    if peers.torch:
        torch = peers.torch
        with torch.inference_mode(False), torch.enable_grad():
            tensors = [torch.tensor(array, requires_grad=True) for array in (query, key, value)]
            out = torch.nn.functional.scaled_dot_product_attention(*tensors)
            torch_grad = torch.tensor(grad)

        def call():
            with torch.inference_mode(False), torch.enable_grad():
                grads = torch.autograd.grad(out, tensors, torch_grad, retain_graph=True)
                return np.stack([g.numpy() for g in grads])

        yield Contestant("torch", call)


def memory_ratio(quick):
    """Our peak memory in a training run beyond what was there before it, over PyTorch's."""
    if quick or Peers(1).torch is None or not Path("/proc/self/status").exists():
        return math.nan
    ours, theirs = (peak_memory_of(name) for name in ("our_step", "torch_step"))
    return ours / theirs


def peak_memory_of(name):
    """Bytes, measured in a process of its own."""
    script = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from bench import train
from bench.peers import Peers
torch = Peers(2).torch

def peak():  # getrusage would count what the parent process had
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

before = peak()
step = train.{name}(train.BASE{", torch" if name == "torch_step" else ""})
for _ in range(train.MEMORY_STEPS):
    step()
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(run.stdout)


def is_step(sizes):
    return lambda row: row.group == STEP and row.sizes["d"] == sizes[1]


BENCHMARK = Benchmark(
    "train",
    rows=tuple(rows()),
    bars=(
        Bar("training step, d 512", "x", 1.5, is_step(BASE), lambda r: r.ratio_to_best("torch")),
        Bar("training step, d 128", "x", 2.0, is_step(TINY), lambda r: r.ratio_to_best("torch")),
        Bar(
            "attention, backward",
            "x",
            1.3,
            lambda row: row.group == BACKWARD,
            lambda result: result.ratio_to_best("torch"),
        ),
    ),
    figures=(Figure("peak memory of a training run, of PyTorch's", "x", 1.0, memory_ratio),),
)
