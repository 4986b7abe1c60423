"""Gradients of whole models: every parameter of every layer against central differences of the
reference in float64, and the same bits for any number of threads."""

import dataclasses
import math

import numpy as np
import pytest
import reference
from models import num_threads, randomised, reference_options, small_config, token_ids

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, functions, losses
from pyx_transformer.training.gradients import add_gradients

VARIANTS = {
    "paper": {},
    "pre-norm": {"norm_first": True, "final_norm": True},
    "gelu": {"activation": "gelu", "d_ff": 7},
    "silu, no layers to encode": {"activation": "silu", "num_encoder_layers": 0},
    "no layers to decode": {"num_decoder_layers": 0},
    "learned positions": {"positions": "learned", "scale_embeddings": False, "max_length": 13},
    "tied": {"tgt_vocab_size": 23, "share_embeddings": True, "tie_output": True},
    "output tied, no bias": {"tie_output": True, "output_bias": False},
}
DROPPED = 0.3
SEED = 5
STEP = 1e-7


def examples_of(config, lengths, seed=0):
    """Sentences of these source and target lengths, the target's without its end."""
    rng = np.random.default_rng(seed)
    sources = [token_ids(rng, config.src_vocab_size, s) for s, _ in lengths]
    targets = [token_ids(rng, config.tgt_vocab_size, t) for _, t in lengths]
    return Examples(sources, targets, start_id=config.start_id, end_id=config.end_id)


def gradients_of(one, batch, **options):
    """The loss of a batch, and the gradient of its mean by key."""
    parameters = Parameters(one)
    loss = add_gradients(one, parameters, batch, tokens=len(batch.targets), **options)
    return loss, parameters.state_dict(parameters.gradients)


def dropout_factors(config, batch, rate):
    """What embeddings and outputs of sub-layers are multiplied by, (B, T, D) each, in the order of
    the reference, which begins with the source. Each has a stream of its own, and the first is the
    target embedding's."""
    encoder, decoder = 2 * config.num_encoder_layers, 3 * config.num_decoder_layers
    of_source = [1, *range(2, 2 + encoder)]
    of_target = [0, *range(2 + encoder, 2 + encoder + decoder)]
    factors = []
    for streams, sequences in (
        (of_source, batch.source_sequences),
        (of_target, batch.input_sequences),
    ):
        ones = np.ones((sequences.counts.sum(), config.d_model))
        for stream in streams:
            factors.append(sequences.padded(functions.dropout(ones, rate, seed=SEED + stream)[0]))
    return factors


def expected_loss(config, options, state, examples, smoothing, factors):
    """The mean loss of all examples in float64."""
    if config.positions == "learned":
        names = ("src_positions", "tgt_positions")
        options = {**options, **{name: state[f"{name}.weight"] for name in names}}
    src, src_lengths = pt_padded(examples.sources)
    tgt, tgt_lengths = pt_padded([[config.start_id, *target] for target in examples.targets])
    left = iter(factors)
    logits = reference.transformer(
        state,
        src,
        tgt,
        src_lengths=src_lengths,
        tgt_lengths=tgt_lengths,
        drop=lambda x: x * next(left),
        **options,
    )
    assert next(left, None) is None
    total = 0.0
    for target, rows in zip(examples.targets, reference.log_softmax(logits), strict=True):
        outputs = [*target, config.end_id]
        log_p = rows[: len(outputs)]
        chosen = log_p[np.arange(len(outputs)), outputs]
        total -= ((1 - smoothing) * chosen + smoothing * log_p.mean(axis=1)).sum()
    return total / sum(tgt_lengths)


@pytest.mark.parametrize(
    "variant, dropout",
    [*((variant, 0.0) for variant in VARIANTS), ("paper", DROPPED), ("pre-norm", DROPPED)],
)
def test_every_parameter_against_central_differences(variant, dropout):
    """All values of a parameter move at once, each up or down at random."""
    config = small_config(**{"num_encoder_layers": 1, "num_decoder_layers": 2, **VARIANTS[variant]})
    one = randomised(pt.Transformer(config, rng=0), seed=3)
    examples = examples_of(config, [(5, 3), (1, 0), (0, 2), (7, 6)])
    batch = examples.batch(np.arange(4))
    loss, gradients = gradients_of(one, batch, label_smoothing=0.2, dropout=dropout, seeds=[SEED])
    state = {key: array.astype(np.float64) for key, array in one.state_dict().items()}
    options = reference_options(one)
    factors = dropout_factors(config, batch, dropout)

    def loss_with(moved):
        return expected_loss(config, options, moved, examples, 0.2, factors)

    assert math.isclose(loss / len(batch.targets), loss_with(state), rel_tol=1e-6)

    rng = np.random.default_rng(1)
    for key, gradient in gradients.items():
        signs = rng.choice([-1.0, 1.0], gradient.shape)
        ends = [loss_with({**state, key: state[key] + step * signs}) for step in (STEP, -STEP)]
        expected = (ends[0] - ends[1]) / (2 * STEP)
        error = abs((gradient * signs).sum() - expected)
        assert error <= 3e-6 * np.linalg.norm(gradient), key


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_a_language_model_is_the_decoder_alone(softcap):
    """Its gradients are those of differences of its own logits, capped ones too."""
    config = pt.TransformerLMConfig.of_decoder(small_config())
    config = dataclasses.replace(config, logits_softcap=softcap)
    one = randomised(pt.TransformerLM(config, rng=0), seed=3)
    rng = np.random.default_rng(0)
    texts = [token_ids(rng, one.config.tgt_vocab_size, n) for n in (7, 2)]
    examples = Examples(None, texts, start_id=1, end_id=2)
    loss, gradients = gradients_of(one, examples.batch(np.arange(2)))
    scores = one.score(*pt_padded(texts))
    assert math.isclose(loss, -sum(s.sum(dtype=float) for s in scores), rel_tol=1e-5)
    # Moved along its gradient the loss falls by the gradient's square.
    step = 1e-3 / sum((g.astype(float) ** 2).sum() for g in gradients.values())
    losses = []
    for sign in (1, -1):
        one_moved = pt.TransformerLM(one.config, rng=0)
        one_moved.load_state_dict(
            {key: array + sign * step * gradients[key] for key, array in one.state_dict().items()}
        )
        losses.append(gradients_of(one_moved, examples.batch(np.arange(2)))[0] / 11)
    assert math.isclose(losses[0] - losses[1], 2e-3, rel_tol=1e-2)


def pt_padded(sequences):
    lengths = [len(ids) for ids in sequences]
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


@pytest.mark.parametrize("variant", ["paper", "pre-norm", "gelu"])
def test_without_dropout_the_loss_is_that_of_the_model_itself(variant):
    """Training and inference are one computation: the same bits before the projection."""
    one = randomised(pt.Transformer(small_config(**VARIANTS[variant]), rng=0), seed=3)
    examples = examples_of(one.config, [(5, 3), (2, 7)])
    loss, _ = gradients_of(one, examples.batch(np.arange(2)))
    src, src_lengths = pt_padded(examples.sources)
    tgt, tgt_lengths = pt_padded(examples.targets)
    scores = one.score(src, tgt, src_lengths, tgt_lengths)
    assert math.isclose(loss, -sum(s.sum(dtype=float) for s in scores), rel_tol=1e-6)


def test_the_same_bits_for_any_number_of_threads():
    config = small_config(d_model=96, d_ff=300, tgt_vocab_size=1501, norm_first=True)
    one = randomised(pt.Transformer(config, rng=0), seed=3)
    lengths = [(s % 37 + 1, s * 7 % 41 + 1) for s in range(60)]
    batch = examples_of(config, lengths).batch(np.arange(60))
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            loss, gradients = gradients_of(one, batch, dropout=0.3, label_smoothing=0.1, seeds=[5])
        results.append((loss, [gradient.tobytes() for gradient in gradients.values()]))
    assert results[1:] == results[:1] * 2


def test_dropout_follows_its_seed_and_changes_the_loss():
    one = randomised(pt.Transformer(small_config(), rng=0), seed=3)
    batch = examples_of(one.config, [(5, 30), (9, 12)]).batch(np.arange(2))
    first, again, other = (gradients_of(one, batch, dropout=0.4, seeds=[s])[0] for s in (1, 1, 2))
    assert first == again != other
    plain = gradients_of(one, batch)[0]
    assert gradients_of(one, batch, dropout=0.0, seeds=[2])[0] == plain != first


def test_gradients_of_batches_add_up():
    """Accumulation: two batches, one without a source token, give what one of both gives."""
    one = randomised(pt.Transformer(small_config(), rng=0), seed=3)
    examples = examples_of(one.config, [(5, 3), (0, 12), (2, 7)])
    _, together = gradients_of(one, examples.batch(np.arange(3)))
    parameters = Parameters(one)
    for numbers in ([0, 2], [1]):
        add_gradients(one, parameters, examples.batch(np.array(numbers)), tokens=25)
    for key, gradient in parameters.state_dict(parameters.gradients).items():
        scale = max(np.abs(together[key]).max(), 1e-3)
        np.testing.assert_allclose(gradient, together[key], rtol=0, atol=1e-5 * scale)


def test_logits_in_parts_give_the_same_gradients(monkeypatch):
    one = randomised(pt.Transformer(small_config(), rng=0), seed=3)
    batch = examples_of(one.config, [(5, 13), (9, 12)]).batch(np.arange(2))
    whole_loss, whole = gradients_of(one, batch, label_smoothing=0.1)
    monkeypatch.setattr(losses, "LOGITS", 5 * one.config.tgt_vocab_size)
    loss, parts = gradients_of(one, batch, label_smoothing=0.1)
    assert loss == whole_loss
    for key in whole:
        scale = np.abs(whole[key]).max()
        np.testing.assert_allclose(parts[key], whole[key], rtol=0, atol=2e-6 * scale)
