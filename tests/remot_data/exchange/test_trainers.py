"""Exports to trainers, read back as their loaders read them (written after their documentation, see docs/data.md)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import cv2
import datasets
import numpy as np
import pandas as pd
import pytest

from remot_data import render
from remot_data.annotating.annotate import switch
from remot_data.exchange.exports import export
from remot_data.exchange.trainers import SHORTEST, TRAINERS
from remot_data.store import Store, StoreError, open_store

pytestmark = pytest.mark.slow


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two videos show the same, within what H.264 loses at 64 x 48."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).mean() < 14


@pytest.fixture
def store(own_dancers: Store) -> Store:
    return own_dancers


def frames_of(store: Store, clip: str) -> np.ndarray:
    return store.read_arrays("frames", "frames", store.clip[clip])["frames"]


def poses_of(store: Store, clip: str) -> np.ndarray:
    points = store.read_arrays(store.folders(store.snapshot("main"))["pose"], "pose", store.clip[clip])["keypoints"]
    return np.stack([render.pose_map(p, "body25", store.size) for p in points])


def test_diffsynth_reads_its_table(store: Store, tmp_path: Path) -> None:
    done = export(store, "diffsynth", tmp_path / "out", workers=0)
    assert done.frames == 100
    rows = list(csv.DictReader((tmp_path / "out/metadata.csv").open()))
    assert list(rows[0]) == ["video", "prompt", "control_video", "reference_image"] and len(rows) == 4
    for row in rows:
        clip = Path(row["video"]).stem.rpartition("-")[0]
        video, control = (decoded(tmp_path / "out" / row[name]) for name in ("video", "control_video"))
        assert near(video, frames_of(store, clip)) and near(control, poses_of(store, clip))
        still = cv2.imread(str(tmp_path / "out" / row["reference_image"]))[..., ::-1]
        assert (still == frames_of(store, clip)).all((1, 2, 3)).any()
    assert len(list(csv.DictReader((tmp_path / "out/metadata_test.csv").open()))) == 1


@pytest.mark.parametrize("name", ["animate-anyone", "musepose"])
def test_animate_anyone_and_musepose_read_pairs_of_one_length(name: str, store: Store, tmp_path: Path) -> None:
    export(store, name, tmp_path / "out", workers=0)
    pairs = json.loads((tmp_path / "out/train_meta.json").read_text())
    assert len(pairs) == 4
    for pair in pairs:
        video, poses = decoded(Path(pair["video_path"])), decoded(Path(pair["kps_path"]))
        assert len(video) == len(poses) == 20
        assert near(poses, poses_of(store, Path(pair["kps_path"]).stem.rpartition("-")[0]))


@pytest.mark.parametrize(("name", "kind"), [("vid2vid", "pose"), ("vid2vid-labels", "labels")])
def test_vid2vid_finds_the_same_names_in_both_folders(name: str, kind: str, store: Store, tmp_path: Path) -> None:
    export(store, name, tmp_path / "out", workers=0)
    found = {f: sorted(p.relative_to(tmp_path / "out" / f) for p in (tmp_path / "out" / f).rglob("*.png"))
             for f in ("train_A", "train_B", "test_A", "test_B")}  # fmt: skip
    assert found["train_A"] == found["train_B"] and len(found["train_A"]) == 80
    assert found["test_A"] == found["test_B"] and len(found["test_A"]) == 20
    first = found["train_A"][0]
    clip = first.parent.name.rpartition("-")[0]
    real = cv2.imread(str(tmp_path / "out/train_B" / first))[..., ::-1]
    assert np.array_equal(real, frames_of(store, clip)[0])
    drawn = cv2.imread(str(tmp_path / "out/train_A" / first))[..., ::-1]
    if kind == "pose":
        assert np.array_equal(drawn, poses_of(store, clip)[0])
    else:
        assert set(np.unique(drawn)) <= set(range(6)) and len(np.unique(drawn)) >= 4


def test_lerobot_reads_episodes(store: Store, tmp_path: Path) -> None:
    export(store, "lerobot", tmp_path / "out", workers=0)
    root = tmp_path / "out"
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 5, 100)
    assert info["splits"] == {"train": "0:4", "test": "4:5"}
    assert {"observation.state", "timestamp"} == json.loads((root / "meta/stats.json").read_text()).keys()
    tasks = pd.read_parquet(root / "meta/tasks.parquet")
    assert tasks.iloc[0].name == "a person dancing" and tasks["task_index"].tolist() == [0]
    episodes = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet").to_dict("records")
    assert [e["length"] for e in episodes] == [20] * 5
    for episode in episodes:
        path = info["data_path"].format(chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"])
        table = datasets.Dataset.from_parquet(str(root / path), cache_dir=str(tmp_path))
        assert set(table.column_names) == {n for n, f in info["features"].items() if f["dtype"] != "video"}
        state = np.array(table["observation.state"])
        assert state.shape == (20, *info["features"]["observation.state"]["shape"]) and (state <= 1.001).all()
        assert np.allclose(table["timestamp"], np.arange(20) / info["fps"], atol=1e-3)
        assert table["index"][0] == episode["dataset_from_index"] == 20 * episode["episode_index"]
        assert set(table["episode_index"]) == {episode["episode_index"]}
        for key in (name for name, f in info["features"].items() if f["dtype"] == "video"):
            place = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            shown = decoded(root / info["video_path"].format(video_key=key, **place))
            assert shown.shape == (20, *info["features"][key]["shape"])
            assert episode[f"videos/{key}/to_timestamp"] == pytest.approx(20 / info["fps"])
    assert sorted(p.name for p in root.iterdir()) == ["data", "meta", "videos"]


def test_lerobots_own_loader_reads_it(store: Store, tmp_path: Path) -> None:
    """Where LeRobot is installed; it wants another torch than the other tests, so CI has it not."""
    loader = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    export(store, "lerobot", tmp_path / "out", workers=0)
    found = loader.LeRobotDataset("local/dancers", root=tmp_path / "out")
    assert (len(found), found.num_episodes) == (100, 5)
    item = found[45]
    assert int(item["episode_index"]) == 2 and int(item["frame_index"]) == 5 and item["task"] == "a person dancing"
    frame = decoded(tmp_path / "out/videos/observation.images.frames/chunk-000/file-002.mp4")[5]
    shown = 255 * item["observation.images.frames"].permute(1, 2, 0).numpy()
    assert np.abs(shown - frame).mean() < 2


def test_diffsynths_own_loader_reads_it(store: Store, tmp_path: Path) -> None:
    """Where DiffSynth-Studio is installed; it wants torchvision."""
    loader = pytest.importorskip("diffsynth.core.data.unified_dataset")
    export(store, "diffsynth", tmp_path / "out", workers=0)
    operator = loader.UnifiedDataset.default_video_operator(str(tmp_path / "out"), num_frames=17, height=96, width=64)
    keys = ("video", "control_video", "reference_image")
    found = loader.UnifiedDataset(
        str(tmp_path / "out"), str(tmp_path / "out/metadata.csv"), data_file_keys=keys, main_data_operator=operator
    )
    assert len(found) >= 4
    item = found[0]
    assert [len(item[key]) for key in keys] == [17, 17, 1] and item["video"][0].size == (64, 96)


def test_what_the_filter_leaves_in_pieces_is_left_out_below_sixteen_frames(store: Store, tmp_path: Path) -> None:
    scores = store.folders(store.snapshot("main"))["scores"]
    motion = np.concatenate([store.index(scores, clip.shard).column(clip.id, "motion") for clip in store.clips])
    switch(store, "main", {}, where=f"motion<{np.quantile(motion, 0.97)}")
    export(store, "vid2vid", tmp_path / "out", workers=0)
    runs = [p for p in (tmp_path / "out").glob("*_A/*") if p.is_dir()]
    assert runs and all(len(list(run.iterdir())) >= SHORTEST for run in runs)
    switch(store, "main", {}, where=f"motion<{np.quantile(motion, 0.02)}")
    with pytest.raises(StoreError, match="no 16 frames in a row"):
        export(open_store(store.url), "vid2vid", tmp_path / "none", workers=0)


def test_every_trainer_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs/data.md").read_text()
    assert all(f"`{name}`" in text for name in TRAINERS)
