"""LeRobot's layout, version 3.0: an episode a sequence, its videos as MP4, its keypoints as Parquet.

That version may have several episodes in a file; here each has files of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remot_data.exchange.view import View, write_json
from remot_data.records import Clip
from remot_data.schemas import keypoint_set
from remot_data.store import Store

_CHUNK = 1000  # files in a folder
_VIDEOS = {"frames": "observation.images.frames", "pose": "observation.images.pose"}
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA, _VIDEO = f"data/{_FILE}.parquet", f"videos/{{video_key}}/{_FILE}.mp4"
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
    fps, episodes, splits = float(rates[counts.argmax()]), [], dict[str, list[int]]()
    every: list[tuple[np.ndarray, np.ndarray]] = []
    for number, row in enumerate(rows):
        with np.load(out / row["states"]) as found:
            every.append((found["state"], found["timestamp"]))
        episodes.append(_episode(number, sum(len(state) for state, _ in every[:-1]), *every[-1], fps, task))
        place = {"chunk_index": number // _CHUNK, "file_index": number % _CHUNK}
        _write_table(_columns(episodes[-1], *every[-1]), out / _DATA.format(**place))
        for view, key in _VIDEOS.items():
            target = out / _VIDEO.format(video_key=key, **place)
            target.parent.mkdir(parents=True, exist_ok=True)
            (out / row[view]).rename(target)
        (out / row["states"]).unlink()
        splits.setdefault(row["split"], [number, number])[1] = number + 1
    (out / "states").rmdir()
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(rows),
        "total_frames": episodes[-1]["dataset_to_index"],
        "total_tasks": 1,
        "chunks_size": _CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {name: f"{first}:{last}" for name, (first, last) in splits.items()},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": _features(store, rows[0]["schema"], fps),
    }
    write_json(out / "meta/info.json", info, indent=1)
    states, seconds = (np.concatenate(parts) for parts in zip(*every, strict=True))
    write_json(out / "meta/stats.json", {STATE: _summed(states), "timestamp": _summed(seconds[:, None])})
    one = _FILE.format(chunk_index=0, file_index=0)
    _write_table(pa.Table.from_pylist(episodes), out / f"meta/episodes/{one}.parquet")
    _write_table(_tasks(task), out / "meta/tasks.parquet")


def _episode(number: int, first: int, state: np.ndarray, seconds: np.ndarray, fps: float, task: str) -> dict[str, Any]:
    """The row of an episode: where its frames and its files are, and what its values are like."""
    place = {"chunk_index": number // _CHUNK, "file_index": number % _CHUNK}
    row = {"episode_index": number, "tasks": [task], "length": len(state)}
    row |= {"dataset_from_index": first, "dataset_to_index": first + len(state)}
    row |= {f"data/{name}": value for name, value in place.items()}
    for key in _VIDEOS.values():
        row |= {f"videos/{key}/{name}": value for name, value in place.items()}
        row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": len(state) / fps}
    for key, values in ((STATE, state), ("timestamp", seconds[:, None])):
        row |= {f"stats/{key}/{name}": value for name, value in _summed(values).items()}
    return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _columns(episode: Mapping[str, Any], state: np.ndarray, seconds: np.ndarray) -> pa.Table:
    first, last = episode["dataset_from_index"], episode["dataset_to_index"]
    return pa.table(
        {
            STATE: pa.array(list(state), pa.list_(pa.float32(), state.shape[1])),
            "timestamp": pa.array(seconds),
            "frame_index": pa.array(np.arange(len(state))),
            "episode_index": pa.array(np.full(len(state), episode["episode_index"])),
            "index": pa.array(np.arange(first, last)),
            "task_index": pa.array(np.zeros(len(state), np.int64)),
        }
    )


def _tasks(task: str) -> pa.Table:
    """One task, as pandas writes a column ``task_index`` whose index are the texts."""
    index = "__index_level_0__"
    texts = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    numbers = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    columns = [{"name": "task_index", "field_name": "task_index", **numbers}]
    columns += [{"name": None, "field_name": index, **texts}]
    about = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array([0], pa.int64()), index: pa.array([task])})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _write_table(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


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
