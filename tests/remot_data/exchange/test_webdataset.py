"""Merged tars against the store they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import webdataset

from remot_data.detectors.base import file_sha256
from remot_data.exchange.exports import export
from remot_data.exchange.webdataset import name_of
from remot_data.store.layers import pose as pose_layer
from tests.remot_data.exchange.conftest import arrays

pytestmark = pytest.mark.slow


def test_merged_tars_are_read_by_plain_webdataset(dancers, exported):
    tars = sorted(str(p) for p in (exported / "webdataset").glob("*.tar"))
    assert [Path(p).name for p in tars] == ["test-00002.tar", "train-00000.tar", "train-00001.tar"]
    samples = {s["__key__"]: s for s in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8")}
    assert len(samples) == 100
    clip = dancers.clips[2]
    sample, frames = samples[clip.key(7)], arrays(dancers, "frames", clip)["frames"]
    # Decoders may differ by a little; labels and numbers may not.
    assert np.abs(sample["jpg"].astype(int) - frames[7]).mean() < 1
    np.testing.assert_array_equal(sample["pose.npy"], arrays(dancers, "pose", clip)["keypoints"][7])
    np.testing.assert_array_equal(sample["labels.png"][..., 0], arrays(dancers, "parsing", clip)["labels"][7])
    packed = sample["flow.npz"]["flow"]
    np.testing.assert_allclose(packed[:2] / 64, np.moveaxis(arrays(dancers, "flow", clip)["flow"][7], -1, 0))
    assert {"background.jpg", "background.seen.png", "pose.mask.png", "scores.json"} <= set(sample)
    assert sample["json"]["clip"] == clip.id and sample["json"]["frame"] == 7
    assert sample["json"]["pts"] == clip.pts[7] and sample["json"]["split"] == "train"


def test_the_list_of_tars_has_their_digests_and_the_schemas(exported):
    told = json.loads((exported / "webdataset/dataset.json").read_text())
    assert told["schemas"]["pose"] == "body25" and told["schemas"]["parsing"] == "atr18"
    tars = [tar for split in ("train", "test") for tar in told["splits"][split]]
    assert [t["samples"] for t in tars] == [40, 40, 20]
    for tar in tars:
        assert file_sha256(exported / "webdataset" / tar["name"]) == tar["sha256"]


def test_members_of_merged_tars_are_those_of_the_store(person, tmp_path):
    """The bytes go over as they are, so this package's own readers take them too."""
    export(person, "webdataset", tmp_path / "out", workers=0)
    (clip,) = person.clips
    (tar,) = (tmp_path / "out").glob("*.tar")
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert len(samples) == clip.frames
    found = np.stack([pose_layer.from_npy(s["pose.npy"]) for s in samples])
    np.testing.assert_array_equal(found, arrays(person, "pose", clip)["keypoints"])
    assert "flow.npz" not in samples[0]


def test_a_kind_of_others_takes_no_name_of_a_layer_that_is_there():
    kinds = ["pose", "parsing", "flow", "background", "scores", "labels", "depth"]
    assert len({name_of(kind) for kind in kinds}) == len(kinds)
    assert (name_of("parsing"), name_of("labels"), name_of("depth")) == ("labels", "labels_", "depth")
