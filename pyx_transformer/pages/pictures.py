"""Numbers as pictures that need no script: PNG, whose colours let the page through."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from pyx_transformer.plots.labels import width

if TYPE_CHECKING:
    from numpy.typing import NDArray

# As in page.css, and seen well by day and by night.
POSITIVE, NEGATIVE = (62, 121, 214), (219, 110, 52)
CELL = 13  # the side of a number, in the units of an SVG picture
LETTER = 6.2  # how wide a letter of its labels is; those of Chinese are twice as wide


def png(values: NDArray[np.floating], largest: float = 1.0) -> str:
    """The address of a picture of values (T, S): a dot of each, the less transparent the nearer its
    size comes to `largest`, and of one colour above 0 and another below."""
    rows, columns = values.shape
    dots = np.empty((rows, columns, 4), np.uint8)
    dots[..., :3] = np.where(values[..., None] < 0, NEGATIVE, POSITIVE)
    dots[..., 3] = np.rint(np.clip(np.abs(values) / (largest or 1.0), 0, 1) * 255)
    lines = np.zeros((rows, 1 + 4 * columns), np.uint8)  # each begins with a 0: it has no filter
    lines[:, 1:] = dots.reshape(rows, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in parts
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


class Labelled:
    """Pictures (T, S) of the same words: the words are in the first picture, and the others show
    those. identity: a name that nothing else in the page has."""

    def __init__(self, identity: str, rows: Sequence[str], columns: Sequence[str]):
        self._identity = identity
        self._shape = len(rows), len(columns)
        self._left, self._top = (10 + LETTER * max(map(width, side)) for side in (rows, columns))
        self._labels = "".join(
            [self._label(-6, (i + 0.72) * CELL, "end", row) for i, row in enumerate(rows)]
            + [
                self._label(6, (i + 0.72) * CELL, "start", column, ' transform="rotate(-90)"')
                for i, column in enumerate(columns)
            ]
        )

    @staticmethod
    def _label(x: float, y: float, anchor: str, text: str, turned: str = "") -> str:
        return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'

    def svg(self, values: NDArray[np.floating], name: str) -> str:
        """The picture of values (T, S)."""
        down, across = (CELL * count for count in self._shape)
        labels = f'<use href="#{self._identity}"/>'
        if self._labels:
            labels, self._labels = f'<g id="{self._identity}">{self._labels}</g>', ""
        box = (-self._left, -self._top, self._left + across + 2, self._top + down + 2)
        return (
            f'<svg class="picture" role="img" aria-label="{escape(name)}" '
            f'viewBox="{" ".join(f"{side:g}" for side in box)}" width="{box[2]:g}">{labels}'
            f'<image width="{across}" height="{down}" preserveAspectRatio="none" '
            f'href="{png(values)}"/><rect width="{across}" height="{down}"/></svg>'
        )
