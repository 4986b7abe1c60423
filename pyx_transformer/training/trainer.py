"""The training loop: batches in, weights, checkpoints and a log out.

A run writes into one folder: `model/`, the best weights so far, as `checkpoints.save` writes them;
`checkpoint.safetensors`, all that a run needs to go on to the same bits; `log.jsonl`, a JSON object
per line.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyx_transformer import _checks, _runtime, checkpoints
from pyx_transformer._files import STAGED, as_path
from pyx_transformer._kinds import check_function
from pyx_transformer._reprs import described
from pyx_transformer._run_log import LOG, read
from pyx_transformer._version import __version__
from pyx_transformer.checkpoints.sides import check_tokenizers
from pyx_transformer.metrics import require_bleu
from pyx_transformer.parameters import Parameters
from pyx_transformer.token_model import TokenModel
from pyx_transformer.tokenizers.protocol import tokenizer_of
from pyx_transformer.training.batches import Examples
from pyx_transformer.training.checkpoint import Checkpoint, Progress, digest
from pyx_transformer.training.interrupts import Interrupts
from pyx_transformer.training.labelled import Labelled, is_score
from pyx_transformer.training.log import Log, Pace
from pyx_transformer.training.masking import Texts, masked
from pyx_transformer.training.optimizer import AdamW, as_schedule
from pyx_transformer.training.options import TrainingOptions
from pyx_transformer.training.ranks import Ranks
from pyx_transformer.training.shards import Step
from pyx_transformer.training.telling import Telling
from pyx_transformer.training.validation import reachable, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.training.batches import Batch
    from pyx_transformer.training.corpus import Corpus

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model"
UNFUSED = "x86-64-v2"  # the only instruction set whose bits are its own
# A checkpoint is this old at most.
SECONDS_BETWEEN_CHECKPOINTS = 600.0


@described
@dataclass(repr=False)
class Trained(Progress):
    """A run that has ended: where it stands, and its folder.

    step, epoch, batch: how many are done, batches of that epoch. best: the best figure of a
    validation, and worse: validations since. skipped: steps whose gradients could not be taken. Of
    several ranks the first has written the folder, and all see it where they share its disk.
    """

    folder: Path = Path()

    @cached_property
    def model(self) -> Any:  # a type checker cannot tell the kind of model from a file's name
        """The best model, read from the folder once. Raises what `pt.load` does."""
        return checkpoints.load_model("train", self.folder / MODEL)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Those of the log, which `plots.plot_curves` draws. Raises what reading the log does."""
        return read(self.folder / LOG)

    def __repr__(self) -> str:
        return f"Trained({str(self.folder)!r}, {self.step} steps)"


def train(
    model: Model,
    examples: Corpus,
    validation: Corpus | None,
    options: TrainingOptions,
    folder: str | os.PathLike,
    *,
    resume: bool = False,
    progress: bool = True,
    report: Callable[[dict], None] | None = None,
    comm: Any = None,
) -> Trained:
    """Train a model, in place, and return what the run has come to: the best `model`, read from the
    folder, the log's `entries`, where it ended. Of files `recipe_for` and `load_recipe` do it.

    Without `validation` examples the last weights count as the best. `resume` goes on from the
    folder's checkpoint, if there is one, and ends with the same bits as a run that was never
    stopped; model, examples and options have to be those of the run before, but for `patience`,
    `test_beam_size` and, with other than the cosine schedule, `steps`.

    progress: print on standard error what is trained, every entry of the log with the time that is
    left, and where the model is. report(entry) is called with every entry too.

    comm: a communicator of mpi4py, whose ranks all call this with the same arguments and share out
    the shards of each step; there are options.shards of them, at most. The weights after any step
    are those of one process, to the bit, and a run may go on with another number of ranks. The
    first rank writes the files, validates and reports; the others need not see the folder. What
    fails before the first step fails in all ranks; after that a rank that fails, or dies, ends them
    all, and the last checkpoint stands.

    A step whose loss or gradients are not finite, or whose squared gradients float32 cannot hold,
    changes nothing, and is reported with its examples. At Ctrl-C the step, and a validation that
    belongs to it, is finished and a checkpoint saved before KeyboardInterrupt is raised; a second
    Ctrl-C raises it at once.

    Raises TypeError where an argument is something else, ValueError where the examples do not fit
    the model, a checkpoint the run, or ranks one another, FileExistsError where the folder holds a
    run and resume is False, ImportError where "bleu" is the metric and sacrebleu missing, OSError
    where the folder cannot be written to.
    """
    with _runtime.freed_memory_kept():
        trainer = Trainer(
            model, examples, validation, options, folder, resume, report, comm, progress=progress
        )
        return Trained(**asdict(trainer.run()), folder=trainer.folder)


class Trainer:
    """One run: see `train`."""

    def __init__(
        self, model, examples, validation, options, folder, resume, report, comm, *, progress
    ):
        self.model = model
        self.examples = examples
        self.validation = validation
        self.options = options
        self.progress = Progress()
        self.telling = None
        self.ranks = Ranks(comm)
        with self.ranks.together():
            self._check(resume, report, progress)
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
            path = self.folder / CHECKPOINT
            self.checkpoint = Checkpoint(path, model, examples, options, self.optimizer)
        self.ranks.check_enough(options.shards)
        if self.ranks.size > 1:
            self.ranks.check_same(self._facts())
        with self.ranks.together():
            if self.ranks.is_first:
                self._prepare(resume)
                self.telling = Telling(options.steps) if progress else None
                told = [one for one in (self.telling, report) if one is not None]
                self.log = Log(self.folder / LOG, self.progress.step, told)
                if self.telling is not None:
                    self.telling.begin(model, examples, validation, self.progress.step)
        if self.ranks.of_first(self.progress.step):
            self.progress = self.ranks.of_first(self.progress)
            self.optimizer.steps = self.ranks.of_first(self.optimizer.steps)
            for array in self.checkpoint.arrays.values():
                self.ranks.copy_of_first(array)
        self._saved = time.monotonic()

    def _check(self, resume, report, progress):
        """Raise what `train` does for its arguments."""
        model, examples, validation = self.model, self.examples, self.validation
        _checks.as_kind("train", "model", model, TokenModel)
        if isinstance(examples, (str, os.PathLike)):
            raise TypeError(
                f"train: examples is {_checks.brief(examples)}, expected Examples, Texts or "
                "Labelled; `recipe_for` and `load_recipe` take files"
            )
        _checks.as_kind("train", "examples", examples, Examples, Texts, Labelled)
        if validation is not None:
            _checks.as_kind("train", "validation", validation, Examples, Texts, Labelled)
        _checks.as_kind("train", "options", self.options, TrainingOptions)
        _checks.as_flag("train", "resume", resume)
        _checks.as_flag("train", "progress", progress)
        check_function("train", "report", report)
        check_tokenizers("train", model)
        examples.check("train: examples", model)
        if validation is not None:
            validation.check("train: validation", model)
            check_validation(self.options.metric, model, validation)

    def _facts(self):
        """What has to be the same in all ranks, so that their bits are."""
        isa = _runtime.kernels.ISA_NAME
        contents = dict(self.checkpoint.contents)
        config = json.loads(contents.pop("config"))
        return {
            "the version": __version__,
            "the instruction set": isa if isa == UNFUSED else "one with fused multiply-add",
            **{f"the option {name}": value for name, value in asdict(self.options).items()},
            **{f"the config's {name}": value for name, value in config.items()},
            **{f"the {name}": value for name, value in contents.items()},
            "the weights to start from": digest([self.parameters.values.tobytes()]),
        }

    def _prepare(self, resume):
        """Make the folder, or go on with what is there."""
        for name in (CHECKPOINT, MODEL, LOG):
            if (self.folder / name).exists() and not resume:
                # Without a checkpoint, resuming would begin anew.
                advice = "go on with resume=True, or name" if name == CHECKPOINT else "name"
                raise FileExistsError(f"train: {self.folder / name} exists: {advice} a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder, self.folder / MODEL):
            for stale in folder.glob(f"{STAGED}*"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)
        if self.checkpoint.path.exists():
            self.progress = self.checkpoint.restore()

    def run(self) -> Progress:
        """All steps that are left."""
        with self.ranks.until_one_ends():
            with Interrupts() as interrupts, self.telling or nullcontext():
                self._take_steps(interrupts)
            self._use_weights()
            if self.ranks.is_first and not (self.folder / MODEL).is_dir():
                checkpoints.save(self.model, self.folder / MODEL)
        if self.telling is not None:
            self.telling.end(self.progress.step, self.folder / MODEL)
        return self.progress

    def _take_steps(self, interrupts):
        progress, pace = self.progress, Pace()
        batches = self._batches()
        while progress.step < self.options.steps and not self._has_enough():
            entry = pace.timed(self._step, [next(batches) for _ in range(self.options.accumulate)])
            if self.telling is not None:
                self.telling.stepped(entry)
            if "skipped" in entry:
                self._tell(entry)
                entry = {name: value for name, value in entry.items() if name != "skipped"}
            is_last = progress.step == self.options.steps
            validates = progress.step % self.options.validate_every == 0 or is_last
            if validates or pace.is_due():
                self._tell({**entry, **pace.summary(self.options.steps - progress.step)})
            if validates:
                # A last step between two validations is no part of a longer run.
                self._validate(counts=progress.step % self.options.validate_every == 0)
            is_old = time.monotonic() - self._saved > SECONDS_BETWEEN_CHECKPOINTS
            is_stopped = any(self.ranks.gathered(interrupts.came))
            if (validates or is_old or is_stopped) and self.ranks.is_first:
                self.checkpoint.save(progress)
                self._saved = time.monotonic()
            if is_stopped:
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
        step = Step(batches, options, progress.step)
        loss = self.ranks.add_gradients(step, self.model, self.parameters)
        rate = self.schedule(
            progress.step, peak=options.peak_rate, warmup=options.warmup, steps=options.steps
        )
        norm = self.optimizer.step(rate) if math.isfinite(loss) else self.optimizer.skip()
        entry = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": loss / step.tokens,
            "tokens": step.tokens,
            "learning_rate": rate,
            "gradient_norm": norm,
            "dropout": options.dropout,
            # Squared errors of scores have none.
            "label_smoothing": options.label_smoothing * (step.batch.targets.dtype.kind != "f"),
        }
        if not math.isfinite(norm):
            progress.skipped += 1
            entry["skipped"] = step.batch.numbers.tolist()
        return entry

    def _has_enough(self):
        return 0 < self.options.patience <= self.progress.worse

    def _validate(self, *, counts):
        """Log the figures of the validation examples; save the model if it is the best so far and
        the validation counts."""
        progress = self.progress
        if self.ranks.is_first:
            self._validate_here(counts)
        progress.best, progress.worse = self.ranks.of_first((progress.best, progress.worse))

    def _validate_here(self, counts):
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
            self._tell({"step": progress.step, "validation": figures})
            if not counts:
                return
            value = figures[metric] if metric != "loss" else -figures["loss"]
            better = math.isfinite(value) and (progress.best is None or value > progress.best)
            if better:
                progress.best = value
        progress.worse = 0 if better else progress.worse + 1
        if better:
            checkpoints.save(self.model, self.folder / MODEL)

    def _tell(self, entry):
        """Log and report an entry, in the first rank."""
        if self.ranks.is_first:
            self.log.write(entry)

    def _use_weights(self):
        self.model.load_state_dict(self.parameters.state_dict(self.optimizer.average))


def check_validation(metric: str, model: Model, validation: Corpus) -> None:
    """Raise ValueError or ImportError where validation cannot give that metric, or no finite loss:
    an empty source has the empty translation only."""
    if isinstance(validation, Labelled):
        head = getattr(model.config, "head", None)
        known = ("loss",) if is_score(head) else ("loss", "accuracy")
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
