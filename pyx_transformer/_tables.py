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

Kind = Literal["text", "number", "vector"]  # of float64, of float32
Row = tuple[Any, ...]  # of a table: a text or None for each column that is read


class Column(NamedTuple):
    """The values of a new column, one for each row, None where there is none."""

    kind: Kind
    values: Sequence[Any] | np.ndarray


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
        return list(zip(*found, strict=True))

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

    def _values(self, column: Any) -> list[Any]:
        """The values of a column. Raises TypeError for a type that holds no texts."""
        return list(column)

    def _texts(self, name: str) -> list[str | None]:
        if name not in self._names():
            raise no_column(self.function, name, self._names())
        values = self._values(self._column(name))
        return [self._text(name, i, value) for i, value in enumerate(values)]

    def _text(self, name, number, value):
        if isinstance(value, str):
            return str(value)  # of NumPy's kind of string too
        if value is None or (isinstance(value, float) and math.isnan(value)):
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

    def _values(self, column):
        if not (column.dtype == object or is_text(column.dtype) or not len(column)):
            raise no_texts(self.function, column.name, f"is of dtype {column.dtype}")
        values = column.astype(object)
        return values.where(column.notna(), None).tolist()

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
        column = self.batch.column(name)
        if not is_arrow_text(column.type) and len(column) > column.null_count:
            raise no_texts(self.function, name, f"is of type {column.type}")
        return column

    def _values(self, column):
        return column.to_pylist()

    def with_columns(self, columns):
        batch = self.batch
        for name, column in columns.items():
            added = arrow_array(column, arrow_types(batch.schema)[column.kind])
            batch = batch.append_column(name, added)
        return batch


def as_array(column: Column) -> np.ndarray:
    """A column as NumPy has it: vectors (N, D) where none is missing."""
    if column.kind == "number":
        return np.array([np.nan if value is None else value for value in column.values], np.float64)
    if isinstance(column.values, np.ndarray):
        return column.values
    array = np.empty(len(column.values), object)
    array[:] = list(column.values)
    return array


def is_text(dtype: Any) -> bool:
    """Whether a pandas dtype is one of texts."""
    import pandas as pd

    return isinstance(dtype, pd.StringDtype) or str(dtype) in ("string", "string[pyarrow]")


def is_arrow_text(dtype: Any) -> bool:
    """Whether a pyarrow type is one of texts."""
    from pyarrow import types

    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    return types.is_string(dtype) or types.is_large_string(dtype)


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
    offsets = np.arange(count + 1, dtype=np.int32) * width
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
