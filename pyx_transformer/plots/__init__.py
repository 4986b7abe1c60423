"""Pictures, by matplotlib: `pip install 'pyx-transformer[plot]'`.

attention    weights of layers and heads, with the tokens that they stand between
curves       what the log of a training run tells
figures      a figure as a file: .png, .svg or .pdf
labels       texts as a picture can show them
fonts        which of the fonts that are here have these characters
"""

from pyx_transformer.plots.attention import plot_attention
from pyx_transformer.plots.curves import plot_curves
from pyx_transformer.plots.figures import require

__all__ = ["plot_attention", "plot_curves", "require"]


def __dir__() -> list[str]:
    return sorted(__all__)
