"""What a run needs to go on to the same bits, as a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.numpy

from pyx_transformer import _checks
from pyx_transformer._fields import as_object
from pyx_transformer._files import check_file, replace_files
from pyx_transformer._keys import shortened
from pyx_transformer._reprs import described
from pyx_transformer.checkpoints.native import as_config_text
from pyx_transformer.training.options import MOST, TrainingOptions

if TYPE_CHECKING:
    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.parameters import Floats
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.training.corpus import Corpus
    from pyx_transformer.training.optimizer import AdamW


@described
@dataclass(repr=False)
class Progress:
    """Where a run stands: all of its state but arrays.

    step, epoch, batch: how many are done, batches of this epoch. best: the best figure of a
    validation, and worse: validations since. skipped: steps whose gradients could not be taken.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    worse: int = 0
    skipped: int = 0

    def __post_init__(self):
        for field in fields(Progress):
            value = getattr(self, field.name)
            if field.type == "int":
                _checks.as_integer("Progress", field.name, value, 0, MOST)
            elif value is not None:
                _checks.as_number("Progress", field.name, value)


class Checkpoint:
    """The file, and what it is of: a run's model, examples, options and the optimizer's state."""

    def __init__(
        self, path: Path, model: Model, examples: Corpus, options: TrainingOptions, optimizer: AdamW
    ):
        self.path = path
        self.model = model
        self.examples = examples
        self.options = options
        self.optimizer = optimizer

    @property
    def arrays(self) -> dict[str, Floats]:
        """What changes from step to step, weights first."""
        optimizer = self.optimizer
        arrays = {
            "values": optimizer.parameters.values,
            "means": optimizer.means,
            "squares": optimizer.squares,
        }
        return arrays if optimizer.average is None else {**arrays, "average": optimizer.average}

    @cached_property
    def contents(self) -> dict[str, str]:
        """What has to be the same in a run that goes on, but for options: the config, and digests
        of the rest."""
        model = self.model
        tokenizers = [getattr(model, name, None) for name in ("src_tokenizer", "tgt_tokenizer")]
        return {
            "config": as_config_text(model),
            "vocabularies": digest(files_of(tokenizer) for tokenizer in tokenizers),
            "examples": digest(self.examples.contents()),
        }

    def save(self, progress: Progress) -> None:
        """Write it, whole or not at all."""
        about = {
            "progress": json.dumps(asdict(progress)),
            "options": json.dumps(asdict(self.options)),
            "updates": str(self.optimizer.steps),
            **self.contents,
        }
        content = safetensors.numpy.save(self.arrays, about)
        replace_files(self.path.parent, {self.path.name: content})

    def restore(self) -> Progress:
        """Take over what the file has. Raises ValueError where it is none, or of another run."""
        path = self.path
        check_file(path, who="train: ")
        try:
            with safetensors.safe_open(path, "np") as file:
                about = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            # What older runs do not tell is as it is by default.
            options = {
                "bleu_tokenizer": "auto",
                "shards": TrainingOptions.shards,
                **as_object("options", about["options"]),
            }
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
        for name, content in self.contents.items():
            if about.get(name) != content:
                keys = differing_keys(about.get(name), content) if name == "config" else ""
                raise ValueError(
                    f"train: {path} is of another run: its {name} differ from these{keys}"
                )
        for name, place in self.arrays.items():
            array = arrays.get(name)
            if array is None:
                raise ValueError(f"train: {path} has no {name}")
            if array.dtype != place.dtype or array.shape != place.shape:
                raise ValueError(
                    f"train: {name} in {path} is {_checks.brief(array)}, expected "
                    f"{_checks.brief(place)} because of the model"
                )
            place[:] = array
        self.optimizer.steps = updates
        return progress


def differing_keys(held: str | None, now: str) -> str:
    """The fields in which two configs differ, as the end of a sentence; "" where one is none."""
    try:
        before, after = as_object("config", held or ""), as_object("config", now)
    except ValueError:
        return ""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return f" in {', '.join(keys)}"


def files_of(tokenizer: Tokenizer | None) -> bytes | None:
    """All that is saved of a tokenizer."""
    return None if tokenizer is None else b"".join(tokenizer.files().values())


def digest(parts: Iterable[bytes | None]) -> str:
    """SHA-256 of all parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(b"-" if part is None else part)
    return total.hexdigest()
