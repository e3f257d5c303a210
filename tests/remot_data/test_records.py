from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data.records import Clip, Receipt, Reject, canonical_json, digest

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
