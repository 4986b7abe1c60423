"""Training: exact gradients by hand-written backward kernels, and the loop around them.

`recipe` reads what a TOML file asks for and runs it, `sized_recipe` makes one for two files of
text; `trainer` is the loop: batches from `batches`, `masking` and `labelled` (made of files by
`corpus`), cut into `shards`, whose `gradients` of `losses` come together in the order of a `tree`,
updates by `optimizer`, figures from `validation`, what `telling` tells, and Ctrl-C heard between
steps by `interrupts`. `functions` gives single operations with their way back.
"""

from pyx_transformer.training.batches import Examples
from pyx_transformer.training.labelled import Labelled
from pyx_transformer.training.masking import Texts
from pyx_transformer.training.options import TrainingOptions
from pyx_transformer.training.recipe import Recipe, load_recipe
from pyx_transformer.training.sized_recipe import recipe_for
from pyx_transformer.training.trainer import Trained, train
from pyx_transformer.training.validation import evaluate

__all__ = [
    "Examples",
    "Labelled",
    "Recipe",
    "Texts",
    "Trained",
    "TrainingOptions",
    "evaluate",
    "load_recipe",
    "recipe_for",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)
