"""What training, transfer and detectors do on one GPU, and without one what they would ask of it.

    python benchmarks/gpu.py [--tables training transfer detectors feeding] [--out FILE.json] [--minutes 6]

prints tables, a row as soon as it is measured, in at most that many minutes:

- card: what it is, and how fast it multiplies bfloat16 matrices of 8192 x 8192 random numbers;
- training: a step of each stage on windows of 6 frames in memory, at the plan's own batch, and with 8 and 16 windows;
- transfer: the networks alone, on pieces of 16 frames, of one clip and of four at once; and `remot transfer` as a
  whole, with its eyes and its encoder, from a drawn dance of 1,536 frames or from `--source` and `--driving`;
- detectors: the bare network at its best batch, the detector's class on frames of 256x192 in memory, and the whole of
  `remot annotate --workers 0` on a store of 2,304 such frames, loading left out;
- feeding: `remot train` on a store of drawn dancers, and the share of the time that it waits for data.

All weights are fresh. Every row has a time cap, and an error ends its row only. FILE.json holds the rows; tables that
are not measured again stay in it, so each can be measured alone. `--rows auto plain` compares what `auto` chooses with
plain float32 and bfloat16; `--set FIELD=VALUE` changes the configuration. `--device cpu --tiny` tries the script.

    python benchmarks/gpu.py --count [--stages region whole layout] [--precision bfloat16] [--breakdown]

needs no GPU and half a minute: it prints the operations of one training step by stage (what a GPU would have to launch)
and how often the step waits for a value. Networks have the preset's structure and few channels, since neither number
depends on those; one window of 6 frames, whole frames, no perceptual features.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _counting
from remot_model import checkpoint, devices, networks
from remot_model.config import AUTO_FIELDS, Config, StagePlan, preset
from remot_model.generating import inference, rollout
from remot_model.training import data
from remot_model.training.features import VGG, Features
from remot_model.training.train import train

Row = dict[str, Any]

STAGES = ("region", "whole", "layout")
TABLES = ("training", "transfer", "detectors", "feeding")
PIECE = 16  # frames of a piece of a transfer
TINY: dict[str, Any] = {"size": (32, 24), "ngf": 4, "ndf": 4, "region_ndf": 4, "lambda_per": 10.0}
# Fields instead of `auto`; all of them work on whole frames, since crops change the arithmetic itself.
KINDS: dict[str, dict[str, Any]] = {
    "auto": {name: "auto" for name in AUTO_FIELDS},
    "plain float32": {**dict.fromkeys(AUTO_FIELDS, False), "precision": "float32"},
    "plain bfloat16": {**dict.fromkeys(AUTO_FIELDS, False), "precision": "bfloat16", "channels_last": True},
}
CAPS = {"card": 30, "training": 60, "transfer": 75, "detectors": 90, "feeding": 75}  # seconds of a row at most
COLUMNS = {
    "card": "name torch cuda bfloat16_tflops",
    "training": "stage fields windows step_s frames_s tflop_step tflops share first_s memory_gb kernels busy",
    "transfer": "fields pairs eyes frames_s tflop_frame tflops share first_s memory_gb",
    "detectors": "detector precision bare_batch bare_calls_s frames_s ratio annotate_s annotate_ratio annotate_busy",
    "feeding": "stage steps steps_s frames_s data_wait first_s",
}


class TooLong(BaseException):
    """The time of a row is over; no library takes it for an error of its own."""


# What is counted, without a GPU


def count(args: argparse.Namespace) -> int:
    """Operations and waits of a step by stage; a line each."""
    torch.set_num_threads(1)  # on a machine that does other things, threads wait for each other for minutes
    for stage in args.stages:
        fields = {"precision": args.precision, **_changes(args)}
        found = _counting.count_step(stage, _counting.few_channels(args.preset or "paper:no-crops", stage, **fields))
        print(f"{stage} {found.operations.total()} operations, {found.waits.total()} waits", flush=True)
        if args.breakdown:
            for name, number in found.operations.most_common(25):
                print(f"    {number:6} {name}")
            for place, number in found.places.most_common():
                print(f"    {number:6} waits: {place}")
    return 0


# The tables, each row in a process that has the GPU


def card(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    side = 256 if args.tiny else 8192
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    tflops = 2 * side**3 / timed(lambda: a @ b, device, args.seconds / 2) / 1e12
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"name": name, "torch": torch.__version__, "cuda": torch.version.cuda or "", "bfloat16_tflops": tflops}


def training(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    stage, windows, frames = row["stage"], row["windows"], 3 if args.tiny else 6
    config = _one_chunk(configured(args, device, row["fields"]), stage, windows, frames)
    features = None
    if stage != "layout" and config.perceptual_on:
        features = Features(VGG("vgg19"), "VGG-19 with fresh weights", "", (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)).to(
            device
        )
    # A few batches in turn: where crops change with the data, so do the shapes.
    drawn = {k: x.to(device) for k, x in _counting.batch_of(config, windows + 3, frames).items()}
    batches = [{name: x[i : i + windows] for name, x in drawn.items()} for i in range(4)]
    tflop = windows * _tflop_of_a_window(stage, device, config, features, batches[0])
    with _peak(device) as memory, _first(device) as first:
        trainer = _counting.trainer_of(stage, config, device, features)
        trainer.step(batches[0], 1e-4)
    turns = iter(range(10**9))

    def step() -> None:
        trainer.step(batches[next(turns) % 4], 1e-4)

    with memory:
        seconds = timed(step, device, args.seconds)
    return {
        "step_s": seconds,
        "frames_s": windows * frames / seconds,
        "tflop_step": tflop,
        "tflops": tflop / seconds,
        **first.row,
        **memory.row,
        **(_profiled(step, device) if args.profile and device.type == "cuda" else {}),
    }


def transfer(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    if row["eyes"]:
        return _transfer_of_files(row, args, device)
    config, pairs = configured(args, device, row["fields"]), row["pairs"]
    frames = 2 if args.tiny else PIECE
    given = {k: x.to(device) for k, x in _counting.batch_of(config, 1, frames).items()}
    clip = [given[name] for name in ("source", "source_labels", "pose_map", "background")]
    plain = dataclasses.replace(config, compile=False, cuda_graphs=False)
    of_plain, states = _generators(plain, device), {}
    tflop = tflop_of(lambda: rollout.transfer(of_plain, plain, *clip)) / frames
    with contextlib.ExitStack() as stack, _peak(device) as memory:
        with _first(device) as first:
            nets = inference.Networks(_generators(config, device), config)
            runners = [stack.enter_context(nets.lent()) for _ in range(pairs)]

            def pieces() -> None:
                for number, runner in enumerate(runners):
                    with torch.cuda.stream(runner.stream) if runner.stream else contextlib.nullcontext():
                        states[number] = runner(*clip, states=states.get(number))[1]

            pieces()
        seconds = timed(pieces, device, args.seconds)
    speed = pairs * frames / seconds
    return {"frames_s": speed, "tflop_frame": tflop, "tflops": tflop * speed, **first.row, **memory.row}


def _transfer_of_files(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    """`remot transfer` with its defaults: files that are read, people looked for, poses found, videos written."""
    from remot_model.transferring.batch import transfer_all

    config, schemas = configured(args, device, row["fields"]), {"pose": "body25", "labels": "remot11"}
    with tempfile.TemporaryDirectory() as name, _peak(device) as memory:
        folder = Path(name)
        source, driving = _driving(folder, args)
        checkpoint.write_info(folder / "run", {"config": config.to_json(), "schemas": schemas})
        for stage, net in _generators(config, torch.device("cpu")).items():
            checkpoint.save_generator(folder / "run", stage, net, config, schemas)
        (folder / "drivings").mkdir()
        for number in range(row["pairs"]):
            (folder / "drivings" / f"{number}{driving.suffix}").symlink_to(driving)
        run = checkpoint.load_run(folder / "run", device)
        began = time.perf_counter()
        report = transfer_all(
            run, source, folder / "drivings", folder / "out", parallel=row["pairs"], device=str(device)
        )
        seconds = time.perf_counter() - began
    if report["failed"]:
        return {"error": report["failed"][0]["error"]}
    frames = sum(pair["frames"] for pair in report["done"])
    return {"frames": frames, "frames_s": frames / seconds, "first_s": seconds, **memory.row}


def _driving(folder: Path, args: argparse.Namespace) -> tuple[Path, Path]:
    """A source and a driving video: those of the options, or a drawn dance that goes to and fro."""
    if args.driving:
        return Path(args.source or args.driving).absolute(), Path(args.driving).absolute()
    from remot_data import media, synthetic

    size, count, times = ((256, 192), 12, 1) if args.tiny else ((512, 384), 96, 8)
    scene = synthetic.dance(synthetic.Dancer.random(1), count, size=size, seed=1)
    for name, rounds in (("source.mp4", 0), ("driving.mp4", times)):
        with media.VideoWriter(folder / name, 30, size) as out:
            for frame in scene.frames[:1] if not rounds else [*scene.frames, *scene.frames[::-1]] * rounds:
                out.write(frame)
    return folder / "source.mp4", folder / "driving.mp4"


def detectors(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    from remot_data import synthetic
    from remot_data.detectors.base import DetectorError, load

    library, make, calls = DETECTORS[row["detector"]]
    with contextlib.suppress(ImportError):
        __import__(library)
    if library not in sys.modules:
        return {"skipped": f"{library} is not installed or does not fit this torch"}
    with tempfile.TemporaryDirectory() as folder:
        weights, bare = make(Path(folder), row["precision"], args.tiny, device)
        speeds = {}
        for batch in (1, 2) if args.tiny else (8, 16, 32, 64):
            run = bare(batch)
            with torch.inference_mode():
                speeds[batch] = batch / timed(run, device, args.seconds / 8)
        best = max(speeds, key=lambda batch: speeds[batch])
        found = {"bare_batch": best, "bare_calls_s": speeds[best], "batches": speeds}
        settings = {"device": device.type, **({"precision": row["precision"]} if row["precision"] != "float32" else {})}
        if row["detector"] == "torchvision-raft" and args.tiny:
            settings |= {"model": "raft_small", "updates": 2}
        try:
            detector = load(row["detector"], weights=str(weights), settings=settings)
        except DetectorError as error:
            return {**found, "note": f"the class alone: {error}"}
        size = (64, 48) if args.tiny else (256, 192)
        frames = synthetic.dance(synthetic.Dancer.random(1), 4 if args.tiny else 128, size=size, seed=1).frames
        seconds = timed(lambda: detector(frames), device, args.seconds, warm=1)
        found |= {"frames_s": len(frames) / seconds, "ratio": calls * len(frames) / seconds / speeds[best]}
        frames_s, busy = _annotated(detector.kind, row["detector"], str(weights), settings, args)
    return {**found, "annotate_s": frames_s, "annotate_ratio": calls * frames_s / speeds[best], "annotate_busy": busy}


def _annotated(
    kind: str, spec: str, weights: str, settings: dict[str, Any], args: argparse.Namespace
) -> tuple[float, float]:
    """Frames a second of the task of `remot annotate`, and the share of its time that the network had a batch."""
    from remot_data.annotating.annotate import plan_job
    from remot_data.annotating.task import annotate_shards
    from remot_data.engine import cpus
    from remot_data.store import open_store

    store = open_store(_store(_base(args), args))
    job = plan_job(store, kind, spec, weights, settings)
    job.detector()
    # The first shard warms up: memory, plans of cuDNN.
    list(annotate_shards(store.url, [0], [job], cpus()))
    began = time.perf_counter()
    receipts = list(annotate_shards(store.url, range(store.shard_count), [job], cpus(), retry=True))
    seconds = time.perf_counter() - began
    return sum(r.frames for r in receipts) / seconds, sum(r.seconds[kind] for r in receipts) / seconds


def feeding(row: Row, args: argparse.Namespace, device: torch.device) -> Row:
    stage, base = row["stage"], _base(args)
    config = configured(args, device, row["fields"])
    with tempfile.TemporaryDirectory() as folder:
        if stage != "layout" and base.perceptual_on:
            torch.save(VGG("vgg19").state_dict(), f"{folder}/vgg19.pth")
            config = dataclasses.replace(config, perceptual=f"vgg19:{folder}/vgg19.pth")
        run, store = Path(folder) / "run", _store(base, args)
        if stage == "whole":
            net = networks.generator("region", config)
            checkpoint.save_generator(run, "region", net, config, data.schemas(store, "main"))
        options = {"stages": [stage], "minutes": row["seconds"] / 60, "save_every": 10**9, "say": _quiet}
        result = train(store, run, config=config, device=str(device), **options)[0]
        log = run / stage / "speed.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    plan = config.plan(stage)
    found = {"steps_s": result.steps_per_second, "data_wait": result.waited, "steps": result.steps, **_steady(lines)}
    return {"frames_s": found["steps_s"] * plan.batch * plan.length, **found}


def _steady(lines: Sequence[Row]) -> Row:
    """Speed and data wait after the first line of a log, which has the compiling in it; empty if that is all."""
    if len(lines) < 2 or lines[-1]["seconds"] - lines[0]["seconds"] < 3:
        return {}
    (a, b), waited = (lines[0], lines[-1]), [line["data_wait"] * line["seconds"] for line in (lines[0], lines[-1])]
    seconds = b["seconds"] - a["seconds"]
    share = max(0.0, (waited[1] - waited[0]) / seconds)
    return {"steps_s": (b["step"] - a["step"]) / seconds, "data_wait": share, "first_s": a["seconds"]}


def _raft(folder: Path, precision: str, tiny: bool, device: torch.device) -> tuple[Path, Callable]:
    from torchvision.models import optical_flow

    network = (optical_flow.raft_small if tiny else optical_flow.raft_large)(weights=None)
    torch.save(network.state_dict(), folder / "raft.pth")
    network, half = network.eval().requires_grad_(False).to(device), precision == "bfloat16"

    def bare(batch: int) -> Callable[[], object]:
        pair = [torch.rand(batch, 3, *((128, 128) if tiny else (256, 192)), device=device) * 2 - 1 for _ in range(2)]

        def run() -> object:
            # Positions need float32, so the network is not converted as a whole.
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                return network(*pair, num_flow_updates=2 if tiny else 12)

        return run

    return folder / "raft.pth", bare


def _segformer(folder: Path, precision: str, tiny: bool, device: torch.device) -> tuple[Path, Callable]:
    import transformers

    from remot_data.schemas import label_set

    b2: dict[str, Any] = {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    b0: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 40, 64], "decoder_hidden_size": 32}
    names = dict(enumerate(label_set("atr18").labels))
    config = transformers.SegformerConfig(
        **(b0 if tiny else b2), id2label=names, label2id={name: i for i, name in names.items()}
    )
    network, side = transformers.SegformerForSemanticSegmentation(config), 64 if tiny else 512
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": side, "width": side}}))
    kind = getattr(torch, precision)
    network = network.eval().requires_grad_(False).to(device, kind)

    def bare(batch: int) -> Callable[[], object]:
        images = torch.randn(batch, 3, side, side, device=device, dtype=kind)
        return lambda: network(pixel_values=images).logits

    return folder, bare


# By name: the library, what makes weights and the bare network, and the calls that a frame needs.
DETECTORS = {"torchvision-raft": ("torchvision", _raft, 2), "segformer": ("transformers", _segformer, 1)}
WORK = {"card": card, "training": training, "transfer": transfer, "detectors": detectors, "feeding": feeding}


# Configurations, nets, clocks


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    return {name: yaml.safe_load(value) for name, value in (item.split("=", 1) for item in args.set)}


def _base(args: argparse.Namespace) -> Config:
    """The preset alone: its plan and size."""
    return dataclasses.replace(preset(args.preset or "paper"), **(TINY if args.tiny else {}))


def configured(args: argparse.Namespace, device: torch.device, kind: str) -> Config:
    """The preset with the fields of a row and those of `--set`, and what `auto` means on the device."""
    return devices.resolved(dataclasses.replace(_base(args), **{**KINDS[kind], **_changes(args)}), device)


def _one_chunk(config: Config, stage: str, windows: int, frames: int) -> Config:
    return dataclasses.replace(config, **{stage: StagePlan(1, windows, length=frames, chunk=frames)})


def _generators(config: Config, device: torch.device) -> dict[str, torch.nn.Module]:
    return {s: networks.generator(s, config).to(device).eval().requires_grad_(False) for s in config.stages}


def _tflop_of_a_window(
    stage: str, device: torch.device, config: Config, features: Features | None, batch: dict[str, torch.Tensor]
) -> float:
    """TFLOP of a step with one window, from a step that is neither compiled nor recorded."""
    one = {name: x[:1] for name, x in batch.items()}
    plain = _one_chunk(config, stage, 1, one["frames"].shape[1])
    plain = dataclasses.replace(plain, compile=False, cuda_graphs=False)
    trainer = _counting.trainer_of(stage, plain, device, features)
    return tflop_of(lambda: trainer.step(one, 1e-4))


def tflop_of(work: Callable[[], object]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def timed(work: Callable[[], object], device: torch.device, seconds: float, warm: int = 3) -> float:
    """Seconds of a call: the middle of three runs of as many calls as fit into `seconds`, after some that warm up."""

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait(device)
        return (time.perf_counter() - began) / calls

    run(warm)
    calls = max(1, min(200, round(seconds / 3 / max(run(1), 1e-6))))
    return sorted(run(calls) for _ in range(3))[1]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _first:
    """A clock around all that is done until a first result is there; compiling, most of it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.row = device, {}

    def __enter__(self) -> _first:
        wait(self.device)
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wait(self.device)
        self.row = {"first_s": time.perf_counter() - self.began}


class _peak:
    """The most memory that torch held on a GPU within any of its uses."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.row = device, {}

    def __enter__(self) -> _peak:
        if self.device.type == "cuda" and not self.row:
            _freed()
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.row = {"memory_gb": torch.cuda.max_memory_allocated(self.device) / 1e9}


def _profiled(step: Callable[[], object], device: torch.device) -> Row:
    """Kernels and copies of one step, and the share of it that the GPU works on them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        began = time.perf_counter()
        step()
        wait(device)
        seconds = time.perf_counter() - began
    done = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return {"kernels": len(done), "busy": sum(e.time_range.elapsed_us() for e in done) / 1e6 / seconds}


def _freed() -> None:
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _store(base: Config, args: argparse.Namespace) -> str:
    """A store of drawn dancers, drawn once for all rows of a call."""
    from remot_data.synthetic.store import build_synthetic

    url = f"{args.scratch}/store"
    if not Path(url).exists():
        many = {"dancers": 2, "frames": 48, "workers": 0} if args.tiny else {"dancers": 48, "frames": 48}
        build_synthetic(url, test=0, size=base.size, **({"workers": max(1, (os.cpu_count() or 2) - 1)} | many))
    return url


def _quiet(_: str) -> None:
    pass


# Rows in processes: one that hangs or breaks the GPU's context takes no other with it


def rows_of(args: argparse.Namespace) -> list[Row]:
    """All rows in the order of measuring: what is asked most comes first, should the time not do."""
    kinds = [kind for kind in KINDS if kind.split()[0] in args.rows]
    more = (2,) if args.tiny else (8, 16)

    def trained(windows: Callable[[str], Sequence[int]]) -> list[Row]:
        pairs = [(stage, n) for stage in args.stages for n in windows(stage)]
        return [{"table": "training", "stage": s, "fields": kind, "windows": n} for s, n in pairs for kind in kinds]

    base = _base(args)
    rows = {
        "training": trained(lambda stage: [base.plan(stage).batch]),
        "transfer": [
            {"table": "transfer", "fields": kind, "pairs": pairs, "eyes": eyes}
            for eyes in (False, True)
            for pairs in (1, 2 if args.tiny else 4)
            for kind in kinds
        ],
        "detectors": [
            {"table": "detectors", "detector": name, "precision": precision}
            for name in DETECTORS
            for precision in ("float32", "bfloat16")
        ],
        "feeding": [
            {"table": "feeding", "stage": stage, "fields": "auto", "seconds": 3 if args.tiny else 25}
            for stage in args.stages
        ],
    }
    last = trained(lambda stage: more) if "training" in args.tables else []
    return [{"table": "card"}, *(row for table in args.tables for row in rows[table]), *last]


def measure(row: Row, args: argparse.Namespace) -> Row:
    """A row with its results, or with what went wrong."""
    left = min(CAPS[row["table"]], args.until - time.time())
    if left < 5:
        return {**row, "skipped": "the time is over"}
    began = time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        found = WORK[row["table"]](row, args, torch.device(args.device))
    except TooLong:
        found = {"error": f"not done after {left:.0f} s"}
    except Exception as error:
        found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    _freed()
    return {**row, **found, "took_s": time.monotonic() - began}


def _too_long(*_: object) -> None:
    raise TooLong


def child(args: argparse.Namespace) -> int:
    for row in json.loads(args.child):
        done = measure(row, args)
        print("ROW " + json.dumps(done), flush=True)
        if any(word in done.get("error", "") for word in ("CUDA error", "AcceleratorError", "not done")):
            return 1  # what comes after it in this process would fail too, or be disturbed
    return 0


def in_a_process(rows: Sequence[Row], args: argparse.Namespace, until: float) -> Iterator[Row]:
    """Measured rows, as many as one process gets done; of one that ends early, the row it was at counts as an error."""
    options = ["--child", json.dumps(rows), "--until", str(until), "--device", args.device, "--scratch", args.scratch]
    command = [sys.executable, __file__, *sys.argv[1:], *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    said: collections.deque[str] = collections.deque(maxlen=3)
    number = 0
    cap = max(CAPS[row["table"]] for row in rows) + 30
    clock = _killing(process, cap)
    for line in process.stdout:
        if line.startswith("ROW "):
            clock.cancel()
            clock = _killing(process, cap)
            number += 1
            yield json.loads(line[4:])
        elif line.strip():
            said.append(line.strip())
    clock.cancel()
    if number < len(rows) and (process.wait() < 0 or number == 0):
        yield {**rows[number], "error": f"the process ended with status {process.returncode}: {' / '.join(said)}"[:300]}


def _killing(process: subprocess.Popen, seconds: float) -> threading.Timer:
    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    clock = threading.Timer(seconds, kill)
    clock.daemon = True
    clock.start()
    return clock


def run_all(args: argparse.Namespace) -> int:
    """Measure all rows; print each and keep the file up to date."""
    began, todo, done = time.time(), rows_of(args), []
    until, shown, peak = began + 60 * args.minutes, "", 0.0
    with tempfile.TemporaryDirectory() as scratch:
        args.scratch = scratch
        while todo:
            table = todo[0]["table"]
            batch = [row for i, row in enumerate(todo) if all(r["table"] == table for r in todo[: i + 1])]
            for row in in_a_process(batch, args, until):
                todo = todo[1:]
                peak = row.get("bfloat16_tflops", peak)
                if peak and "tflops" in row:
                    row["share"] = row["tflops"] / peak
                if table != shown:
                    print(f"\n{_heading(table)}")
                    shown = table
                print(_line(row), flush=True)
                done.append(row)
                _write(args.out, done)
    print(f"\n{time.time() - began:.0f} s in all")
    return 1 if any("error" in row for row in done) else 0


def _heading(table: str) -> str:
    names = COLUMNS[table].split()
    return f"{table}\n| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _line(row: Row) -> str:
    cells = [row.get(name, "") for name in COLUMNS[row["table"]].split()]
    line = f"| {' | '.join(f'{x:.3g}' if isinstance(x, float) else str(x) for x in cells)} |"
    said = [f"{name}: {row[name]}" for name in ("error", "skipped", "note") if name in row]
    return " ".join([line, *said])


def _write(out: str | None, rows: Sequence[Row]) -> None:
    if not out:
        return
    new, kept = {row["table"] for row in rows}, []
    with contextlib.suppress(FileNotFoundError):
        kept = [row for row in json.loads(Path(out).read_text())["rows"] if row["table"] not in new]
    Path(out).write_text(json.dumps({"rows": [*kept, *rows]}, indent=1) + "\n")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--rows", nargs="+", choices=("auto", "plain"), default=["auto"])
    parser.add_argument("--preset", help="paper if not given, without crops for --count")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="in every configuration")
    parser.add_argument("--minutes", type=float, default=6, help="of all tables together, at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="that a number is measured for, after warming up")
    parser.add_argument("--profile", action="store_true", help="also kernels and the GPU's busy share of a step")
    parser.add_argument("--driving", help="video for `remot transfer` as a whole")
    parser.add_argument("--source", help="picture or video of its source; the driving video if not given")
    parser.add_argument("--out", help="file for the rows as JSON")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="networks and frames so small that a CPU does them")
    parser.add_argument("--count", action="store_true", help="count operations instead; needs no GPU")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of --count")
    parser.add_argument("--breakdown", action="store_true", help="of --count: the common operators, and who waits")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> int:
    args = arguments()
    if args.count:
        return count(args)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no CUDA device here; `--count` needs none, and `--device cpu --tiny` tries the tables")
        return 2
    if args.tiny:
        args.seconds = min(args.seconds, 0.1)
        torch.set_num_threads(1)  # networks this small lose far more to a second thread than they gain
    return child(args) if args.child else run_all(args)


if __name__ == "__main__":
    sys.exit(main())
