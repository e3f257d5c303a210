from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remot_data.store import shards
from remot_data.store.shards import Sample, ShardError

SAMPLES = [Sample(f"clip/{i:06d}", {"jpg": bytes([i]) * (i + 1), "json": b"{}"}, {"pts": i}) for i in range(5)]


def _written(samples=SAMPLES):
    file = io.BytesIO()
    table = shards.write(file, samples, {"frames": "abc"})
    return file.getvalue(), table


def test_offsets_point_at_the_members_and_tar_agrees():
    data, table = _written()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {m.name: (m.offset_data, m.size) for m in tar}
        assert all(m.mtime == 0 for m in tar)
    rows = table.to_pylist()
    assert {f"{r['key']}.{r['ext']}": (r["offset"], r["size"]) for r in rows} == members
    assert data[rows[8]["offset"] :][: rows[8]["size"]] == SAMPLES[4].members["jpg"]


def test_the_same_samples_give_the_same_bytes():
    (data, table), (again, table_again) = _written(), _written()
    assert data == again
    assert shards.table_bytes(table) == shards.table_bytes(table_again)


@pytest.mark.parametrize("keys", [["a/1", "a/0"], ["a/0", "a/0"], ["a.b/0"]])
def test_keys_out_of_order_twice_or_with_a_dot_are_refused(keys):
    with pytest.raises(ShardError):
        _written([Sample(key, {"x": b""}) for key in keys])


def test_a_sound_shard_has_nothing_wrong():
    data, table = _written()
    assert list(shards.check(io.BytesIO(data), table)) == []


@settings(max_examples=60)
@given(st.integers(0, 10239), st.integers(1, 255))
def test_every_flipped_byte_is_found(position, change):
    data, table = _written()
    broken = bytearray(data)
    broken[position % len(data)] ^= change
    assert list(shards.check(io.BytesIO(bytes(broken)), table))[0].startswith("has the sha256")


@pytest.mark.parametrize("cut", [1, 512, 1024, 3000])
def test_a_cut_tar_is_found(cut):
    data, table = _written()
    problems = list(shards.check(io.BytesIO(data[:-cut]), table))
    assert f"{len(data) - cut} bytes" in problems[0]
