"""Reading Parquet from memory that Arrow owns, and tables of plain values.

Arrow reads with threads of its own, which may let go of a file after the call has returned. If that file is a Python
object, the thread asks for the interpreter; where the program is ending just then, it is killed with SIGABRT instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_TAIL = 65536  # bytes at the end of a file that are read first: the footer, most often
_END = 8  # length of the footer, and four letters
_PLAIN = {int: pa.int64(), float: pa.float64(), str: pa.string()}


def read_table(data: bytes) -> pa.Table:
    """The table of the bytes of a Parquet file."""
    return pq.ParquetFile(_native(data)).read()


def read_columns(data: bytes, columns: list[str]) -> pa.Table:
    """Some columns of the table of the bytes of a Parquet file."""
    return pq.ParquetFile(_native(data)).read(columns)


def read_metadata(data: bytes) -> Any:
    """The `pyarrow.parquet.FileMetaData` of the bytes of a Parquet file."""
    return pq.read_metadata(_native(data))


def rows_where(file: BinaryIO, column: str, value: int) -> pa.Table:
    """The rows with a value in a column of numbers. Of the file, only the row groups that may have some are read.

    Raises:
        pyarrow.ArrowInvalid: what is no Parquet file.
    """
    size = file.seek(0, os.SEEK_END)
    buffer = pa.allocate_buffer(size)  # what is not read into it stays untouched, and costs no memory
    view = memoryview(buffer).cast("B")

    def fill(start: int, stop: int) -> None:
        file.seek(start)
        view[start:stop] = file.read(stop - start)

    tail = max(size - _TAIL, 0)
    fill(tail, size)
    footer = size - _END - int.from_bytes(view[-_END:-4], "little") if size >= _END else 0
    if 0 <= footer < tail:
        fill(footer, tail)
    parquet = pq.ParquetFile(pa.BufferReader(buffer))
    number = parquet.schema_arrow.get_field_index(column)
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    wanted = [i for i, group in enumerate(groups) if _may_have(group.column(number).statistics, value)]
    for group in (groups[i] for i in wanted):
        columns = [group.column(i) for i in range(group.num_columns)]
        starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
        fill(min(starts), max(s + c.total_compressed_size for s, c in zip(starts, columns, strict=True)))
    rows = parquet.read_row_groups(wanted)
    return take(rows, np.flatnonzero(to_numpy(rows[column]) == value))


def _may_have(statistics: Any, value: int) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


def _native(data: bytes) -> pa.BufferReader:
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)


# What Arrow's own `table`, `array`, `to_numpy` and `take` do, which import pandas wherever it is installed: 0.4 s in
# every worker.


def to_numpy(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The values of a column; numbers are not copied, and not to be written to."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    plain = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    return np.from_dlpack(array) if plain and not array.null_count else array.to_numpy(zero_copy_only=False)


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Rows of a table by their numbers."""
    return table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows.astype(np.int64))]))


def table(columns: Mapping[str, Sequence[Any] | np.ndarray], schema: pa.Schema | None = None) -> pa.Table:
    """A table of columns; their types are those of the schema, or else of the values."""
    types = dict(zip(schema.names, schema.types, strict=True)) if schema is not None else {}
    return pa.table({name: array(values, types.get(name)) for name, values in columns.items()}, schema=schema)


def array(values: Sequence[Any] | np.ndarray, of: pa.DataType | None = None) -> pa.Array | pa.ChunkedArray:
    """A column of integers, floating-point numbers, texts or lists of them, or any other column by way of pandas."""
    if isinstance(values, np.ndarray):
        return _built(pa.from_numpy_dtype(values.dtype), len(values), None, np.ascontiguousarray(values))
    types = {type(value) for value in values} - {type(None)}
    found = of if of is not None else _PLAIN.get(types.copy().pop()) if len(types) == 1 else None
    there = [value is not None for value in values]
    valid = None if all(there) else np.packbits(there, bitorder="little")
    if found is None or (pa.types.is_string(found) and not types <= {str}):
        return pa.array(values, of)
    if pa.types.is_string(found):
        texts = [(value or "").encode() for value in values]
        ends = np.cumsum([0, *map(len, texts)])
        if ends[-1] < 2**31:
            return _built(found, len(values), valid, ends.astype(np.int32), b"".join(texts))
    elif pa.types.is_list(found) and not any(isinstance(value, np.ndarray) for value in values):
        ends = np.cumsum([0, *(len(value or ()) for value in values)])
        inner = array([item for value in values for item in value or ()], found.value_type)
        if ends[-1] < 2**31:
            return _built(found, len(values), valid, ends.astype(np.int32), children=[inner])
    elif (pa.types.is_integer(found) and types <= {int}) or (pa.types.is_floating(found) and types <= {int, float}):
        plain = [0 if value is None else value for value in values]
        with suppress(OverflowError):  # Arrow is to say it
            kept = np.array(plain, found.to_pandas_dtype())
            if int not in types or kept.tolist() == plain:
                return _built(found, len(values), valid, kept)
    return pa.array(values, of)


def _built(of: pa.DataType, length: int, valid: np.ndarray | None, *parts: Any, **more: Any) -> pa.Array:
    buffers = [None if valid is None else pa.py_buffer(valid), *map(pa.py_buffer, parts)]
    return pa.Array.from_buffers(of, length, buffers, **more)
