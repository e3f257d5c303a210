"""What is built without pandas is what Arrow builds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data.store.tables import array, table, take, to_numpy

whole, real, text = st.integers(-(2**63), 2**63 - 1), st.floats(width=64), st.text(max_size=4)
COLUMNS = {
    pa.int64(): whole,
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.float64(): real | st.integers(-(2**53), 2**53),
    pa.string(): text,
    pa.bool_(): st.booleans(),
    pa.list_(pa.int64()): st.lists(st.none() | whole, max_size=3),
    pa.list_(pa.float64()): st.lists(real, max_size=3).map(tuple),
    pa.list_(pa.string()): st.lists(text, max_size=3),
}


def same(a: pa.Array | pa.ChunkedArray, b: pa.Array | pa.ChunkedArray) -> bool:
    """As `equals`, but what is no number is like itself."""
    a.validate(full=True)
    return a.type == b.type and a.null_count == b.null_count and repr(a.to_pylist()) == repr(b.to_pylist())


@given(st.data(), st.sampled_from(list(COLUMNS)))
def test_columns_of_a_type(data, of):
    values = data.draw(st.lists(st.none() | COLUMNS[of], max_size=20))
    assert same(array(values, of), pa.array(values, of))


@given(st.sampled_from([whole, real, text, st.booleans(), real | whole, st.none(), st.binary(max_size=2)]), st.data())
def test_columns_whose_type_the_values_tell(one, data):
    values = data.draw(st.lists(one | st.none(), max_size=20))
    try:
        wanted = pa.array(values)
    except (pa.ArrowInvalid, OverflowError) as error:
        with pytest.raises(type(error)):
            array(values)
    else:
        assert same(array(values), wanted)


@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "u1", "f8", "f4"])
def test_arrays_of_numpy(dtype):
    values = np.arange(40).astype(dtype)[::3]
    assert array(values).equals(pa.array(values))
    assert array(values[:0]).equals(pa.array(values[:0]))


@pytest.mark.parametrize(
    ("values", "of"),
    [(["1"], pa.int64()), ([300], pa.uint8()), ([2**63], None), ([2**53 + 1], pa.float64())],
)
def test_what_does_not_fit_is_an_error_as_in_arrow(values, of):
    with pytest.raises((pa.ArrowInvalid, OverflowError, pa.ArrowTypeError)) as wanted:
        pa.array(values, of)
    with pytest.raises(wanted.type):
        array(values, of)


@given(st.lists(st.tuples(whole, real, text, st.none() | whole), min_size=1, max_size=20), st.data())
def test_rows_and_columns_come_back(rows, data):
    columns = dict(zip("abcd", map(list, zip(*rows, strict=True)), strict=True))
    schema = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c", pa.string()), ("d", pa.int64())])
    made = table(columns, schema)
    assert repr(made.to_pylist()) == repr(pa.table(columns, schema=schema).to_pylist()) and made.schema == schema
    keep = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1))), int)
    kept = take(made, keep)
    assert repr(kept.to_pylist()) == repr(made.take(pa.array(keep)).to_pylist())
    for name in "abcd":
        part = made[name].slice(1)
        assert np.array_equal(to_numpy(part), part.to_numpy(), equal_nan=name in "bd")


def test_it_is_done_without_pandas():
    code = (
        "import sys, numpy as np; from remot_data.store.tables import array, table, take, to_numpy; "
        "import pyarrow as pa; made = table({'a': [1, 2], 'b': ['x', None], 'c': np.array([1.5, 2])}); "
        "to_numpy(take(made, np.array([1]))['c']); array([[1.5], None], pa.list_(pa.float64())); "
        "print('pandas' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
