"""Arrays as pages to look at: self-contained HTML, which asks the network for nothing.

attention   attention weights: words to hover over, and every layer and head
pictures    numbers as pictures that need no script: PNG in SVG
document    a page of all of it: its head, styles, scripts, and texts in several languages

A page shows its pictures and numbers where scripts do not run; where they do, the `.js` files
here put what can be chosen in their place. Colours are those of `page.css`, by day and by night.
"""

from pyx_transformer.pages.attention import AttentionMap, AttentionView

__all__ = ["AttentionMap", "AttentionView"]


def __dir__() -> list[str]:
    return sorted(__all__)
