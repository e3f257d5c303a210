from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data.records import NO_SEAL, Clip, Receipt, Reject, Times, canonical_json, digest, is_sealed, sealed

CLIP = Clip("a-000-00", "a", "a.mp4", "00", 0, (0, 2), (1, 30), 30.0, (10, 20), (0.0, 0.0, 5.0, 5.0), "p", "train")


def test_a_record_survives_json():
    assert Clip.from_json(json.loads(json.dumps(CLIP.to_json()))) == CLIP


def test_an_unknown_reason_code_is_refused():
    with pytest.raises(ValueError, match="no-such-code"):
        Reject("video", "a", "a.mp4", "no-such-code")


def test_unknown_fields_of_a_newer_version_are_left_out():
    assert Receipt.from_json({"task": "t", "added-later": 1}) == Receipt("t")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))
def test_equal_values_have_equal_digests_whatever_the_order(value):
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert digest(turned) == digest(value)


def test_a_key_holds_no_dot():
    assert CLIP.key(7) == "a-000-00/000007"


@given(st.lists(st.integers(-(2**61), 2**61)), st.integers(-8, 8), st.integers(-8, 8))
def test_times_are_the_sequence_they_were_made_of(values, start, stop):
    times = Times(values)
    assert list(times) == values and times.array().tolist() == values and len(times) == len(values)
    assert times == values and times == tuple(values) and times == Times(values)
    assert times[start:stop] == values[start:stop]
    assert Times.from_json(json.loads(json.dumps(times.to_json()))) == times
    assert hash(times) == hash(Times(values))
    if values:
        assert times[-1] == values[-1]
        assert times != [*values[:-1], values[-1] + 1]


def test_times_of_even_and_uneven_rates_take_little_memory():
    even, uneven = Times(range(0, 600 * 512, 512)), Times([round(i * 1000 / 30) for i in range(600)])
    assert max(len(json.dumps(t.to_json())) for t in (even, uneven)) < 150


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.data())
def test_a_seal_tells_of_every_changed_byte(value, data):
    good = sealed(json.dumps({**value, "seal": NO_SEAL}).encode())
    assert is_sealed(good)
    broken = bytearray(good)
    broken[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    assert not is_sealed(bytes(broken))
    assert not is_sealed(good[:-1])


def test_what_has_no_empty_seal_cannot_be_sealed():
    for data in (b"{}", sealed(json.dumps({"seal": NO_SEAL}).encode())):
        with pytest.raises(ValueError, match="no empty seal"):
            sealed(data)
