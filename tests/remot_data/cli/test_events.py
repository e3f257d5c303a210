"""`--events` and `--metrics`: what a run tells programs, from its beginning to its end."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import pytest

from remot_data.cli.commands import invoke
from remot_data.cli.events import EventsError, watched
from remot_data.store import Store


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_told_line_by_line(own_dancers: Store, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    annotate = ["annotate", own_dancers.url, "--layer", "pose", "--with", "smooth", "--workers", "0"]
    assert invoke([*annotate, "--events", str(file)]) == 0
    found = lines(file)
    assert [line["event"] for line in found] == ["started", *["progress"] * 3, "finished"]
    assert found[0]["command"] == "annotate" and found[0]["store"] == own_dancers.url
    assert [(line["stage"], line["done"], line["total"]) for line in found[1:4]] == [("pose", n, 3) for n in (1, 2, 3)]
    assert found[-1]["computed"] == 3
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", str(line["at"])) for line in found)
    assert invoke([*annotate, "--events", str(file)]) == 0
    assert len(lines(file)) == 7, "another run is appended"


def test_an_error_and_what_is_refused_are_told(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    (tmp_path / "text.mp4").write_text("no video")
    build = ["build", str(tmp_path / "text.mp4"), "--out", str(tmp_path / "store"), "--workers", "0", "--no-layers"]
    assert invoke([*build, "--events", str(file)]) == 1
    found = lines(file)
    (reject,) = [line for line in found if line["event"] == "reject"]
    assert reject["code"] == "unreadable" and "text.mp4" in str(reject["path"])
    assert found[-1]["event"] == "finished" and found[-1]["refused"] == 1
    assert (
        invoke(["annotate", str(tmp_path / "store"), "--layer", "pose", "--with", "none", "--events", str(file)]) == 2
    )
    assert lines(file)[-1]["event"] == "failed" and "no detector is called 'none'" in str(lines(file)[-1]["error"])


def test_prometheus_finds_how_far_a_run_is(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    heard: list[tuple[str, int, int]] = []
    with watched("build", "s", lambda *told: heard.append(told), None, port) as progress:
        progress("frames", 3, 9)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        progress.finished({"rejects": [{"code": "blurred"}]})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            after = answer.read().decode()
    assert heard == [("frames", 3, 9)]
    assert 'remot_tasks_done{command="build",stage="frames"} 3.0' in text
    assert 'remot_tasks{command="build",stage="frames"} 9.0' in text
    assert 'remot_rejects_total{code="blurred",command="build"} 1.0' in after
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")


def test_a_port_or_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(EventsError, match=f"--metrics {port}: the port cannot be used"),
            watched("build", "s", print, None, port),
        ):
            pass
    with pytest.raises(EventsError, match="cannot be written"), watched("build", "s", print, tmp_path, None):
        pass
