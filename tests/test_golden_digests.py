"""Contract 2 across machines: the bits of all outputs are those that golden_digests.json knows.

They are the same on every instruction set with fused multiply-add, and with every compiler. Inputs
and weights are whole numbers times powers of two, drawn from a generator whose stream NumPy never
changes, so that no machine's own functions have a part in them. Where a change of the bits is
intended,

    python tests/test_golden_digests.py > tests/golden_digests.json

writes down the new ones.
"""

import hashlib
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from models import lively, small_config

import pyx_transformer as pt
from pyx_transformer import _runtime, ops
from pyx_transformer.training import Examples, TrainingOptions, train

FILE = Path(__file__).with_name("golden_digests.json")
# One more and one less than what a vector, the lanes of a sum, a chain and a block hold.
FEATURES = (1, 3, 8, 15, 17, 31, 33, 65, 257, 1031)
PRODUCTS = ((1, 1, 1), (3, 7, 5), (7, 33, 31), (14, 65, 257), (5, 97, 1031), (129, 35, 64))
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
LENGTHS, MEMORY_LENGTHS = (37, 9, 21), (5, 41, 17)


# Inputs.


class Numbers:
    """A stream of numbers that is the same everywhere."""

    def __init__(self, seed=0):
        self.bits = np.random.PCG64(seed)

    def integers(self, stop, *shape):
        """Whole numbers from 0 to stop - 1, nearly evenly."""
        raw = self.bits.random_raw(int(np.prod(shape))).reshape(shape)
        return (raw >> np.uint64(32)).astype(np.int64) * stop >> 32

    def floats(self, *shape):
        """Numbers between -2 and 2 that fill the 24 bits of a float32."""
        return ((self.integers(1 << 24, *shape) - (1 << 23)) * 2.0**-22).astype(np.float32)


def power_of_two_near_root(n):
    return 2.0 ** (n.bit_length() // 2)


def settled(layer, seed=0):
    """The layer itself, with parameters that keep its values near 1, and none at 0 or 1."""
    numbers = Numbers(seed)
    state = layer.state_dict()
    for name, array in state.items():
        noise = numbers.floats(*array.shape)
        if array.ndim == 2:
            array[:] = noise / power_of_two_near_root(array.shape[1])
        else:
            array[:] = noise / 4 + name.endswith("weight")
    layer.load_state_dict(state)
    return layer


# What is computed.


def linear(m, n, k, activation):
    numbers = Numbers()
    x, weight, bias = (numbers.floats(*shape) for shape in ((m, k), (n, k), (n,)))
    return [ops.linear(x, weight / power_of_two_near_root(k), bias, activation=activation)]


def norm(name, features):
    numbers = Numbers()
    x, weight, bias = (
        numbers.floats(*shape) for shape in ((5, features), (features,), (features,))
    )
    function = getattr(ops, name)
    parameters = (weight, bias) if name == "layer_norm" else (weight,)
    return [function(x), function(x, *parameters), function(1000 + x / 1024, *parameters)]


def of_rows(name, features):
    x = Numbers().floats(5, features)
    return [getattr(ops, name)(factor * x) for factor in (1, 16)]


def activation(name):
    return [getattr(ops, name)(factor * Numbers().floats(4099)) for factor in (0.25, 1, 8)]


def embedding():
    numbers = Numbers()
    table, positions = numbers.floats(11, 37), numbers.floats(5, 37)
    ids = numbers.integers(11, 3, 5)
    return [
        ops.embedding(ids, table, scale=6.0625),
        ops.embedding(ids, table, scale=6.0625, positions=positions),
    ]


ATTENTIONS = {
    "to 16 keys": {"S": 13},
    "to 32 keys": {"S": 29},
    "several blocks": {"T": 15, "S": 601},
    "causal": {"T": 45, "S": 45, "is_causal": True},
    "window": {"T": 77, "S": 77, "window": (9, 2)},
    "softcap": {"S": 53, "softcap": 1.5},
    "grouped": {"H": 6, "Hkv": 2, "S": 39},
    "lengths": {"S": 301, "lengths": [301, 67]},
    "one query": {"T": 1, "S": 301, "lengths": [301, 67]},
    "one query, wide": {"T": 1, "S": 43, "K": 131, "Kv": 137},
    "wide": {"S": 43, "K": 1031, "Kv": 261},
    "weights": {"S": 301, "return_weights": True},
    "bool mask": {"S": 71, "mask": lambda numbers: numbers.integers(3, 7, 71) > 0},
    "float mask": {"S": 71, "mask": lambda numbers: numbers.floats(7, 71)},
}


def attention(H=4, Hkv=4, T=7, S=13, K=24, Kv=20, mask=None, return_weights=False, **options):
    numbers = Numbers()
    query, key, value = (
        numbers.floats(2, *shape) for shape in ((H, T, K), (Hkv, S, K), (Hkv, S, Kv))
    )
    out = ops.scaled_dot_product_attention(
        query,
        key,
        value,
        mask=mask and mask(numbers),
        return_weights=return_weights,
        **options,
    )
    return out if return_weights else [out]


PRE_NORM = {"norm_first": True, "final_norm": True, "activation": "gelu"}


def encoder(**options):
    stack = settled(pt.TransformerEncoder(2, 40, 5, 67, **options, rng=0))
    return [stack(Numbers(1).floats(3, 37, 40), LENGTHS)]


def decoder(**options):
    stack = settled(pt.TransformerDecoder(2, 40, 5, 67, **options, rng=0))
    numbers = Numbers(1)
    x, memory = numbers.floats(3, 37, 40), numbers.floats(3, 41, 40)
    return [stack(x, memory, lengths=LENGTHS, memory_lengths=MEMORY_LENGTHS)]


def config(**options):
    return small_config(d_model=40, num_heads=5, d_ff=67, **options)


def model(seed=0, **options):
    return settled(pt.Transformer(config(**options), rng=0), seed)


def language_model(seed=0, **options):
    return settled(pt.TransformerLM(config(**options), rng=0), seed)


def tokens(seed, length):
    """Ids that both vocabularies of `small_config` have, without the special ones."""
    return 3 + Numbers(seed).integers(16, 3, length)


def logits(**options):
    return [model(**options)(tokens(1, 41), tokens(2, 37), MEMORY_LENGTHS, LENGTHS)]


def language_model_logits(**options):
    return [language_model(**options)(tokens(2, 37), LENGTHS)]


def score(**options):
    return model(**options).score(tokens(1, 41), tokens(2, 37), MEMORY_LENGTHS, LENGTHS)


def language_model_score(**options):
    return language_model(**options).score(tokens(2, 37), LENGTHS)


SEARCHES = {
    "greedy": {},
    "beams": {"beam_size": 4, "num_hypotheses": 3, "length_penalty": 2.0},
    "beams, coverage penalty": {"beam_size": 3, "coverage_penalty": 0.5},
    "samples": {"num_samples": 3, "seed": 5, "temperature": 1.5, "top_p": 0.9},
    "alternatives": {"beam_size": 2, "num_hypotheses": 3, "return_alternatives": True},
    "prefix bias": {"prefix": [[4, 5], [6], []], "prefix_bias": 0.25},
}
ASKED_FOR = {"max_length": 40, "return_scores": True, "return_token_scores": True}


def hypotheses(generation):
    """Each hypothesis with its scores, as arrays."""
    for one in (one for own in generation.hypotheses for one in own):
        yield one.sequence
        yield one.token_scores
        yield np.array([one.score, one.is_finished])


# The seeds of these two are of models that go on past 32 tokens, and not with one for ever.


def generate(settings):
    searched = lively(model(19, **PRE_NORM))
    return list(
        hypotheses(searched.generate(tokens(1, 41), MEMORY_LENGTHS, **ASKED_FOR, **settings))
    )


def continue_prompt(settings):
    searched = lively(language_model(5, **PRE_NORM))
    return list(hypotheses(searched.generate(tokens(2, 5), [5, 1, 3], **ASKED_FOR, **settings)))


def ten_steps(make, **options):
    """The weights after ten steps with dropout, and their average."""
    numbers = Numbers(3)
    longest = [3, 45, 17, 38, 9, 33, 21, 12]
    sources = [3 + numbers.integers(16, length) for length in longest]
    targets = [3 + numbers.integers(16, length) for length in reversed(longest)]
    trained = make(**options)
    examples = Examples(sources if trained.has_encoder else None, targets, start_id=1, end_id=2)
    training = TrainingOptions(
        steps=10,
        batch_tokens=150,
        peak_rate=2.0**-7,
        warmup=4,
        weight_decay=2.0**-7,
        max_norm=1.0,
        average_decay=0.875,
        dropout=0.25,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(trained, examples, None, training, folder)
        average = pt.load(Path(folder, "model"))
    return [*trained.state_dict().values(), *average.state_dict().values()]


def subjects():
    """Every name in golden_digests.json, with the function whose arrays have that digest."""
    found = {}
    for sizes in PRODUCTS:
        for name in (None, "gelu"):
            found[f"linear {sizes} {name or ''}".strip()] = partial(linear, *sizes, name)
    for features in FEATURES:
        for name in ("layer_norm", "rms_norm"):
            found[f"{name} {features}"] = partial(norm, name, features)
        for name in ("softmax", "log_softmax"):
            found[f"{name} {features}"] = partial(of_rows, name, features)
    for name in ACTIVATIONS:
        found[name] = partial(activation, name)
    found["embedding"] = embedding
    for name, options in ATTENTIONS.items():
        found[f"attention, {name}"] = partial(attention, **options)
    for norms, options in {"post-norm": {}, "pre-norm": PRE_NORM}.items():
        found[f"encoder, {norms}"] = partial(encoder, **options)
        found[f"decoder, {norms}"] = partial(decoder, **options)
        found[f"logits, {norms}"] = partial(logits, **options)
        found[f"score, {norms}"] = partial(score, **options)
        found[f"language model, logits, {norms}"] = partial(language_model_logits, **options)
        found[f"language model, score, {norms}"] = partial(language_model_score, **options)
        found[f"ten steps, {norms}"] = partial(ten_steps, model, **options)
        found[f"language model, ten steps, {norms}"] = partial(ten_steps, language_model, **options)
    for name, settings in SEARCHES.items():
        found[f"generate, {name}"] = partial(generate, settings)
    for name in ("greedy", "beams", "samples"):
        found[f"language model, generate, {name}"] = partial(continue_prompt, SEARCHES[name])
    return found


SUBJECTS = subjects()


def digest(arrays):
    """SHA-256 of what the arrays hold, with their kinds and shapes."""
    whole = hashlib.sha256()
    for array in arrays:
        little_endian = array.astype(array.dtype.newbyteorder("<"))
        whole.update(f"{little_endian.dtype.str} {array.shape}".encode())
        whole.update(little_endian.tobytes())
    return whole.hexdigest()


def digests():
    return {name: digest(compute()) for name, compute in SUBJECTS.items()}


# Tests.


def test_the_file_knows_every_subject():
    assert list(json.loads(FILE.read_text())) == list(SUBJECTS)


@pytest.mark.parametrize("name", SUBJECTS)
def test_bits(name, kernels, monkeypatch):
    if kernels.ISA_NAME == "x86-64-v2":
        pytest.skip("x86-64-v2 has no fused multiply-add: its bits are its own")
    monkeypatch.setattr(_runtime, "kernels", kernels)
    assert digest(SUBJECTS[name]()) == json.loads(FILE.read_text())[name]


@pytest.mark.parametrize("name", ["generate, greedy", "language model, generate, greedy"])
def test_searches_that_depend_on_their_numbers(name):
    """What is generated is long, and differs from sentence to sentence and from step to step."""
    sequences = [sequence.tolist() for sequence in SUBJECTS[name]()[::3]]
    assert len(set(map(tuple, sequences))) == 3
    assert all(len(sequence) > 20 and len(set(sequence)) > 4 for sequence in sequences)


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
