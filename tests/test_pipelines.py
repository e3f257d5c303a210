"""The launch files for clusters: the Slurm script, and the commands that the Kubernetes file runs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from remot_data import assets
from remot_data.store import open_store

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture(scope="module")
def slurm() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slurm", PIPELINES / "slurm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = ["--", "build", "videos", "--out", "store"]


# --- Slurm --------------------------------------------------------------------------------------------------


def test_the_options_become_those_of_the_cluster(slurm: ModuleType) -> None:
    options = slurm.parse(["--cores", "4", "--memory", "12GB", "--partition", "long", "--interface", "ib0", *BUILD])
    assert options.command == BUILD[1:]
    made = slurm.cluster_options(options)
    assert (made["cores"], made["processes"], made["job_cpu"]) == (4, 4, 4)
    assert (made["memory"], made["queue"], made["interface"]) == ("12GB", "long", "ib0")
    assert made["worker_extra_args"] == ["--resources", "CPU=1"] and made["job_extra_directives"] == []


def test_a_job_with_gpus_has_one_worker_with_one_thread(slurm: ModuleType) -> None:
    made = slurm.cluster_options(slurm.parse(["--cores", "6", "--gpus", "2", *BUILD]))
    assert (made["cores"], made["processes"], made["job_cpu"]) == (1, 1, 6)
    assert made["worker_extra_args"] == ["--resources", "GPU=2,CPU=1"]
    assert made["job_extra_directives"] == ["--gres=gpu:2"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "after -- comes a remot command"),
        (["--workers", "2"], "after -- comes a remot command"),
        (["--", "verify", "store"], "build or annotate"),
        (["--", "build", "videos", "--scheduler", "tcp://x:1"], "leave --scheduler out"),
        (["--", "build", "videos", "--workers=3"], "leave --workers out"),
        (["--adaptive", "0", "4", *BUILD], "at least 1"),
        (["--adaptive", "5", "4", *BUILD], "and then the most"),
        (["--adaptive", "1", "4", "--workers", "3", *BUILD], "not allowed with"),
        (["--cores", "0", *BUILD], "1 or more"),
        (["--gpus", "-1", *BUILD], "0 or more"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(
    arguments: list[str], says: str, slurm: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        slurm.parse(arguments)
    assert says in capsys.readouterr().err


class Cluster:
    """What `run` uses of a dask cluster, noting what it is asked for."""

    scheduler_address = "tcp://127.0.0.1:1"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def scale(self, count: int) -> None:
        self.asked.append(("scale", count))

    def adapt(self, minimum: int, maximum: int) -> None:
        self.asked.append(("adapt", minimum, maximum))

    def wait_for_workers(self, count: int) -> None:
        self.asked.append(("wait", count))


@pytest.mark.parametrize(
    ("size", "asked"),
    [(["--workers", "3"], ("scale", 3)), (["--adaptive", "2", "9"], ("adapt", 2, 9)), ([], ("scale", 8))],
)
def test_the_command_is_run_against_the_scheduler_when_a_worker_is_there(
    size: list[str], asked: tuple[Any, ...], slurm: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster, options = Cluster(), slurm.parse([*size, "--", "annotate", "a store", "--layer", "pose"])
    line = slurm.remot(options, "tcp://h:1")
    assert line[3:] == ["annotate", "a store", "--layer", "pose", "--scheduler", "tcp://h:1"]
    note = tmp_path / "note"
    said = f"import pathlib, sys; pathlib.Path({str(note)!r}).write_text(sys.argv[1]); sys.exit(1)"
    monkeypatch.setattr(slurm, "remot", lambda options, address: [sys.executable, "-c", said, address])
    assert slurm.run(cluster, options) == 1
    assert cluster.asked == [asked, ("wait", 1)] and note.read_text() == cluster.scheduler_address


def test_a_command_that_is_left_running_is_ended(slurm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, line: list[str]) -> None:
            super().__init__(line)
            started.append(self)
            self.stops = [KeyboardInterrupt, SystemExit]

        def wait(self, timeout: float | None = None) -> int:
            if self.stops:
                raise self.stops.pop(0)
            return super().wait(timeout)

    monkeypatch.setattr(slurm, "remot", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(slurm.subprocess, "Popen", Popen)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        slurm.run(Cluster(), slurm.parse(BUILD))
    assert started[0].poll() is not None and time.monotonic() - began < 30


def test_without_dask_jobqueue_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "dask_jobqueue.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, PIPELINES / "slurm.py", "--print"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and "pip install dask-jobqueue" in done.stderr


@pytest.mark.slow
def test_the_job_script_asks_slurm_for_what_was_said(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    options = "--cores 4 --memory 12GB --walltime 01:30:00 --partition long --gpus 1 --print".split()
    command = [sys.executable, PIPELINES / "slurm.py", *options]
    script = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True).stdout
    for line in ("-p long", "--cpus-per-task=4", "--mem=12G", "-t 01:30:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}" in script
    assert "--nthreads 1" in script and "--resources GPU=1,CPU=1" in script


# --- Kubernetes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    documents = yaml.safe_load_all((PIPELINES / "kubernetes.yaml").read_text())
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


def _pod(thing: dict[str, Any]) -> dict[str, Any]:
    return thing["spec"]["template"]["spec"]


def _container(thing: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(thing)["containers"]
    return container


def test_what_belongs_together_has_the_same_names(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    claim = objects["PersistentVolumeClaim", "remot-data"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("remot-scheduler", "remot-worker"):
        spec = objects["Deployment", name]["spec"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    service, scheduler = objects["Service", "remot-scheduler"], objects["Deployment", "remot-scheduler"]
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in _container(scheduler)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for thing in (objects["Deployment", "remot-worker"], objects["Job", "remot-build"]):
        volumes = {v["name"]: v for v in _pod(thing)["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mounts = {m["name"]: m["mountPath"] for m in _container(thing)["volumeMounts"]}
        assert mounts["data"] == "/data" and set(mounts) == set(volumes)


@contextmanager
def _running(commands: list[list[str]], environment: dict[str, str], log: Path) -> Iterator[None]:
    """These commands as processes, ended at the end; what they print goes to `log`."""
    with open(log, "wb") as file:
        started = [subprocess.Popen(c, env=environment, stdout=file, stderr=file) for c in commands]
    try:
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
def test_the_commands_of_the_pods_build_a_store(objects: dict[tuple[str, str], dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "scratch").mkdir()
    shutil.copy(assets.fetch("sample-cam02"), tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video at all")
    port = str(_free_port())
    changes = {
        "remot-scheduler:8786": f"127.0.0.1:{port}",
        "8786": port,
        "0.0.0.0": "127.0.0.1",
        "/data": str(tmp_path),
        "/scratch": str(tmp_path / "scratch"),
        "remot build": "remot build --no-layers --shard-frames 60",
    }

    def here(command: list[str]) -> list[str]:
        for old, new in changes.items():
            command = [word.replace(old, new) for word in command]
        return command

    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    job = objects["Job", "remot-build"]
    pods = [_container(objects["Deployment", name])["command"] for name in ("remot-scheduler", "remot-worker")]
    with _running([[*here(pods[0]), "--no-dashboard"], here(pods[1])], environment, tmp_path / "log"):
        for command in (_pod(job)["initContainers"][0]["command"], _container(job)["command"]):
            done = subprocess.run(here(command), env=environment, capture_output=True, text=True, timeout=120)
            # The broken file is refused, which is status 1 of remot, and no failure of the Job.
            assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    assert "1 kept + 1 refused" in done.stdout
    store = open_store(str(tmp_path / "store"))
    assert store.shard_count >= 1 and len(store.clips) >= 1
