"""Texts by the million: each kind of pipeline as a function over batches, for engines that have
machines: Ray, Dask, Spark, a pool of processes.

A job is made from the path of a model and the columns that it reads and writes. It takes a dict of
arrays, a list, a pandas DataFrame or a pyarrow table, and gives the same kind back, with a column
more: rows in their order, None and empty texts as they are. The output does not depend on how rows
are cut into batches, on the number of workers or on the engine, to the bit.

Ray Data:

    import ray
    from pyx_transformer.batch import Translate

    rows = ray.data.read_parquet("in.parquet")
    rows = rows.map_batches(Translate("model", "text", "translation"), batch_size=256)
    rows.write_parquet("out")

Dask:

    import dask.dataframe as dd
    from pyx_transformer.batch import Translate

    frame = dd.read_parquet("in.parquet")
    job = Translate("model", "text", "translation")
    frame.map_partitions(job, meta=job.meta(frame)).to_parquet("out")

Spark:

    from pyspark.sql import SparkSession
    from pyx_transformer.batch import Translate

    rows = SparkSession.builder.getOrCreate().read.parquet("in.parquet")
    job = Translate("model", "text", "translation")
    rows.mapInPandas(job.partitions, job.schema(rows)).write.parquet("out")

multiprocessing, where each process is to have one thread:

    from multiprocessing import Pool
    import pyx_transformer as pt
    from pyx_transformer.batch import Translate

    with Pool(2, pt.set_num_threads, (1,)) as pool:
        translations = pool.map(Translate("model"), batches)

A job pickles as its path, its settings and a digest of the model's files. Each process loads the
model at its first batch, once for all jobs that have the same, and maps its weights, so that the
processes of a machine have them in memory once. The threads of a process are as many as
OMP_NUM_THREADS says, which Ray and Dask set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pyx_transformer._checks import as_choice, as_kind
from pyx_transformer._jobs import Job, Source
from pyx_transformer._kinds import as_string
from pyx_transformer.checkpoints import load
from pyx_transformer.generation import GenerationOptions
from pyx_transformer.generation.options import OF_ONE_CALL, checked_option, unknown_options
from pyx_transformer.language_model import TransformerLM
from pyx_transformer.pipelines import (
    CrossEncoder,
    SentenceEncoder,
    TextClassifier,
    TextGenerator,
    Translator,
)
from pyx_transformer.pipelines.pooling import POOLINGS
from pyx_transformer.pipelines.texts import best_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pyx_transformer.generation.settings import TextSettings

__all__ = ["Classify", "Embed", "Generate", "Rank", "Score", "Translate"]


def __dir__() -> list[str]:
    return sorted(__all__)


OF_SEARCH = {
    field.name: field.default
    for field in fields(GenerationOptions)
    if field.name not in OF_ONE_CALL
}


class Translate(Job):
    """`Translator.translate` of texts.

    Results of sampling are the same in any batches where there is a seed.
    """

    command = "translate"

    def __init__(
        self,
        model: Source,
        column: str = "text",
        output: str = "translation",
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        on_error: str = "raise",
        **settings: Unpack[TextSettings],
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: what is read; output: what is written. src_lang, tgt_lang and settings: those of
        `Translator.translate`. on_error: "raise", or "keep" for None where a text cannot be read.

        Raises as `Job` does.
        """
        asked = {"src_lang": src_lang, "tgt_lang": tgt_lang, **as_search(self.name, settings)}
        super().__init__(model, column, output, on_error, asked)

    def _pipeline(self, model):
        return Translator(model)

    def _run(self, pipeline, rows):
        found = pipeline.translate([text for (text,) in rows], **self.settings)
        return [[one.text for one in found]]


class Generate(Job):
    """`TextGenerator.generate` of texts, each with what follows it.

    Results of sampling are the same in any batches where there is a seed.
    """

    command = "generate"

    def __init__(
        self,
        model: Source,
        column: str = "text",
        output: str = "generated",
        *,
        on_error: str = "raise",
        **settings: Unpack[TextSettings],
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: what is read; output: what is written. settings: those of `TextGenerator.generate`.
        on_error: "raise", or "keep" for None where a text cannot be read.

        Raises as `Job` does.
        """
        super().__init__(model, column, output, on_error, as_search(self.name, settings))

    def _pipeline(self, model):
        return TextGenerator(model)

    def _run(self, pipeline, rows):
        found = pipeline.generate([text for (text,) in rows], **self.settings)
        return [[one.text for one in found]]


class Embed(Job):
    """`SentenceEncoder.encode` of texts: vectors (dimension,) float32, in a dict of arrays an array
    (N, dimension), of NaN where there is none. An empty text has its vector.

    Of Ray a DataFrame cannot have vectors and None, a dict of arrays and a table can.
    """

    command = "embed"
    kind = "vector"
    keeps_empty = False

    def __init__(
        self,
        model: Source,
        column: str = "text",
        output: str = "embedding",
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        pooling: str | None = None,
        max_batch_tokens: int | None = None,
        on_error: str = "raise",
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: what is read; output: what is written. pooling: that of `SentenceEncoder`;
        normalize, truncate_dim, prompt and max_batch_tokens: those of `encode`. on_error: "raise",
        or "keep" for NaN where a text cannot be read.

        Raises as `Job` does.
        """
        self.pooling = as_choice(self.name, "pooling", pooling, (None, *POOLINGS))
        settings = {
            "normalize": normalize,
            "truncate_dim": truncate_dim,
            "prompt": prompt,
            "max_batch_tokens": max_batch_tokens,
        }
        super().__init__(model, column, output, on_error, settings)

    def _pipeline(self, model):
        return SentenceEncoder(model, pooling=self.pooling)

    def _more(self):
        return {"pooling": self.pooling}

    def _of_pipeline(self):
        return self.pooling

    def _run(self, pipeline, rows):
        return [pipeline.encode([text for (text,) in rows], **self.settings)]


class Rank(Job):
    """`CrossEncoder.predict` of a query and a text in each row: a score by which to order the texts
    of a query. Of lists rows are pairs.
    """

    command = "rank"
    kind = "number"
    keeps_empty = False

    def __init__(
        self,
        model: Source,
        column: tuple[str, str] = ("query", "text"),
        output: str = "score",
        *,
        max_batch_tokens: int | None = None,
        on_error: str = "raise",
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: those of the query and of the text; output: what is written. max_batch_tokens: that
        of `CrossEncoder.predict`. on_error: "raise", or "keep" for NaN where a text cannot be read.

        Raises as `Job` does.
        """
        settings = {"max_batch_tokens": max_batch_tokens}
        super().__init__(model, column, output, on_error, settings)

    def _reads(self, commands):
        return 2

    def _pipeline(self, model):
        return CrossEncoder(model)

    def _run(self, pipeline, rows):
        return [pipeline.predict(rows, **self.settings).tolist()]


class Classify(Job):
    """`TextClassifier.classify` of texts: the label of the highest score."""

    command = "classify"

    def __init__(
        self,
        model: Source,
        column: str = "text",
        output: str = "label",
        *,
        score: str | None = None,
        max_batch_tokens: int | None = None,
        on_error: str = "raise",
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: what is read; output: what is written, and score: a column for the label's score.
        max_batch_tokens: that of `TextClassifier.classify`. on_error: "raise", or "keep" for None
        where a text cannot be read.

        Raises as `Job` does.
        """
        self.score = None if score is None else as_string(self.name, "score", score)
        settings = {"max_batch_tokens": max_batch_tokens}
        super().__init__(model, column, output, on_error, settings)

    def _more(self):
        return {"score": self.score}

    def _own_outputs(self):
        score = [] if self.score is None else [(self.score, "number")]
        return [(self.output, "text"), *score]

    def _pipeline(self, model):
        return TextClassifier(model)

    def _run(self, pipeline, rows):
        found = pipeline.classify([text for (text,) in rows], **self.settings)
        labels = [one.label for one in found]
        return [labels] if self.score is None else [labels, [one.score for one in found]]


class Score(Job):
    """The natural logarithm of the probability of translations or, of a language model, of texts:
    the sum of `Translator.score` or `TextGenerator.score`. Of lists rows are pairs or texts.
    """

    command = "score"
    kind = "number"
    keeps_empty = False

    def __init__(
        self,
        model: Source,
        column: str | tuple[str, str] = ("text", "translation"),
        output: str = "score",
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        on_error: str = "raise",
    ):
        """model: a path, or the name of a model that comes with the package, or a model itself.
        column: those of the text and of its translation or, of a language model, that of the text;
        output: what is written. src_lang, tgt_lang: those of `Translator.score`. on_error: "raise",
        or "keep" for NaN where a text cannot be read.

        Raises as `Job` does.
        """
        settings = {"src_lang": src_lang, "tgt_lang": tgt_lang}
        super().__init__(model, column, output, on_error, settings)

    def _pipeline(self, model):
        found: Any = load(model) if isinstance(model, (str, os.PathLike)) else model
        return (TextGenerator if isinstance(found, TransformerLM) else Translator)(found)

    def _reads(self, commands):
        return 1 if "generate" in commands else 2

    def _check_model(self, who, commands):
        super()._check_model(who, commands)
        if self.settings and "generate" in commands:
            raise TypeError(
                f"{self.name}: {', '.join(self.settings)} was given, but {who} a language model, "
                "which has no languages"
            )

    def _run(self, pipeline, rows):
        columns = [list(texts) for texts in zip(*rows, strict=True)] or [[] for _ in self.columns]
        return [[float(one.sum(dtype=float)) for one in pipeline.score(*columns, **self.settings)]]


def as_search(function: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of `GenerationOptions`, or its `options`. Raises TypeError for others and for what
    belongs to one call, TypeError or ValueError for wrong values, and ValueError where several
    texts are asked for."""
    known, given = {*OF_SEARCH, "options"}, {*settings}
    options = settings.get("options")
    if options is not None:
        as_kind(function, "options", options, GenerationOptions)
        given |= {name for name in OF_ONE_CALL if getattr(options, name) is not None}
    if unknown := sorted(given - known):
        raise unknown_options(function, unknown, known)
    for name in settings.keys() - {"options"}:
        checked_option(function, name, settings[name], OF_SEARCH[name])
    best_of(function, [], settings)
    return settings
