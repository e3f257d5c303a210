"""LeRobot's layout, version 2.1: an episode a sequence, its videos as MP4, its keypoints as Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.exchange.view import View, write, write_json
from remot_data.records import Clip
from remot_data.schemas import keypoint_set
from remot_data.store import Store

_CHUNK = 1000  # episodes in a folder
_VIDEOS = {"frames": "observation.images.frames", "pose": "observation.images.pose"}
_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
STATE = "observation.state"


def states(view: View, clip: Clip, which: range, out: Path) -> dict[str, Any]:
    """Write the keypoints of a sequence as shares of the frame; its row names the file and the schema."""
    points = view.store.read_arrays(view.folders["pose"], "pose", clip, which=which)["keypoints"]
    height, width = view.store.size
    shares = points / np.array([width, height, 1], np.float32)
    seconds = clip.seconds[which.start : which.stop]
    path = f"states/{clip.id}-{which.start:06d}.npz"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    np.savez(out / path, state=shares.reshape(len(points), -1), timestamp=(seconds - seconds[0]).astype(np.float32))
    return {"states": path, "schema": view.infos["pose"].schema}


def write_meta(store: Store, rows: Sequence[Mapping[str, Any]], out: Path, task: str) -> None:
    """Number the sequences, put their files where LeRobot looks for them, and write ``meta``.

    Episodes of one split follow each other. LeRobot has one frame rate for a data set: that of most sequences.
    """
    rows = sorted(rows, key=lambda row: (row["split"] != "train", row["split"], row["name"]))
    rates, counts = np.unique([row["fps"] for row in rows], return_counts=True)
    fps, at, episodes, stats, splits = float(rates[counts.argmax()]), 0, [], [], dict[str, list[int]]()
    for number, row in enumerate(rows):
        place = {"episode_chunk": number // _CHUNK, "episode_index": number}
        with np.load(out / row["states"]) as found:
            state, seconds = found["state"], found["timestamp"]
        table = {
            STATE: pa.array(list(state), pa.list_(pa.float32(), state.shape[1])),
            "timestamp": pa.array(seconds),
            "frame_index": pa.array(np.arange(len(state))),
            "episode_index": pa.array(np.full(len(state), number)),
            "index": pa.array(np.arange(at, at + len(state))),
            "task_index": pa.array(np.zeros(len(state), np.int64)),
        }
        (out / _DATA.format(**place)).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), out / _DATA.format(**place))
        for view, key in _VIDEOS.items():
            target = out / _VIDEO.format(video_key=key, **place)
            target.parent.mkdir(parents=True, exist_ok=True)
            (out / row[view]).rename(target)
        (out / row["states"]).unlink()
        episodes.append({"episode_index": number, "tasks": [task], "length": len(state)})
        stats.append(
            {"episode_index": number, "stats": {STATE: _summed(state), "timestamp": _summed(seconds[:, None])}}
        )
        splits.setdefault(row["split"], [number, number])[1] = number + 1
        at += len(state)
    (out / "states").rmdir()
    schema = rows[0]["schema"]
    info = {
        "codebase_version": "v2.1",
        "robot_type": None,
        "total_episodes": len(rows),
        "total_frames": at,
        "total_tasks": 1,
        "total_videos": len(_VIDEOS) * len(rows),
        "total_chunks": -(-len(rows) // _CHUNK),
        "chunks_size": _CHUNK,
        "fps": fps,
        "splits": {name: f"{first}:{last}" for name, (first, last) in splits.items()},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": _features(store, schema, fps),
    }
    write_json(out / "meta/info.json", info, indent=1)
    for name, lines in (
        ("tasks", [{"task_index": 0, "task": task}]),
        ("episodes", episodes),
        ("episodes_stats", stats),
    ):
        write(out / f"meta/{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _summed(values: np.ndarray) -> dict[str, list[Any]]:
    found = {name: getattr(values, name)(0).tolist() for name in ("min", "max", "mean", "std")}
    return {**found, "count": [len(values)]}


def _features(store: Store, schema: str, fps: float) -> dict[str, Any]:
    height, width = (side + side % 2 for side in store.size)
    points = [f"{point}.{part}" for point in keypoint_set(schema).points for part in ("x", "y", "confidence")]
    video = {"video.fps": fps, "video.codec": "h264", "video.pix_fmt": "yuv420p", "video.is_depth_map": False}
    video |= {"video.height": height, "video.width": width, "video.channels": 3}
    whole = {"dtype": "int64", "shape": [1], "names": None}
    return {
        STATE: {"dtype": "float32", "shape": [len(points)], "names": points},
        **{
            key: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": video,
            }
            for key in _VIDEOS.values()
        },
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), whole),
    }
