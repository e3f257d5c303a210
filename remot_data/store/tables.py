"""Reading Parquet from memory that Arrow owns.

Arrow reads with threads of its own, which may let go of a file after the call has returned. If that file is a Python
object, the thread asks for the interpreter; where the program is ending just then, it is killed with SIGABRT instead.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_TAIL = 65536  # bytes at the end of a file that are read first: the footer, most often
_END = 8  # length of the footer, and four letters


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
    """The rows with a value in a column. Of the file, only the row groups that may have some are read.

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
    return rows.filter(pc.equal(rows[column], value))


def _may_have(statistics: Any, value: int) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


def _native(data: bytes) -> pa.BufferReader:
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)
