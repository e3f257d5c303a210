"""The doctor: finds what is broken, says what to do, survives what it tries out, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from remot_data import assets, media
from remot_data.care import doctor
from remot_data.care.doctor import Finding, diagnose
from remot_data.detectors import base
from remot_data.media import sandbox


def _one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


def _by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


# --- the whole ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_this_machine_is_sound_and_nothing_is_left_behind(tmp_path: Path) -> None:
    for name in ("blazepose-detector", "blazepose-landmarks"):
        assets.fetch(name)
    started = time.monotonic()
    findings = diagnose(str(tmp_path / "not" / "there" / "yet"))
    assert time.monotonic() - started < 30
    assert [f for f in findings if f.state == "bad"] == []
    names = [f.what for f in findings]
    assert {"python", "disk", "ffmpeg", "writing video", "workers"} <= set(names) and len(set(names)) == len(names)
    assert {f"decoding {codec}" for codec in ("h264", "hevc", "vp9", "av1")} <= set(names)
    assert {f"detector {name}" for name in base.known()} <= set(names)
    measured = next(f for f in findings if f.what == "detector blazepose")
    assert measured.state == "ok" and "ms a frame" in measured.detail
    assert list(tmp_path.iterdir()) == []


def _answers(out: str | None) -> Iterator[Finding]:
    yield Finding("good", "ok", f"asked for {out}")


def _raises(out: str | None) -> Iterator[Finding]:
    yield Finding("first half", "ok", "fine")
    raise ZeroDivisionError("half way")


def test_a_check_that_raises_is_a_finding_and_the_next_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CHECKS", {"broken": (_raises, "mend it"), "good": (_answers, "never said")})
    messages = [message for message, _ in doctor.run(["broken", "good"], "x")]
    assert [m["begins"] for m in messages if "begins" in m] == ["broken", "good"]
    findings = [Finding.from_json(m) for m in messages if "begins" not in m]
    assert findings == [
        Finding("first half", "ok", "fine"),
        Finding("broken", "bad", "ZeroDivisionError: half way", "mend it"),
        Finding("good", "ok", "asked for x"),
    ]


def _children(deaths: dict[str, sandbox.ChildError]):
    """Stands for `sandbox.call`, with checks that take the process with them."""

    def call(function: str, arguments: dict, limits: sandbox.Limits):
        assert function == "remot_data.care.doctor:run" and limits.total <= 28
        for name in arguments["names"]:
            yield {"begins": name}, b""
            if name in deaths:
                raise deaths[name]
            yield Finding(name, "ok", "").to_json(), b""

    return call


def test_a_check_that_takes_its_process_with_it_is_named_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaths = {
        "decoding": sandbox.ChildError("crashed", "the process was ended by SIGILL"),
        "workers": sandbox.ChildError("timeout", "no sign of life for 14 s"),
    }
    monkeypatch.setattr(sandbox, "call", _children(deaths))
    found = _by_name(diagnose())
    assert list(found) == list(doctor._CHECKS)
    assert {name for name, f in found.items() if f.state == "bad"} == set(deaths)
    assert "SIGILL" in found["decoding"].detail and "PyAV" not in found["workers"].remedy
    assert "--workers 0" in found["workers"].remedy


def test_without_any_child_process_that_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> Iterator[object]:
        raise RuntimeError("no child process can be started")
        yield

    monkeypatch.setattr(sandbox, "call", none)
    finding = _one(diagnose())
    assert finding.state == "bad" and "no child process" in finding.detail


def test_when_the_time_is_up_the_rest_is_said_to_be_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.5)
    findings = diagnose()
    assert [f.what for f in findings] == list(doctor._CHECKS)
    assert {(f.state, f.detail) for f in findings} == {("warn", "not checked: the time was up")}


def test_a_check_that_the_time_ran_out_for_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(function: str, arguments: dict, limits: sandbox.Limits):
        yield {"begins": "python"}, b""
        time.sleep(limits.total)
        raise sandbox.ChildError("timeout", "it took longer than allowed")

    monkeypatch.setattr(sandbox, "call", slow)
    monkeypatch.setattr(doctor, "_SECONDS", 1.1)
    findings = diagnose()
    assert [f.what for f in findings] == list(doctor._CHECKS)
    assert {(f.state, f.remedy) for f in findings} == {("warn", doctor._AGAIN)}


@pytest.mark.slow
def test_a_real_crash_of_native_code_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\nclass Deadly:\n    def __init__(self):\n        os.kill(os.getpid(), signal.SIGILL)\n"
    )
    info = tmp_path / "deadly-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[remot.detectors]\ndeadly = deadly:Deadly\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = _by_name(diagnose())
    assert found["detectors"].state == "bad" and signal.Signals.SIGILL.name in found["detectors"].detail
    assert found["workers"].state == "ok"


@pytest.mark.parametrize(("state", "remedy"), [("ok", "do that"), ("bad", ""), ("warn", ""), ("fine", "")])
def test_a_remedy_is_for_what_is_not_ok(state: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"remedy|one of"):
        Finding("x", state, "detail", remedy)


# --- the machine --------------------------------------------------------------------------------------------


def _group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_limits_of_control_groups_are_the_least_of_the_group_and_those_above(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    _group(tmp_path, "job/step", memory__max="max", cpu__max="250000 100000")
    _group(tmp_path, "job", memory__max="3221225472", cpu__max="max 100000")
    _group(tmp_path, ".", memory__max="8589934592")
    assert doctor.group_limits(tmp_path, own) == (3 << 30, 2.5)


def test_limits_of_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:memory:/slurm/job\n3:cpu,cpuacct:/slurm/job\n1:name=systemd:/\n")
    _group(tmp_path, "memory/slurm/job", memory__limit_in_bytes="1073741824")
    _group(tmp_path, "cpu,cpuacct/slurm", cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    _group(tmp_path, "cpu,cpuacct/slurm/job", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert doctor.group_limits(tmp_path, own) == (1 << 30, 1.5)


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert doctor.group_limits(tmp_path, tmp_path / "own") == (None, None)


@pytest.mark.parametrize(
    ("memory", "share", "workers"), [(5 << 30, None, 2), (None, 1.5, 2), (1 << 30, 8.0, 1), (64 << 30, None, None)]
)
def test_fewer_workers_are_advised_where_a_group_is_smaller_than_the_machine(
    memory: int | None, share: float | None, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    monkeypatch.setattr(doctor, "_processors", lambda: 8)
    monkeypatch.setattr(doctor, "group_limits", lambda: (memory, share))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 32 * gib // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)
    finding = _one(doctor._memory(None))
    assert finding.state == ("warn" if workers else "ok")
    assert finding.remedy.endswith(f"--workers {workers}" if workers else "")


def test_few_open_files_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 2048))
    finding = _one(doctor._files(None))
    assert finding.state == "warn" and "ulimit -n 2048" in finding.remedy


def test_the_disk_of_a_folder_that_is_not_there_yet_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = _by_name(doctor._disk(str(tmp_path / "a" / "store")))
    assert found["disk"].state == "ok" and str(tmp_path) in found["disk"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("remot_data.store.files.open", refuse, raising=False)
    finding = _by_name(doctor._disk(str(tmp_path)))["disk"]
    assert finding.state == "bad" and "read-only" in finding.detail and "--out" in finding.remedy


def test_a_full_disk_is_bad_and_a_filling_one_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((10**8, "bad"), (5 * 10**9, "warn"), (10**12, "ok")):
        usage = shutil._ntuple_diskusage(2 * 10**12, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
        assert _by_name(doctor._disk(str(tmp_path)))["disk space"].state == state


@pytest.mark.parametrize(
    ("name", "changed", "state", "says"),
    [
        ("read", lambda self, name: b"other", "bad", "other bytes"),
        ("create", lambda self, name, data: True, "warn", "two builds apart"),
        ("write", lambda self, name, data: time.sleep(0.25), "warn", "MB/s"),
    ],
)
def test_a_disk_that_lies_or_crawls_is_found(
    name: str, changed: object, state: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remot_data.store.files import Files

    if name == "write":
        kept: dict[str, bytes] = {}
        monkeypatch.setattr(Files, "write", lambda self, n, data: (kept.update({n: data}), changed(self, n, data)))
        monkeypatch.setattr(Files, "read", lambda self, n: kept[n])
        monkeypatch.setattr(Files, "create", lambda self, n, data: False)
    else:
        monkeypatch.setattr(Files, name, changed)
    finding = _by_name(doctor._disk(str(tmp_path)))["disk"]
    assert finding.state == state and says in finding.detail


def test_a_store_that_is_no_folder_is_written_and_read_too() -> None:
    import fsspec

    finding = _one(doctor._disk("memory://doctor/store"))
    assert finding.state == "ok" and "memory://doctor/store" in finding.detail
    assert not any("remot-doctor" in path for path in fsspec.filesystem("memory").find("/"))


def test_an_address_of_an_unknown_kind_is_bad() -> None:
    finding = _one(doctor._disk("pigeon://loft/store"))
    assert finding.state == "bad" and "pigeon" in finding.detail and "install" in finding.detail


def test_gpus_that_torch_cannot_use_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor, "_nvidia_smi", lambda: ["Some GPU, 80 GiB, 570.1"])
    finding = _one(doctor._gpus(None))
    assert finding.state == "warn" and "Some GPU" in finding.detail and "CUDA" in finding.remedy
    monkeypatch.setattr(doctor, "_nvidia_smi", list)
    assert _one(doctor._gpus(None)).state == "ok"


# --- video --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", str(tmp_path / "ffmpeg"))


def _program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_ffmpeg_it_says_how_to_get_one(no_ffmpeg: None) -> None:
    finding = _one(doctor._ffmpeg(None))
    assert finding.state == "bad" and "imageio-ffmpeg" in finding.remedy and "REMOT_FFMPEG" in finding.remedy
    assert "is no program" in finding.detail
    written = _one(doctor._writing(None))
    assert written.state == "bad" and "is no program" in written.detail


def test_it_says_that_the_ffmpeg_is_the_carried_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMOT_FFMPEG", raising=False)
    finding = _one(doctor._ffmpeg(None))
    assert finding.state == "ok" and "imageio-ffmpeg" in finding.detail and "carries" in finding.detail
    assert media.carried_ffmpeg() in finding.detail


def test_a_chosen_ffmpeg_with_all_that_is_needed_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", media.carried_ffmpeg())
    finding = _one(doctor._ffmpeg(None))
    assert finding.state == "ok" and "chosen by REMOT_FFMPEG" in finding.detail


@pytest.mark.parametrize("word, lost", [
    ("passthrough", "no video can be written"), ("libx264", "no video can be written"), ("aac", "a cut with sound"),
])  # fmt: skip
def test_it_says_what_a_chosen_ffmpeg_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, lost: str
) -> None:
    refuse = f'for word; do [ "$word" = {word} ] && exit 1; done\nexec {shlex.quote(media.carried_ffmpeg())} "$@"'
    chosen = _program(tmp_path / "other", refuse)
    monkeypatch.setenv("REMOT_FFMPEG", str(chosen))
    finding = _one(doctor._ffmpeg(None))
    assert finding.state == "warn" and "unset REMOT_FFMPEG" in finding.remedy
    assert str(chosen) in finding.detail and lost in finding.detail.split("it lacks")[1]
    assert len(re.findall(r"\((no|a cut)", finding.detail)) == 1


def test_without_ffmpeg_the_decoders_are_looked_up_and_said_to_be_untried(no_ffmpeg: None) -> None:
    found = list(doctor._decoders(None))
    assert [f.state for f in found] == ["ok"] * 4 and all("not tried" in f.detail for f in found)


def test_another_program_called_ffmpeg_is_no_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOT_FFMPEG", str(_program(tmp_path / "ffmpeg", "echo hello")))
    finding = _one(doctor._ffmpeg(None))
    assert finding.state == "bad" and "hello" in finding.detail


def test_a_missing_decoder_is_found(no_ffmpeg: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ENCODERS", {"h264": {}, "no-such-codec": {}})
    good, missing = doctor._decoders(None)
    assert good.state == "ok" and missing.state == "warn" and "no decoder" in missing.detail


def test_frames_are_told_apart() -> None:
    drawn = doctor._drawn()
    right = list(enumerate(drawn))
    assert doctor._difference(right, drawn) is None
    noisy = [(t, np.clip(frame.astype(int) + 3, 0, 255).astype(np.uint8)) for t, frame in right]
    assert doctor._difference(noisy, drawn) is None
    assert "9 of 10 frames" in doctor._difference(right[1:], drawn)
    assert "frame 3 is not the one" in doctor._difference([*right[:3], (3, drawn[4]), *right[4:]], drawn)
    assert "frame 0 is not the one" in doctor._difference([(t, 255 - frame) for t, frame in right], drawn)
    assert "do not increase" in doctor._difference([(0, frame) for frame in drawn], drawn)


def test_a_decoder_that_gives_wrong_frames_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = media.read
    monkeypatch.setattr(media, "read", lambda path, **options: list(read(path, **options))[1:])
    found = _by_name(doctor._decoders(None))
    assert found["decoding h264"].state == "bad" and "9 of 10" in found["decoding h264"].detail
    assert found["decoding vp9"].state == "warn"
    assert _one(doctor._writing(None)).state == "bad"


def test_decord_that_disagrees_is_not_to_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(media, "decord_agrees", lambda path: False)
    finding = _by_name(doctor._writing(None))["decord"]
    assert finding.state == "warn" and "pyav" in finding.remedy
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert _by_name(doctor._writing(None))["decord"].state == "ok"


# --- weights and detectors ----------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REMOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_that_are_not_there_are_not_fetched_but_named(empty_cache: Path) -> None:
    before = dict(os.environ)
    found = _by_name(doctor._detectors(None))
    assert dict(os.environ) == before
    assert found["detector blazepose"].state == found["detector basic-scores"].state == "warn"
    assert "remot assets blazepose-landmarks" in found["detector blazepose"].remedy
    assert "remot assets blazepose-detector" in found["detector basic-scores"].remedy
    assert found["detector dis"].state == found["detector pose-guided"].state == "ok"
    assert not empty_cache.exists()
    assert "not fetched: blazepose-detector" in _one(doctor._weights(None)).detail


def test_broken_weights_are_bad(empty_cache: Path) -> None:
    path = assets.ASSETS["blazepose-landmarks"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    broken = _by_name(doctor._weights(None))["asset blazepose-landmarks"]
    assert broken.state == "bad" and str(path) in broken.detail
    assert "remot assets blazepose-landmarks" in broken.remedy
    assert _by_name(doctor._detectors(None))["detector blazepose"].state == "bad"


class Other:
    """A detector of another package, with what the protocol asks for."""

    name, kind, version, schema, needs, licence, approximate = "other", "scores", "1", "other", (), "MIT", False

    def fingerprint(self) -> dict[str, object]:
        return {}

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        raise RuntimeError("illegal opcode")


def test_detectors_of_other_packages_need_only_load(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"other": base.Entry("", f"{__name__}:Other"), "gone": base.Entry("", "no_such_package:Thing")}
    monkeypatch.setattr(base, "known", lambda: entries)
    other, gone = doctor._detectors(None)
    assert (other.what, other.state) == ("detector other", "ok")
    assert gone.state == "warn" and "no_such_package" in gone.detail


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (Other.__call__, "illegal opcode"),
        (lambda self, frames: {"sharpness": np.zeros(1, np.float32)}, "LayerError"),
    ],
)
def test_a_default_detector_that_fails_on_a_frame_is_bad(
    call: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, "__call__", call)
    monkeypatch.setattr(base, "known", lambda: {"other": base.Entry("", f"{__name__}:Other")})
    monkeypatch.setattr(base, "DEFAULTS", {"scores": "other"})
    finding = _one(doctor._detectors(None))
    assert finding.state == "bad" and says in finding.detail
