"""What the jobs of `batch` share: how a model is found, and how a batch is computed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

import numpy as np

from pyx_transformer import _tables
from pyx_transformer._checks import as_choice, as_flag, as_integer, as_kind, brief
from pyx_transformer._files import as_path
from pyx_transformer._kinds import as_list, as_string
from pyx_transformer._reprs import called, shown
from pyx_transformer._tables import Column, Kind, Row
from pyx_transformer.checkpoints import is_shipped, native
from pyx_transformer.checkpoints.digests import digest_of
from pyx_transformer.checkpoints.mapped import clean_at_exit, mapped_weights
from pyx_transformer.pipelines.inspection import COMMANDS, inspect
from pyx_transformer.pipelines.opened import pipeline_of
from pyx_transformer.token_model import TokenModel

Source: TypeAlias = "str | os.PathLike[str] | TokenModel"
B = TypeVar("B")  # a DataFrame, or a table
REASON = "_error"  # ends the name of the column of reasons

# Of settings whose values can be told before there is a model.
CHECKS: Mapping[str, Callable[[str, str, Any], Any]] = {
    "normalize": as_flag,
    "truncate_dim": partial(as_integer, minimum=1),
    "max_batch_tokens": partial(as_integer, minimum=1),
    "prompt": as_string,
    "src_lang": as_string,
    "tgt_lang": as_string,
}

# What this process has loaded, by the kind of job, the model and what else makes it.
_PIPELINES: dict[tuple[Any, ...], Any] = {}
_LOADING = RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits: a child has whole models, and none of the locks that loading one needs.
    os.register_at_fork(
        before=_LOADING.acquire,
        after_in_parent=_LOADING.release,
        after_in_child=_LOADING.release,
    )


class RowError(ValueError):
    """A row of a batch, counted from 0, cannot be computed."""

    def __init__(self, message: str, number: int, reason: str):
        super().__init__(message, number, reason)  # all of which a pickle keeps
        self.number = number
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])


class Job:
    """What the classes here share: see the module.

    model: a path, or the name of a model that comes with the package; or a model itself, which is
    pickled whole. column: what is read; output: the column that is written. on_error: "raise" ends
    with an error that names the row where the model cannot read a text, which is too long or no
    Unicode; "keep" has None there, and the reason in one more column, whose name is that of the
    output with "_error" behind it, where batches have columns. None has None as its result, an
    empty text itself where the output is a text.

    Raises what `pt.load` does for what is no model, ValueError for a model of another kind and for
    names of columns that are not as many as are read, or not all different, TypeError for settings
    that the job does not have, TypeError or ValueError for wrong values. A call raises TypeError
    for a batch of another kind or a column of anything but texts, ValueError for a column that
    there is not, or is already, and where the model's files are not what they were when the job was
    made, FileNotFoundError where they are missing.
    """

    command: ClassVar[str]  # what `inspect` says of models for the job
    kind: ClassVar[Kind] = "text"  # of the output
    keeps_empty: ClassVar[bool] = True  # whether an empty text is its own result

    def __init__(
        self,
        model: Source,
        column: str | Sequence[str],
        output: str,
        on_error: str,
        settings: Mapping[str, Any],
    ):
        columns = [column] if isinstance(column, str) else column
        columns = as_list(self.name, "column", columns, "names of columns")
        self.columns = [as_string(self.name, "column", name) for name in columns]
        self.output = as_string(self.name, "output", output)
        self.on_error = as_choice(self.name, "on_error", on_error, ("raise", "keep"))
        names = [*self.columns, *(name for name, _ in self.outputs())]
        if len({*names}) < len(names):
            raise ValueError(f"{self.name}: columns are {names}, expected names that differ")
        self.settings = {
            name: CHECKS[name](self.name, name, value) if name in CHECKS else value
            for name, value in settings.items()
            if value is not None
        }
        self.model: Any = model
        self.digest: str | None = None
        if isinstance(model, (str, os.PathLike)):
            if not is_shipped(model):
                self.model = str(as_path(self.name, "model", model).absolute())
            self._check_model(f"{model} is", inspect(self.model)["commands"])
            self.digest = digest_of(folder_of(self.model))
            clean_at_exit()
        else:
            kind = pipeline_of(as_kind(self.name, "model", model, TokenModel))
            self._check_model("model is", COMMANDS[str(kind)])
            self.check()

    def _check_model(self, who, commands):
        found = f"to {' or '.join(commands)}" if commands else "without a tokenizer"
        if self.command not in commands:
            raise ValueError(f"{self.name}: {who} a model {found}, expected one to {self.command}")
        if len(self.columns) != self._reads(commands):
            raise ValueError(
                f"{self.name}: column is {self.columns}, expected {self._reads(commands)} because "
                f"{who} a model {found}"
            )

    @property
    def name(self) -> str:
        """What errors call the job."""
        return type(self).__name__

    def __repr__(self) -> str:
        named = {name: value for name, value in self.told().items() if value is not None}
        if self.on_error == "raise":
            del named["on_error"]
        return called(self, [shown(self.model)], named)

    def told(self) -> dict[str, Any]:
        """What it was made with, but for the model."""
        return {
            "column": self.columns[0] if len(self.columns) == 1 else tuple(self.columns),
            "output": self.output,
            **self._more(),
            **self.settings,
            "on_error": self.on_error,
        }

    @overload
    def __call__(self, batch: list[Any]) -> list[Any]: ...
    @overload
    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]: ...
    @overload
    def __call__(self, batch: B) -> B: ...
    def __call__(self, batch: Any) -> object:
        """The batch with the output's column. Raises as the class says."""
        table = _tables.opened(self.name, batch)
        rows = table.rows(self.columns)
        table.check_new(name for name, _ in self.outputs())
        wanted = [i for i, row in enumerate(rows) if self._is_asked(row)]
        columns = of_none = self.check()
        reasons: list[str | None] = [None] * len(rows)
        if wanted:
            columns = self._computed(table, rows, wanted, reasons)
        added = {
            name: Column(kind, filled(kind, values, rows, wanted), np.shape(none)[1:])
            for (name, kind), values, none in zip(
                self._own_outputs(), columns, of_none, strict=True
            )
        }
        if self.on_error == "keep":
            added[f"{self.output}{REASON}"] = Column("text", reasons)
        return table.with_columns(added)

    def partitions(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Each batch with the output's column, for Spark's mapInPandas and mapInArrow."""
        for batch in batches:
            yield self(batch)

    def meta(self, frame: Any) -> Any:
        """What becomes of a Dask or pandas DataFrame, without its rows. Raises as a call does."""
        return self._empty(getattr(frame, "_meta", frame)[:0])

    def schema(self, of: Any) -> Any:
        """The schema of what becomes of a Spark DataFrame or a pyarrow table; of: one of these, or
        its schema. Raises as a call does."""
        schema = getattr(of, "schema", of)
        if hasattr(schema, "fieldNames"):
            return _tables.spark_schema(self.name, schema, self.columns, dict(self.outputs()))
        if not hasattr(schema, "empty_table"):
            raise TypeError(
                f"{self.name}: of is {brief(of)}, expected a DataFrame of Spark or a table of "
                "pyarrow, or its schema"
            )
        return self._empty(schema.empty_table()).schema

    def outputs(self) -> list[tuple[str, Kind]]:
        """Names and kinds of the columns that are written, that of reasons last."""
        reasons: list[tuple[str, Kind]] = [(f"{self.output}{REASON}", "text")]
        return [*self._own_outputs(), *(reasons if self.on_error == "keep" else [])]

    def open(self) -> Any:
        """The pipeline, loaded once in a process. Raises as a call does."""
        if self.digest is None:
            if not hasattr(self, "_own"):
                self._own = self._pipeline(self.model)
            return self._own
        key = (type(self), self.model, self.digest, self._of_pipeline())
        with _LOADING:
            if key not in _PIPELINES:
                _PIPELINES[key] = self._loaded()
            return _PIPELINES[key]

    def check(self) -> Sequence[Any]:
        """The outputs of no rows. Raises TypeError or ValueError for settings that do not fit the
        model, which no row is to blame for."""
        return self._run(self.open(), [])

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_own"}

    # What a kind of job says.

    def _own_outputs(self) -> list[tuple[str, Kind]]:
        """Names and kinds of the columns that are written, but for that of reasons."""
        return [(self.output, self.kind)]

    def _more(self) -> dict[str, Any]:
        """What it was made with beside its settings."""
        return {}

    def _reads(self, commands: Sequence[str]) -> int:
        """How many columns are read with a model for these commands."""
        return 1

    def _pipeline(self, model: Source) -> Any:
        """What does the work."""
        raise NotImplementedError

    def _run(self, pipeline: Any, rows: list[Row]) -> Sequence[Any]:
        """The values of each of `_own_outputs` for rows of texts, none of which is missing."""
        raise NotImplementedError

    # How a batch is computed.

    def _is_asked(self, row: Row) -> bool:
        return None not in row and not (self.keeps_empty and "" in row)

    def _computed(self, table, rows, wanted, reasons):
        """The outputs of the wanted rows; one that fails is found by halves."""
        try:
            return self._run(self.open(), [rows[i] for i in wanted])
        except ValueError as error:
            if len(wanted) > 1:
                middle = len(wanted) // 2
                halves = [
                    self._computed(table, rows, half, reasons)
                    for half in (wanted[:middle], wanted[middle:])
                ]
                return [[*first, *second] for first, second in zip(*halves, strict=True)]
            (number,) = wanted
            if self.on_error == "raise":
                row = f"{table.name_of(number)}, {brief(rows[number][0])}"
                raise RowError(f"{self.name}: {row}: {error}", number, str(error)) from error
            reasons[number] = str(error)
            return [[None]] * len(self._own_outputs())

    def _of_pipeline(self) -> object:
        """What a pipeline is made with beside the model."""
        return None

    def _loaded(self):
        assert self.digest is not None
        folder, host = folder_of(self.model), socket.gethostname()
        if not folder.exists():
            raise FileNotFoundError(
                f"{self.name}: {folder} is missing on {host}, expected the model there too"
            )
        digest = digest_of(folder)
        if digest != self.digest:
            raise ValueError(
                f"{self.name}: the files of {folder} on {host} have the digest {digest[:16]}, "
                f"expected {self.digest[:16]} as when the job was made"
            )
        with mapped_weights(digest):
            return self._pipeline(self.model)

    def _empty(self, batch):
        """An empty batch with the columns of the outputs."""
        table = _tables.opened(self.name, batch)
        table.check_types(self.columns)
        table.check_new(name for name, _ in self.outputs())
        return table.with_columns({name: Column(kind, []) for name, kind in self.outputs()})


def filled(kind: Kind, values: Sequence[Any], rows: list[Row], wanted: list[int]) -> Sequence[Any]:
    """The values of the wanted rows among those of all; an empty text stands for itself."""
    if len(wanted) == len(rows):
        return values
    whole: list[Any] = [row[0] if kind == "text" else None for row in rows]
    for number, value in zip(wanted, values, strict=True):
        whole[number] = value
    return whole


def folder_of(model: str) -> Path:
    """Where a model lies that `pt.load` knows by this name or path."""
    return native.SHIPPED / model if is_shipped(model) else Path(model)
