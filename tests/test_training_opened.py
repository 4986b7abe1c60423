"""Training goes on from opened checkpoints: every family in Hugging Face's layout, and the losses
of a run against transformers on PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
from models import num_threads
from runs import OPTIONS, bits
from test_families import DECODERS, ENCODER_DECODERS, ENCODERS

import pyx_transformer as pt
from pyx_transformer.training import Examples, Labelled, Texts, train
from pyx_transformer.training.log import read as read_log
from pyx_transformer.training.validation import validate

HEADLESS = ("bert", "roberta", "xlm_roberta", "mpnet", "distilbert", "albert", "modernbert")
TRAINED = [name for name in (*DECODERS, *ENCODER_DECODERS, *ENCODERS) if name not in HEADLESS]
MASK = 4
SHORT = replace(
    OPTIONS,
    steps=4,
    batch_tokens=1000,
    peak_rate=2e-3,
    warmup=1,
    dropout=0.0,
    label_smoothing=0.0,
    average_decay=0.0,
    validate_every=2,
)


@pytest.fixture(scope="module")
def opened(shared_data):
    """A function that opens the model of a name anew."""

    def opening(name):
        model = pt.load(shared_data / "hf-tiny" / name)
        if name == "bert_masked":  # no file of theirs says which token it is
            model.config = replace(model.config, mask_id=MASK)
        return model

    return opening


def texts_for(vocab_size, count=9, seed=0):
    """Texts of 2 to 10 ordinary tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocab_size - 1, 2 + i % 9) for i in range(count)]


def examples_for(model):
    """What the model can learn: the same few examples every time."""
    config = model.config
    if model.has_decoder:
        targets = texts_for(config.tgt_vocab_size)
        sources = texts_for(config.src_vocab_size, seed=1) if model.has_encoder else None
        return Examples(sources, targets, start_id=config.start_id, end_id=config.end_id)
    texts = texts_for(config.src_vocab_size)
    if not isinstance(config.head, pt.ClassifierConfig):
        return Texts(texts)
    count = len(config.head.labels)
    if config.head.of_tokens:
        labels = [own % (count + 1) - 1 for own in texts]  # some tokens have none
        return Labelled(texts, [np.append(max(own[0], 0), own[1:]) for own in labels])
    return Labelled(texts, [own[0] % count if count > 1 else float(own[0] % 2) for own in texts])


@pytest.mark.parametrize("name", TRAINED)
def test_every_family_learns(name, opened, tmp_path):
    """The loss of a few examples falls, and what is saved is what was trained, to the bit."""
    model = opened(name)
    before, examples = bits(model), examples_for(model)
    first = validate(model, examples, with_bleu=False)["loss"]
    train(model, examples, examples, SHORT, tmp_path)
    log = [
        entry["validation"]["loss"]
        for entry in read_log(tmp_path / "log.jsonl")
        if "validation" in entry
    ]
    assert log[-1] < log[0] < first
    assert bits(model) != before
    saved = pt.load(tmp_path / "model")
    assert saved.config == model.config
    assert bits(saved) == bits(model)
    assert getattr(saved, "generation_options", None) == getattr(model, "generation_options", None)
    assert validate(saved, examples, with_bleu=False)["loss"] == log[-1]


@pytest.mark.parametrize("name", ["llama", "marian", "bert_masked", "roberta_reranker"])
def test_a_resumed_run_ends_with_the_same_bits(name, opened, tmp_path):
    whole = opened(name)
    options = replace(SHORT, dropout=0.1, average_decay=0.9, batch_tokens=30)
    train(whole, examples_for(whole), None, options, tmp_path / "whole")
    for threads, steps in ((3, 2), (2, 4)):
        resumed = opened(name)
        with num_threads(threads):
            train(
                resumed,
                examples_for(resumed),
                None,
                replace(options, steps=steps),
                tmp_path / "parts",
                resume=True,
            )
    assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("name", HEADLESS)
def test_encoders_without_a_head_are_refused(name, opened, tmp_path):
    model = opened(name)
    texts = texts_for(model.config.src_vocab_size)
    for examples in (Texts(texts), Labelled(texts, [0] * len(texts))):
        with pytest.raises(ValueError, match=r"expected a model (with a|whose) head"):
            train(model, examples, None, SHORT, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_masks_that_a_model_does_not_know(shared_data, tmp_path):
    model = pt.load(shared_data / "hf-tiny" / "bert_masked")
    with pytest.raises(ValueError, match=r"mask_id: dataclasses\.replace"):
        train(model, examples_for(model), None, SHORT, tmp_path / "run")


# Against transformers.


def loss_of_theirs(theirs, examples, numbers, pad):
    """The loss of some examples, padded; labels of -100 count nothing."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")

    def padded(sequences, fill):
        length = max(map(len, sequences))
        rows = [np.pad(ids, (0, length - len(ids)), constant_values=fill) for ids in sequences]
        return torch.tensor(np.array(rows))

    targets = [np.append(examples.targets[i], examples.end_id) for i in numbers]
    labels = padded(targets, -100)
    if examples.sources is None:
        return theirs(padded(targets, pad), labels=labels).loss
    sources = [examples.sources[i] for i in numbers]
    mask = padded([np.ones_like(ids) for ids in sources], 0)
    return theirs(padded(sources, pad), attention_mask=mask, labels=labels).loss


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_the_losses_of_a_run_are_those_of_transformers(name, opened, shared_data, tmp_path):
    """Fine-tuning by AdamW with clipping and weight decay, in batches of ragged examples.

    Two things are trained here that transformers keeps as they are: the row of Marian's padding
    where it begins a target, and the bias of the logits.
    """
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    transformers = pytest.importorskip("transformers", reason="needs transformers to compare with")
    kind = {"llama": "LlamaForCausalLM", "marian": "MarianMTModel"}[name]
    theirs = getattr(transformers, kind).from_pretrained(shared_data / "hf-tiny" / name).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    if name == "marian":
        bias = theirs.final_logits_bias
        del theirs.final_logits_bias
        theirs.final_logits_bias = torch.nn.Parameter(bias.clone())
    options = replace(SHORT, steps=8, batch_tokens=30, peak_rate=5e-3, max_norm=2.0)
    options = replace(options, weight_decay=0.1, warmup=3, eps=1e-6)
    ours = opened(name)
    examples, entries = examples_for(ours), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyx_transformer.training.log.SECONDS_BETWEEN_ENTRIES", -1.0)
        train(ours, examples, None, options, tmp_path, report=entries.append)
    # Loading makes parameters of the sinusoids too, which are none in a new model.
    trained = [p for key, p in theirs.named_parameters() if "embed_positions" not in key]
    optimizer = torch.optim.AdamW(
        trained,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
    )
    epochs = (examples.epoch(options.seed, epoch, options.batch_tokens) for epoch in range(8))
    batches = (numbers for epoch in epochs for numbers in epoch)
    for entry in entries:
        loss = loss_of_theirs(theirs, examples, next(batches), theirs.config.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, options.max_norm)
        for group in optimizer.param_groups:
            group["lr"] = entry["learning_rate"]
        optimizer.step()
        assert abs(entry["loss"] - loss.item()) < 1e-5
        assert abs(entry["gradient_norm"] - norm.item()) < 1e-5 * norm.item()
    assert len(entries) == 8
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.3
