"""Lines of measurements as pictures in SVG, which need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pyx_transformer.pages.typesetting import typeset

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 46, 14, 40


def chart(
    series: Mapping[str, Sequence[float]],
    x: Sequence[float],
    x_name: str,
    *,
    logarithmic: bool = False,
) -> str:
    """Lines with a point for each x, which stand side by side at equal distances; from 0 to 1, or
    in powers of ten."""
    largest = max(map(max, series.values()))
    powers = range(math.ceil(math.log10(largest)) + 1)
    ticks = [10.0**power for power in powers] if logarithmic else [0, 0.25, 0.5, 0.75, 1]

    def across(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * i / (len(x) - 1)

    def up(value: float) -> float:
        share = math.log10(value) / math.log10(ticks[-1]) if logarithmic else value
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share

    parts = []
    for tick in ticks:
        y = up(tick)
        parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for i, value in enumerate(x):
        parts.append(
            f'<text x="{across(i):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value}'
            "</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    x_name = typeset(x_name)
    for tag, style in (("i", 'font-style="italic"'), ("sub", 'dy="3" font-size="75%"')):
        x_name = x_name.replace(f"<{tag}>", f"<tspan {style}>").replace(f"</{tag}>", "</tspan>")
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{x_name}</text>')
    for number, (name, values) in enumerate(series.items()):
        points = [(across(i), up(value)) for i, value in enumerate(values)]
        line = "L".join(f"{left:.1f} {y:.1f}" for left, y in points)
        dots = "".join(
            f'<circle cx="{left:.1f}" cy="{y:.1f}" r="4"><title>{value}</title></circle>'
            for (left, y), value in zip(points, values, strict=True)
        )
        left, y = points[-1]
        parts.append(
            f'<g class="line line-{number}"><path d="M{line}"/>{dots}'
            f'<text x="{left + 9:.1f}" y="{y + 4:.1f}">{name}</text></g>'
        )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-label="{", ".join(series)}">{"".join(parts)}</svg>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    """Measurements, a row of each."""
    heads = "".join(f'<th scope="col">{typeset(name)}</th>' for name in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{value}</th>'
            if isinstance(value, int)
            else f'<td title="{float(value)!r}">{value:,.4f}</td>'
            for value in row
        )
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table class="measured"><tr>{heads}</tr>\n{body}</table></div>\n'
