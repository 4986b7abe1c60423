"""Training against PyTorch: the gradients of a batch, and the losses of a run.

The twin is the same model around torch.nn.Transformer, with the same weights at the start, and
torch.optim.AdamW.
"""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY
from models import small_config, token_ids

import pyx_transformer as pt
from pyx_transformer.parameters import Parameters
from pyx_transformer.training import Examples, TrainingOptions, train
from pyx_transformer.training.gradients import add_gradients
from pyx_transformer.training.recipe import load_recipe

torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
sys.path.append(str(REPOSITORY))  # last: the installed package still comes first

from bench.recipes.torch_twin import inputs_of, labels_of  # noqa: E402 - only now is it found
from bench.torch_language_model import LanguageModel  # noqa: E402
from bench.torch_translator import Translator  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*nested.?tensor")
SMOOTHING = 0.1
NO_TARGET = -100


@pytest.fixture(autouse=True)
def one_thread():
    """Enough for these small sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ragged_examples(config):
    rng = np.random.default_rng(0)
    sources = [token_ids(rng, config.src_vocab_size, 1 + i * 5 % 11) for i in range(40)]
    targets = [token_ids(rng, config.tgt_vocab_size, i * 3 % 8) for i in range(40)]
    return Examples(sources, targets, start_id=config.start_id, end_id=config.end_id)


def padded(sequences, fill):
    """(B, T) tensor, filled up to the longest."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(ids) for ids in sequences], batch_first=True, padding_value=fill
    )


def summed_loss(twin, examples, numbers):
    """PyTorch's cross-entropy over all target tokens of a padded batch, and their number."""
    start, end = [examples.start_id], [examples.end_id]
    src = padded([examples.sources[i] for i in numbers], -1)
    tgt = padded([np.concatenate([start, examples.targets[i]]) for i in numbers], 0)
    labels = padded([np.concatenate([examples.targets[i], end]) for i in numbers], NO_TARGET)
    logits = twin(src.clamp(0), tgt, src < 0)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        ignore_index=NO_TARGET,
        label_smoothing=SMOOTHING,
        reduction="sum",
    )
    return loss, int((labels != NO_TARGET).sum())


def twins(norm_first):
    """Our model and PyTorch's, with the same weights."""
    config = small_config(
        d_model=48, d_ff=96, norm_first=norm_first, final_norm=norm_first, activation="gelu"
    )
    ours = pt.Transformer(config, rng=1)
    theirs = Translator(config).train()
    theirs.load(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients(norm_first):
    ours, theirs = twins(norm_first)
    examples = ragged_examples(ours.config)
    numbers = np.arange(12)
    parameters = Parameters(ours)
    batch = examples.batch(numbers)
    tokens = len(batch.targets)
    loss = add_gradients(ours, parameters, batch, tokens=tokens, label_smoothing=SMOOTHING)
    torch_loss, torch_tokens = summed_loss(theirs, examples, numbers)
    (torch_loss / tokens).backward()
    assert tokens == torch_tokens
    assert math.isclose(loss, torch_loss.item(), rel_tol=1e-6)
    gradients = parameters.state_dict(parameters.gradients)
    for key, parameter in theirs.our_parameters(gradients).items():
        expected = parameter.grad.numpy()
        scale = max(np.abs(expected).max(), 1e-2)
        np.testing.assert_allclose(gradients[key], expected, rtol=0, atol=1e-5 * scale)


def warm_then_root(step, options):
    return options.peak_rate * min(step / options.warmup, (options.warmup / step) ** 0.5)


def warm_then_cosine(step, options):
    if step < options.warmup:
        return options.peak_rate * step / options.warmup
    done = (step - options.warmup) / (options.steps - options.warmup)
    return options.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


RUNS = {
    "post-norm": (False, {"schedule": "inverse_square_root"}, warm_then_root),
    "pre-norm, two batches a step": (
        True,
        {"schedule": "cosine", "accumulate": 2},
        warm_then_cosine,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_first_20_losses_of_a_run(name, tmp_path, monkeypatch):
    """Changing batches of ragged sentences, a schedule, clipping, weight decay, an average."""
    norm_first, changes, rate_of = RUNS[name]
    options = TrainingOptions(
        steps=20,
        batch_tokens=100,
        peak_rate=3e-3,
        warmup=5,
        weight_decay=0.1,
        max_norm=2.0,
        average_decay=0.5,
        dropout=0.0,
        label_smoothing=SMOOTHING,
        validate_every=20,
        **changes,
    )
    ours, theirs = twins(norm_first)
    examples = ragged_examples(ours.config)
    monkeypatch.setattr("pyx_transformer.training.log.SECONDS_BETWEEN_ENTRIES", -1.0)
    entries = []
    train(ours, examples, None, options, tmp_path, report=entries.append)

    optimizer = torch.optim.AdamW(
        theirs.parameters(),
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    epochs = (examples.epoch(options.seed, epoch, options.batch_tokens) for epoch in range(20))
    batches = (numbers for epoch in epochs for numbers in epoch)
    assert len(entries) == options.steps
    clipped, sizes = 0, set()
    for entry in entries:
        parts = [summed_loss(theirs, examples, next(batches)) for _ in range(options.accumulate)]
        tokens = sum(count for _, count in parts)
        loss = sum(part for part, _ in parts) / tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), options.max_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(entry["step"], options)
        optimizer.step()
        assert entry["tokens"] == tokens
        assert abs(entry["loss"] - loss.item()) < 1e-5
        assert math.isclose(entry["gradient_norm"], norm.item(), rel_tol=1e-5)
        clipped += norm.item() > options.max_norm
        sizes.add(tokens)
    assert 0 < clipped < options.steps
    assert len(sizes) > 3
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.5


def test_a_language_model_has_the_same_gradients():
    """Where heads share keys, and sequences are longer than windows."""
    recipe = load_recipe(
        REPOSITORY / "bench/recipes/tinyshakespeare.toml",
        {"model.decoder.d_model": 48, "model.decoder.num_layers": 2, "training.seed": 3},
    )
    config = recipe.config(23)
    layer = config.decoder.layers[0]
    attention, feed_forward = layer.sub_layers
    block = replace(attention.block, num_kv_heads=2, window=(5, 0))
    layers = (replace(layer, sub_layers=(replace(attention, block=block), feed_forward)),)
    config = replace(config, decoder=replace(config.decoder, layers=layers))
    ours = pt.TransformerLM(config, rng=1)
    theirs = LanguageModel(config).train()
    theirs.load(ours.state_dict())
    rng = np.random.default_rng(0)
    targets = [token_ids(rng, 23, 1 + i * 5 % 17) for i in range(12)]
    examples = Examples(None, targets, start_id=1, end_id=2)
    numbers = np.arange(12)
    parameters = Parameters(ours)
    batch = examples.batch(numbers)
    tokens = len(batch.targets)
    loss = add_gradients(ours, parameters, batch, tokens=tokens, label_smoothing=0.0)
    labels = labels_of(examples, numbers)
    logits = theirs(*inputs_of(examples, numbers))
    torch_loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-1
    )
    torch_loss.backward()
    assert int((labels >= 0).sum()) == tokens
    assert math.isclose(loss / tokens, torch_loss.item(), rel_tol=1e-6)
    gradients = parameters.state_dict(parameters.gradients)
    for key, parameter in theirs.our_parameters(gradients).items():
        expected = parameter.grad.numpy()
        scale = max(np.abs(expected).max(), 1e-2)
        np.testing.assert_allclose(gradients[key], expected, rtol=0, atol=1e-5 * scale)
