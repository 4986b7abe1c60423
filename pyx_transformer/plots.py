"""Pictures: curves of a training run and attention weights, by matplotlib.

`pip install 'pyx-transformer[plot]'`.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def plot_curves(entries: Sequence[dict], path: str | os.PathLike) -> None:
    """Write a PNG of a log's losses, and of the other figures of its validations, by step."""
    pyplot = _pyplot(path)
    validations = [(e["step"], e["validation"]) for e in entries if "validation" in e]
    names = {name for _, figures in validations for name in figures}
    others = sorted(names - {"loss", "bleu_signature"})
    figure, axes = pyplot.subplots(1 + len(others), sharex=True, squeeze=False)
    losses = [(e["step"], e["loss"]) for e in entries if "loss" in e and "skipped" not in e]
    axes[0, 0].plot(*zip(*losses, strict=True), label="training")
    if validations:
        steps = [step for step, _ in validations]
        axes[0, 0].plot(steps, [figures["loss"] for _, figures in validations], label="validation")
        for axis, name in zip(axes[1:, 0], others, strict=True):
            axis.plot(steps, [figures[name] for _, figures in validations])
            axis.set_ylabel(name)
    axes[0, 0].set_ylabel("loss")
    axes[0, 0].legend()
    axes[-1, 0].set_xlabel("step")
    _save(figure, path)


def plot_attention(
    weights: NDArray, source: Sequence[str], target: Sequence[str], path: str | os.PathLike
) -> None:
    """Write a PNG of attention weights (layers, H, T, S): a picture for each layer and head."""
    pyplot = _pyplot(path)
    layers, heads = weights.shape[:2]
    size = (1.2 + 0.3 * heads * len(source), 1.2 + 0.35 * layers * len(target))
    figure, axes = pyplot.subplots(
        layers, heads, sharex=True, sharey=True, squeeze=False, figsize=size
    )
    for layer in range(layers):
        for head in range(heads):
            axis = axes[layer, head]
            axis.imshow(weights[layer, head], vmin=0, vmax=1, cmap="Blues", aspect="auto")
            axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
            axis.set_xticks(range(len(source)), source, rotation=90, fontsize=7)
            axis.set_yticks(range(len(target)), target, fontsize=7)
    _save(figure, path)


def require(path: str | os.PathLike) -> None:
    """Check, before there is anything to draw, that a picture can be written there.

    Raises ImportError, saying what to install, where matplotlib is missing, and FileNotFoundError
    or IsADirectoryError where path lies in no folder, or is one.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"plots: {path} is a folder, expected a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"plots: {path} cannot be written: there is no such folder")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "plots: the package matplotlib is missing: pip install 'pyx-transformer[plot]'"
        ) from error


def _save(figure, path):
    from matplotlib import pyplot

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, format="png", dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    missing = [warning for warning in caught if "missing from font" in str(warning.message)]
    if missing:  # one warning, not one for each character
        warnings.warn(
            f"{path}: no font here has all the characters; of Chinese and Japanese, "
            "Noto Sans CJK JP has",
            stacklevel=3,
        )


def _pyplot(path):
    require(path)
    import matplotlib
    import matplotlib.font_manager

    matplotlib.use("Agg")
    # Of the fonts that are there, the first with the character at hand draws it.
    matplotlib.rcParams["font.family"] = ["sans-serif"]
    known = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    wanted = ["DejaVu Sans", "Noto Sans CJK JP", "IPAGothic", "TakaoGothic", "Hiragino Sans"]
    matplotlib.rcParams["font.sans-serif"] = [name for name in wanted if name in known]
    from matplotlib import pyplot

    return pyplot
