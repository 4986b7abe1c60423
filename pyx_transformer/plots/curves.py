"""The curves of a training run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import as_kind, brief
from pyx_transformer._files import as_path, check_file
from pyx_transformer._kinds import as_list
from pyx_transformer._run_log import LOG, read
from pyx_transformer.plots.figures import as_picture, drawn
from pyx_transformer.plots.fonts import FIRST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Curve = list[tuple[int, float]]  # steps and values

FEW = 40  # points of a curve that are drawn as such
PARTS = ("training", "validation", "test")


def plot_curves(entries: Iterable[dict] | str | os.PathLike | Any, path: str | os.PathLike) -> None:
    """Write a picture of a run's losses, of the other figures of its validations and test, and of
    the learning rate, by step; by the name's ending as PNG, SVG or PDF.

    entries: those of a log, what has them as its `entries`, or the path of a log or of the folder
    that a run has written. Where the training loss is with dropout or of smoothed labels, a note
    says so.

    Raises TypeError where entries is nothing of these, ValueError where it holds nothing to draw,
    what `require` does, and what reading the log does.
    """
    this = "plot_curves"
    path = as_picture(path)
    found = _as_entries(this, entries)
    curves = {name: parts for name, parts in _curves(found).items() if any(parts.values())}
    if not curves:
        raise ValueError(
            f"{this}: entries is {brief(entries)}, expected entries with a loss or with figures of "
            "a validation"
        )
    heights = [2 if name == "loss" else 1 for name in curves]
    size = 6.4, 0.6 + 1.3 * sum(heights)
    with drawn(path, [FIRST], figsize=size, layout="constrained") as figure:
        axes = figure.subplots(len(curves), sharex=True, squeeze=False, height_ratios=heights)
        for axis, (name, parts) in zip(axes[:, 0], curves.items(), strict=True):
            _draw(axis, name, parts)
        axes[-1, 0].set_xlabel("step")
        axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
        if note := _note(found):
            figure.supxlabel(note, fontsize=7, color="0.35", x=0.01, ha="left")


def _as_entries(this: str, entries: Any) -> list[dict[str, Any]]:
    """The entries that are meant: see `plot_curves`."""
    if isinstance(entries, (str, os.PathLike)):
        log = as_path(this, "entries", entries)
        log = log / LOG if log.is_dir() else log
        check_file(log, who=f"{this}: ")
        return read(log, who=f"{this}: ")
    found = as_list(this, "entries", getattr(entries, "entries", entries), "entries of a log")
    for i, entry in enumerate(found):
        as_kind(this, f"entries[{i}]", entry, dict)
        if not isinstance(entry.get("step"), int):
            raise ValueError(f"{this}: entries[{i}] is {brief(entry)}, expected one with a step")
    return found


def _curves(entries: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """For the loss, each other figure and the learning rate, in the order of a picture: the steps
    and values of the training, of the validations and of the test."""
    curves: dict[str, dict[str, Curve]] = {"loss": {part: [] for part in PARTS}}
    rates: dict[str, Curve] = {"training": []}

    def add(curve: Curve, entry: dict, value: object) -> None:
        if value is None:  # that of a number that was not finite
            curve.append((entry["step"], math.nan))
        elif isinstance(value, (int, float)):
            curve.append((entry["step"], value))

    for entry in entries:
        if "loss" in entry and "skipped" not in entry:
            add(curves["loss"]["training"], entry, entry["loss"])
        if "learning_rate" in entry:
            add(rates["training"], entry, entry["learning_rate"])
        for part in PARTS[1:]:
            for name, value in entry.get(part, {}).items():
                add(curves.setdefault(name, {part: [] for part in PARTS})[part], entry, value)
    others = sorted(name for name in curves if name != "loss")
    return {name: curves[name] for name in ("loss", *others)} | {"learning_rate": rates}


def _draw(axis: Axes, name: str, parts: dict[str, Curve]) -> None:
    """The curves of one figure, of which few points are drawn as points."""
    colours = dict(zip(PARTS, ("C0", "C1", "C2"), strict=True))
    for part, points in parts.items():
        if points:
            steps, values = zip(*points, strict=True)
            marker, line = "o" if len(points) <= FEW else "", "-" if part != "test" else ""
            style = {"color": colours[part], "marker": marker, "linestyle": line, "markersize": 3}
            axis.plot(steps, values, label=part, **style)
    axis.set_ylabel(name.replace("_", " "))
    axis.grid(color="0.9")
    if name == "loss":
        axis.legend(fontsize=8)


def _note(entries: list[dict[str, Any]]) -> str:
    """Why the training loss is no validation loss, where the log says how it was made."""
    told = next((entry for entry in reversed(entries) if "loss" in entry), entries[-1])
    causes = [
        f"{name.replace('_', ' ')} ({told[name]:g})"
        for name in ("dropout", "label_smoothing")
        if told.get(name)
    ]
    if not causes:
        return ""
    return (
        f"The training loss is with {' and '.join(causes)}, which raise{'s' * (len(causes) == 1)} "
        "it; validation is without."
    )
