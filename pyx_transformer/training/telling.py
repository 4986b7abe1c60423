"""What a run tells while it goes on: lines on standard error."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.training.corpus import Corpus


class Telling:
    """Prints what a run of so many steps is about, each entry of its log, and where it ends; that
    there is nowhere to print ends no run."""

    def __init__(self, steps: int):
        self.steps = steps

    def begin(self, model: Model, examples: Corpus, validation: Corpus | None, step: int) -> None:
        """What is trained on what, from a step on."""
        config: Any = model.config
        sizes = [getattr(config, f"{side}_vocab_size", None) for side in ("src", "tgt")]
        tokens = " and ".join(f"{size:,}" for size in dict.fromkeys(sizes) if size is not None)
        what = "" if validation is None else f", {len(validation):,} to validate with"
        self._print(
            f"{type(model).__name__} of {model.num_parameters:,} parameters, {tokens} tokens; "
            f"{len(examples):,} examples{what}; steps {step + 1:,} to {self.steps:,}"
        )

    def __call__(self, entry: dict[str, Any]) -> None:
        """An entry of the log."""
        step = f"step {entry['step']:,} of {self.steps:,}"
        for part in ("validation", "test"):
            if part in entry:
                figures = ", ".join(map(figure, *zip(*entry[part].items(), strict=True)))
                self._print(f"{step}  {part}: {figures}")
                return
        if "skipped" in entry:
            self._print(
                f"{step} skipped: loss {entry['loss']}, gradient norm {entry['gradient_norm']}; "
                f"examples {entry['skipped']}"
            )
            return
        self._print(
            f"{step}  loss {entry['loss']:.4f}  {entry['tokens_per_second']:,.0f} tokens/s  "
            f"{clock(entry['seconds_left'])} left"
        )

    def end(self, step: int, folder: Path) -> None:
        """Where the best model is."""
        self._print(f"{step:,} steps; the best model is in {folder}")

    def _print(self, line: str) -> None:
        with suppress(AttributeError, OSError, ValueError):  # there is none, it is full, or closed
            print(line, file=sys.stderr, flush=True)


def figure(name: str, value: Any) -> str:
    """One of a validation, or what says how it was made."""
    return f"{name} {value if isinstance(value, str) else format(value, '.4g')}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
