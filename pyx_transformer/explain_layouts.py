"""How the parts of `explain` are laid out: as text for a terminal, or as a page to look at.

Both are told the same by `explain.tell`. An array is given as (name, (T, S)[, labels of its rows[,
labels of its columns]]).
"""

from __future__ import annotations

from html import escape
from itertools import zip_longest
from textwrap import indent
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyx_transformer.pages.charts import chart, table
from pyx_transformer.pages.document import document, said, switch
from pyx_transformer.pages.grids import grid, picture
from pyx_transformer.pages.typesetting import sentence, typeset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pyx_transformer.pages import AttentionView

    Sentences = Mapping[str, str]
    Named = tuple[Any, ...]

PRIVATE = 0xE000  # the first character without a meaning


class Layout(Protocol):
    """What the parts are told to."""

    def part(self, key: str, *formulas: str) -> None:
        """Open the next part with its title, its formulas and what it is for."""

    def heading(self, key: str) -> None:
        """A title within a part."""

    def say(self, key: str, **values: Any) -> None:
        """A paragraph, with values in it."""

    def arrays(self, *arrays: Named) -> None:
        """Arrays side by side."""

    def beside(self, *pairs: tuple[Named | None, Named]) -> None:
        """Arrays that are right, all of which have been shown, beside those in circulation."""

    def table(self, header: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        """Measurements, a row of each, whose first number is an integer."""

    def chart(
        self,
        key: str,
        series: Mapping[str, Sequence[float]],
        x: Sequence[int],
        *,
        logarithmic: bool = False,
    ) -> None:
        """Measurements of that table as lines."""

    def picture(self, key: str, array: NDArray[np.floating]) -> None:
        """An array that is too large for its numbers to be read."""


class Text:
    """Plain text of 80 columns, which has no pictures."""

    def __init__(self, sentences: Sentences):
        self._sentences = sentences
        self._parts: list[list[str]] = []

    def part(self, key, *formulas):
        self._parts.append([])
        self._underlined(f"{len(self._parts)}. {self._sentences[key + '.title']}", "=")
        self._write(self._sentences["formula"], indent("\n".join(formulas), "  "))
        self._write(self._sentences["purpose"], indent(self._sentences[key + ".purpose"], "  "))

    def heading(self, key):
        self._underlined(self._sentences[key], "-")

    def say(self, key, **values):
        self._write(self._sentences[key].format(**values))

    def arrays(self, *arrays):
        blocks = [_array_block(*array) for array in arrays]
        widths = [max(map(len, block)) for block in blocks]
        rows = zip_longest(*blocks, fillvalue="")
        self._write(*("  " + "    ".join(map(str.ljust, row, widths)).rstrip() for row in rows))

    def beside(self, *pairs):
        circulated = [wrong for _, wrong in pairs]
        for i in range(0, len(circulated), 2):
            self.arrays(*circulated[i : i + 2])

    def table(self, header, rows):
        shown = [[str(first), *(f"{number:.4f}" for number in rest)] for first, *rest in rows]
        self._write(*("".join(f"{cell:>14}" for cell in row) for row in (header, *shown)))

    def chart(self, key, series, x, *, logarithmic=False):
        pass

    def picture(self, key, array):
        pass

    def text(self, part: int | None = None) -> str:
        """Everything so far, or part number `part` alone, counted from 1."""
        parts = self._parts if part is None else [self._parts[part - 1]]
        return "\n".join(line for lines in parts for line in lines)

    def _underlined(self, title, rule):
        self._write(title, rule * 80)

    def _write(self, *lines):
        self._parts[-1] += [*lines, ""]


def _array_block(name, array, rows=(), columns=()):
    """The lines of one array: its name and shape, then labelled rows of 4 decimals."""
    rounded = np.round(array.astype(np.float64), 4) + 0.0  # + 0.0 makes -0.0 plain 0.0
    margin = max(map(len, rows), default=0)
    lines = [f"{name} {array.shape}"]
    if columns:
        lines.append(" " * margin + "".join(f"{label:>8}" for label in columns))
    for label, numbers in zip_longest(rows, rounded, fillvalue=""):
        lines.append(f"{label:<{margin}}" + "".join(f" {number:7.4f}" for number in numbers))
    return lines


def _formula(line):
    """A line of a formula: what is behind a name and a colon, or below such, stands in a column."""
    name, colon, formula = line.partition(":  ")
    if not colon:
        name, formula = "", line
    column = f"<span>{name}{colon.strip()}</span> " if colon or line.startswith(" ") else ""
    return f"<div>{column}{typeset(' '.join(formula.split()))}</div>"


class Html:
    """A page in all languages, of which it shows one. sentences: those of each language."""

    def __init__(self, sentences: Mapping[str, Sentences]):
        self._sentences = sentences
        self._lines: list[str] = []
        self._titles: list[tuple[str, str]] = []  # of each part, with its identity

    def trained(self, view: AttentionView, **values: Any) -> None:
        """What is before the parts: the attention of a trained model."""
        self._write(f'<section class="trained">\n<h2>{self._said("trained.title")}</h2>')
        self.say("trained.what", **values)
        self._write(view.fragment(tuple(self._sentences), "trained"), "</section>")

    def part(self, key, *formulas):
        if self._titles:
            self._write("</section>")
        title = self._said(key + ".title")
        self._titles.append((key, title))
        lines = "".join(map(_formula, formulas))
        self._write(
            f'<section class="part" id="{key}">\n<h2><b>{len(self._titles)}</b> {title}</h2>',
            f'<div class="formulas">{lines}</div>',
            f'<div class="purpose">{self._paragraph(key + ".purpose")}</div>',
        )

    def heading(self, key):
        self._write(f"<h3>{self._said(key)}</h3>")

    def say(self, key, **values):
        self._write(self._paragraph(key, **values))

    def arrays(self, *arrays):
        self._write('<div class="grids">', *(grid(*array) for array in arrays), "</div>")

    def beside(self, *pairs):
        self._write(
            '<div class="beside">',
            f'<p class="right">{self._said("beside.right")}</p>',
            f'<p class="circulated">{self._said("beside.circulated")}</p>',
        )
        labels: Sequence[Any] = ()
        for right, (name, wrong) in pairs:
            labels = labels if right is None else right[2:]
            for kind, array in (("right", right), ("circulated", (name, wrong, *labels))):
                shown = "" if array is None else grid(*array)
                self._write(f'<div class="{kind}">{shown}</div>')
        self._write("</div>")

    def table(self, header, rows):
        self._write(table(header, rows))

    def chart(self, key, series, x, *, logarithmic=False):
        lines = chart(series, x, "d_k", logarithmic=logarithmic)
        caption = f"<figcaption>{self._said(key)}</figcaption>"
        self._write(f'<figure class="plot">{caption}{lines}</figure>')

    def picture(self, key, array):
        self.say(key, length=len(array), d_model=array.shape[1])
        self._write(picture(array, self._said("positions.rows"), self._said("positions.columns")))

    def page(self, language: str) -> str:
        """The whole page, which shows that language first."""
        links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title in self._titles)
        body = f"""\
<main>
<header>
{switch(language)}
<h1>{self._said("page.title")}</h1>
{self._paragraph("page.what")}
<nav><ol>{links}</ol></nav>
</header>
{"".join(self._lines)}</section>
<footer>{self._paragraph("page.end")}</footer>
</main>"""
        title = self._sentences[language]["page.title"]
        names = ("attention", "explain")
        return document(title, body, names, names, language)

    def _said(self, key):
        return said(
            {code: typeset(own[key]) for code, own in self._sentences.items()}, self._sentences
        )

    def _paragraph(self, key, **values):
        # Texts of the reader's are no formulas: while those are set, signs stand for them.
        given = {name: value for name, value in values.items() if isinstance(value, str)}
        signs = {name: chr(PRIVATE + i) for i, name in enumerate(given)}
        shown = {ord(signs[name]): f"<bdi>{escape(value)}</bdi>" for name, value in given.items()}
        texts = {
            code: sentence(own[key].format(**{**values, **signs})).translate(shown)
            for code, own in self._sentences.items()
        }
        return said(texts, texts, "p")

    def _write(self, *lines):
        self._lines += [f"{line}\n" for line in lines]
