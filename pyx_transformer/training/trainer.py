"""The training loop: batches in, weights, checkpoints and a log out.

A run writes into one folder: `model/`, the best weights so far, as `checkpoints.save` writes them;
`checkpoint.safetensors`, all that a run needs to go on to the same bits; `log.jsonl`, a JSON object
per line.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from pyx_transformer import _checks, _runtime, checkpoints
from pyx_transformer._files import STAGED, as_path, check_file, replace_files
from pyx_transformer._keys import shortened
from pyx_transformer._kinds import check_function
from pyx_transformer.checkpoints.native import as_config_text
from pyx_transformer.checkpoints.sides import check_tokenizers
from pyx_transformer.config import as_object
from pyx_transformer.metrics import require_bleu
from pyx_transformer.parameters import Parameters
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.training.batches import Examples
from pyx_transformer.training.gradients import add_gradients
from pyx_transformer.training.interrupts import Interrupts
from pyx_transformer.training.labelled import Labelled, is_score
from pyx_transformer.training.log import Log, Pace
from pyx_transformer.training.masking import Texts, masked
from pyx_transformer.training.optimizer import AdamW, as_schedule
from pyx_transformer.training.options import MOST, TrainingOptions
from pyx_transformer.training.validation import reachable, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.training.batches import Batch
    from pyx_transformer.training.corpus import Corpus

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
MODEL = "model"
# A checkpoint is this old at most.
SECONDS_BETWEEN_CHECKPOINTS = 600.0


@dataclass
class Progress:
    """Where a run stands: all of its state but arrays."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    best: float | None = None
    worse: int = 0  # validations since the best one
    skipped: int = 0  # steps whose gradients could not be taken

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                _checks.as_integer("Progress", field.name, value, 0, MOST)
            elif value is not None:
                _checks.as_number("Progress", field.name, value)


def train(
    model: Model,
    examples: Corpus,
    validation: Corpus | None,
    options: TrainingOptions,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    report: Callable[[dict], None] | None = None,
) -> Progress:
    """Train a model, in place, and return where the run ended.

    Without `validation` examples the last weights count as the best. `resume` goes on from the
    folder's checkpoint, if there is one, and ends with the same bits as a run that was never
    stopped; model, examples and options have to be those of the run before, but for `patience`,
    `test_beam_size` and, with other than the cosine schedule, `steps`. report(entry) is called with
    every entry of the log.

    A step whose loss or gradients are not finite, or whose squared gradients float32 cannot hold,
    changes nothing, and is reported with its examples. At Ctrl-C the step, and a validation that
    belongs to it, is finished and a checkpoint saved before KeyboardInterrupt is raised; a second
    Ctrl-C raises it at once.

    Raises TypeError where an argument is something else, ValueError where the examples do
    not fit the model, or a checkpoint the run, FileExistsError where the folder holds a run and
    resume is False, ImportError where "bleu" is the metric and sacrebleu missing, OSError where the
    folder cannot be written to.
    """
    with _runtime.freed_memory_kept():
        return Trainer(model, examples, validation, options, folder, resume, report).run()


class Trainer:
    """One run: see `train`."""

    def __init__(self, model, examples, validation, options, folder, resume, report):
        _checks.as_kind("train", "model", model, TokenModel)
        _checks.as_kind("train", "examples", examples, Examples, Texts, Labelled)
        if validation is not None:
            _checks.as_kind("train", "validation", validation, Examples, Texts, Labelled)
        _checks.as_kind("train", "options", options, TrainingOptions)
        _checks.as_flag("train", "resume", resume)
        check_function("train", "report", report)
        check_tokenizers("train", model)
        examples.check("train: examples", model)
        if validation is not None:
            validation.check("train: validation", model)
            check_validation(options.metric, model, validation)
        self.model = model
        self.examples = examples
        self.validation = validation
        self.options = options
        self.folder = as_path("train", "folder", folder)
        self.parameters = Parameters(model)
        self.optimizer = AdamW(
            self.parameters,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            max_norm=options.max_norm or math.inf,
            average_decay=options.average_decay,
        )
        self.schedule = as_schedule("train", options.schedule)
        self.progress = Progress()
        for name in (CHECKPOINT, MODEL, LOG):
            if (self.folder / name).exists() and not resume:
                # Without a checkpoint, resuming would begin anew.
                advice = "go on with resume=True, or name" if name == CHECKPOINT else "name"
                raise FileExistsError(f"train: {self.folder / name} exists: {advice} a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / MODEL):
            for stale in folder.glob(f"{STAGED}*"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)
        if (self.folder / CHECKPOINT).exists():
            self._restore(self.folder / CHECKPOINT)
        self.log = Log(self.folder / LOG, self.progress.step, report)
        self._saved = time.monotonic()

    def run(self) -> Progress:
        """All steps that are left."""
        with Interrupts() as interrupts:
            self._take_steps(interrupts)
        self._use_weights()
        if not (self.folder / MODEL).is_dir():
            checkpoints.save(self.model, self.folder / MODEL)
        return self.progress

    def _take_steps(self, interrupts):
        progress, pace = self.progress, Pace()
        batches = self._batches()
        while progress.step < self.options.steps and not self._has_enough():
            entry = pace.timed(self._step, [next(batches) for _ in range(self.options.accumulate)])
            if "skipped" in entry:
                self.log.write(entry)
                entry = {name: value for name, value in entry.items() if name != "skipped"}
            is_last = progress.step == self.options.steps
            validates = progress.step % self.options.validate_every == 0 or is_last
            if validates or pace.is_due():
                self.log.write({**entry, **pace.summary(self.options.steps - progress.step)})
            if validates:
                # A last step between two validations is no part of a longer run.
                self._validate(counts=progress.step % self.options.validate_every == 0)
            is_old = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
            if validates or is_old or interrupts.came:
                self._save()
            if interrupts.came:
                raise KeyboardInterrupt(f"interrupted at step {progress.step}")

    def _batches(self) -> Iterator[Batch]:
        """Batches from where the run stands, epoch after epoch."""
        options, progress = self.options, self.progress
        while True:
            order = self.examples.epoch(options.seed, progress.epoch, options.batch_tokens)
            while progress.batch < len(order):
                progress.batch += 1
                yield self._batch(order[progress.batch - 1])
            progress.epoch += 1
            progress.batch = 0

    def _batch(self, numbers) -> Batch:
        """The examples of these numbers; `Texts` with the masks of this place in the run."""
        batch = self.examples.batch(numbers)
        if isinstance(self.examples, Texts):
            seed = self.options.seed, self.progress.epoch, self.progress.batch
            batch = masked(batch, self.model.config, self.options.mask_rate, seed)
        return batch

    def _step(self, batches: list[Batch]) -> dict:
        """One update of the weights; what the log says of it."""
        options, progress = self.options, self.progress
        progress.step += 1
        tokens = sum(len(batch.targets) for batch in batches)
        loss = 0.0
        for i, batch in enumerate(batches):
            drawn = np.random.SeedSequence((options.seed, progress.step, i)).generate_state(1)
            loss += add_gradients(
                self.model,
                self.parameters,
                batch,
                tokens=tokens,
                dropout=options.dropout,
                label_smoothing=options.label_smoothing,
                seed=int(drawn[0]) << 32,
            )
        rate = self.schedule(
            progress.step, peak=options.peak_rate, warmup=options.warmup, steps=options.steps
        )
        norm = self.optimizer.step(rate) if math.isfinite(loss) else self.optimizer.skip()
        entry = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": loss / tokens,
            "tokens": tokens,
            "learning_rate": rate,
            "gradient_norm": norm,
        }
        if not math.isfinite(norm):
            progress.skipped += 1
            numbers = np.concatenate([batch.numbers for batch in batches])
            entry["skipped"] = [int(number) for number in numbers]
        return entry

    def _has_enough(self):
        return 0 < self.options.patience <= self.progress.worse

    def _validate(self, *, counts):
        """Log the figures of the validation examples; save the model if it is the best so far and
        the validation counts."""
        progress, metric = self.progress, self.options.metric
        self._use_weights()
        better = True
        if self.validation is not None:
            figures = validate(
                self.model,
                self.validation,
                with_bleu=metric == "bleu",
                bleu_tokenizer=self.options.bleu_tokenizer,
                max_length=reachable(self.model, self.options.max_length),
            )
            self.log.write({"step": progress.step, "validation": figures})
            if not counts:
                return
            value = figures[metric] if metric != "loss" else -figures["loss"]
            better = math.isfinite(value) and (progress.best is None or value > progress.best)
            if better:
                progress.best = value
        progress.worse = 0 if better else progress.worse + 1
        if better:
            checkpoints.save(self.model, self.folder / MODEL)

    def _use_weights(self):
        self.model.load_state_dict(self.parameters.state_dict(self.optimizer.average))

    def _save(self):
        optimizer = self.optimizer
        arrays = {
            "values": self.parameters.values,
            "means": optimizer.means,
            "squares": optimizer.squares,
        }
        if optimizer.average is not None:
            arrays["average"] = optimizer.average
        about = {
            "progress": json.dumps(asdict(self.progress)),
            "options": json.dumps(asdict(self.options)),
            "updates": str(optimizer.steps),
            **self._contents(),
        }
        replace_files(self.folder, {CHECKPOINT: safetensors.numpy.save(arrays, about)})
        self._saved = time.monotonic()

    def _contents(self):
        """What has to be the same in a run that goes on: the config, and digests of the rest."""
        model = self.model
        tokenizers = [getattr(model, name, None) for name in ("src_tokenizer", "tgt_tokenizer")]
        return {
            "config": as_config_text(model),
            "vocabularies": digest(files_of(tokenizer) for tokenizer in tokenizers),
            "examples": digest(self.examples.contents()),
        }

    def _restore(self, path):
        check_file(path, who="train: ")
        try:
            with safetensors.safe_open(path, "np") as file:
                about = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            # What older runs do not tell is as it is by default.
            options = {"bleu_tokenizer": "auto", **as_object("options", about["options"])}
            progress = Progress(**as_object("progress", about["progress"]))
            updates = _checks.as_integer("updates", "number", int(about["updates"]), 0, MOST)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            said = shortened(repr(error))
            raise ValueError(f"train: {path} is no checkpoint: {said}") from error
        now = asdict(self.options)
        may_change = {"patience", "test_beam_size"}
        if self.options.schedule != "cosine":
            may_change.add("steps")
        for name in now:
            if now[name] != options.get(name) and name not in may_change:
                own, expected = map(_checks.brief, (now[name], options.get(name)))
                raise ValueError(f"train: {name} is {own}, expected {expected} as in {path}")
        for name, content in self._contents().items():
            if about.get(name) != content:
                keys = differing_keys(about.get(name), content) if name == "config" else ""
                raise ValueError(
                    f"train: {path} is of another run: its {name} differ from these{keys}"
                )
        optimizer = self.optimizer
        places = {
            "values": self.parameters.values,
            "means": optimizer.means,
            "squares": optimizer.squares,
            "average": optimizer.average,
        }
        for name, place in places.items():
            if place is None:
                continue
            array = arrays.get(name)
            if array is None:
                raise ValueError(f"train: {path} has no {name}")
            if array.dtype != place.dtype or array.shape != place.shape:
                raise ValueError(
                    f"train: {name} in {path} is {_checks.brief(array)}, expected "
                    f"{_checks.brief(place)} because of the model"
                )
            place[:] = array
        optimizer.steps = updates
        self.progress = progress


def differing_keys(held: str | None, now: str) -> str:
    """The fields in which two configs differ, as the end of a sentence; "" where one is none."""
    try:
        before, after = as_object("config", held or ""), as_object("config", now)
    except ValueError:
        return ""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return f" in {', '.join(keys)}"


def check_validation(metric: str, model: Model, validation: Corpus) -> None:
    """Raise ValueError or ImportError where validation cannot give that metric, or no finite loss:
    an empty source has the empty translation only."""
    if isinstance(validation, Labelled):
        known = ("loss",) if is_score(model.config.head) else ("loss", "accuracy")
        if metric not in known:
            raise ValueError(
                f"train: metric is {metric!r}, expected one of {known} for these labels"
            )
        return
    if not isinstance(validation, Examples) or validation.sources is None:
        if metric != "loss":
            raise ValueError(
                f"train: metric is {metric!r}, expected 'loss' for a language model or an encoder"
            )
        return
    if metric == "accuracy":
        raise ValueError("train: metric is 'accuracy', expected another for a translator")
    for number, source in enumerate(validation.sources):
        if not len(source) and len(validation.targets[number]):
            raise ValueError(
                f"train: validation: sources[{number}] is empty and targets[{number}] is not, "
                "expected both or none"
            )
    if metric == "bleu":
        require_bleu()
        tokenizer_of("train", model, "tgt_tokenizer")
        if validation.references is None:
            raise ValueError("train: validation has no references, expected texts to take BLEU of")


def files_of(tokenizer: Tokenizer | None) -> bytes | None:
    """All that is saved of a tokenizer."""
    return None if tokenizer is None else b"".join(tokenizer.files().values())


def digest(parts: Iterable[bytes | None]) -> str:
    """SHA-256 of all parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(b"-" if part is None else part)
    return total.hexdigest()
