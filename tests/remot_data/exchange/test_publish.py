"""Uploading a store, against a stand-in of the Hub's API on this machine."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from remot_data.annotating.annotate import annotate
from remot_data.care.card import write_card
from remot_data.care.compact import compact, remove
from remot_data.care.verify import verify
from remot_data.cli.commands import invoke
from remot_data.exchange.publish import PublishError, publish
from remot_data.reading.stream import Plan
from remot_data.store import Store, StoreError, open_store

pytestmark = pytest.mark.slow

URL = "hf://datasets/org/dances"
KEPT_BY_LFS = (".tar", ".parquet", ".jpg")


class Hub:
    """The repositories of a stand-in: files of each by name; `fail_after` commits it refuses the next."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits = 0
        self.fail_after: int | None = None


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_GET(self) -> None:
            if match := re.match(r"/api/datasets/([^/]+/[^/]+)/tree/main", self.path):
                self.reply([entry(name, data) for name, data in hub.repos[match[1]].items()])
            else:
                self.reply({"error": f"no {self.path}"}, 404)

        def do_PUT(self) -> None:
            data = self.body()
            hub.objects[hashlib.sha256(data).hexdigest()] = data
            self.reply({})

        def do_POST(self) -> None:
            data = self.body()
            if self.path == "/api/repos/create":
                told = json.loads(data)
                name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
                known = name in hub.repos
                hub.repos.setdefault(name, {})
                hub.private.setdefault(name, told.get("private", told.get("visibility") == "private"))
                self.reply(
                    {"url": f"http://{self.headers['Host']}/datasets/{name}", "name": name}, 409 if known else 200
                )
            elif self.path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                modes = [
                    {"path": f, "shouldIgnore": False, "uploadMode": "lfs" if f.endswith(KEPT_BY_LFS) else "regular"}
                    for f in (file["path"] for file in files)
                ]
                self.reply({"files": modes})
            elif self.path.endswith("/info/lfs/objects/batch"):
                wanted = json.loads(data)["objects"]
                put = f"http://{self.headers['Host']}/upload"
                for one in wanted:
                    if one["oid"] not in hub.objects:
                        one["actions"] = {"upload": {"href": put}}
                self.reply({"transfer": "basic", "objects": wanted})
            elif match := re.match(r"/api/datasets/([^/]+/[^/]+)/commit/main", self.path):
                if hub.fail_after is not None and hub.commits >= hub.fail_after:
                    self.reply({"error": "out of storage"}, 403)
                    return
                hub.commits += 1
                for line in map(json.loads, data.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.repos[match[1]][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.repos[match[1]][value["path"]] = hub.objects[value["oid"]]
                self.reply(
                    {
                        "commitUrl": f"http://{self.headers['Host']}/datasets/{match[1]}/commit/1",
                        "commitOid": f"{hub.commits:040d}",
                        "success": True,
                    }
                )
            else:
                self.reply({"error": f"no {self.path}"}, 404)

    def entry(name: str, data: bytes) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found = {"type": "file", "path": name, "size": len(data), "oid": git}
        if name.endswith(KEPT_BY_LFS):
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return found

    return Answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, str]]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_a_token")
    yield made, address
    server.shutdown()
    server.server_close()


def sent(store: Store, hub: tuple[Hub, str], tmp_path: Path, **options: Any) -> Any:
    write_card(store, tmp_path / "card", url=URL)
    return publish(store, URL, tmp_path / "card", endpoint=hub[1], token="hf_a_token", **options)


def fetched(hub: Hub, to: Path) -> Store:
    for name, data in hub.repos["org/dances"].items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(data)
    return open_store(str(to))


def test_what_is_published_is_a_store_without_paths(own_dancers: Store, hub: tuple[Hub, str], tmp_path: Path) -> None:
    done = sent(own_dancers, hub, tmp_path)
    assert done.sent == done.files == len(hub[0].repos["org/dances"]) and hub[0].private["org/dances"]
    store = fetched(hub[0], tmp_path / "fetched")
    assert not list(verify(store))
    assert all("/" not in clip.path for clip in store.clips) and [c.id for c in store.clips] == list(own_dancers.clip)
    ours, theirs = (Plan(s, length=4, stride=4).window(0).arrays["frames"] for s in (own_dancers, store))
    assert (ours == theirs).all()
    assert {n for n in hub[0].repos["org/dances"] if n.startswith("ledger/")} == {"ledger/store.json"}


def test_layers_go_with_what_they_read_and_without_folders(
    own_dancers: Store, hub: tuple[Hub, str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from remot_data.detectors.smooth import Smooth\n\n\nclass Mine(Smooth):\n    name = 'mine'\n")
    raw = own_dancers.snapshot("main").layers["pose"]
    even = annotate(own_dancers, "pose", f"{file}:Mine", snapshot="main", workers=0).id
    sent(open_store(own_dancers.url), hub, tmp_path)
    store = fetched(hub[0], tmp_path / "fetched")
    assert store.layer("pose", even).spec == "mine.py:Mine" and store.layer("pose", raw).id == raw
    assert not list(verify(store))
    told = [data for name, data in hub[0].repos["org/dances"].items() if name.endswith(".json")]
    croissant = json.loads(hub[0].repos["org/dances"]["croissant.json"])
    files = {one["contentUrl"] for one in croissant["distribution"] if "contentUrl" in one}
    assert "frames/shard-00000.tar" in files and files <= hub[0].repos["org/dances"].keys()
    assert told and not any(str(tmp_path).encode() in data for data in told)


def test_an_interrupted_upload_resumes(
    own_dancers: Store, hub: tuple[Hub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remot_data.exchange.publish._TOGETHER", 10)
    hub[0].fail_after = 2
    with pytest.raises(PublishError, match="the Hub refused .*out of storage.*run it again to resume"):
        sent(own_dancers, hub, tmp_path)
    assert len(hub[0].repos["org/dances"]) == 20
    hub[0].fail_after = None
    done = sent(own_dancers, hub, tmp_path)
    assert done.sent == done.files - 20
    again = sent(own_dancers, hub, tmp_path)
    assert (again.sent, again.commits) == (0, 0)
    remove(own_dancers, [own_dancers.clips[0].id])
    with pytest.raises(StoreError, match="1 removed clips are still in the shards: run `remot compact"):
        sent(open_store(own_dancers.url), hub, tmp_path)
    compact(own_dancers, workers=0)
    less = sent(open_store(own_dancers.url), hub, tmp_path)
    assert 0 < less.sent < less.files
    assert len(fetched(hub[0], tmp_path / "fetched").clips) == 4


def test_in_public_only_where_licences_are_clear(
    own_dancers: Store, hub: tuple[Hub, str], capsys: pytest.CaptureFixture[str]
) -> None:
    own_dancers.write_clips([dataclasses.replace(clip, licence="") for clip in own_dancers.clips])
    assert invoke(["publish", own_dancers.url, URL, "--public"]) == 2
    assert "licences are not clear" in capsys.readouterr().err and not hub[0].repos
    assert invoke(["publish", own_dancers.url, URL, "--public", "--anyway"]) == 0
    assert hub[0].private["org/dances"] is False


def test_another_address_is_refused(own_dancers: Store, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="give hf://datasets/ORG/NAME"):
        publish(own_dancers, "hf://models/org/name", tmp_path)
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(PublishError, match="cannot be reached|refused"):
        publish(own_dancers, URL, tmp_path, endpoint="http://127.0.0.1:9", token="hf_a_token")
