"""Windows a second beside `webdataset`, MosaicML streaming and `litdata`, and beside the limit of the encodings.

A window is 6 frames of 256x192, their labels, keypoints and half-size flow with confidence, and a source frame with
labels and keypoints. All start from the same JPEG files and give the same torch tensors in batches of 8. Each peer
stores a window as one sample, in two ways: `packed`, with the same files and decoders as ours, and `arrays`, where
labels and flow are arrays as they come out, which costs room and no decoding. Ours reads single members out of the
layers' shards.

Four parts; the first and the third show the best of rounds in turn:

- local: 0, 1 and 2 worker processes on a local disk (those of a DataLoader for the peers), and the limit:
  to read the same bytes and decode them, nothing else, in as many threads
- paired: ours between two runs of the limit, the median of the rounds' ratios, for machines of changing speed
- http: the same over HTTP with 20 ms before each answer. Of the peers only `webdataset` reads plain HTTP
- start: the first batch of a store of 1,000 shards over that HTTP, nothing cached

    pip install torch==2.13.0 webdataset mosaicml-streaming litdata
    python benchmarks/streaming.py [local paired http start] [--rounds 3] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import http.server
import importlib.machinery
import itertools
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from remot_data.reading.loader import Loader
from remot_data.reading.stream import Plan
from remot_data.store import Store, create_store
from remot_data.store.cache import Cache
from remot_data.store.layers import _images, flow, pose
from remot_data.store.shards import Sample
from remot_data.synthetic.store import build_synthetic

LENGTH, BATCH, DELAY = 6, 8, 0.02
LAYERS = ("pose", "parsing", "flow")
WAYS = ("packed", "arrays")


# --- the same windows for everybody ---------------------------------------------------------------------------


def prepare(folder: Path) -> Store:
    store = build_synthetic(str(folder / "store"), 40, 60, 0, shard_frames=1200, workers=2)
    for way in WAYS:
        for name, write in WRITERS.items():
            if not (folder / name / way).exists():
                (folder / name / way).mkdir(parents=True)
                write(folder / name / way, functools.partial(samples, store, way))
    return store


def samples(store: Store, way: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every window of an epoch: its name, and its parts by name, bytes or arrays."""
    plan = Plan(store, length=LENGTH, layers=LAYERS, raw=True, seed=1)
    for number in range(len(plan)):
        exts = [members.ext for members in plan.members(number)[1] for _ in members.which]
        parts: dict[str, Any] = {}
        for at, (ext, data) in enumerate(zip(exts, plan.fetch(number), strict=True)):
            kind = {"jpg": "image", "npy": "points", "png": "labels", "npz": "flow"}[ext]
            parts[f"{kind}{at:02d}"] = data
        if way == "arrays":
            parts = unpacked(parts)
        yield f"window{number:06d}", parts


def unpacked(parts: dict[str, Any]) -> dict[str, Any]:
    out = {name: data for name, data in parts.items() if name.startswith("image")}
    out["points"] = np.stack([pose.from_npy(data) for name, data in parts.items() if name.startswith("points")])
    out["labels"] = np.stack([_images.from_png(data) for name, data in parts.items() if name.startswith("labels")])
    out["flow"] = np.stack([flow.unpack("npz", data) for name, data in parts.items() if name.startswith("flow")])
    return out


def decoded(parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a window, from what `samples` gives: what the training loop of every peer does."""
    images = np.stack([_images.from_jpeg(parts[name]) for name in sorted(parts) if name.startswith("image")])
    if "labels" not in parts:
        parts = unpacked(parts)
    moved = np.asarray(parts["flow"])
    out = {
        "frames": images[:-1],
        "source": images[-1],
        "keypoints": np.asarray(parts["points"])[:-1],
        "source_keypoints": np.asarray(parts["points"])[-1],
        "labels": np.asarray(parts["labels"])[:-1],
        "source_labels": np.asarray(parts["labels"])[-1],
        "flow": np.multiply(moved[:, :2], np.float32(1 / flow.SCALE), dtype=np.float32),
        "confidence": moved[:, 2] == 3,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in out.items()}


# --- writing for the peers --------------------------------------------------------------------------------------


def write_webdataset(folder: Path, rows: Callable[[], Iterator[tuple[str, dict[str, Any]]]]) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "shard-%04d.tar"), maxcount=36, verbose=0) as out:
        for name, parts in rows():
            data = {n: d.tobytes() if isinstance(d, np.ndarray) else d for n, d in parts.items()}
            out.write({"__key__": name, **{f"{n}.bin": d for n, d in data.items()}})


def mosaicml() -> Any:
    """MosaicML's package; it imports torchvision, which has no build for this torch, for data sets not used here."""
    if "torchvision" not in sys.modules:
        here = Path(__file__).resolve().parent  # where this script would be taken for the package
        sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
        for end in ("", ".datasets", ".transforms", ".transforms.functional"):
            module = types.ModuleType(f"torchvision{end}")
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            module.__path__ = []  # type: ignore[attr-defined]
            module.VisionDataset, module.to_tensor = object, None  # type: ignore[attr-defined]
            sys.modules[module.__name__] = module
    import streaming

    return streaming


def write_mosaicml(folder: Path, rows: Callable[[], Iterator[tuple[str, dict[str, Any]]]]) -> None:
    _, first = next(rows())

    def kind(value: Any) -> str:
        if isinstance(value, bytes):
            return "bytes"
        return f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}"

    columns = {name: kind(value) for name, value in first.items()}
    with mosaicml().MDSWriter(out=str(folder), columns=columns) as out:
        for _, parts in rows():
            out.write({name: np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for name, v in parts.items()})


def write_litdata(folder: Path, rows: Callable[[], Iterator[tuple[str, dict[str, Any]]]]) -> None:
    from litdata.streaming.writer import BinaryWriter

    out = BinaryWriter(str(folder), chunk_bytes="64MB")
    for index, (_, parts) in enumerate(rows()):
        out[index] = parts
    out.done()
    out.merge()


WRITERS = {"webdataset": write_webdataset, "mosaicml": write_mosaicml, "litdata": write_litdata}


# --- readers: iterators of batches of tensors, without end --------------------------------------------------------


def ours(url: str, workers: int, cache: Path | None = None) -> Iterator[Any]:
    plan = Plan(url, length=LENGTH, layers=LAYERS, raw=True, seed=1, cache=Cache(cache, 2e9) if cache else None)
    for batch in Loader(plan, BATCH, workers=workers, threads=0, last="through"):
        yield {name: torch.from_numpy(x) for name, x in batch.items() if isinstance(x, np.ndarray)}


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _loading(dataset: Any, workers: int, **more: Any) -> Iterator[Any]:
    kept = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    return _endless(DataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True, **kept, **more))


def peer_webdataset(place: str, way: str, workers: int) -> Iterator[Any]:
    import webdataset

    forms = {"points": ("f4", (7, 25, 3)), "labels": ("u1", (7, 256, 192)), "flow": ("i2", (6, 3, 128, 96))}

    def parts(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        found = {name.removesuffix(".bin"): data for name, data in sample.items() if name.endswith(".bin")}
        for name, (dtype, shape) in forms.items() if way == "arrays" else ():
            found[name] = np.frombuffer(found[name], dtype).reshape(shape)
        return decoded(found)

    urls = [f"{place}/webdataset/{way}/shard-{n:04d}.tar" for n in range(10)]
    data = webdataset.WebDataset(urls, shardshuffle=10, seed=1, empty_check=False).shuffle(100).map(parts)
    return _loading(data, workers)


def peer_mosaicml(place: str, way: str, workers: int) -> Iterator[Any]:
    class Windows(mosaicml().StreamingDataset):
        def __getitem__(self, at: int) -> Any:
            return decoded(super().__getitem__(at))

    mosaicml().base.util.clean_stale_shared_memory()
    return _loading(Windows(local=f"{place}/mosaicml/{way}", shuffle=True, batch_size=BATCH), workers)


def peer_litdata(place: str, way: str, workers: int) -> Iterator[Any]:
    import litdata

    class Windows(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            return decoded(super().__getitem__(index))

    data = Windows(f"{place}/litdata/{way}", shuffle=True, drop_last=True)
    more = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    return _endless(litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=workers, **more))


PEERS = {"webdataset": peer_webdataset, "mosaicml": peer_mosaicml, "litdata": peer_litdata}


# --- measuring ----------------------------------------------------------------------------------------------------


def rate(batches: Iterator[Any], windows: int = 240, warm: int = 3) -> float:
    """Windows a second, behind the first batches."""
    for _ in range(warm):
        batch = next(batches)
    assert batch["frames"].shape == (BATCH, LENGTH, 256, 192, 3) and batch["frames"].dtype == torch.uint8
    assert batch["labels"].shape == (BATCH, LENGTH, 256, 192) and batch["source"].shape == (BATCH, 256, 192, 3)
    started, count = time.perf_counter(), 0
    while count < windows:
        count += len(next(batches)["source"])
    spent = time.perf_counter() - started
    getattr(batches, "close", lambda: None)()
    return count / spent


def limit(store: Store, workers: int, windows: int = 240) -> float:
    """Windows a second where the members are read and decoded, and nothing else happens."""
    plan = Plan(store, length=LENGTH, layers=LAYERS, raw=True, seed=1)
    work = []
    for number in range(windows):
        _, members = plan.members(number % len(plan))
        work.append((store._places(members), [one.ext for one in members for _ in one.which]))

    def one(job: Any) -> None:
        places, exts = job
        image = np.empty((256, 192, 3), np.uint8)
        decoders: dict[str, Callable[[bytes], Any]] = {
            "jpg": functools.partial(_images.from_jpeg, into=image),
            "png": _images.from_png,
            "npy": pose.from_npy,
            "npz": functools.partial(flow.unpack, "npz"),
        }
        for data, ext in zip(store._pieces(places), exts, strict=True):
            decoders[ext](data)

    list(map(one, work[:16]))
    started = time.perf_counter()
    if workers:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, work))
    else:
        list(map(one, work))
    return windows / (time.perf_counter() - started)


def table(runs: dict[str, Callable[[int], float]], rounds: int) -> None:
    """The best of the rounds by workers, measured in turn, and the ratios of ours to the others: what else the machine
    does only ever slows things down, and by more than what is compared here."""
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            for workers in (0, 1, 2):
                found.setdefault((name, workers), []).append(run(workers))
                print(".", end="", flush=True)
    print(f"\n{'windows/s':<28}{'0':>8}{'1':>8}{'2':>8}   ours/this")
    best = {key: max(values) for key, values in found.items()}
    for name in runs:
        ratios = " ".join(f"{best['ours', w] / best[name, w]:.2f}" for w in (0, 1, 2))
        print(f"{name:<28}" + "".join(f"{best[name, w]:8.0f}" for w in (0, 1, 2)) + f"   {ratios}")


def local(folder: Path, rounds: int) -> None:
    store = prepare(folder)
    for way in WAYS:
        sizes = {name: sum(p.stat().st_size for p in (folder / name / way).rglob("*")) / 360 for name in WRITERS}
        print(way, {name: f"{size / 1e3:.0f} kB a window" for name, size in sizes.items()})
    runs: dict[str, Callable[[int], float]] = {
        "limit": lambda workers: limit(store, workers),
        "ours": lambda workers: rate(ours(store.url, workers)),
    }
    for (name, peer), way in itertools.product(PEERS.items(), WAYS):
        runs[f"{name}, {way}"] = lambda workers, peer=peer, way=way: rate(peer(str(folder), way, workers))
    table(runs, rounds)


def paired(folder: Path, rounds: int, windows: int = 480) -> None:
    store = prepare(folder)
    for workers in (0, 1, 2):
        ratios = []
        for _ in range(rounds):
            before, own, after = (
                limit(store, workers, windows),
                rate(ours(store.url, workers), windows),
                limit(store, workers, windows),
            )
            ratios.append(2 * own / (before + after))
        print(
            f"{workers} workers: {statistics.median(ratios):.2f} of the limit, {min(ratios):.2f} to {max(ratios):.2f}",
            flush=True,
        )


# --- over HTTP ----------------------------------------------------------------------------------------------------


class Slow(http.server.SimpleHTTPRequestHandler):
    """Files and parts of them, each answer after `DELAY`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        print(self.headers.get("Range", "all"), self.path, file=sys.stderr)

    def do_GET(self) -> None:
        time.sleep(DELAY)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        size, asked = path.stat().st_size, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
        end = min(end, size)
        if first >= size:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(first)
            self.wfile.write(file.read(end - first))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL of a server for a folder, a process of its own."""
    with open(folder / "requests.log", "wb") as log:
        command = [sys.executable, __file__, "--serve", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
            process.wait()


def serve(folder: str) -> None:
    handler = functools.partial(Slow, directory=folder)
    http.server.ThreadingHTTPServer.request_queue_size = 512  # as servers have it; 5 would lose connections
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


def over_http(folder: Path, rounds: int) -> None:
    prepare(folder)
    cold = itertools.count()
    with served(folder) as url:

        def fresh(workers: int) -> float:
            return rate(ours(f"{url}/store", workers, folder / f"cache-{next(cold)}"))

        def warm(workers: int) -> float:
            for _ in itertools.islice(ours(f"{url}/store", 2, folder / "warm"), 45):
                pass
            return rate(ours(f"{url}/store", workers, folder / "warm"))

        runs: dict[str, Callable[[int], float]] = {
            "ours": fresh,
            "ours, cache filled before": warm,
            "ours, no cache": lambda workers: rate(ours(f"{url}/store", workers)),
        }
        for way in WAYS:
            runs[f"webdataset, {way}"] = lambda workers, way=way: rate(peer_webdataset(url, way, workers))
        table(runs, rounds)
    for path in folder.glob("cache-*"):
        shutil.rmtree(path)


def start(folder: Path, rounds: int, shards: int = 1000) -> None:
    """Seconds to the first batch of a cold store of many shards, and the requests until then."""
    many = many_shards(prepare(folder), folder / "many", shards)
    for name, cached in (("with a cache", True), ("without", False)):
        times, counts = [], []
        for number in range(rounds):
            with served(folder) as url:
                cache = folder / f"cold-{number}" if cached else None
                began = time.perf_counter()
                batches = ours(f"{url}/{many}", 2, cache)
                next(batches)
                times.append(time.perf_counter() - began)
                counts.append((folder / "requests.log").read_bytes().count(b"\n"))
                batches.close()  # type: ignore[attr-defined]
            shutil.rmtree(folder / f"cold-{number}", ignore_errors=True)
        middle = statistics.median(times)
        print(f"first batch of {shards} cold shards {name}: {middle:.2f} s, {max(counts)} requests")


def many_shards(store: Store, folder: Path, shards: int) -> str:
    """A store whose every shard holds what the first clip of `store` holds, under other names."""
    clip, snapshot = store.clips[0], store.snapshot("main")
    made = create_store(str(folder), {"size": list(store.size), "copies": shards})
    if not made.files.exists("snapshots/main.json"):
        os.fsync = lambda file: None  # type: ignore[assignment]  # thousands of files that nobody will miss
        clips = [dataclasses.replace(clip, id=f"{clip.id}-{n:05d}", shard=n) for n in range(shards)]
        made.write_clips(clips)
        exts = {"frames": ["jpg"], "pose": ["npy"], "parsing": ["png"], "flow": ["npz"]}
        folders = {"frames": "frames", **store.folders(snapshot)}
        for kind, names in exts.items():
            parts = {ext: list(store.read_members(folders[kind], clip, ext, range(clip.frames))) for ext in names}
            for copy in clips:
                rows = (Sample(copy.key(t), {ext: data[t] for ext, data in parts.items()}) for t in range(clip.frames))
                made.write_shard(folders[kind], copy.shard, rows)
        for kind in LAYERS:
            info = store.layer(kind, snapshot.layers[kind])
            made.write_json(f"{folders[kind]}/layer.json", info.to_json())
        made.write_snapshot(dataclasses.replace(snapshot, layers={kind: snapshot.layers[kind] for kind in LAYERS}))
    return folder.name


PARTS = {"local": local, "paired": paired, "http": over_http, "start": start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data sets are made and kept; a temporary one by default")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        serve(told.serve)
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    folder = told.folder or Path(tempfile.mkdtemp(prefix="remot-streaming-"))
    try:
        for part in told.parts:
            print(f"\n{part}", flush=True)
            PARTS[part](folder, told.rounds)
    finally:
        if told.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
