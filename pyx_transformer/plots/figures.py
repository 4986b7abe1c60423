"""A figure as a file: .png, .svg or .pdf."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyx_transformer._files import as_path, check_target, replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
# The endings, and what a file would tell of the time when it was made.
FORMATS: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def require(path: str | os.PathLike) -> None:
    """Check, before there is anything to draw, that a picture can be written there.

    Raises ImportError, saying what to install, where matplotlib is missing, ValueError for a name
    with another ending, FileNotFoundError or IsADirectoryError where path lies in no folder, or is
    one.
    """
    as_picture(path)


def as_picture(path: str | os.PathLike) -> Path:
    """The path of a picture that can be written. Raises what `require` does."""
    path = as_path("plots", "path", path)
    check_target(path, "plots: path")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"plots: path is {str(path)!r}, expected a name that ends in {' or '.join(FORMATS)}"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "plots: the package matplotlib is missing: pip install 'pyx-transformer[plot]'"
        ) from error
    return path


def keeps_text(path: Path) -> bool:
    """Whether texts stay texts in that format, which are drawn with the fonts of who looks."""
    return path.suffix.lower() == ".svg"


@contextmanager
def drawn(path: Path, fonts: Sequence[str], **options: Any) -> Iterator[Figure]:
    """A figure to draw on, which is then written, whole or not at all; texts are no formulas.

    options: those of matplotlib's Figure. The same picture is the same file, byte for byte.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        # By their names: of "sans-serif", which viewers of SVG know, only the first font is used.
        "font.family": [*fonts, "sans-serif"],
        "text.parse_math": False,
        "text.usetex": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "pyx-transformer",
    }
    ending = path.suffix.lower()
    picture = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Which characters are missing is known by now, and told in one line.
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from font")
        figure = Figure(**options)
        yield figure
        figure.savefig(
            picture,
            format=ending[1:],
            dpi=DOTS_PER_INCH,
            bbox_inches="tight",
            metadata=FORMATS[ending],
        )
    replace_file(path, picture.getvalue())
