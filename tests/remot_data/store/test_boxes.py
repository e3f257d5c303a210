"""Who was seen where: as arrays of frames, as text, as a file of a store."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remot_data.records import Clip, is_sealed
from remot_data.store import DamagedError, Store, open_store
from remot_data.store.boxes import Boxes, Looks, boxes_at_size, of_clip, pack, unpack
from remot_data.store.boxes_table import file_bytes, of_table
from tests.remot_data.conftest import boxes_of, give_boxes

MS = (1, 1000)
OWN = (0.2, 0.1, 0.7, 0.9)


def clip(pts: list[int], crop: tuple[float, float, float, float] = (0, 0, 100, 200)) -> Clip:
    return Clip("c", "v", "v.mp4", "", 0, pts, MS, 10.0, (640, 480), crop, "p", "train", shard=0)


def boxes(*seen: tuple[int, int, float], own: int = 1, looks: list[int] | None = None) -> Boxes:
    """Of (milliseconds, track, left edge): boxes 10 wide and 20 high."""
    pts = np.array(looks if looks is not None else sorted({ms for ms, _, _ in seen}))
    rows = sorted(seen)
    look = np.searchsorted(pts, [ms for ms, _, _ in rows]).astype(np.int32)
    corners = np.array([(x, 0, x + 10, 20) for _, _, x in rows], np.float32).reshape(-1, 4)
    return Boxes(own, pts, look, np.array([n for _, n, _ in rows], np.int32), corners, np.ones(len(rows), np.float32))


def lefts(found: np.ndarray) -> list[float | None]:
    return [None if np.isnan(x) else round(float(x), 3) for x in found[..., 0].ravel()]


# Boxes of frames


def test_a_box_is_interpolated_by_time_between_two_looks() -> None:
    own, others = boxes((0, 1, 0), (200, 1, 10), (400, 1, 10)).at(np.array([0, 50, 100, 300, 400]), MS)
    assert lefts(own) == [0, 2.5, 5, 10, 10] and own.dtype == np.float32
    assert others.shape == (5, 0, 4)


def test_a_box_holds_for_a_quarter_of_a_second_beyond_the_looks_and_over_no_gap_of_more_than_one() -> None:
    seen = boxes((1000, 1, 0), (2000, 1, 100), (3001, 1, 200))
    times = np.array([740, 750, 1000, 1500, 2250, 2251, 2750, 2751, 3251, 3252])
    assert lefts(seen.at(times, MS)[0]) == [None, 0, 0, 50, 100, None, None, 200, 200, None]


def test_a_clip_whose_person_was_looked_at_once_or_never() -> None:
    assert lefts(boxes((100, 1, 7)).at(np.array([0, 300, 400]), MS)[0]) == [7, 7, None]
    assert lefts(boxes((100, 2, 7)).at(np.array([0]), MS)[0]) == [None]
    own, others = boxes(looks=[0, 100]).at(np.array([0, 50]), MS)
    assert lefts(own) == [None, None] and others.shape == (2, 0, 4)


def test_others_have_a_column_a_track_and_those_in_no_track_are_not_counted_twice() -> None:
    seen = boxes(*((ms, 1, 0) for ms in (0, 200, 400)), *((ms, 5, 50) for ms in (0, 200)), (0, -1, 80), (200, -1, 81))
    _, others = seen.at(np.array([0, 99, 100, 200, 400, 460]), MS)
    assert others.shape == (6, 2, 4)
    assert lefts(others[:, 0]) == [50, 50, 50, 50, 50, None]
    assert lefts(others[:, 1]) == [80, 80, 81, 81, None, None]
    assert np.nansum(~np.isnan(others[..., 0]), 1).max() == 2


def test_boxes_in_frames_go_through_the_crop() -> None:
    own, others = boxes((0, 1, 10), (100, 1, 20), (0, 2, -30), (100, 2, -30)).in_frames(
        clip([0, 100], (10, -20, 100, 200)), (400, 50)
    )
    assert own.tolist() == [[0, 40, 5, 80], [5, 40, 10, 80]]
    assert others[:, 0].tolist() == [[-20, 40, -15, 80]] * 2
    larger = boxes_at_size({"own": own, "others": others}, (400, 50), (800, 100))
    assert larger["own"].tolist() == (own * 2).tolist() and larger["others"].shape == (2, 1, 4)


def test_of_a_video_a_clip_has_the_looks_around_it() -> None:
    rows = [(ms, n, ms / 10) for ms in range(0, 1001, 200) for n in (1, 2)]
    video = boxes(*rows)
    looks = Looks(video.pts, video.look, video.track, video.box, video.score)
    found = of_clip(looks, clip([410, 500, 590]), 2)
    assert found.own == 2 and found.pts.tolist() == [400, 600]
    assert found.look.tolist() == [0, 0, 1, 1] and found.track.tolist() == [1, 2, 1, 2]
    assert of_clip(looks, clip([0, 400, 1000]), 1).pts.tolist() == video.pts.tolist()
    assert of_clip(looks, clip([200, 300, 400]), 1).pts.tolist() == [200, 400]
    times = np.array([410, 500, 590])
    assert np.array_equal(found.at(times, MS)[0], Boxes(2, *looks).at(times, MS)[0])


# As text and as a file


@st.composite
def many_looks(draw: st.DrawFn) -> Looks:
    count = draw(st.integers(0, 30))
    steps = draw(st.lists(st.integers(1, 10**7), min_size=count, max_size=count))
    pts = draw(st.integers(-(2**40), 2**40)) + np.cumsum(np.array(steps, np.int64))
    box = st.tuples(*[st.floats(-40000, 40000)] * 4)
    row = st.tuples(st.integers(0, max(count - 1, 0)), st.integers(-1, 2**31 - 1), box, st.floats(0, 1))
    rows = sorted(draw(st.lists(row, max_size=40 if count else 0)), key=lambda one: one[0])
    corners = np.array([r[2] for r in rows], np.float32).reshape(-1, 4)
    columns = [np.array([r[i] for r in rows], dtype) for i, dtype in ((0, np.int32), (1, np.int32), (3, np.float32))]
    return Looks(pts, columns[0], columns[1], corners, columns[2])


@given(many_looks())
def test_text_and_file_give_back_what_is_kept(looks: Looks) -> None:
    """Whole pixels within 16 bits and 255ths, whatever order the boxes of one look came in."""
    back = unpack(text := pack(*looks))
    (of_file,) = of_table(pq.read_table(io.BytesIO(file_bytes({"a": Boxes(3, *looks)})))).values()
    for name in Looks._fields:
        a, b = getattr(back, name), getattr(of_file, name)
        assert a.dtype == b.dtype and np.array_equal(a, b), name
    assert back.pts.tolist() == looks.pts.tolist() and pack(*back) == text
    kept = zip(looks.look, looks.track, np.rint(looks.box).clip(-(2**15), 2**15 - 1).tolist(), looks.score, strict=True)
    found = zip(back.look, back.track, back.box.tolist(), back.score, strict=True)
    for (a, b, c, d), (e, f, g, h) in zip(sorted(kept), sorted(found), strict=True):
        assert (a, b, c) == (e, f, g) and abs(d - h) <= 0.5 / 255 + 1e-6


def test_the_order_of_boxes_of_one_look_makes_no_other_file() -> None:
    one = boxes((0, 1, 5), (0, 2, 50), (0, -1, 70), (0, -1, 60), (200, 2, 50))
    order = [3, 1, 0, 2, 4]
    other = Boxes(1, one.pts, one.look[order], one.track[order], one.box[order], one.score[order])
    assert file_bytes({"a": one, "b": other}) == file_bytes({"b": one, "a": other})
    assert file_bytes({"a": one}) != file_bytes({"a": boxes((0, 1, 6))})


def test_a_box_takes_five_bytes_of_text() -> None:
    """Of three walkers, found a little beside where they are, 5 times a second for 5 minutes."""
    chance = np.random.default_rng(0)
    pts = np.arange(1500) * 3000
    walk = np.cumsum(chance.normal(0, (6, 3), (1500, 3, 2)), 0) + 500
    low = walk + chance.normal(0, 2, walk.shape)
    box = np.concatenate([low, low + (200, 500) + chance.normal(0, 3, walk.shape)], 2).reshape(-1, 4)
    look, track = np.repeat(np.arange(1500), 3), np.tile(np.arange(3), 1500)
    assert len(pack(pts, look, track, box, chance.normal(0.8, 0.04, len(look)).clip(0, 1))) < 5.5 * len(look)


# In a store


def test_a_store_without_boxes_has_none(dancers: Store) -> None:
    assert not dancers.has_boxes and dancers.boxes(dancers.clips[0]) is None
    assert not dancers.present("boxes") and not dancers.files.names("boxes")


def test_boxes_come_back_as_they_were_written(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN, (0.5, 0.0, 1.0, 1.0))
    assert store.present("boxes") == set(range(store.shard_count))
    for clip in store.clips:
        found, wanted = store.boxes(clip), boxes_of(clip, OWN, (0.5, 0.0, 1.0, 1.0))
        assert found is not None and found.own == 1
        assert all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in Looks._fields)
        own, others = found.in_frames(clip, store.size)
        assert own.shape == (clip.frames, 4) and others.shape == (clip.frames, 1, 4)
        assert np.abs(own[0] - np.array(OWN) * (48, 64, 48, 64)).max() <= 0.51 * store.size[1] / clip.crop[2]
    data = store.files.read("boxes/shard-00000.parquet")
    assert is_sealed(data) and store.sha256("boxes", 0) in data.decode("latin1")


def test_a_task_that_asks_for_one_shard_reads_one_file(own_dancers: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store = give_boxes(own_dancers, OWN)
    asked: list[str] = []
    fresh = Store(store.url)
    read = fresh.files.read
    monkeypatch.setattr(fresh.files, "read", lambda name, *rest: asked.append(name) or read(name, *rest))
    _ = fresh.config
    for _ in range(3):
        for clip in fresh.shard_clips(1):
            assert fresh.boxes(clip) is not None
    assert [name for name in asked if name.startswith("boxes")] == ["boxes/shard-00001.parquet"]


def test_what_is_written_anew_is_read_anew(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN)
    clip = store.shard_clips(0)[0]
    assert store.boxes(clip).track.max() == 1  # type: ignore[union-attr]
    store.write_boxes(0, {c.id: boxes_of(c, OWN, OWN) for c in store.shard_clips(0)})
    assert store.boxes(clip).track.max() == 2  # type: ignore[union-attr]


def test_missing_and_damaged_boxes_say_what_to_do(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN)
    path = Path(store.url) / "boxes/shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DamagedError, match=r"boxes/shard-00001.parquet cannot be read .*--repair"):
        store.boxes(store.shard_clips(1)[0])
    path.unlink()
    with pytest.raises(DamagedError, match="shard-00001.parquet is missing: run the build again"):
        open_store(store.url).boxes(store.shard_clips(1)[0])


def test_trimming_takes_the_boxes_past_the_last_shard(own_dancers: Store) -> None:
    store = give_boxes(own_dancers, OWN)
    store.write_boxes(store.shard_count, {})
    store.trim()
    assert store.present("boxes") == set(range(store.shard_count))
