"""The doctor as a whole: it survives what it tries out, says what it did not try, and leaves nothing behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remot_data import assets
from remot_data.care import doctor
from remot_data.care.doctor import diagnose
from remot_data.care.findings import AGAIN, Finding
from remot_data.detectors import base
from remot_data.media import sandbox
from tests.remot_data.care.conftest import by_name, one


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
    found = by_name(diagnose())
    assert list(found) == list(doctor._CHECKS)
    assert {name for name, f in found.items() if f.state == "bad"} == set(deaths)
    assert "SIGILL" in found["decoding"].detail and "PyAV" not in found["workers"].remedy
    assert "--workers 0" in found["workers"].remedy


def test_without_any_child_process_that_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> Iterator[object]:
        raise RuntimeError("no child process can be started")
        yield

    monkeypatch.setattr(sandbox, "call", none)
    finding = one(diagnose())
    assert finding.state == "bad" and "no child process" in finding.detail


def test_when_the_time_is_up_the_rest_is_said_to_be_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.5)
    findings = diagnose()
    assert [f.what for f in findings] == list(doctor._CHECKS)
    assert {(f.state, f.detail) for f in findings} == {("warn", "not checked: the time was up")}


@pytest.mark.slow
def test_a_check_that_the_time_ran_out_for_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(function: str, arguments: dict, limits: sandbox.Limits):
        yield {"begins": "python"}, b""
        time.sleep(limits.total)
        raise sandbox.ChildError("timeout", "it took longer than allowed")

    monkeypatch.setattr(sandbox, "call", slow)
    monkeypatch.setattr(doctor, "_SECONDS", 1.1)
    findings = diagnose()
    assert [f.what for f in findings] == list(doctor._CHECKS)
    assert {(f.state, f.remedy) for f in findings} == {("warn", AGAIN)}


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
    found = by_name(diagnose())
    assert found["detectors"].state == "bad" and signal.Signals.SIGILL.name in found["detectors"].detail
    assert found["workers"].state == "ok"


@pytest.mark.parametrize(("state", "remedy"), [("ok", "do that"), ("bad", ""), ("warn", ""), ("fine", "")])
def test_a_remedy_is_for_what_is_not_ok(state: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"remedy|one of"):
        Finding("x", state, "detail", remedy)
