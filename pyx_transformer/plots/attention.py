"""Attention weights as pictures: one for each layer and head."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyx_transformer._checks import as_float32, as_integers, check_shape
from pyx_transformer._kinds import as_string, as_texts
from pyx_transformer.plots.figures import DOTS_PER_INCH, as_picture, drawn, keeps_text
from pyx_transformer.plots.fonts import fonts_for, of_missing
from pyx_transformer.plots.labels import label, seen, width, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_DOTS = 60_000_000  # of a picture, at 4 bytes each
LONGEST_SIDE = (1 << 16) - 1  # that matplotlib can draw
# In inches. A label's line fits into a cell, and a title above one of the narrowest pictures.
CELL = 0.18
NARROWEST, LOWEST = 1.15, 0.75
BETWEEN, ABOVE = 0.25, 0.32
BESIDE = 0.7  # the colour bar with its labels
AROUND = 3.0  # for labels, names and the colour bar, at most
LABEL_SIZE, TITLE_SIZE = 8, 10  # in points, 72 to the inch
COLUMN = 0.6 / 72  # of a point of size, the width of a letter in inches


def plot_attention(
    weights: NDArray | Sequence[NDArray],
    source: Sequence[str],
    target: Sequence[str],
    path: str | os.PathLike,
    *,
    title: str | None = None,
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    axis_names: tuple[str, str] = ("source", "target"),
) -> None:
    """Write a picture of attention weights, a panel for each layer and head, by the name's ending
    as PNG, SVG or PDF.

    weights: (layers, H, T, S) as a hypothesis has them, one layer (H, T, S), one head (T, S), or
    the list of each layer's (1, H, T, S) that a model or a stack returns for one sequence.
    source: the S tokens, target: the T tokens that columns and rows are labelled with, as they
    are; of what cannot be seen in them the code is shown. axis_names: what the two are called.
    title: what stands above, such as the sentence; default: source and target, a line for each.

    layers, heads: which to draw, as indices from 0 in rising order; default: all. Where weights
    holds as many as are listed, it holds just these: `weights[[2]][:, [0, 3]]` is drawn right with
    layers=[2], heads=[0, 3]. The panels' titles count from 1: layer 3, head 1 and head 4. They
    leave out the layer of weights (H, T, S) and (T, S), and the head of (T, S), unless it is told.

    A UserWarning names characters that no font here has, and what to do.

    Raises TypeError where tokens are no list of strings, ValueError where there are more or fewer
    than weights has, or more than a picture has room for, or the weights lack a layer or head, and
    what `require` does.
    """
    this = "plot_attention"
    path = as_picture(path)
    weights, panels = _as_panels(this, weights, layers, heads)
    rows, columns = as_texts(this, "target", target), as_texts(this, "source", source)
    names = as_texts(this, "axis_names", axis_names)
    if len(names) != 2:
        raise ValueError(f"{this}: axis_names has {len(names)} texts, expected 2")
    sides = {"target": ("T", rows), "source": ("S", columns)}
    for size, (name, (axis, tokens)) in zip(weights.shape[2:], sides.items(), strict=True):
        if len(tokens) != size:
            raise ValueError(
                f"{this}: {name} has {len(tokens)} tokens, expected {axis} = {size} because "
                f"weights is {weights.shape}"
            )
    title = _sentence(columns, rows) if title is None else as_string(this, "title", title)
    rows, columns = ([label(token) for token in tokens] for tokens in (rows, columns))
    grid = _Grid.of(weights.shape)
    _check_size(this, weights.shape, grid)
    room = int(max(grid.width + BESIDE, AROUND) / (TITLE_SIZE * COLUMN))
    lines = [wrapped(seen(line), room) for line in title.splitlines()]
    fonts, missing = fonts_for([*rows, *columns, *names, *lines])
    with drawn(path, fonts, figsize=(grid.width, grid.height)) as figure:
        _draw(figure, grid, weights, panels, rows, columns, names)
        # Above the panels' own titles.
        place = 0, 1 + ABOVE / grid.height
        figure.text(*place, "\n".join(lines), fontsize=TITLE_SIZE, va="bottom")
    if missing and not keeps_text(path):
        warnings.warn(f"{path}: {of_missing(missing)}", stacklevel=2)


class _Grid(NamedTuple):
    """The sizes of the panels, and of all of them together, in inches."""

    panel_width: float
    panel_height: float
    width: float
    height: float

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Grid:
        layers, heads, target, source = shape
        across, down = max(NARROWEST, CELL * source), max(LOWEST, CELL * target)
        return cls(
            across, down, heads * (across + BETWEEN) - BETWEEN, layers * (down + ABOVE) - ABOVE
        )


def _as_panels(
    this: str, weights: Any, layers: Any, heads: Any
) -> tuple[NDArray[np.float32], list[list[str]]]:
    """Weights as (layers, H, T, S), those to draw, and the title of each layer and head."""
    given = as_float32(this, "weights", weights)
    if given.ndim == 5 and given.shape[1] != 1:
        raise ValueError(
            f"{this}: weights has shape {given.shape}, expected (layers, 1, H, T, S): of a batch "
            "one sequence, as [layer[:1] for layer in weights]"
        )
    if not 2 <= given.ndim <= 5:
        check_shape(this, "weights", given.shape, ("layers", "H", "T", "S"))
    if not given.size:
        raise ValueError(f"{this}: weights has shape {given.shape}, expected something to draw")
    whole = given.reshape(-1, *given.shape[-3:]) if given.ndim > 2 else given[None, None]
    names = []
    for axis, (name, asked) in enumerate({"layers": layers, "heads": heads}.items()):
        count = whole.shape[axis]
        numbers = list(range(count))
        if asked is not None:
            numbers = _indices(this, name, asked, count, given.shape)
            if len(numbers) < count:
                whole = whole.take(numbers, axis)
        is_known = asked is not None or given.ndim > 3 - axis
        names.append([f"{name[:-1]} {number + 1}" if is_known else "" for number in numbers])
    by_layer, by_head = names
    return whole, [[", ".join(filter(None, [a, b])) for b in by_head] for a in by_layer]


def _indices(this: str, name: str, asked: Any, count: int, shape: tuple[int, ...]) -> list[int]:
    """The indices of layers or heads asked for, of `count` that weights holds."""
    numbers = np.atleast_1d(as_integers(this, name, asked, 0, np.iinfo(np.int64).max))
    check_shape(this, name, numbers.shape, ("n",))
    if not 0 < len(numbers) <= count:
        raise ValueError(
            f"{this}: {name} has {len(numbers)} entries, expected 1 to {count} because weights is "
            f"{shape}"
        )
    if (np.diff(numbers) <= 0).any():
        raise ValueError(f"{this}: {name} is {numbers.tolist()}, expected them in rising order")
    if len(numbers) < count:
        as_integers(this, name, numbers, 0, count - 1, because=("weights", shape))
    return numbers.tolist()


def _sentence(source: list[str], target: list[str]) -> str:
    """What tokens say, a line for each side: pieces put together, words with spaces between."""
    texts = [
        "".join(tokens).replace("▁", " ").strip() if "▁" in "".join(tokens) else " ".join(tokens)
        for tokens in ([source] if source == target else [source, target])
    ]
    return "\n".join(texts)


def _check_size(this: str, shape: tuple[int, ...], grid: _Grid) -> None:
    """Raise ValueError where a picture of weights of that shape would be too large."""
    across, down = ((side + AROUND) * DOTS_PER_INCH for side in (grid.width, grid.height))
    if across * down > MOST_DOTS or max(across, down) > LONGEST_SIDE:
        layers, heads, target, source = shape
        raise ValueError(
            f"{this}: a picture of {layers} layers, {heads} heads, {target} target and {source} "
            f"source tokens would have {across:,.0f} x {down:,.0f} dots, expected at most "
            f"{MOST_DOTS:,} in all and {LONGEST_SIDE:,} a side: draw a shorter sentence, or fewer "
            "layers or heads"
        )


def _draw(
    figure: Figure,
    grid: _Grid,
    weights: NDArray[np.float32],
    panels: list[list[str]],
    rows: list[str],
    columns: list[str],
    names: list[str],
) -> None:
    """All panels, and the colours' meaning beside them; labels stand outside of the figure."""
    layers, heads = weights.shape[:2]
    axes = figure.subplots(
        layers,
        heads,
        squeeze=False,
        gridspec_kw={
            "left": 0,
            "right": 1,
            "bottom": 0,
            "top": 1,
            "wspace": BETWEEN / grid.panel_width,
            "hspace": ABOVE / grid.panel_height,
        },
    )
    fits = max(map(width, columns)) * LABEL_SIZE * COLUMN < grid.panel_width / len(columns)
    for layer in range(layers):
        for head in range(heads):
            axis = axes[layer, head]
            image = axis.imshow(weights[layer, head], vmin=0, vmax=1, cmap="Blues", aspect="auto")
            axis.set_title(panels[layer][head], fontsize=LABEL_SIZE, pad=3)
            axis.tick_params(length=2, labelsize=LABEL_SIZE)
            axis.set_xticks(range(len(columns)), columns, rotation=0 if fits else 90)
            axis.set_yticks(range(len(rows)), rows)
            axis.tick_params(labelbottom=layer == layers - 1, labelleft=head == 0)
    for axis in axes[-1]:
        axis.set_xlabel(names[0], fontsize=LABEL_SIZE)
    for axis in axes[:, 0]:
        axis.set_ylabel(names[1], fontsize=LABEL_SIZE)
    long = min(2.0, grid.height)
    place = 1 + 0.15 / grid.width, 1 - long / grid.height, 0.12 / grid.width, long / grid.height
    bar: Axes = figure.add_axes(place)
    figure.colorbar(image, cax=bar, ticks=(0, 0.5, 1))
    bar.set_ylabel("weight", fontsize=LABEL_SIZE)
    bar.tick_params(length=2, labelsize=LABEL_SIZE)
