"""Programs that had opened a store ended with SIGABRT: Arrow's threads let go of Python objects as Python was ending.

Made input: the committed store, opened by many short programs on a busy machine. Right: each ends with its own status.
Reading goes through `remot_data.store.tables`, which gives Arrow memory of its own; nothing else reads Parquet.
"""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from remot_data.store.shards import table_bytes
from remot_data.store.tables import read_table, rows_where

ROOT = Path(__file__).parents[2]
STORE = ROOT / "tests/data/store-1c74548"
READS = """
import sys
from remot_data.store import Store, open_store
assert Store(sys.argv[1]).shard_clips(0)
assert open_store(sys.argv[1]).clips
"""


def test_nothing_else_reads_parquet():
    found = [
        path.relative_to(ROOT).as_posix()
        for package in ("remot_data", "remot_model")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"pq\.(read|ParquetFile|ParquetDataset)|parquet import", path.read_text())
    ]
    assert found == ["remot_data/store/tables.py"]


def test_rows_of_some_groups_are_those_of_the_whole(tmp_path):
    table = pa.table({"shard": [i // 70 for i in range(1000)], "name": [f"clip {i}" * 40 for i in range(1000)]})
    path = tmp_path / "t.parquet"
    path.write_bytes(table_bytes(table, group=64))
    assert read_table(path.read_bytes()).equals(table, check_metadata=False)
    for shard in (0, 7, 14, 15):
        with open(path, "rb") as file:
            rows = rows_where(file, "shard", shard)
        assert rows["name"].to_pylist() == [f"clip {i}" * 40 for i in range(1000) if i // 70 == shard]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 100, b"\xff" * 40])
def test_what_is_no_table_is_an_error(tmp_path, data):
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(pa.ArrowInvalid), open(tmp_path / "t", "rb") as file:
        rows_where(file, "shard", 0)


@pytest.mark.slow
def test_programs_that_open_a_store_end_with_their_status():
    def run(_: int) -> int:
        return subprocess.run([sys.executable, "-c", READS, str(STORE)], cwd=ROOT, timeout=120).returncode

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(run, range(40))) == {0}
