"""Pictures: curves of a training run and attention weights, by matplotlib.

`pip install 'pyx-transformer[plot]'`.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import as_float32, as_kind
from pyx_transformer._files import as_path
from pyx_transformer._kinds import as_list, as_texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DOTS_PER_INCH = 150
MOST_DOTS = 60_000_000  # of a picture, at 4 bytes each
LONGEST_SIDE = (1 << 16) - 1  # that matplotlib can draw
LONGEST_LABEL = 30
# What a label shows in digits: control characters, line breaks, marks of direction, half pairs.
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # these shape the letters beside them
# Of the fonts that are there, the first with the character at hand draws it.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "IPAGothic",
    "TakaoGothic",
    "Hiragino Sans",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Emoji",
    "Unifont",
)
# Fonts to install, and the characters that they have; Unifont has nearly all.
INSTALLABLE = {
    "Noto Sans CJK JP": "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]",
    "Noto Sans Arabic": "[\u0600-\u08ff\ufb50-\ufdff\ufe70-\ufeff]",
    "Noto Emoji": "[\u2600-\u27bf\U0001f000-\U0001faff]",
    "Unifont": ".",
}


def plot_curves(entries: Sequence[dict], path: str | os.PathLike) -> None:
    """Write a PNG of a log's losses, and of the other figures of its validations, by step.

    Raises TypeError where entries is no list of a log's entries, and what `require` does.
    """
    entries = as_list("plot_curves", "entries", entries, "entries of a log")
    for i, entry in enumerate(entries):
        as_kind("plot_curves", f"entries[{i}]", entry, dict)
    require(path)
    validations = [(e["step"], e["validation"]) for e in entries if "validation" in e]
    names = {name for _, figures in validations for name in figures}
    others = sorted(names - {"loss", "bleu_signature"})
    losses = [(e["step"], e["loss"]) for e in entries if "loss" in e and "skipped" not in e]
    with _figure(path) as figure:
        axes = figure.subplots(1 + len(others), sharex=True, squeeze=False)
        axes[0, 0].plot(*zip(*losses, strict=True), label="training")
        if validations:
            steps = [step for step, _ in validations]
            of_loss = [figures["loss"] for _, figures in validations]
            axes[0, 0].plot(steps, of_loss, label="validation")
            for axis, name in zip(axes[1:, 0], others, strict=True):
                axis.plot(steps, [figures[name] for _, figures in validations])
                axis.set_ylabel(name)
        axes[0, 0].set_ylabel("loss")
        axes[0, 0].legend()
        axes[-1, 0].set_xlabel("step")


def plot_attention(
    weights: NDArray, source: Sequence[str], target: Sequence[str], path: str | os.PathLike
) -> None:
    """Write a PNG of attention weights (layers, H, T, S): a picture for each layer and head.

    source: the S tokens, target: the T tokens that rows and columns are labelled with, as they
    are; of what cannot be seen in them the code is shown. A UserWarning names characters that no
    font here has.

    Raises TypeError where tokens are no list of strings, ValueError where there are more or fewer
    than weights has, or more than a picture has room for, and what `require` does.
    """
    this = "plot_attention"
    require(path)
    sides = {"target": as_texts(this, "target", target), "source": as_texts(this, "source", source)}
    shape = ("layers", "H", len(sides["target"]), len(sides["source"]))
    weights = as_float32(this, "weights", weights, shape)
    layers, heads = weights.shape[:2]
    if not weights.size:
        raise ValueError(f"{this}: weights has shape {weights.shape}, expected something to draw")
    width, height = 1.2 + 0.3 * heads * len(source), 1.2 + 0.35 * layers * len(target)
    check_size(this, weights.shape, width * DOTS_PER_INCH, height * DOTS_PER_INCH)
    rows, columns = ([label(token) for token in tokens] for tokens in sides.values())
    with _figure(path, (width, height)) as figure:
        axes = figure.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)
        for layer in range(layers):
            for head in range(heads):
                axis = axes[layer, head]
                axis.imshow(weights[layer, head], vmin=0, vmax=1, cmap="Blues", aspect="auto")
                axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
                axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
                axis.set_yticks(range(len(rows)), rows, fontsize=7)


def check_size(this: str, shape: tuple[int, ...], width: float, height: float) -> None:
    """Raise ValueError where a picture of weights of that shape would be too large."""
    if width * height > MOST_DOTS or max(width, height) > LONGEST_SIDE:
        layers, heads, target, source = shape
        raise ValueError(
            f"{this}: a picture of {layers} layers, {heads} heads, {target} target and {source} "
            f"source tokens would have {width:,.0f} x {height:,.0f} dots, expected at most "
            f"{MOST_DOTS:,} in all and {LONGEST_SIDE:,} a side: draw a shorter sentence"
        )


def label(token: str) -> str:
    """A token as a label shows it: in one short line in which all of it can be seen."""
    if not token.strip():
        return repr(token)
    seen = "".join(
        ascii(one)[1:-1] if unicodedata.category(one) in UNSEEN and one not in JOINERS else one
        for one in token
    )
    return seen if len(seen) <= LONGEST_LABEL else f"{seen[: LONGEST_LABEL - 1]}…"


def require(path: str | os.PathLike) -> None:
    """Check, before there is anything to draw, that a picture can be written there.

    Raises ImportError, saying what to install, where matplotlib is missing, and FileNotFoundError
    or IsADirectoryError where path lies in no folder, or is one.
    """
    path = as_path("plots", "path", path)
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


@contextmanager
def _figure(path: str | os.PathLike, size: tuple[float, float] | None = None) -> Iterator[Figure]:
    """A figure to draw on, which is then written; texts are no formulas."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    settings: dict[Any, Any] = {
        "font.family": ["sans-serif"],
        "font.sans-serif": [name for name in FONTS if name in known],
        "text.parse_math": False,
        "text.usetex": False,
    }
    picture = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = Figure(figsize=size)
        yield figure
        figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, bbox_inches="tight")
    as_path("plots", "path", path).write_bytes(picture.getvalue())
    missing = set()
    for warning in caught:
        said = str(warning.message)
        if found := re.search(r"Glyph (\d+) .*missing from font", said, re.DOTALL):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn(warning.message, stacklevel=4)
    if missing:  # one warning, not one for each character
        warnings.warn(f"{path}: {of_missing(missing)}", stacklevel=4)


def of_missing(characters: set[str]) -> str:
    """What to do about characters that no font has."""
    fonts = {
        next(font for font, has in INSTALLABLE.items() if re.match(has, one, re.DOTALL))
        for one in characters
    }
    first = ", ".join(f"U+{ord(one):04X}" for one in sorted(characters)[:3])
    more = ", ..." if len(characters) > 3 else ""
    return (
        f"no font here has all the characters: {first}{more} are missing; "
        f"install {' and '.join(sorted(fonts))}"
    )
