"""Attention weights to look at: a page in which words show what they attend to."""

from __future__ import annotations

import base64
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import plots
from pyx_transformer._checks import as_choice, as_float32, as_kind
from pyx_transformer._files import as_path, check_target, replace_file
from pyx_transformer._kinds import as_list, as_string, as_texts
from pyx_transformer._reprs import called, counted, described, shown
from pyx_transformer.pages.document import data, document, said
from pyx_transformer.pages.pictures import Labelled
from pyx_transformer.plots.figures import FORMATS
from pyx_transformer.plots.labels import label

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = {
    "encoder": {"en": "Encoder self-attention", "zh": "编码器自注意力"},
    "decoder": {"en": "Decoder self-attention", "zh": "解码器自注意力"},
    "cross": {"en": "Cross-attention", "zh": "交叉注意力"},
}
WORDS = {
    "kind": {"en": "Attention", "zh": "注意力"},
    "layer": {"en": "Layer", "zh": "层"},
    "head": {"en": "Head", "zh": "头"},
    "live": {
        "en": "Point at a word, or go through them with the arrow keys, to see how much it takes "
        "from each of the others. Choose a layer and a head.",
        "zh": "指向一个词，或者用方向键逐词移动，可以看到它从其他各词那里各取多少。"
        "还可以选择层和头。",
    },
    "rows": {"en": "This word …", "zh": "这个词……"},
    "columns": {"en": "… attends to", "zh": "……关注"},
    "numbers": {"en": "All numbers of this head", "zh": "这个头的全部数值"},
    "static": {
        "en": "Each row shows what its word attends to: the stronger the colour, the more. The "
        "numbers, and words to point at, are here where scripts run.",
        "zh": "每一行表示该词关注哪些词，颜色越深，关注越多。运行脚本时，这里可以查看数值，"
        "也可以指向某个词。",
    },
}
# Of all maps: 22 MB of the page, which are as exact as they are.
MOST_NUMBERS = 4_000_000
HEIGHT = 720  # of a page in a notebook, in dots


@described
@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap:
    """What attends to what: weights (layers, H, T, S) float32 with the words that they are of.

    name: "encoder", "decoder" or "cross". rows: the T tokens that attend, columns: the S tokens
    attended to. Raises TypeError or ValueError, naming the argument, also where there are more or
    fewer labels than weights, and where weights are not finite or there are none.
    """

    name: str
    weights: NDArray[np.float32]
    rows: list[str]
    columns: list[str]

    def __post_init__(self):
        this = "AttentionMap"
        as_choice(this, "name", self.name, tuple(KINDS))
        weights = as_float32(this, "weights", self.weights, ("layers", "H", "T", "S"))
        for name, count in zip(("rows", "columns"), weights.shape[2:], strict=True):
            labels = as_texts(this, name, getattr(self, name))
            if len(labels) != count:
                raise ValueError(
                    f"{this}: {name} has {len(labels)} labels, expected {count} because weights is "
                    f"{weights.shape}"
                )
            object.__setattr__(self, name, labels)
        if not weights.size:
            raise ValueError(
                f"{this}: weights has shape {weights.shape}, expected something to look at"
            )
        if not np.isfinite(weights).all():
            raise ValueError(f"{this}: weights has values that are not finite")
        object.__setattr__(self, "weights", weights)

    def __repr__(self) -> str:
        layers, heads, rows, columns = self.weights.shape
        sizes = [counted(layers, "layer"), counted(heads, "head"), f"{rows} x {columns} words"]
        return called(self, [repr(self.name), *sizes])


class AttentionView:
    """Attention weights of a text, to look at: in a notebook as it is, or in a file."""

    def __init__(self, maps: Iterable[AttentionMap], title: str):
        """maps: at most one of each name. title: what the page is called, such as the text.

        Raises TypeError or ValueError, naming the argument, also where all maps together are too
        large for a page.
        """
        this = "AttentionView"
        self.maps = tuple(as_list(this, "maps", maps, "maps"))
        for i, one in enumerate(self.maps):
            as_kind(this, f"maps[{i}]", one, AttentionMap)
        names = [one.name for one in self.maps]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{this}: maps are of {names}, expected at least one, and one of each")
        check_count(this, (one.weights.shape for one in self.maps))
        self.title = as_string(this, "title", title)

    def __repr__(self) -> str:
        return f"AttentionView({', '.join(one.name for one in self.maps)}: {shown(self.title)})"

    def __getitem__(self, name: str) -> AttentionMap:
        """The map of a name. Raises KeyError where there is none."""
        for one in self.maps:
            if one.name == name:
                return one
        raise KeyError(f"{name!r}, expected one of {[one.name for one in self.maps]}")

    def __iter__(self) -> Iterator[str]:
        """The names of the maps."""
        return (one.name for one in self.maps)

    def html(self) -> str:
        """The whole page."""
        title = escape(self.title)
        body = f"<main><h1><bdi>{title}</bdi></h1>\n{self.fragment(('en',))}</main>"
        return document(self.title, body, ("attention",), ("attention",))

    def fragment(self, languages: Sequence[str], identity: str = "attention") -> str:
        """The view as a part of a page in these languages, which has the styles and the script
        `attention`, and no other view of this identity."""
        texts = {name: said(words, languages) for name, words in WORDS.items()}
        kinds = "".join(
            f'<label><input type="radio" name="{identity}-kind" value="{i}"'
            f"{' checked' if i == len(self.maps) - 1 else ''}>"
            f"<span>{said(KINDS[one.name], languages)}</span></label>"
            for i, one in enumerate(self.maps)
        )
        return f"""\
<section class="attention" id="{identity}">
<div class="live" hidden>
<p class="caption">{texts["live"]}</p>
<div class="choices">
<fieldset class="choice kinds"><legend>{texts["kind"]}</legend>{kinds}</fieldset>
<fieldset class="choice layers"><legend>{texts["layer"]}</legend></fieldset>
</div>
<fieldset class="choice heads"><legend>{texts["head"]}</legend></fieldset>
<div class="card">
<p class="caption">{texts["rows"]}</p>
<div class="words rows"></div>
<p class="caption">{texts["columns"]}</p>
<div class="words columns"></div>
<p class="strongest" aria-live="polite"></p>
</div>
<h3>{texts["numbers"]}</h3>
<div class="scroll" tabindex="0"></div>
</div>
<div class="static">
<p class="caption">{texts["static"]}</p>
{"".join(self._static(identity, languages))}</div>
{data([as_data(one) for one in self.maps])}
</section>
"""

    def _static(self, identity: str, languages: Sequence[str]) -> Iterator[str]:
        """Pictures of every layer and head, 8 bits for each weight."""
        for one in self.maps:
            kind = said(KINDS[one.name], languages)
            labels = [[label(token) for token in side] for side in (one.rows, one.columns)]
            pictures = Labelled(f"{identity}-{one.name}", *labels)
            for layer, heads in enumerate(one.weights, 1):
                place = f"{said(WORDS['layer'], languages)} {layer}"
                yield f'<h3>{kind}, {place}</h3>\n<div class="multiples">\n'
                for head, weights in enumerate(heads, 1):
                    picture = pictures.svg(weights, f"{one.name}, layer {layer}, head {head}")
                    caption = f"{said(WORDS['head'], languages)} {head}"
                    yield f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n"
                yield "</div>\n"

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html())}" style="width: 100%; height: {HEIGHT}px; '
            f'border: 0" title="{escape(self.title)}"></iframe>'
        )

    def save(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        layers: int | Sequence[int] | None = None,
        heads: int | Sequence[int] | None = None,
    ) -> None:
        """Write the page, or a picture of one map where path ends in .png, .svg or .pdf.

        Of pictures only: name, that of the map, unless given the last one, which of a translation
        is the cross-attention; layers and heads, those to draw, from 0 on, all unless given. Raises
        ValueError for another ending and a map that there is not, OSError where no file can be
        written, and for pictures what `plots.plot_attention` does.
        """
        this = "AttentionView.save"
        path = check_path(this, path)
        if path.suffix.lower() == ".html":
            for argument, value in {"name": name, "layers": layers, "heads": heads}.items():
                if value is not None:
                    raise ValueError(
                        f"{this}: {argument} is {value!r}, expected None because a page has all"
                    )
            replace_file(path, self.html().encode())
            return
        names = tuple(one.name for one in self.maps)
        one = self[as_choice(this, "name", names[-1] if name is None else name, names)]
        axes = ("source", "target") if one.name == "cross" else ("attended to", "attends")
        plots.plot_attention(
            one.weights,
            one.columns,
            one.rows,
            path,
            title=self.title,
            layers=layers,
            heads=heads,
            axis_names=axes,
        )


def check_path(function: str, path: str | os.PathLike[str]) -> Path:
    """Where a view can be written. Raises ValueError for an ending that is none of a page or a
    picture, and OSError or ImportError, before there is anything to write."""
    found = as_path(function, "path", path)
    if found.suffix.lower() in FORMATS:
        plots.require(found)
    elif found.suffix.lower() != ".html":
        raise ValueError(
            f"{function}: path is {os.fspath(path)!r}, expected a name that ends in .html, or in "
            f"{', '.join(FORMATS)} for a picture"
        )
    check_target(found, f"{function}: path")
    return found


def check_count(function: str, shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise ValueError where maps of these shapes (layers, H, T, S) make no page."""
    shapes = list(shapes)
    total = sum(layers * heads * rows * columns for layers, heads, rows, columns in shapes)
    if total > MOST_NUMBERS:
        layers, heads, rows, columns = max(shapes, key=lambda shape: shape[2] * shape[3])
        raise ValueError(
            f"{function}: {total:,} weights, as of {layers} layers, {heads} heads, {rows} x "
            f"{columns} tokens, expected at most {MOST_NUMBERS:,} in a page: a shorter text"
        )


def as_data(one: AttentionMap) -> dict[str, Any]:
    """A map as attention.js reads it: its numbers are the bytes of float32, in base64."""
    layers, heads, _, _ = one.weights.shape
    return {
        "name": one.name,
        "layers": layers,
        "heads": heads,
        "weights": base64.b64encode(one.weights.astype("<f4").tobytes()).decode(),
        "rows": [label(token) for token in one.rows],
        "columns": [label(token) for token in one.columns],
        "directions": [direction(one.rows), direction(one.columns)],
    }


def direction(tokens: Iterable[str]) -> str:
    """Which way words run: "rtl" where most letters are of Hebrew, Arabic and the like."""
    kinds = [unicodedata.bidirectional(letter) for token in tokens for letter in token]
    return "rtl" if kinds.count("R") + kinds.count("AL") > kinds.count("L") else "ltr"
