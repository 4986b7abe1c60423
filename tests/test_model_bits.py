"""Contract 2 for whole stacks and models: same bits.

What a sequence gives does not depend on its batch, its place there, its padding, the number of
threads, or on whether attention weights are asked for. A `Subject` computes any choice of a few
sequences of different lengths; what each gives alone, without padding and on one thread, is the
measure of everything else.
"""

from abc import ABC, abstractmethod

import numpy as np
import pytest
from cases import normal
from models import assert_same_bits, num_threads, randomised, small_config, token_ids

import pyx_transformer as pt
from pyx_transformer import _runtime

LENGTHS = (17, 1, 9, 30, 17, 0)
MEMORY_LENGTHS = (5, 33, 21, 1, 0, 8)
CHOICES = ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4, 2, 1], [4, 4, 2, 4], [3, 3], [1], [5, 5])
THREADS = (1, 2, 3, 4)
FILLER = np.nan

# The wide stacks have work enough for four threads in every kernel, even for a single token.
WIDTHS = {
    "small": {"d_model": 24, "num_heads": 3, "d_ff": 41},
    "wide": {"d_model": 320, "num_heads": 5, "d_ff": 643},
}


@pytest.fixture(autouse=True)
def each_instruction_set(kernels, monkeypatch):
    monkeypatch.setattr(_runtime, "kernels", kernels)


def padded(sequences, padding, filler):
    """Sequences of different lengths as one batch, with `padding` more places than the longest."""
    length = max(map(len, sequences)) + padding
    batch = np.full((len(sequences), length, *sequences[0].shape[1:]), filler, sequences[0].dtype)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    return batch


def lengths_for(batch, sequences):
    """The lengths of a batch, or None where none of it is padding."""
    lengths = [len(sequence) for sequence in sequences]
    return None if lengths == [batch.shape[1]] * len(batch) else lengths


class Subject(ABC):
    """Something that computes a batch of sequences, chosen from some of the given lengths."""

    def __init__(self, lengths, memory_lengths):
        self.lengths, self.memory_lengths = lengths, memory_lengths

    @abstractmethod
    def batch(self, chosen, padding, return_attention):
        """The outputs of a batch, each array with one row per chosen sequence.

        The second value gives, for each array, its axes that are as long as the target and as the
        source sequence.
        """

    def run(self, chosen, padding=0, return_attention=False):
        """What each chosen sequence gives: a list of arrays, cut to its real size."""
        arrays, axes = self.batch(chosen, padding, return_attention)
        results = []
        for row, b in enumerate(chosen):
            sizes = {"T": self.lengths[b], "S": self.memory_lengths[b]}
            parts = []
            for array, names in zip(arrays, axes, strict=True):
                real = tuple(slice(sizes.get(name)) for name in names)
                parts.append(array[row][real].copy())
                array[row][real] = 0
                assert not array[row].any()  # zeros in the padding
            results.append(parts)
        return results


class Encoder(Subject):
    def __init__(self, options, lengths, memory_lengths):
        super().__init__(lengths, memory_lengths)
        rng = np.random.default_rng(0)
        self.stack = randomised(pt.TransformerEncoder(2, **options))
        self.sequences = [normal(rng, length, options["d_model"]) for length in lengths]

    def batch(self, chosen, padding, return_attention):
        sequences = [self.sequences[b] for b in chosen]
        x = padded(sequences, padding, FILLER)
        lengths, mask = lengths_for(x, sequences), self.mask(chosen, x.shape[1])
        if not return_attention:
            return [self.stack(x, lengths, mask)], ["TD"]
        output, attention = self.stack(x, lengths, mask, return_attention=True)
        return [output, *attention], ["TD", "HTT", "HTT"]

    def mask(self, chosen, length):
        return None


class MaskedEncoder(Encoder):
    """With a float mask of its own for each sequence; what it says of padding does not matter."""

    def __init__(self, options, lengths, memory_lengths):
        super().__init__(options, lengths, memory_lengths)
        rng = np.random.default_rng(1)
        self.masks = []
        for length in lengths:
            scores = normal(rng, length, length)
            self.masks.append(np.where(scores > -1, scores, np.float32(-np.inf)))

    def mask(self, chosen, length):
        batch = np.full((len(chosen), 1, length, length), FILLER, np.float32)
        for row, b in enumerate(chosen):
            batch[row, 0, : self.lengths[b], : self.lengths[b]] = self.masks[b]
        return batch


class Decoder(Subject):
    def __init__(self, options, lengths, memory_lengths):
        super().__init__(lengths, memory_lengths)
        rng = np.random.default_rng(0)
        self.stack = randomised(pt.TransformerDecoder(2, **options))
        self.sequences = [normal(rng, length, options["d_model"]) for length in lengths]
        self.memories = [normal(rng, length, options["d_model"]) for length in memory_lengths]

    def batch(self, chosen, padding, return_attention):
        sequences = [self.sequences[b] for b in chosen]
        memories = [self.memories[b] for b in chosen]
        x, memory = padded(sequences, padding, FILLER), padded(memories, 2 * padding, FILLER)
        lengths = lengths_for(x, sequences), lengths_for(memory, memories)
        if not return_attention:
            return [self.stack(x, memory, *lengths)], ["TD"]
        output, own, cross = self.stack(x, memory, *lengths, return_attention=True)
        return [output, *own, *cross], ["TD", "HTT", "HTT", "HTS", "HTS"]


class Model(Subject):
    def __init__(self, options, lengths, memory_lengths):
        super().__init__(lengths, memory_lengths)
        rng = np.random.default_rng(0)
        config = small_config(num_encoder_layers=1, num_decoder_layers=1, **options)
        self.model = randomised(pt.Transformer(config))
        self.sources = [token_ids(rng, 23, length) for length in memory_lengths]
        self.targets = [token_ids(rng, 19, length) for length in lengths]

    def batch(self, chosen, padding, return_attention):
        sources = [self.sources[b] for b in chosen]
        targets = [self.targets[b] for b in chosen]
        src, tgt = padded(sources, 2 * padding, -1), padded(targets, padding, 10**9)
        lengths = lengths_for(src, sources), lengths_for(tgt, targets)
        memory = self.model.encode(src, lengths[0])
        if not return_attention:
            return [self.model(src, tgt, *lengths), memory], ["TD", "SD"]
        logits, weights = self.model(src, tgt, *lengths, return_attention=True)
        attention = [*weights.encoder, *weights.decoder, *weights.cross]
        return [logits, memory, *attention], ["TD", "SD", "HSS", "HTT", "HTS"]


SUBJECTS = {
    "post-norm encoder": (Encoder, {}),
    "pre-norm encoder": (Encoder, {"norm_first": True, "final_norm": True}),
    "encoder with masks": (MaskedEncoder, {"activation": "gelu"}),
    "post-norm decoder": (Decoder, {"activation": "gelu"}),
    "pre-norm decoder": (Decoder, {"norm_first": True, "final_norm": True}),
    "post-norm model": (Model, {}),
    "pre-norm model": (Model, {"norm_first": True, "final_norm": True, "activation": "gelu"}),
}


each_subject = pytest.mark.parametrize("name", SUBJECTS)
each_width = pytest.mark.parametrize("width", WIDTHS)


def assert_all_same(results, chosen, alone):
    """The arrays of each chosen sequence are the first of those that it gives alone."""
    for arrays, b in zip(results, chosen, strict=True):
        assert 0 < len(arrays) <= len(alone[b])
        for array, expected in zip(arrays, alone[b], strict=False):
            assert_same_bits(array, expected)


def each_alone(subject):
    """What each sequence gives by itself, on one thread, attention weights included."""
    with num_threads(1):
        alone = [subject.run([b], return_attention=True)[0] for b in range(len(subject.lengths))]
        for b in range(len(alone)):
            without_weights = subject.run([b])
            assert len(without_weights[0]) < len(alone[b])
            assert_all_same(without_weights, [b], alone)
    return alone


@each_subject
@each_width
def test_in_any_batch_with_any_padding_and_threads(name, width):
    make, options = SUBJECTS[name]
    subject = make(WIDTHS[width] | options, LENGTHS, MEMORY_LENGTHS)
    alone = each_alone(subject)
    for threads in THREADS:
        with num_threads(threads):
            for chosen in CHOICES:
                assert_all_same(subject.run(chosen), chosen, alone)
                assert_all_same(subject.run(chosen, return_attention=True), chosen, alone)
    for padding in (1, 7, 50):
        for chosen in CHOICES:
            assert_all_same(subject.run(chosen, padding), chosen, alone)
        whole = subject.run(CHOICES[0], padding, return_attention=True)
        assert_all_same(whole, CHOICES[0], alone)


@each_subject
def test_long_sequences(name):
    """Past 256 keys, where attention begins a new block."""
    make, options = SUBJECTS[name]
    subject = make(WIDTHS["small"] | options, (530, 257), (255, 513))
    alone = each_alone(subject)
    for threads in THREADS:
        with num_threads(threads):
            for chosen in [0], [1], [0, 1], [1, 0, 1]:
                assert_all_same(subject.run(chosen), chosen, alone)
            assert_all_same(subject.run([1, 0], padding=3, return_attention=True), [1, 0], alone)
