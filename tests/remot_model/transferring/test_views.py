from __future__ import annotations

import contextlib
import dataclasses
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from remot_model.generating import rollout  # noqa: E402
from remot_model.generating.inference import Runner  # noqa: E402
from remot_model.transferring import views  # noqa: E402
from remot_model.transferring.driving import Piece, find_driving, read_pieces  # noqa: E402
from remot_model.transferring.eyes import load_eyes  # noqa: E402
from remot_model.transferring.request import VIEWS, TransferError, check_views  # noqa: E402
from remot_model.transferring.source import find_source  # noqa: E402
from tests.remot_model.red_people import CONFIG, picture, write_video  # noqa: E402

pytestmark = pytest.mark.usefixtures("seers")


BLACK = np.zeros((32, 24, 3), np.uint8)


@pytest.fixture
def prepared(run, files):
    """A function that makes a renderer, and the pieces of a video with a cut in it."""
    eyes = load_eyes(run, "blazepose", "pose-guided")
    who = find_source(files.source, eyes)
    shots = [picture(40 + t) for t in range(12)] + [picture(90 - t, colour=(200, 220, 240)) for t in range(9)]
    drive = find_driving(write_video(files.folder / "cut.mp4", shots), CONFIG.size, None, None)

    def make(gam="paper", of=run):
        return views.Renderer(of, who, BLACK, eyes, Runner(of.networks, lanes=False), gam, drive.fps)

    return make, list(read_pieces(drive, eyes.size))


@pytest.mark.parametrize("gam", ["paper", "steady"])
def test_a_cut_begins_anew(prepared, gam):
    make, pieces = prepared
    alone, after = make(gam), make(gam)
    after(pieces[0], ["result"])
    np.testing.assert_array_equal(after(pieces[1], ["result"])["result"], alone(pieces[1], ["result"])["result"])


@pytest.mark.parametrize("gam", ["paper", "steady"])
def test_memory_goes_on_in_another_renderer(prepared, gam):
    make, (piece, _) = prepared
    one = make(gam)
    halves = [Piece(True, piece.frames[:7], 0), Piece(False, piece.frames[7:].copy(), 0)]
    # The last pose goes on over frames without a person.
    halves[1].frames[:2] = 90
    one(halves[0], ["result"])
    other = make(gam)
    stored = io.BytesIO()
    torch.save(one.memory(), stored)
    stored.seek(0)
    other.restore(torch.load(stored, weights_only=True))
    np.testing.assert_array_equal(one(halves[1], ["result"])["result"], other(halves[1], ["result"])["result"])
    assert one.without_pose == other.without_pose == 2


def test_every_view_is_a_picture_of_every_frame(prepared):
    make, (piece, _) = prepared
    shown = make()(piece, VIEWS)
    assert list(shown) == list(VIEWS)
    for name, pictures in shown.items():
        height = 256 if name in ("source", "driving", "gam") else 32
        width = height * 3 // 4 * (5 if name == "regions" else 1)
        assert pictures.shape == (12, height, width, 3) and pictures.dtype == np.uint8, name
    # The sum of the regions is their sum, where 0 is mid-grey.
    regions = np.stack(np.split(shown["regions"].astype(int), 5, 2))
    np.testing.assert_allclose((regions - 127.5).sum(0), shown["coarse"] - 127.5, atol=4)


def test_the_overlay_draws_the_outline_of_layout_and_source():
    labels = np.zeros((1, 32, 24), np.uint8)
    labels[0, 8:24, 8:16] = 1
    where = np.zeros_like(labels)
    where[:, 4:20, 6:12] = 1
    frames = np.full((1, 256, 192, 3), 100, np.uint8)
    black = np.zeros((1, 32, 24, 3), np.uint8)
    (picture,) = views.gam_overlay(frames, labels, black, where, np.float32([1.25]), np.float32([[3.0, -2.0]]))
    yellow, cyan = ((picture == colour).all(-1) for colour in ((255, 220, 0), (0, 220, 255)))
    assert yellow[191, 64:128].all() and not yellow[100, 100]
    assert cyan[32, 48:96].all() and cyan[32:160, 48].all()
    assert (picture[100, 60] == 40).all()
    assert (picture[-20:] == 255).any() and (frames == 100).all()


def test_views_that_are_not_there_are_refused(run):
    with pytest.raises(TransferError, match="no view nothing; there are source, driving"):
        check_views(["result", "nothing"], run)
    without = dataclasses.replace(run, config=dataclasses.replace(CONFIG, use_wcn=False))
    with pytest.raises(TransferError, match="no composition network, so there is no mask, flow"):
        check_views(["layout", "mask", "flow"], without)


def test_every_view_that_is_not_refused_is_made_without_a_composition_network(prepared, run):
    without = dataclasses.replace(run, config=dataclasses.replace(CONFIG, use_wcn=False))
    make, (piece, _) = prepared
    shown = []
    for name in VIEWS:
        with contextlib.suppress(TransferError):
            check_views([name], without)
            shown.append(name)
    assert list(make(of=without)(piece, shown)) == shown and {"coarse", "result"} <= set(shown)


def test_the_steady_gam_needs_the_trunk_of_the_source(run, files):
    eyes = load_eyes(run, "blazepose", "pose-guided")
    who = find_source(files.source, eyes)
    blind = dataclasses.replace(who, keypoints=np.zeros_like(who.keypoints))
    with pytest.raises(TransferError, match="neck and hips .* steady GAM"):
        views.Renderer(run, blind, BLACK, eyes, Runner(run.networks, lanes=False), "steady")


def test_images_are_rounded_to_bytes():
    images = torch.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert rollout.to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]
