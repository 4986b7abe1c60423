"""Arrays as coloured grids with their numbers, and as pictures that tell the number pointed at."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.pages.pictures import png
from pyx_transformer.pages.typesetting import typeset

if TYPE_CHECKING:
    from numpy.typing import NDArray


def grid(
    name: str, array: NDArray[np.floating], rows: Sequence[str] = (), columns: Sequence[str] = ()
) -> str:
    """An array (T, S) with its name and its shape: numbers to 4 decimals, exact ones for those who
    point at them. What shares something out, rows that add up to 1, is coloured by its values, all
    else by their part of the largest one."""
    is_shared_out = bool((array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=1e-4))
    largest = 1.0 if is_shared_out else float(np.abs(array).max())
    lines = []
    if columns:
        corner = "<td></td>" if rows else ""
        heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in columns)
        lines.append(f"<tr>{corner}{heads}</tr>\n")
    for label, values in zip_longest(rows, array):
        head = f'<th scope="row">{escape(label)}</th>' if rows else ""
        cells = "".join(cell(value, largest) for value in values)
        lines.append(f"<tr>{head}{cells}</tr>\n")
    shape = " × ".join(map(str, array.shape))
    return (
        f'<figure class="grid" data-name="{escape(name)}"><figcaption>{typeset(name)} '
        f"<small>{shape}</small></figcaption>"
        f'<div class="scroll"><table>{"".join(lines)}</table></div></figure>\n'
    )


def cell(value: np.floating, largest: float) -> str:
    """A number of a grid."""
    share = abs(float(value)) / (largest or 1.0)
    kind = ' class="below"' if value < 0 else ""
    shown = f"{float(value):.4f}".replace("-0.0000", "0.0000").replace("-", "−")
    return f'<td{kind} style="--weight:{share:.3f}" title="{value!s}">{shown}</td>'


def picture(array: NDArray[np.floating], rows: str, columns: str) -> str:
    """An array (T, S) with too many numbers to print, whose axes have these names (HTML)."""
    height, width = array.shape
    numbers = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return (
        f'<figure class="scan" data-columns="{width}" data-numbers="{numbers}">'
        f'<div class="axis">{columns} 0 … {width - 1} →</div>'
        f'<div class="axis down">{rows} 0 … {height - 1} →</div>'
        f'<div class="field"><img src="{png(array, float(np.abs(array).max()))}" alt=""></div>'
        '<output class="axis" hidden></output></figure>\n'
    )
