"""Where a detector runs that asks for a GPU. Cards are pretended: torch counts them, and nothing computes on one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from dask.distributed import Client

torch = pytest.importorskip("torch")

from remot_data import cli  # noqa: E402
from remot_data.annotating.annotate import Job, annotate, plan_job, plan_jobs, run_jobs  # noqa: E402
from remot_data.care.verify import repair, verify  # noqa: E402
from remot_data.detectors._torch import only_gpus, visible_gpus  # noqa: E402
from remot_data.detectors.base import DetectorError, DeviceError, DeviceLost, check_device  # noqa: E402
from remot_data.engine import EngineError, open_engine  # noqa: E402
from remot_data.store import open_store  # noqa: E402
from tests.cluster.conftest import cluster  # noqa: E402, F401
from tests.remot_data.conftest import digests  # noqa: E402

DETECTOR = '''
import os
import time
from pathlib import Path

import numpy as np


class Labels:
    """Labels, and a note a call: which process made it, on which GPU."""

    name, kind, version, schema = "labels", "parsing", "1", "atr18"
    needs, licence, approximate = (), "Apache-2.0", False

    def __init__(self, notes, device="cuda", seconds=0.0, fails=0, says="", weights=None):
        self.notes, self.device, self.seconds = Path(notes), device, seconds
        self.fails, self.says, self.batch = fails, says, 8

    def fingerprint(self):
        return {"detector": self.name}

    def _note(self):
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        (self.notes / f"{self.name}-{time.time_ns()}-{os.getpid()}").write_text(f"{os.getpid()} {gpu}")

    def __call__(self, frames, **needed):
        self._note()
        time.sleep(self.seconds)
        failed = len(list(self.notes.glob("failed-*")))
        if failed < self.fails:
            (self.notes / f"failed-{failed}").touch()
            raise RuntimeError(self.says)
        return {"labels": (frames[..., 0] // 16).clip(0, 17)}


class Pose(Labels):
    name, kind, schema = "points", "pose", "coco17"

    def __init__(self, notes, device="cpu"):
        super().__init__(notes, device)

    def __call__(self, frames):
        self._note()
        return {"keypoints": np.full((len(frames), 17, 3), 0.5, np.float32)}


class Reads(Labels):
    needs = ("pose",)


class Flow(Pose):
    name, kind, schema, needs = "moves", "flow", "backward", ("parsing",)

    def __call__(self, frames, parsing):
        self._note()
        moves = np.full((len(frames), 32, 24, 2), parsing["labels"].mean() // 1, np.float32)
        return {"flow": moves, "confidence": np.zeros(moves.shape[:3], np.uint8)}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(DETECTOR)
    (tmp_path / "notes").mkdir()
    return tmp_path / "mine.py"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def notes(file: Path, name: str = "labels") -> list[tuple[str, str]]:
    """The process and the GPU of every call, in their order."""
    texts = [path.read_text() for path in sorted((file.parent / "notes").glob(f"{name}-*"))]
    return [tuple(text.split(" ", 1)) for text in texts if text]  # a process may have ended before it wrote


def told(file: Path, **settings: object) -> dict[str, object]:
    return {"notes": str(file.parent / "notes"), **settings}


def layers(store: str) -> dict[str, str]:
    return {name: sha for name, sha in digests(store).items() if not name.startswith("ledger/")}


# --- Which GPUs there are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "wanted", "have"),
    [
        (None, None, ["0", "1"]),
        ("GPU-b,GPU-a", None, ["GPU-b", "GPU-a"]),
        ("3", None, ["3"]),
        ("", None, []),
        (None, "1", ["1"]),
        (None, "none", []),
        ("GPU-b,GPU-a", "1", ["GPU-a"]),
        ("GPU-b,GPU-a", "GPU-b", ["GPU-b"]),
        ("4, 7", "1,0", ["7", "4"]),
    ],
)
def test_the_gpus_are_those_of_the_environment_or_the_machine(two_gpus, monkeypatch, visible, wanted, have):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with only_gpus(wanted):
        assert visible_gpus() == have
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(("visible", "wanted"), [(None, "0,1,2"), ("4", "1"), ("4", "5"), (None, "1,1")])
def test_a_gpu_that_is_not_there_is_named(two_gpus, monkeypatch, visible, wanted):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(DetectorError, match=f"--gpus {wanted}: not all"), only_gpus(wanted):
        pass
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_without_torch_nvidia_smi_is_asked(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho 'GPU 1: A (UUID: GPU-b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert visible_gpus() == ["0", "1"]


# --- Who runs what where ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_gpu_has_a_worker_of_its_own_that_sees_no_other(two_gpus, own_dancers, file, capsys):
    plain = shutil.copytree(own_dancers.url, file.parent / "plain")
    options = ["--layer", "parsing", "--with", f"{file}:Labels", "--setting", f"notes={file.parent / 'notes'}"]
    assert cli.run(["annotate", own_dancers.url, *options, "--setting", "seconds=0.5"]) == 0
    seen = notes(file)
    assert {gpu for _, gpu in seen} == {"0", "1"} and len({process for process, _ in seen}) == 2
    assert str(os.getpid()) not in {process for process, _ in seen}
    assert cli.run(["annotate", str(plain), *options, "--workers", "0"]) == 0
    assert {note for note in notes(file)[len(seen) :]} == {(str(os.getpid()), "unset")}
    drop = "layer.json"  # tells the settings, which are others
    one, two = ({k: v for k, v in layers(str(url)).items() if not k.endswith(drop)} for url in (own_dancers.url, plain))
    assert one == two


@pytest.mark.slow
def test_only_the_chosen_gpu_is_used_under_its_name(two_gpus, own_dancers, file, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-one,GPU-two")
    options = ["--layer", "parsing", "--with", f"{file}:Labels", "--setting", f"notes={file.parent / 'notes'}"]
    assert cli.run(["annotate", own_dancers.url, *options, "--gpus", "1"]) == 0
    assert {gpu for _, gpu in notes(file)} == {"GPU-two"} and len({process for process, _ in notes(file)}) == 1


def test_without_a_gpu_it_says_what_to_do_and_starts_nothing(own_dancers, file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match=r"this machine shows none; run it with --setting device=cpu"):
        annotate(own_dancers, "parsing", f"{file}:Labels", settings=told(file))
    assert notes(file) == []


@pytest.mark.slow
def test_without_a_gpu_a_network_runs_on_the_processor_and_says_so_once(own_dancers, tmp_path, capfd, caplog):
    from remot_data.detectors._torch import _warn_of_cpu

    (tmp_path / "chooses.py").write_text(
        DETECTOR.replace(
            "self.fails,",
            'self.device = __import__("remot_data.detectors._torch").detectors._torch.choose_device('
            'None, self.name, "a second a frame")\n        self.fails,',
        )
    )
    (tmp_path / "notes").mkdir()
    _warn_of_cpu.cache_clear()
    annotate(own_dancers, "parsing", f"{tmp_path / 'chooses.py'}:Labels", settings=told(tmp_path / "chooses.py"))
    assert caplog.messages == ["labels runs on the CPU, since torch sees no CUDA device: expect a second a frame"]
    assert len({process for process, _ in notes(tmp_path / "chooses.py")}) >= 1
    assert "runs on the CPU" not in capfd.readouterr().err  # a worker did not say it again


@pytest.mark.slow
def test_on_a_cluster_a_network_goes_to_the_workers_with_gpus(own_dancers, file, cluster, monkeypatch):  # noqa: F811
    """Also where the machine that starts the run has none: the detector says cpu here, because none was asked for."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cluster.start_scheduler()
    cluster.start_worker("--resources", "CPU=1", CUDA_VISIBLE_DEVICES="")
    chooses = file.with_name("chooses.py")
    chooses.write_text(DETECTOR.replace('device="cuda"', 'device="cpu"'))

    def run(**settings: object) -> list[tuple[str, str]]:
        before = len(notes(file))
        store = shutil.copytree(own_dancers.url, file.parent / f"copy-{before}")
        spec, given = f"{chooses}:Labels", told(file, **settings)
        assert annotate(str(store), "parsing", spec, settings=given, scheduler=cluster.address).failed == {}
        return [gpu for _, gpu in notes(file)[before:]]

    assert set(run()) == {""}
    with pytest.raises(EngineError, match=r"`CUDA_VISIBLE_DEVICES=0 dask worker tcp://.*--resources GPU=1`"):
        annotate(own_dancers, "parsing", f"{file}:Labels", settings=told(file), scheduler=cluster.address)
    cluster.start_worker("--resources", "GPU=1", CUDA_VISIBLE_DEVICES="7")
    with Client(cluster.address) as client:
        client.wait_for_workers(2, timeout=60)
    assert set(run()) == {"7"}
    assert set(run(device="cpu")) == {""}


def test_a_gpu_is_named_by_gpus_where_workers_see_one(own_dancers, file, capsys):
    options = ["--layer", "parsing", "--with", f"{file}:Labels", "--setting", "device=cuda:1"]
    assert cli.run(["annotate", own_dancers.url, *options]) == 2
    assert "--gpus says which" in " ".join(capsys.readouterr().err.split())


def chain(store, file):
    """Jobs by turns on a CPU, a GPU and a CPU, each reading the one before; and one that reads none."""
    kinds = {"pose": "Pose", "parsing": "Reads", "flow": "Flow"}
    jobs = {kind: Job(kind, f"{file}:{name}", settings=told(file)) for kind, name in kinds.items()}
    return plan_jobs(store, {**jobs, "background": "temporal-median"})


@pytest.mark.slow
def test_jobs_of_one_run_go_each_where_they_belong(two_gpus, own_dancers, file):
    plain = shutil.copytree(own_dancers.url, file.parent / "plain")
    told_of: dict[str, list[tuple[int, int]]] = {}

    def progress(what: str, number: int, of: int) -> None:
        told_of.setdefault(what, []).append((number, of))

    with open_engine(gpus=visible_gpus) as engine:
        done = run_jobs(engine, own_dancers, chain(own_dancers, file), progress)
    assert {gpu for _, gpu in notes(file)} <= {"0", "1"}
    for name in ("points", "moves"):
        assert {gpu for _, gpu in notes(file, name)} == {"unset"}
    assert told_of == {label: [(1, 3), (2, 3), (3, 3)] for label in ("pose", "parsing", "flow+background")}
    assert len(done) == 9
    with open_engine(0) as engine:
        assert len(run_jobs(engine, open_store(str(plain)), chain(open_store(str(plain)), file))) == 3
    assert layers(own_dancers.url) == layers(str(plain))
    with open_engine(gpus=visible_gpus) as engine:
        assert run_jobs(engine, own_dancers, chain(own_dancers, file)) == []
    # What is missing in the middle is made again, with what reads it; nothing else is.
    middle = next(Path(own_dancers.url).glob("layers/parsing/labels-*/shard-00001.parquet"))
    middle.unlink()
    calls = len(notes(file)), len(notes(file, "points"))
    with open_engine(gpus=visible_gpus) as engine:
        run_jobs(engine, open_store(own_dancers.url), chain(own_dancers, file))
    assert (len(notes(file)), len(notes(file, "points"))) == (calls[0] + 2, calls[1])
    assert layers(own_dancers.url) == layers(str(plain))


# --- Cards that fail ----------------------------------------------------------------------------------------

LOST = "CUDA error: an illegal memory access was encountered"


@pytest.mark.slow
def test_a_worker_that_loses_its_card_is_started_again_and_its_task_tried_again(two_gpus, own_dancers, file, caplog):
    plain = shutil.copytree(own_dancers.url, file.parent / "plain")
    settings = told(file, fails=2, says=LOST)
    with only_gpus("0"):
        done = annotate(own_dancers, "parsing", f"{file}:Labels", settings=settings)
    assert done.computed == 3 and done.failed == {}
    seen = notes(file)
    # Two were tried in vain; what another task had begun in the same process is lost with it.
    assert len(seen) >= 5 + 2 and {gpu for _, gpu in seen} == {"0"}
    assert len({process for process, _ in seen}) >= 2
    assert any("the card failed" in line and "tried again" in line for line in caplog.messages)
    annotate(str(plain), "parsing", f"{file}:Labels", settings=settings, workers=0)
    assert layers(own_dancers.url) == layers(str(plain))


@pytest.mark.slow
def test_a_card_that_stays_lost_ends_the_run_in_a_sentence(two_gpus, own_dancers, file):
    with only_gpus("0"), pytest.raises(EngineError, match=rf"given up after 3 attempts.*the card failed.*{LOST}"):
        annotate(own_dancers, "parsing", f"{file}:Labels", settings=told(file, fails=99, says=LOST))
    assert not list(Path(own_dancers.url).glob("layers/parsing/labels-*/layer.json"))
    shutil.rmtree(file.parent / "notes")
    (file.parent / "notes").mkdir()
    # Once it is back, the same command goes on.
    assert annotate(own_dancers, "parsing", f"{file}:Labels", settings=told(file), workers=0).computed == 3


@pytest.mark.parametrize("workers", [0, pytest.param(None, marks=pytest.mark.slow)])
def test_too_little_memory_is_said_with_what_to_do_and_not_tried_again(two_gpus, own_dancers, file, workers):
    settings = told(file, fails=99, says="CUDA error: out of memory")
    says = r"too little memory; 8 items a batch are too many, give a smaller --setting batch="
    with only_gpus("0"), pytest.raises(EngineError, match=says):
        annotate(own_dancers, "parsing", f"{file}:Labels", settings=settings, workers=workers)
    assert len(notes(file)) <= 5  # no clip was tried twice


def test_errors_are_told_apart():
    class AcceleratorError(RuntimeError):
        pass

    def comes_to(error: Exception) -> type[Exception] | None:
        try:
            check_device(error, types.SimpleNamespace(name="labels", batch=8))
        except DeviceError as found:
            return type(found)
        return None

    assert comes_to(RuntimeError(LOST)) is comes_to(AcceleratorError("unspecified launch failure")) is DeviceLost
    assert comes_to(torch.OutOfMemoryError("CUDA out of memory.")) is DeviceError
    assert comes_to(RuntimeError("CUDA error: out of memory")) is DeviceError
    assert comes_to(RuntimeError("the words CUDA error are not at the beginning")) is comes_to(MemoryError()) is None


# --- Which card it was --------------------------------------------------------------------------------------


def test_a_shard_says_which_card_made_it_and_repair_that_it_was_another(own_dancers, file, monkeypatch, caplog):
    cards = {"cuda": "Card A"}
    monkeypatch.setattr("remot_data.annotating.task.gpu_name", lambda device: cards.get(device, ""))
    spec = f"{file}:Labels"
    made = annotate(own_dancers, "parsing", spec, settings=told(file), workers=0)
    folder = f"layers/parsing/{made.id}"
    assert [own_dancers.meta(folder, shard)["gpu"] for shard in range(3)] == ["Card A"] * 3
    before = layers(own_dancers.url)
    broken = Path(own_dancers.url) / folder / "shard-00001.tar"

    def mended() -> list[str]:
        caplog.clear()
        broken.write_bytes(b"")
        store = open_store(own_dancers.url)
        assert repair(store, list(verify(store)), workers=0) == []
        assert list(verify(open_store(own_dancers.url))) == []
        return caplog.messages

    assert mended() == [] and layers(own_dancers.url) == before
    cards["cuda"] = "Card B"
    (sentence,) = mended()
    assert sentence.startswith(f"{folder}: 1 shards were made again on Card B, the others on Card A: their values may")


def test_a_layer_that_no_card_made_does_not_speak_of_cards(own_dancers, file):
    made = annotate(own_dancers, "parsing", f"{file}:Labels", settings=told(file, device="cpu"), workers=0)
    assert "gpu" not in own_dancers.meta(f"layers/parsing/{made.id}", 0)
    assert "gpu" not in json.dumps(own_dancers.layer("parsing", made.id).to_json())


def test_what_a_job_is_called_does_not_depend_on_where_it_runs(own_dancers, file):
    spec = f"{file}:Labels"
    ids = [plan_job(own_dancers, "parsing", spec, settings=told(file, device=d)).id for d in ("cpu", "cuda", "cuda:1")]
    assert len(set(ids)) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_detector_puts_nothing_on_a_card_until_it_is_used(tmp_path):
    from remot_data.detectors._network import inference

    before = torch.cuda.memory_allocated()  # by other tests of this process
    network = torch.nn.Linear(1000, 1000)
    assert torch.cuda.memory_allocated() == before
    with inference("cuda", network):
        assert network(torch.ones(1, 1000, device="cuda")).device.type == "cuda"
    assert torch.cuda.memory_allocated() > before
