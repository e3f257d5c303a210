from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from remot_data import persons  # noqa: E402
from remot_model.transferring import source  # noqa: E402
from remot_model.transferring.eyes import load_eyes  # noqa: E402
from remot_model.transferring.pictures import cut  # noqa: E402
from remot_model.transferring.request import TransferError  # noqa: E402
from tests.remot_model import red_people  # noqa: E402
from tests.remot_model.red_people import Seer, picture, write_image  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


def test_the_source_person_is_as_tall_in_its_crop_as_the_driving_person(run, files):
    eyes = load_eyes(run, "blazepose", "pose-guided")
    heights = {}
    for share in (0.3, 0.6):
        labels = source.find_source(files.source, eyes, share).labels
        heights[share] = np.flatnonzero(labels.any(1)).size / labels.shape[0]
    assert heights == pytest.approx({0.3: 0.3, 0.6: 0.6}, abs=0.05)


def test_a_video_can_be_the_source(run, files):
    eyes = load_eyes(run, "blazepose", "pose-guided")
    who = source.find_source(files.driving, eyes)
    assert who.image.shape == (256, 192, 3)
    assert set(np.unique(who.labels)) == {0, 1, 2, 4, 5, 7} and who.notes == ()


def test_cut_repeats_the_border_outside():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    want = np.pad(image, ((1, 2), (2, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(cut(image, (-2, -1, 7, 7), (7, 7)), want)
    np.testing.assert_array_equal(cut(image, (1, 1, 3, 2), (2, 3)), image[1:3, 1:4])


def test_a_source_that_shows_a_part_or_several_persons_is_taken_with_a_note(run, tmp_path, monkeypatch):
    eyes = load_eyes(run, "blazepose", "pose-guided")
    monkeypatch.setitem(red_people.PARTS, 12, 1.0)
    path = write_image(tmp_path / "part.png", picture())
    (note,) = source.find_source(path, eyes).notes
    assert "shows no limbs" in note
    # The largest is where nobody can be parsed, as a group taken for one may be.
    two = [persons.Person(0, (0.0, 0.0, 58.0, 100.0), 0.9), persons.Person(0, (60.0, 30.0, 84.0, 100.0), 0.9)]
    monkeypatch.setattr(source.people, "find", lambda image: two)
    whole = source.cut
    monkeypatch.setattr(source, "cut", lambda image, crop, *how: whole(image, crop, *how) // (1 if crop[0] > 0 else 9))
    who = source.find_source(path, eyes)
    assert "2 persons" in who.notes[0] and Seer.box(who.image)


def test_what_a_picture_lost_on_its_way_is_noted(run, tmp_path):
    """Its transparent parts are white, its orientation that of the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.full((120, 160), 255, np.uint8)
    alpha[:, 100:] = 0
    stored = np.rot90(np.dstack([picture(), alpha]), 1)
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "cut.png", exif=exif)
    who = source.find_source(tmp_path / "cut.png", load_eyes(run, "blazepose", "pose-guided"))
    assert who.notes == (f"{tmp_path / 'cut.png'} is transparent in parts; these are white",)
    whole, _ = source._whole(tmp_path / "cut.png")
    assert whole.shape == (120, 160, 3) and (whole[:, 100:] == 255).all() and Seer.box(whole) == (60, 30, 84, 100)


def standing(labels: np.ndarray, colour: tuple[int, int, int]) -> source.Source:
    image = np.full((*labels.shape, 3), 50, np.uint8)
    image[labels > 0] = colour
    return source.Source(image, labels, np.zeros((25, 3), np.float32))


def test_a_region_comes_from_another_source_scaled_and_laid_over_its_own():
    ours, theirs = np.zeros((80, 60), np.uint8), np.zeros((80, 60), np.uint8)
    ours[10:20, 25:35], ours[20:40, 20:40], ours[40:70, 20:40] = 4, 1, 2
    # Half as tall, somewhere else: its top is 10 x 8, so 20 x 16 in the size of the other.
    theirs[40:45, 5:10], theirs[45:55, 3:11], theirs[55:70, 3:11] = 4, 1, 2
    who = source.dressed(standing(ours, (200, 0, 0)), standing(theirs, (0, 200, 0)), "top")
    top = who.labels == 1
    rows, columns = np.flatnonzero(top.any(1)), np.flatnonzero(top.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((20, 39, 22, 37), abs=1)
    assert (who.image[top] == (0, 200, 0)).all(1).mean() > 0.8
    np.testing.assert_array_equal(who.labels[40:], ours[40:])
    assert (who.image[who.labels == 2] == (200, 0, 0)).all()
    # What the new top leaves free of the old one is background.
    assert not who.labels[25:35, 20].any()
    # Clothes may cover arms, and not the head.
    ours[18:22, 25:35], ours[24:30, 20:24] = 4, 9
    who = source.dressed(standing(ours, (200, 0, 0)), standing(theirs, (0, 200, 0)), "top")
    assert (who.labels[18:22, 25:35] == 4).all() and (who.labels[25:29, 23] == 1).all()
    with pytest.raises(TransferError, match="give the shoes shows none"):
        source.dressed(standing(ours, (1, 1, 1)), standing(theirs, (2, 2, 2)), "shoes")
