"""A step's gradients and losses are the same bits whoever computes which of its shards: all at
once, or ranks with the same weights, each a range of its own, whose sums come together as the tree
says."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from models import num_threads, randomised, small_config, token_ids
from runs import OPTIONS, bits, new_model, some_examples
from test_labelled import classifier, some_labelled

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, Texts, losses, train
from pyx_transformer.training.gradients import add_gradients
from pyx_transformer.training.masking import masked
from pyx_transformer.training.shards import Step, cut, joined
from pyx_transformer.training.tree import folded, folds, nodes_of

RMS = pt.NormConfig("rms_norm", eps=1e-6)
SETTINGS = replace(OPTIONS, dropout=0.25, label_smoothing=0.1, seed=3)


# The tree and the cut.


def written_out(begin, end, begins):
    """The sum of nodes as its brackets, by taking the tree apart from the top."""
    inside = [one for one in begins if begin <= one < end]
    if len(inside) < 2:
        return f"{inside[0]}" if inside else ""
    middle = (begin + end) // 2
    parts = [written_out(begin, middle, begins), written_out(middle, end, begins)]
    return f"({parts[0]}+{parts[1]})" if all(parts) else "".join(parts)


def test_what_comes_together_when():
    rng = np.random.default_rng(0)
    cases = [list(range(n)) for n in range(1, 18)]
    cases += [sorted(rng.permutation(64)[:n].tolist()) for n in range(1, 30)]
    for begins in cases:

        def put(i, left, begins=begins):
            return [str(begins[i])] if left is None else join(left, [str(begins[i])])

        def join(left, right):
            left[0] = f"({left[0]}+{right[0]})"
            return left

        assert folded(begins, put, join) == [written_out(0, 64, begins)]
        assert folded(begins, put, join, lambda i: i % 3 == 0) == [written_out(0, 64, begins)]
        assert sum(folds(begins)) == len(begins) - 1


def test_the_largest_nodes():
    assert nodes_of(0, 8, 8) == [(0, 8)]
    assert nodes_of(0, 7, 7) == [(0, 7)]
    assert nodes_of(2, 5, 8) == [(2, 4), (4, 5)]
    assert nodes_of(1, 8, 8) == [(1, 2), (2, 4), (4, 8)]
    assert nodes_of(4, 7, 7) == [(4, 7)]
    assert nodes_of(3, 3, 8) == []
    assert nodes_of(0, 8, 8, lambda begin, end: end - begin <= 3) == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
    ]
    assert nodes_of(0, 3, 3, lambda begin, end: False) == [(0, 1), (1, 2), (2, 3)]


def test_the_cut():
    np.testing.assert_array_equal(cut(np.full(64, 24), 8), np.arange(9) * 8)
    np.testing.assert_array_equal(cut(np.array([5, 5]), 8), [0, 0, 0, 1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(cut(np.zeros(0, np.int64), 2), [0, 0, 0])
    sizes = np.random.default_rng(0).integers(1, 40, 1000)
    ends = cut(sizes, 7)
    sums = [sizes[begin:end].sum() for begin, end in pairwise(ends)]
    assert (ends[0], ends[-1]) == (0, 1000)
    assert max(sums) - min(sums) <= 80


# Models, with batches for them.


def translator(**changes):
    config = small_config(num_encoder_layers=1, num_decoder_layers=2, **changes)
    return randomised(pt.Transformer(config, rng=0), seed=3)


def language_model():
    attention = pt.AttentionConfig(
        4, 2, 6, is_causal=True, rotary=pt.RotaryConfig(50.0), head_norm=RMS, bias=False
    )
    layer = pt.LayerConfig(
        (
            pt.SubLayerConfig(attention, norm_before=RMS),
            pt.SubLayerConfig(pt.FeedForwardConfig(41, "silu", gated=True), norm_before=RMS),
        )
    )
    stack = pt.StackConfig(24, 2, (layer,), final_norm=RMS)
    config = pt.TransformerLMConfig(
        19, decoder=stack, tie_output=True, positions="none", logits_softcap=3.0
    )
    return randomised(pt.TransformerLM(config, rng=0), seed=3)


def of_distances():
    """T5's shape: both stacks share a bias by distance among their layers."""

    def stack(*crossing, **options):
        bias = pt.DistanceBiasConfig(8, 12, bidirectional=not crossing)
        own = pt.AttentionConfig(3, scale=1.0, distance_bias=bias, bias=False, **options)
        blocks = (own, *crossing, pt.FeedForwardConfig(41, bias=False))
        layer = pt.LayerConfig(tuple(pt.SubLayerConfig(one, norm_before=RMS) for one in blocks))
        return pt.StackConfig(24, 3, (layer,), final_norm=RMS)

    crossing = pt.AttentionConfig(3, is_cross=True, head_norm=RMS)
    config = pt.TransformerConfig(
        23,
        19,
        encoder=stack(),
        decoder=stack(crossing, is_causal=True),
        positions="none",
    )
    return randomised(pt.Transformer(config, rng=0), seed=3)


def encoder(**head):
    """A masked-token model whose layers share their weights, as ALBERT's do."""
    layer = pt.LayerConfig(
        (
            pt.SubLayerConfig(pt.AttentionConfig(3), norm_sum=pt.NormConfig()),
            pt.SubLayerConfig(pt.FeedForwardConfig(41, "gelu"), norm_sum=pt.NormConfig()),
        )
    )
    config = pt.EncoderConfig(
        23,
        encoder=pt.StackConfig(24, 3, (layer,), share_weights=True),
        num_token_types=2,
        embedding_size=10,
        embedding_norm=pt.NormConfig(),
        positions="learned",
        max_length=20,
        head=pt.MaskedLMConfig(),
        mask_id=22,
    )
    return randomised(pt.EncoderModel(config, rng=0), seed=3)


def texts(count):
    rng = np.random.default_rng(1)
    return [token_ids(rng, 19, 1 + i * 5 % 12) for i in range(count)]


def pairs(count):
    return Examples(texts(count)[::-1], texts(count), start_id=1, end_id=2)


def batches_of(examples, model, accumulate):
    """All of them, in so many batches."""
    parts = np.array_split(np.arange(len(examples)), accumulate)
    found = [examples.batch(numbers) for numbers in parts if len(numbers)]
    if isinstance(examples, Texts):
        found = [masked(one, model.config, 0.3, (0, i)) for i, one in enumerate(found)]
    return found


TIED = {"tgt_vocab_size": 23, "share_embeddings": True, "tie_output": True}
CASES = {
    "translator": (translator, pairs),
    "learned positions, tied": (
        lambda: translator(positions="learned", norm_first=True, final_norm=True, **TIED),
        pairs,
    ),
    "language model": (
        language_model,
        lambda count: Examples(None, texts(count), start_id=1, end_id=2),
    ),
    "bias by distance": (of_distances, pairs),
    "masked tokens, shared weights": (encoder, lambda count: Texts(texts(count))),
    "classifier of sequences": (
        lambda: classifier(pooler=True, dense=True, activation="gelu", norm=pt.NormConfig()),
        some_labelled,
    ),
    "scores": (
        lambda: classifier(("score",), pooling="mean"),
        lambda count: some_labelled(count, kind=float),
    ),
    "classifier of tokens": (
        lambda: classifier(of_tokens=True),
        lambda count: some_labelled(count, kind=list),
    ),
}


def alone(step, model):
    """The gradients and the loss of one process."""
    parameters = Parameters(model)
    loss = step.add_gradients(model, parameters)
    return parameters.gradients, loss


def of_ranks(step, model, ranks):
    """The same of so many ranks, each with a range of shards."""
    ends = [rank * step.shards // ranks for rank in range(ranks + 1)]
    sums, found = [], []
    for begin, end in pairwise(ends):
        parameters = Parameters(model)
        own, of_shards = step.sums(model, parameters, begin, end)
        assert not parameters.gradients.any()
        sums += own
        found += of_shards.tolist()
    parameters = Parameters(model)
    parameters.add_up(joined(sums))
    return parameters.gradients, math.fsum(found)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("count", "shards", "accumulate"),
    [(19, 8, 1), (19, 8, 3), (19, 3, 1), (5, 8, 1), (19, 1, 1), (19, 1, 3), (19, 8, 16)],
)
def test_ranks_find_what_one_process_finds(name, count, shards, accumulate, monkeypatch):
    make, examples = CASES[name]
    model = make()
    # So few logits at a time that a shard needs several runs of them.
    monkeypatch.setattr(losses, "LOGITS", 100)
    options = replace(SETTINGS, shards=shards, accumulate=accumulate)
    step = Step(batches_of(examples(count), model, accumulate), options, 7)
    with num_threads(1):
        gradients, loss = alone(step, model)
    assert all(one.any() for one in Parameters(model).state_dict(gradients).values())
    for ranks in (1, 2, 3, 4, 5, 8):
        others, of_others = of_ranks(step, model, ranks)
        assert others.tobytes() == gradients.tobytes()
        assert of_others == loss


@pytest.mark.parametrize("name", CASES)
def test_the_sum_is_that_of_one_shard(name):
    """But for its rounding, where nothing is dropped."""
    make, examples = CASES[name]
    model = make()
    batches = batches_of(examples(19), model, 2)
    step = Step(batches, replace(SETTINGS, dropout=0.0), 1)
    found = alone(step, model)
    parameters = Parameters(model)
    whole = sum(
        add_gradients(model, parameters, one, tokens=step.tokens, label_smoothing=0.1)
        for one in batches
    )
    assert math.isclose(found[1], whole, rel_tol=1e-6)
    largest = np.abs(parameters.gradients).max()
    np.testing.assert_allclose(found[0], parameters.gradients, rtol=0, atol=3e-6 * largest)


def test_what_is_dropped_depends_on_seed_and_step():
    model, batches = translator(), [pairs(9).batch(np.arange(9))]
    found = {
        alone(Step(batches, replace(SETTINGS, seed=seed), number), model)[1]
        for seed in (3, 4)
        for number in (1, 2)
    }
    assert len(found) == 4
    assert alone(Step(batches, SETTINGS, 1), model)[1] in found


@pytest.mark.parametrize("accumulate", [2, 16])
def test_a_run_is_the_same_for_any_number_of_threads(accumulate, tmp_path):
    options = replace(OPTIONS, steps=3, validate_every=3, accumulate=accumulate)
    results = []
    for threads in (1, 2, 3):
        model = new_model()
        with num_threads(threads):
            train(model, some_examples(40), None, options, tmp_path / str(threads))
        results.append(bits(model))
    assert results[1:] == results[:1] * 2


def test_a_pass_is_no_larger_than_a_batch(monkeypatch):
    """Of accumulated batches each takes its turn, whole shards or parts of one."""
    from pyx_transformer.training import shards as module

    sizes, original = [], module.pass_gradients

    def watched(model, parameters, batch, **settings):
        sizes.append(len(batch.numbers))
        return original(model, parameters, batch, **settings)

    monkeypatch.setattr(module, "pass_gradients", watched)
    model = translator()
    same = Examples([[4, 5]] * 64, [[6, 7, 8]] * 64, start_id=1, end_id=2)
    for shards, accumulate, expected in [
        (8, 2, [32] * 2),
        (8, 4, [16] * 4),
        (8, 3, [16] * 4),
        (4, 16, [4] * 16),
        (1, 4, [16] * 4),
    ]:
        sizes.clear()
        options = replace(SETTINGS, shards=shards, accumulate=accumulate)
        alone(Step(batches_of(same, model, accumulate), options, 1), model)
        assert sizes == expected
