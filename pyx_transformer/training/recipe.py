"""A training run as a TOML file.

[data] names files: train_source, train_target, train_labels and the same of dev and test, relative
to the folder that the command runs in or, of a recipe that comes with the package, to the recipe's.
Sources and targets make a translator, targets alone a language model, sources alone an encoder that
learns to tell masked tokens, sources and labels, one per line, a classifier of texts. origin says
where the files come from, under what licence and what is in them: told where one is missing.
Without dev files, dev_share is the share of the training examples, the last ones, that is not
trained on but validated with. [text] holds fields of `TextOptions`.
[model] holds those of the model's config, descriptions being tables; the sizes of vocabularies come
from the tokenizers, and so does the token of masks, which is the one after theirs. In place of all
that, `start` of [model] is a model for `load`, which is trained further with its own tokenizers;
mask_id beside it is the token of masks, where that model does not know it. [training] holds fields
of `TrainingOptions`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pyx_transformer import _checks, text
from pyx_transformer._files import as_path, read_text
from pyx_transformer._reprs import described
from pyx_transformer.checkpoints import load_model
from pyx_transformer.encoder_model import EncoderModel
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.metrics import require_bleu
from pyx_transformer.tokenizers.listed import LANGUAGES
from pyx_transformer.training import corpus, recipe_files
from pyx_transformer.training.log import Log
from pyx_transformer.training.options import TrainingOptions
from pyx_transformer.training.ranks import Ranks
from pyx_transformer.training.recipe_files import DEV_SHARE, FILES, KINDS, ORIGIN
from pyx_transformer.training.telling import Telling
from pyx_transformer.training.trainer import LOG, Trained, train
from pyx_transformer.training.validation import reachable, validate
from pyx_transformer.transformer import Transformer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyx_transformer.checkpoints.native import Model
    from pyx_transformer.config import TokenConfig
    from pyx_transformer.tokenizers.protocol import Tokenizer
    from pyx_transformer.training.corpus import Corpus
    from pyx_transformer.training.validation import Figures

START = "start"
OF_START = ("mask_id",)  # what may be said of a model that there is
UNKNOWN_SIZE = 2**30  # of vocabularies that are to be made
# The kind of model by the sides that there are files of.
MODELS: dict[tuple[str, ...], type[Model]] = {
    ("source", "target"): Transformer,
    ("target",): TransformerLM,
    ("source",): EncoderModel,
}
SHORT = {"source": "src", "target": "tgt"}  # as models call their sides
OF_TOKENIZERS = {"src_vocab_size", "tgt_vocab_size", "mask_id"}


@described
@dataclass(frozen=True, repr=False)
class TextOptions:
    """How texts become tokens: see `text.make`.

    shared: one tokenizer, the source's, for both sides. source_vocabulary, target_vocabulary: files
    that `text.save` wrote, instead of new tokenizers.
    """

    kind: str = "sentencepiece"
    size: int | None = None
    min_count: int = 1
    source_language: str = ""
    target_language: str = ""
    source_vocabulary: str | None = None
    target_vocabulary: str | None = None
    shared: bool = False

    def __post_init__(self):
        this = "TextOptions"
        _checks.as_choice(this, "kind", self.kind, text.KINDS)
        _checks.as_integer(this, "min_count", self.min_count, minimum=1)
        _checks.as_flag(this, "shared", self.shared)
        for side in SHORT:
            name = f"{side}_language"
            _checks.as_choice(this, name, getattr(self, name), LANGUAGES)
        if self.size is not None:
            _checks.as_integer(this, "size", self.size, minimum=4)
        for name in ("source_vocabulary", "target_vocabulary"):
            if getattr(self, name) is not None:
                check_path(this, name, getattr(self, name))
        unused = []
        if self.shared:
            unused += [("target_language", "shared"), ("target_vocabulary", "shared")]
        if self.kind != "words":
            unused += [("source_language", self.kind), ("target_language", self.kind)]
        if self.kind == "sentencepiece":
            unused.append(("min_count", self.kind))
        for name, why in unused:
            if getattr(self, name) not in ("", None, 1):
                raise ValueError(
                    f"{this}: {name} is {getattr(self, name)!r}, expected nothing with {why}"
                )


@described
@dataclass(frozen=True, repr=False)
class Recipe:
    """What a TOML file says: data, text, model and training, its tables (see the module)."""

    data: dict[str, Any]
    text: TextOptions = field(default_factory=TextOptions)
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    @property
    def sides(self) -> tuple[str, ...]:
        """Those that there are files of, "source", "target" or both."""
        return sides_of(self.data, "train")

    @property
    def has_labels(self) -> bool:
        """Whether there are files of labels."""
        return "train_labels" in self.data

    @property
    def kind(self) -> type[Model]:
        """The kind of model that is trained."""
        return MODELS[self.sides]

    def run(
        self,
        folder: str | os.PathLike,
        *,
        resume: bool = False,
        progress: bool = True,
        report: Callable[[dict], None] | None = None,
        comm: Any = None,
    ) -> Trained:
        """Make the tokenizers, read the examples, build the model and train it: see `train`.

        The test, where there is one, is scored with the best model at the end. Raises what reading
        the files, `text.make` and `train` do.
        """
        ranks = Ranks(comm)
        with ranks.together():
            folder = as_path("train", "folder", folder)
            model = self.build()
            examples, dev = self.split(model)
            test = self.examples(model, "test") if self.has("test") else None
        options = {"resume": resume, "progress": progress, "report": report, "comm": comm}
        run = train(model, examples, dev, self.training, folder, **options)
        if test is not None and ranks.is_first:
            step, told = run.step, [] if report is None else [report]
            if progress:
                told.append(Telling(self.training.steps))
            figures = self.test(run.model, test)
            Log(folder / LOG, step, told).write({"step": step, "test": figures})
        return run

    def test(self, model: Model, examples: Corpus) -> Figures:
        """The figures of a model on the test, BLEU among them where sacrebleu is there."""
        try:
            require_bleu()
            with_bleu = True
        except ImportError:
            with_bleu = False
        if not isinstance(model, Transformer):
            return validate(model, examples, with_bleu=False)
        return validate(
            model,
            examples,
            with_bleu=with_bleu,
            bleu_tokenizer=self.training.bleu_tokenizer,
            beam_size=self.training.test_beam_size,
            max_length=reachable(model, self.training.max_length),
        )

    def build(self) -> Model:
        """The model with its tokenizers: the one to start from, or a new one whose weights are
        drawn from training.seed. Raises as `recipe_files.check` does."""
        recipe_files.check(self.data)
        if START in self.model:
            return self._opened(self.model[START])
        tokenizers = self._tokenizers()
        config = self.config(*(tokenizer.vocab_size for tokenizer in tokenizers.values()))
        kind: Any = self.kind
        model: Model = kind(config, rng=np.random.default_rng((self.training.seed, 1)))
        for side, tokenizer in tokenizers.items():
            setattr(model, f"{SHORT[side]}_tokenizer", tokenizer)
        return model

    def _opened(self, path: str) -> Model:
        """The model to start from. Raises ValueError where it is another kind of model, or has no
        tokenizer."""
        where, model = f"recipe: [model] {START}: {path}", load_model("recipe", path)
        of_labels = " with a classifier"
        found = type(model).__name__ + of_labels * corpus.has_labels(model)
        expected = self.kind.__name__ + of_labels * self.has_labels
        if found != expected:
            files = " and ".join(files_of(self.data, "train"))
            raise ValueError(
                f"{where} is of kind {found}, expected {expected} because [data] has {files}"
            )
        for side in self.sides:
            if getattr(model, f"{SHORT[side]}_tokenizer") is None:
                raise ValueError(
                    f"{where} has no tokenizer of its {side}s, expected one to read "
                    f"{self.data[f'train_{side}']} with"
                )
        if "mask_id" in self.model:
            if not isinstance(model, EncoderModel) or self.has_labels:
                raise ValueError(
                    f"recipe: [model] mask_id was given, expected none because {path} has no head "
                    "for masked tokens"
                )
            model.config = replace(model.config, mask_id=self.model["mask_id"])
        return model

    def config(self, *vocab_sizes: int) -> TokenConfig:
        """A new model's, with tokenizers of these sizes, one for each of `sides`.

        Raises ValueError where [model] has no such values.
        """
        kind = self.kind.config_type
        sizes = zip(self.sides, vocab_sizes, strict=True)
        values = {**self.model, **{f"{SHORT[side]}_vocab_size": size for side, size in sizes}}
        if self.kind is EncoderModel and not self.has_labels:
            (size,) = vocab_sizes
            values = {"head": {}, **values, "src_vocab_size": size + 1, "mask_id": size}
        head = values.get("head")
        if (isinstance(head, dict) and "labels" in head) != self.has_labels:
            has, expected = "[data] has train_labels", "labels in [model.head]"
            if not self.has_labels:
                has, expected = "[model.head] has labels", "train_labels in [data]"
            raise ValueError(f"{has}, expected {expected} too")
        try:
            return kind.from_values("[model]", values)
        except ValueError as error:
            raise ValueError(str(error).replace(kind.__name__, "[model]", 1)) from error

    def _tokenizers(self) -> dict[str, Tokenizer]:
        """By side."""
        if self.text.shared:
            files = [f"train_{side}" for side in self.sides]
            return dict.fromkeys(self.sides, self._tokenizer("source", files))
        return {side: self._tokenizer(side, [f"train_{side}"]) for side in self.sides}

    def _tokenizer(self, side, files):
        options = self.text
        language = getattr(options, f"{side}_language")
        vocabulary = getattr(options, f"{side}_vocabulary")
        if vocabulary is not None:
            return text.load(options.kind, vocabulary, language=language)
        texts = [one for name in files for one in texts_of(self.data[name], options.kind)]
        return text.make(
            options.kind, texts, size=options.size, min_count=options.min_count, language=language
        )

    def has(self, part: str) -> bool:
        """Whether the recipe names files of the part "train", "dev" or "test"."""
        return bool(sides_of(self.data, part))

    def split(self, model: Model) -> tuple[Corpus, Corpus | None]:
        """The examples to train on, and those to validate with, where there are any."""
        examples = self.examples(model, "train")
        if DEV_SHARE in self.data:
            return examples.split(self.data[DEV_SHARE])
        return examples, self.examples(model, "dev") if self.has("dev") else None

    def examples(self, model: Model, part: str) -> Corpus:
        """Those of a part that the recipe has. Raises as `recipe_files.check` does."""
        recipe_files.check(self.data)
        return corpus.read(
            "recipe", model, *(self.data[name] for name in files_of(self.data, part))
        )


def sides_of(data: dict[str, Any], part: str) -> tuple[str, ...]:
    """The sides that [data] names a file of for "train", "dev" or "test"."""
    return tuple(side for side in SHORT if f"{part}_{side}" in data)


def files_of(data: dict[str, Any], part: str) -> list[str]:
    """What [data] has for "train", "dev" or "test"."""
    return [f"{part}_{kind}" for kind in KINDS if f"{part}_{kind}" in data]


def texts_of(path: str, kind: str) -> list[str]:
    """What a tokenizer is made from: the lines of a file or, of characters, the whole."""
    file = as_path("texts", "path", path)
    if kind == text.Characters.kind:
        return [read_text(file, may_be_pipe=True)]
    return corpus.read_lines(file)


def load_recipe(path: str | os.PathLike | None, changes: dict[str, object] | None = None) -> Recipe:
    """The recipe of a TOML file, or the one of that name that comes with the package, "reverse";
    changes, such as {"training.steps": 10}, come on top, and of None are all there is.

    Raises FileNotFoundError or IsADirectoryError, ImportError where Python has no reader of TOML,
    and ValueError, naming the file, where it is malformed, a key does not exist or a value cannot
    be.
    """
    if path is None:
        return recipe_of({}, changes, "recipe")
    return recipe_of(recipe_files.read(path), changes, f"recipe {path}")


def recipe_of(values: dict[str, Any], changes: dict[str, object] | None, where: str) -> Recipe:
    """The recipe of these tables with changes, as of `where`: see `load_recipe`."""
    try:
        changes = {} if changes is None else _checks.as_kind("recipe", "changes", changes, dict)
        for key, value in changes.items():
            _checks.as_kind("recipe", "a key of changes", key, str)
            *sections, name = key.split(".")
            inner = values
            for section in sections:
                inner = table(inner, section)
            inner[name] = value
        return as_recipe(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def as_recipe(values: dict) -> Recipe:
    """The recipe with these tables. Raises ValueError for keys that do not exist or are missing."""
    model = {name for kind in MODELS.values() for name in kind.config_type.names()} - OF_TOKENIZERS
    is_new = START not in table(values, "model")
    sections = {
        "data": {*FILES, DEV_SHARE, ORIGIN},
        "text": names_of(TextOptions),
        "model": model | {START} if is_new else {START, *OF_START},
        "training": names_of(TrainingOptions),
    }
    check_keys("the recipe", values, sections)
    for section, known in sections.items():
        check_keys(f"[{section}]", table(values, section), known)
    check_data(values["data"])
    check_text(values["text"], sides_of(values["data"], "train"), is_new=is_new)
    recipe = Recipe(
        values["data"],
        as_options("text", TextOptions, values),
        values["model"],
        as_options("training", TrainingOptions, values),
    )
    # Wrong values are told before there are tokenizers.
    if is_new:
        recipe.config(*(UNKNOWN_SIZE for _ in recipe.sides))
    else:
        check_path("[model]", START, recipe.model[START])
    return recipe


def check_data(data: dict) -> None:
    """Raise ValueError unless [data] names the files of one kind of model."""
    files = files_of(data, "train")
    if not sides_of(data, "train"):
        raise ValueError(
            "[data] has neither train_source nor train_target, expected a file to train on"
        )
    if "train_labels" in files and files != ["train_source", "train_labels"]:
        raise ValueError(
            f"[data] has {' and '.join(files)}, expected train_source alone with train_labels"
        )
    for part in ("dev", "test"):
        found, expected = files_of(data, part), [f"{part}{name[5:]}" for name in files]
        if found and found != expected:
            raise ValueError(
                f"[data] has {' and '.join(found)}, expected {' and '.join(expected)} because it "
                f"has {' and '.join(files)}"
            )
    for name in FILES:
        if name in data:
            check_path("[data]", name, data[name])
    if not isinstance(data.get(ORIGIN, ""), str):
        raise ValueError(f"[data] {ORIGIN} is {_checks.brief(data[ORIGIN])}, expected a text")
    if DEV_SHARE in data:
        _checks.as_number("[data]", DEV_SHARE, data[DEV_SHARE], minimum=0, below=1)
        if sides_of(data, "dev"):
            raise ValueError(f"[data] has {DEV_SHARE} and files of dev, expected one of them")


def check_text(values: dict, sides: tuple[str, ...], *, is_new: bool) -> None:
    """Raise ValueError for what [text] says of a side that there is not, or of a model that has
    its own tokenizers."""
    for name, value in values.items():
        if not is_new:
            raise ValueError(
                f"[text] {name} is {value!r}, expected nothing because [model] {START} has its own "
                "tokenizers"
            )
        for side in SHORT:
            if value and side not in sides and (name.startswith(f"{side}_") or name == "shared"):
                raise ValueError(f"[text] {name} is {value!r}, expected nothing without {side}s")


def as_options(name: str, options: type, values: dict):
    """A dataclass of the table of that name, which its errors name."""
    try:
        return options(**values[name])
    except (TypeError, ValueError) as error:
        said = str(error).replace(f"{options.__name__}:", f"[{name}]", 1)
        raise type(error)(said) from error


def table(values: dict, section: str) -> dict:
    """A table of a recipe, an empty one where there is none."""
    if not isinstance(values.setdefault(section, {}), dict):
        raise ValueError(f"{section} is {_checks.brief(values[section])}, expected a table")
    return values[section]


def check_path(where: str, name: str, value: object) -> None:
    """Raise ValueError unless value can be the path of a file."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {name} is {_checks.brief(value)}, expected the path of a file")


def names_of(options: type) -> set[str]:
    """The fields of a dataclass."""
    return {field.name for field in fields(options)}


def check_keys(where: str, values: dict, known) -> None:
    """Raise ValueError for a key that is not known."""
    for key in values:
        if key not in known:
            raise ValueError(
                f"{where} has {_checks.brief(key)}, expected one of {', '.join(sorted(known))}"
            )
