"""What a run has come to, as pictures in its folder."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

from pyx_transformer import plots
from pyx_transformer._files import as_path
from pyx_transformer.pipelines.translator import Translator
from pyx_transformer.training.corpus import read_lines
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from pathlib import Path

    from pyx_transformer.training.recipe import Recipe
    from pyx_transformer.training.trainer import Trained

CURVES = "curves.png"
ATTENTION = "attention.html"


def draw(recipe: Recipe, run: Trained, curves: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write curves.png, or those curves, and, of a translator, attention.html into the run's
    folder; what was written.

    The page has the attention of the best model to one text as it translates it: that of middle
    length of those to validate on, or else to train on. Warns where one of the two cannot be.
    """
    curves = run.folder / CURVES if curves is None else as_path("draw", "curves", curves)
    page, drawn = run.folder / ATTENTION, []
    try:
        plots.plot_curves(run.entries, curves)
        drawn.append(curves)
    except ImportError as error:
        warnings.warn(f"no {curves.name}: {error}", stacklevel=2)
    if isinstance(run.model, Transformer):
        name = "dev_source" if recipe.has("dev") else "train_source"
        length = recipe.training.max_length
        try:
            texts = sorted(read_lines(as_path("draw", name, recipe.data[name])), key=len)
            text = texts[len(texts) // 2]
            Translator(run.model).attention(text, max_length=length).save(page)
            drawn.append(page)
        # Too long for a page, in a language that is not known, or gone since the run has read it.
        except (OSError, ValueError) as error:
            warnings.warn(f"no {ATTENTION}: {error}", stacklevel=2)
    return drawn
