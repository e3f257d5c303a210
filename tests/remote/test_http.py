"""Stores that a web server hands out: nginx, and a small server of ours that writes down what it sent."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from remot_data.care.verify import verify
from remot_data.ingest.build import build
from remot_data.reading.stream import Plan, stream
from remot_data.store import Store, StoreError, open_store, ranges
from remot_data.store import files as files_module
from remot_data.store.content import stats
from remot_data.store.disk import FilesError
from remot_data.store.files import Files
from tests.remote.conftest import POLICY, videos
from tests.remote.servers import Proxy, nginx, nginx_binary, web_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(dancers) -> Path:
    """The folder that is served; the store is below it as ``store``."""
    return Path(dancers.url).parent


@pytest.fixture(scope="module", params=["ours", "nginx", "nginx without listing"])
def served(request, root, tmp_path_factory) -> Iterator[str]:
    """URL of the store at each kind of server."""
    if request.param == "ours":
        with web_server(root) as web:
            yield f"{web.url}/store"
        return
    if nginx_binary() is None:
        pytest.skip("nginx is not installed")
    with nginx(root, tmp_path_factory.mktemp("nginx"), listing=request.param == "nginx") as url:
        yield f"{url}/store"


def same(near: dict, far: dict) -> bool:
    return near.keys() == far.keys() and all(np.array_equal(near[name], far[name]) for name in near)


def test_windows_are_those_of_the_store_on_the_disk(served, dancers):
    count = 0
    for near, far in zip(stream(dancers, length=4, seed=1), stream(served, length=4, seed=1), strict=True):
        assert near.id == far.id and same(near.arrays, far.arrays)
        count += 1
    assert count > 5


def test_a_store_is_listed_and_verified_where_the_server_lists(served, dancers, request):
    store = open_store(served)
    if "without" in request.node.callspec.params["served"]:
        for act in (lambda: store.layers, lambda: store.snapshots, lambda: list(verify(store))):
            with pytest.raises(FilesError, match="access is refused .*403"):
                act()
        return
    assert list(verify(store)) == []
    near, far = stats(dancers), stats(store)
    assert {**far, "store": ""} == {**near, "store": ""}


def test_snapshots_and_layers_called_by_name_need_no_listing(root, dancers):
    with web_server(root, listing=False) as web:
        store = open_store(f"{web.url}/store")
        snapshot = store.snapshot("main")
        for kind, layer_id in snapshot.layers.items():
            assert store.layer(kind, layer_id) == dancers.layer(kind, layer_id)
        assert same(store[dancers.clips[0].key(3)], dancers[dancers.clips[0].key(3)])
        next(stream(store))
        assert not [path for path, _, _ in web.log if path.endswith("/")]
        with pytest.raises(FilesError, match="access is refused .*403"):
            store.layer("pose", snapshot.layers["pose"][:6])


def fetched(log: list[tuple[str, int, int]], ending: str) -> int:
    return sum(end - start for path, start, end in log if path.endswith(ending))


def members(store: Store, folder: str, kind_ext: str, clip: str, which: list[int]) -> int:
    index = store.index(folder, store.clip[clip].shard)
    return int(index.members(clip, kind_ext)[1][which].sum())


def test_of_a_clip_only_its_frames_are_fetched(root, dancers):
    clip = dancers.clips[1]
    with web_server(root) as web:
        far = open_store(f"{web.url}/store").read_arrays("frames", "frames", clip)
    assert same(dancers.read_arrays("frames", "frames", clip), far)
    wanted = members(dancers, "frames", "jpg", clip.id, list(range(clip.frames)))
    assert wanted <= fetched(web.log, ".tar") <= 1.1 * wanted
    assert [Path(path).name for path, _, _ in web.log] == ["store.json", "shard-00000.parquet", "shard-00000.tar"]


def test_of_a_window_only_its_frames_of_the_layers_asked_for_are_fetched(root, dancers):
    with web_server(root) as web:
        plan = Plan(f"{web.url}/store", layers=["parsing", "flow"], length=6)
        folders = dancers.folders(dancers.snapshot("main"))
        for number in range(6):
            before = len(web.log)
            window = plan.window(number)
            sent = web.log[before:]
            driven = list(range(window.first, window.first + 6))
            shown = sorted({*driven, window.source})
            wanted = members(dancers, "frames", "jpg", window.clip, shown)
            wanted += members(dancers, folders["parsing"], "png", window.clip, shown)
            wanted += members(dancers, folders["flow"], "npz", window.clip, driven)
            assert wanted <= fetched(sent, ".tar") <= 1.1 * wanted + 6 * ranges._GAP
            assert 3 <= sum(path.endswith(".tar") for path, _, _ in sent) <= 6
        read = {path.split("/")[-2] for path, _, _ in web.log if path.endswith(".tar")}
        assert read == {"frames", *(Path(folders[kind]).name for kind in ("parsing", "flow"))}
        indexes = [path for path, _, _ in web.log if "shard" in path and path.endswith(".parquet")]
        assert len(indexes) == len(set(indexes))


def test_nothing_is_written_over_http(served):
    for act in (
        lambda: build(videos(), served.replace("store", "new"), policy=POLICY, layers={}, workers=0),
        lambda: open_store(served).write_json("x.json", {}),
        lambda: open_store(served).remove({"a": "b"}),
        lambda: open_store(served).lock().__enter__(),
    ):
        with pytest.raises(FilesError, match="can only be read: nothing is written over http"):
            act()


def test_what_is_not_there_is_said(served):
    with pytest.raises(StoreError, match="is no store: it has no store.json"):
        open_store(served.replace("store", "nothing"))
    store = open_store(served)
    assert not store.files.exists("nothing") and store.files.exists("store.json")
    assert store.meta("frames", 99) is None
    with pytest.raises(StoreError, match="shard-00099.parquet is missing"):
        store.index("frames", 99)
    assert store.files.parts("store.json", [(10**6, 10**6 + 5)]) == [b""]


def test_a_server_that_knows_no_ranges_is_said_and_never_decoded(root, dancers):
    with (
        web_server(root, ranges=False) as web,
        pytest.raises(FilesError, match="sends the whole file where a part is asked for; use one that knows range"),
    ):
        open_store(f"{web.url}/store").read_arrays("frames", "frames", dancers.clips[0])


def test_a_server_that_is_away_for_a_while_is_waited_for_and_not_taken_for_an_empty_one(root, dancers, monkeypatch):
    with web_server(root) as web:
        proxy = Proxy(int(web.url.rsplit(":", 1)[1]))
        url = f"http://127.0.0.1:{proxy.port}/store"
        windows = stream(url, length=4, seed=1)
        next(windows)
        proxy.away(2.0)
        started = time.monotonic()
        assert next(windows) is not None
        assert time.monotonic() - started > 1.0
        # A connection that is cut in the middle of an answer.
        cut = [True]
        proxy.watch = lambda request: bool(cut and cut.pop())
        near = list(stream(dancers, length=4, seed=1))
        assert all(same(a.arrays, b.arrays) for a, b in zip(near[2:], windows, strict=True))
        assert not cut
        monkeypatch.setattr(files_module, "_PATIENCE", 1.0)
        proxy.down()
        files = Files(url)
        for act in (files.exists, files.read, files.open, files.names):
            with pytest.raises(FilesError, match="does not answer"):
                act("store.json")


@pytest.mark.parametrize("used", [True, False])
def test_a_forked_process_reads_too_and_leaves_the_connections_of_the_other_alone(served, dancers, used):
    """As the workers of a torch data loader do."""
    plan = Plan(served, layers=["pose"], length=4)
    wanted = [plan.window(number).arrays["frames"].sum() for number in range(3)]
    pipe, other = os.pipe()
    child = os.fork()
    if child == 0:
        if used:
            os.write(other, str(plan.window(1).arrays["frames"].sum()).encode())
        del plan
        fsspec.get_filesystem_class("http").clear_instance_cache()
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(other)
    assert os.read(pipe, 100) == (str(wanted[1]).encode() if used else b"")
    started = time.monotonic()
    assert [plan.window(number).arrays["frames"].sum() for number in range(3)] == wanted
    assert time.monotonic() - started < 10


def test_threads_share_a_store(served, dancers):
    plan, wanted, wrong = Plan(served, length=4, seed=1), list(stream(dancers, length=4, seed=1)), []

    def read(part: int) -> None:
        for number in range(part, len(wanted), 4):
            if not same(plan.window(number).arrays, wanted[number].arrays):
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
