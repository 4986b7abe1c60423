"""What `memory_estimate` says against the peak of a process that generates, and nothing else."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from models import small_config, small_model

import pyx_transformer as pt

# The growth of the peak counts: a first generation has loaded all that is loaded later, and has
# touched the weights.
CODE = '''
import json, sys
import numpy as np
import pyx_transformer as pt

kind, config, batch, src_len, max_length, beam_size = json.loads(sys.argv[1])
model = getattr(pt, kind)(pt.TransformerConfig(**config), rng=0)
state = model.state_dict()
state["output_projection.bias"][model.config.end_id] = -1e9
model.load_state_dict(state)
src = np.full((batch, src_len), 3)


def peak():
    """Since the last time that it was asked for."""
    with open("/proc/self/status") as status:
        most = next(int(line.split()[1]) for line in status if "VmHWM" in line) * 1024
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    return most


def generate(src, max_length):
    return model.generate(src, max_length=max_length, beam_size=beam_size)


generate(src[:1, :1], 2)
peak()
before = peak()
lengths = {len(row) for row in generate(src, max_length)}
grown = peak() - before
assert lengths == {max_length + (src_len if kind == "TransformerLM" else 0)}
print(json.dumps([grown, model.memory_estimate(batch, src_len, max_length, beam_size)]))
'''
CONFIG = {
    "src_vocab_size": 53,
    "tgt_vocab_size": 59,
    "d_model": 128,
    "num_heads": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 4,
    "d_ff": 128,
}
FEW_STEPS = {"num_decoder_layers": 1, "d_model": 256, "d_ff": 1024}
# batch, src_len, max_length, beam_size: the largest part is named.
CASES = {
    "keys and values": ("Transformer", {}, 256, 17, 80, 1),
    "keys and values of beams": ("Transformer", {}, 64, 17, 70, 4),
    "the memory": ("Transformer", {"norm_first": True, "final_norm": True}, 100, 150, 24, 2),
    "the encoder": ("Transformer", FEW_STEPS, 128, 250, 20, 1),
    "the encoder, pre-norm": ("Transformer", {**FEW_STEPS, "norm_first": True}, 96, 250, 20, 1),
    "the projection of the memory": (
        "Transformer",
        {"num_encoder_layers": 0, "num_decoder_layers": 8},
        64,
        128,
        20,
        1,
    ),
    "logits": ("Transformer", {**CONFIG, "tgt_vocab_size": 90001, "d_model": 32}, 160, 5, 5, 4),
    "logits of greedy search": (
        "Transformer",
        {**CONFIG, "tgt_vocab_size": 90001, "d_model": 32},
        640,
        5,
        5,
        1,
    ),
    "keys and values of a language model": ("TransformerLM", {}, 256, 5, 80, 1),
    "beams of a language model": ("TransformerLM", {}, 64, 5, 70, 4),
    "one long translation": (
        "Transformer",
        {"d_model": 512, "num_heads": 2, "d_ff": 64, "num_decoder_layers": 6},
        1,
        9,
        2000,
        1,
    ),
    "prompts": ("TransformerLM", {}, 128, 200, 30, 1),
    "beams share a prompt": ("TransformerLM", {}, 6, 900, 100, 4),
    "one long source": ("Transformer", {"max_length": 8000}, 1, 6000, 20, 1),
    "many sentences after one another": ("Transformer", {}, 3000, 10, 20, 1),
    "few sentences": ("Transformer", {}, 5, 20, 64, 4),
}
# What a call gives back goes to the system at once: the next one cannot use it unseen.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to read the peak from")
@pytest.mark.parametrize("name", CASES)
def test_the_peak_is_as_estimated(name):
    """Within 10 %."""
    kind, changes, *sizes = CASES[name]
    arguments = json.dumps([kind, {**CONFIG, **changes}, *sizes])
    answer = subprocess.run(
        [sys.executable, "-c", CODE, arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **MALLOC},
    )
    assert answer.returncode == 0, answer.stderr
    measured, estimated = json.loads(answer.stdout)
    assert measured >= 5e6, f"{measured / 1e6:.1f} MB are too few to measure"
    assert estimated == pytest.approx(measured, rel=0.1)


def test_nothing_to_generate():
    for model in small_model(positions="none"), pt.TransformerLM(small_config(positions="none")):
        assert model.memory_estimate(0, 5, 5) == 0


@pytest.mark.parametrize("kind", [pt.Transformer, pt.TransformerLM], ids=lambda c: c.__name__)
def test_more_takes_more(kind):
    model = kind(small_config())
    sizes = np.array([5, 70, 70, 2])
    estimate = model.memory_estimate(*sizes)
    assert type(estimate) is int
    for i in range(4):
        more = sizes.copy()
        more[i] *= 3
        assert model.memory_estimate(*more) > estimate, i
    assert model.memory_estimate(5, 70, 70) == model.memory_estimate(5, 70, 70, 1) < estimate


@pytest.mark.parametrize("kind", [pt.Transformer, pt.TransformerLM], ids=lambda c: c.__name__)
@pytest.mark.parametrize("place", range(4))
def test_wrong_sizes(kind, place):
    """The error names the argument, which a language model calls prompt_len."""
    model = kind(small_config())
    prompt_len = "src_len" if kind is pt.Transformer else "prompt_len"
    name = ("batch", prompt_len, "max_length", "beam_size")[place]
    for value, error in [
        *((value, TypeError) for value in (None, "5", 5.0, True, [5], np.array([5]))),
        *((value, ValueError) for value in (-1, -(2**70), *((0,) if place == 3 else ()))),
    ]:
        sizes = [5, 5, 5, 2]
        sizes[place] = value
        with pytest.raises(error) as caught:
            model.memory_estimate(*sizes)
        expected = f"{kind.__name__}.memory_estimate: {name} is "
        assert str(caught.value).startswith(expected), str(caught.value)
