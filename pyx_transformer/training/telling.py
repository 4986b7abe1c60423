"""What a run tells while it goes on, on standard error: lines and, on a terminal, a bar."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyx_transformer.pipelines.progress import (
    SECONDS_BETWEEN_LINES,
    clock,
    is_terminal,
    new_bar,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.training.corpus import Corpus


class Telling:
    """Prints what a run of so many steps is about, how far it is, its validations and where it
    ends; that there is nowhere to print ends no run.

    Within `with` there is a bar with the rate and the time left on a terminal, where tqdm is
    installed; elsewhere a line a minute says so.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self._bar: Any = None
        self._begun = 0
        self._told = -math.inf

    def begin(self, model: Model, examples: Corpus, validation: Corpus | None, step: int) -> None:
        """What is trained on what, from a step on."""
        config: Any = model.config
        sizes = [getattr(config, f"{side}_vocab_size", None) for side in ("src", "tgt")]
        tokens = " and ".join(f"{size:,}" for size in dict.fromkeys(sizes) if size is not None)
        what = "" if validation is None else f", {len(validation):,} to validate with"
        left = f"steps {step + 1:,} to {self.steps:,}" if step < self.steps else "no step is left"
        self._print(
            f"{type(model).__name__} of {model.num_parameters:,} parameters, {tokens} tokens; "
            f"{len(examples):,} examples{what}; {left}"
        )
        self._begun = step

    def __enter__(self) -> Telling:
        if is_terminal():
            self._bar = new_bar(self.steps, "step", begun=self._begun)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None

    def stepped(self, entry: dict[str, Any]) -> None:
        """A step that was taken, of which the log may say nothing."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {entry['loss']:.3f}", refresh=False)
            with suppress(OSError, ValueError):
                self._bar.update(1)

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
        now, is_last = time.monotonic(), entry["step"] == self.steps
        if is_last or (self._bar is None and now - self._told >= SECONDS_BETWEEN_LINES):
            self._told = now
            self._print(
                f"{step}  loss {entry['loss']:.4f}  {entry['tokens_per_second']:,.0f} tokens/s  "
                f"{clock(entry['seconds_left'])} left"
            )

    def end(self, step: int, folder: Path) -> None:
        """Where the best model is."""
        self._print(f"{step:,} steps; the best model is in {folder}")

    def _print(self, line: str) -> None:
        with suppress(AttributeError, OSError, ValueError):  # there is none, it is full, or closed
            if self._bar is None:
                print(line, file=sys.stderr, flush=True)
            else:
                self._bar.write(line, file=sys.stderr)
                sys.stderr.flush()


def figure(name: str, value: Any) -> str:
    """One of a validation, or what says how it was made."""
    if isinstance(value, str):
        return f"{name} {value}"
    return f"{name} {value:.2f}" if name == "bleu" else f"{name} {value:.4g}"
