"""What a batch of rows comes in: a dict of arrays, a list, a pandas DataFrame or a pyarrow table.

Each kind gives the texts of its columns, and a copy of itself with more columns. pandas and pyarrow
are only ever met here where the caller has loaded them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pyx_transformer._checks import brief
from pyx_transformer._kinds import as_list

Kind = Literal["text", "number", "vector"]  # of float64, of float32
Row = tuple[Any, ...]  # of a table: a text or None for each column that is read
PANDAS_TEXTS = ("string[pyarrow]", "large_string[pyarrow]")  # that are no StringDtype
ARROW_TEXTS = ("string", "large_string", "string_view")


class Column(NamedTuple):
    """The values of a new column, one for each row, None where there is none; shape: of each."""

    kind: Kind
    values: Sequence[Any] | np.ndarray
    shape: tuple[int, ...] = ()


def opened(function: str, batch: Any) -> Table:
    """A batch as its kind of table. Raises TypeError for anything else."""
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None and isinstance(batch, pandas.DataFrame):
        return Frame(function, batch)
    if pyarrow is not None and isinstance(batch, (pyarrow.Table, pyarrow.RecordBatch)):
        return ArrowTable(function, batch)
    if isinstance(batch, Mapping):
        return Arrays(function, batch)
    if isinstance(batch, (list, tuple)):
        of_dicts = bool(batch) and isinstance(batch[0], Mapping)
        return (Dicts if of_dicts else Texts)(function, batch)
    raise TypeError(
        f"{function}: batch is {brief(batch)}, expected a dict of arrays, a list, a pandas "
        "DataFrame or a pyarrow table"
    )


class Table:
    """Rows with columns."""

    def __init__(self, function: str, batch: Any):
        self.function = function
        self.batch = batch

    def rows(self, columns: Sequence[str]) -> list[Row]:
        """The texts of these columns, None where one is missing. Raises ValueError for a column
        that there is not, TypeError for one that holds anything but texts."""
        found = [self._texts(name) for name in columns]
        counts = [len(texts) for texts in found]
        if len({*counts}) > 1:
            raise ValueError(
                f"{self.function}: columns {', '.join(map(repr, columns))} have {counts} rows, "
                "expected as many"
            )
        return list(zip(*found, strict=True))

    def check_types(self, columns: Sequence[str]) -> None:
        """Raise ValueError for a column that there is not, TypeError for one whose type is that of
        anything but texts."""
        for name in columns:
            if problem := self._type_problem(self._found(name)):
                raise no_texts(self.function, name, problem)

    def check_new(self, names: Iterable[str]) -> None:
        """Raise ValueError where there is a column of one of these names."""
        check_new(self.function, self._names(), names)

    def with_columns(self, columns: Mapping[str, Column]) -> Any:
        """The batch with these columns too."""
        raise NotImplementedError

    def name_of(self, number: int) -> str:
        """What an error calls a row."""
        return f"row {number}"

    def _names(self) -> list[str]:
        raise NotImplementedError

    def _column(self, name: str) -> Any:
        """A column as it lies there."""
        raise NotImplementedError

    def _type_problem(self, column: Any) -> str | None:
        """What to say of a column whose type is that of anything but texts."""
        return None

    def _values(self, name: str) -> list[Any]:
        """The values of a column."""
        return as_list(self.function, f"column {name!r}", self._found(name), "texts")

    def _found(self, name: str) -> Any:
        names = self._names()
        if name not in names:
            raise no_column(self.function, name, names)
        if names.count(name) > 1:
            count = names.count(name)
            raise ValueError(f"{self.function}: there are {count} columns {name!r}, expected one")
        return self._column(name)

    def _texts(self, name: str) -> list[str | None]:
        return [self._text(name, i, value) for i, value in enumerate(self._values(name))]

    def _text(self, name, number, value):
        if isinstance(value, str):
            return str(value)  # of NumPy's kind of string too
        if is_missing(value):
            return None
        raise no_texts(self.function, name, f"has {brief(value)} in {self.name_of(number)}")


class Arrays(Table):
    """A dict of arrays, or of lists."""

    def _names(self):
        return list(self.batch)

    def _column(self, name):
        return self.batch[name]

    def with_columns(self, columns):
        is_list = any(isinstance(column, list) for column in self.batch.values())
        added = {
            name: list(column.values) if is_list else as_array(column)
            for name, column in columns.items()
        }
        return {**self.batch, **added}


class Dicts(Table):
    """A list of rows, each a dict."""

    def _names(self):
        return list(dict.fromkeys(name for row in self.batch for name in self._row(row)))

    def _row(self, row):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"{self.function}: a row is {brief(row)}, expected a dict as others are"
            )
        return row

    def _column(self, name):
        return [row.get(name) for row in self.batch]

    def with_columns(self, columns):
        values = zip(*(column.values for column in columns.values()), strict=True)
        return [
            {**row, **dict(zip(columns, of_row, strict=True))}
            for row, of_row in zip(self.batch, values, strict=True)
        ]


class Texts(Table):
    """A list of texts, or of tuples of them, which becomes a list of the first output's values."""

    def rows(self, columns):
        if len(columns) == 1:
            return [(self._text(columns[0], i, value),) for i, value in enumerate(self.batch)]
        return [self._tuple(columns, i, value) for i, value in enumerate(self.batch)]

    def _tuple(self, columns, number, value):
        if value is None:
            return (None,) * len(columns)
        if not isinstance(value, (tuple, list)) or len(value) != len(columns):
            expected = f"a tuple of {len(columns)} texts: {', '.join(columns)}"
            raise TypeError(
                f"{self.function}: {self.name_of(number)} is {brief(value)}, expected {expected}"
            )
        return tuple(
            self._text(name, number, one) for name, one in zip(columns, value, strict=True)
        )

    def _names(self):
        return []

    def with_columns(self, columns):
        return list(next(iter(columns.values())).values)


class Frame(Table):
    """A pandas DataFrame."""

    def name_of(self, number):
        return f"row {number}, of index {self.batch.index[number]!r}"

    def _names(self):
        return list(self.batch.columns)

    def _column(self, name):
        return self.batch[name]

    def _type_problem(self, column):
        dtype = getattr(column.dtype, "categories", column).dtype
        may_be = str(dtype) == "object" or is_text(dtype)
        return None if may_be else f"is of dtype {column.dtype}"

    def with_columns(self, columns):
        import pandas as pd

        texts = [dtype for dtype in self.batch.dtypes if is_text(dtype)]
        dtypes = {"text": texts[0] if texts else object, "number": "float64", "vector": object}
        added = {
            name: pd.Series(list(column.values), self.batch.index, dtypes[column.kind])
            for name, column in columns.items()
        }
        return self.batch.assign(**added)


class ArrowTable(Table):
    """A table or a record batch of pyarrow."""

    def _names(self):
        return self.batch.schema.names

    def _column(self, name):
        return self.batch.column(name)

    def _type_problem(self, column):
        from pyarrow.types import is_dictionary

        dtype = column.type.value_type if is_dictionary(column.type) else column.type
        is_text = str(dtype) in (*ARROW_TEXTS, "null")
        return None if is_text else f"is of type {column.type}"

    def _values(self, name):
        return self._found(name).to_pylist()

    def with_columns(self, columns):
        import pyarrow as pa

        schema = self.batch.schema
        types = arrow_types(schema)
        arrays = [arrow_array(column, types[column.kind]) for column in columns.values()]
        for name, array in zip(columns, arrays, strict=True):
            schema = schema.append(pa.field(name, array.type))
        # Record batches of older versions have no append_column.
        return type(self.batch).from_arrays([*self.batch.columns, *arrays], schema=schema)


def as_array(column: Column) -> np.ndarray:
    """A column as NumPy has it: texts or None as objects, numbers (N,) and vectors (N, D) with NaN
    where there is none."""
    if isinstance(column.values, np.ndarray):
        return column.values
    if column.kind == "text":
        return np.fromiter(column.values, object, len(column.values))
    missing = np.full(column.shape, np.nan)
    dtype = np.float32 if column.kind == "vector" else np.float64
    values = [missing if value is None else value for value in column.values]
    return np.array(values, dtype).reshape(len(values), *column.shape)


def is_text(dtype: Any) -> bool:
    """Whether a pandas dtype is one of texts."""
    import pandas as pd

    return isinstance(dtype, pd.StringDtype) or str(dtype) in PANDAS_TEXTS


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none: None, NaN, or what pandas has for that."""
    if isinstance(value, (float, np.floating)):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def arrow_types(schema: Any) -> dict[Kind, Any]:
    """The types of new columns beside these: large texts where others are."""
    import pyarrow as pa

    is_large = any(pa.types.is_large_string(dtype) for dtype in schema.types)
    text = pa.large_string() if is_large else pa.string()
    return {"text": text, "number": pa.float64(), "vector": pa.list_(pa.float32())}


def arrow_array(column: Column, dtype: Any) -> Any:
    """A column as pyarrow has it."""
    import pyarrow as pa

    if column.kind != "vector" or not isinstance(column.values, np.ndarray):
        return pa.array(list(column.values), dtype)
    count, width = column.values.shape
    offsets = pa.array(np.arange(count + 1) * width, pa.int32())  # which raises where one is larger
    return pa.ListArray.from_arrays(offsets, pa.array(column.values.reshape(-1)))


def check_new(function: str, names: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise ValueError where a table of columns of these names has one of the outputs."""
    for name in {*outputs} & {*names}:
        raise ValueError(
            f"{function}: there is a column {name!r} already, expected another name for the output"
        )


def spark_schema(
    function: str, schema: Any, columns: Iterable[str], outputs: Mapping[str, Kind]
) -> Any:
    """A StructType of Spark's with the outputs too. Raises ValueError for a column that is missing
    and an output that is there, TypeError for a column of anything but texts."""
    from pyspark.sql import types

    names = schema.fieldNames()
    check_new(function, names, outputs)
    for name in columns:
        if name not in names:
            raise no_column(function, name, names)
        if not isinstance(schema[name].dataType, types.StringType):
            raise no_texts(function, name, f"is of type {schema[name].dataType.simpleString()}")
    of_kind = {
        "text": types.StringType(),
        "number": types.DoubleType(),
        "vector": types.ArrayType(types.FloatType()),
    }
    added = [types.StructField(name, of_kind[kind]) for name, kind in outputs.items()]
    return types.StructType([*schema.fields, *added])


def no_column(function: str, name: str, names: Iterable[str]) -> ValueError:
    """What is raised where a column is missing."""
    found = ", ".join(map(repr, names))
    return ValueError(f"{function}: there is no column {name!r}, expected one of {found}")


def no_texts(function: str, name: str, problem: str) -> TypeError:
    """What is raised where a column holds anything but texts."""
    return TypeError(f"{function}: column {name!r} {problem}, expected texts")
