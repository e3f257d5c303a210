"""The report: one page that needs nothing else, whose sums come out, and that believes no name it shows."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remot_data import media
from remot_data.annotating.annotate import switch
from remot_data.media import sandbox
from remot_data.records import REASONS, Clip, Reject
from remot_data.report import ReportError, charts, clips, runs, write_report
from remot_data.report.view import View
from remot_data.store import Store, create_store, open_store
from remot_data.store.layers import kind
from remot_data.store.shards import Sample, table_bytes

HOSTILE = "/in/<script>alert('x')</script>&\"{0}$body.mp4"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a page holds: its elements, tables as rows of cells, the text, and whether its tags match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attributes}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "caption":
            self.caption: list[str] = []
        if tag == "tr":
            self.tables.setdefault("".join(self.caption), []).append([])
        if tag in ("td", "th"):
            self.tables["".join(self.caption)][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.words.append(data)
        if "caption" in self.open:
            self.caption.append(data)
        elif {"td", "th"} & set(self.open):
            self.tables["".join(self.caption)][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, beginning: str) -> list[list[str]]:
        """The rows below the head of the table whose caption begins so."""
        found = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        assert len(found) == 1, f"{len(found)} tables are called {beginning!r}: {list(self.tables)}"
        return found[0][1:]


def page(store: Store | str, folder: Path, most_clips: int = 0, **options: Any) -> Page:
    return Page(write_report(store, folder / "page" / "report.html", most_clips=most_clips, **options))


def clip(number: int, frames: int, path: str, split: str = "") -> Clip:
    return Clip(
        id=f"video-0000-{number:03d}",
        video="video-0000",
        path=path,
        sha256="0" * 64,
        shot=number,
        pts=tuple(range(10, 10 + frames)),
        time_base=(1, 30),
        fps=30.0,
        source_size=(640, 480),
        crop=(-10.0, 20.0, 300.0, 400.0),
        person="someone",
        split=split,
        licence="CC0 <b>",
        shard=0,
    )


def line(path: str, decoded: int, resampled: int, seconds: float) -> dict[str, Any]:
    return {"input": {"path": path}, "frames": {"decoded": decoded, "resampled": resampled}, "seconds": seconds}


REJECTS = [
    Reject("shot", "video-0000-002", HOSTILE, "no-person", "frames 9 to 11 <i>", 3),
    Reject("video", "copy", "/in/copy.mp4", "duplicate", f"the same bytes as {HOSTILE}", 20),
    Reject("video", "broken.mp4", "/in/broken.mp4", "unreadable", "Invalid data"),
]
LINES = [line(HOSTILE, 20, 8, 2.0), line("/in/copy.mp4", 20, 8, 2.0), line("/in/broken.mp4", 0, 0, 0.5)]


def ledger(store: Store, rejects: list[Reject], lines: list[dict[str, Any]]) -> None:
    store.files.write("ledger/rejects.parquet", table_bytes(pa.Table.from_pylist([r.to_json() for r in rejects])))
    logged(store, "videos", lines)


def logged(store: Store, name: str, records: list[dict[str, Any]]) -> None:
    with store.log(name) as log:
        for record in records:
            log.add(record)


@pytest.fixture
def built(tmp_path: Path) -> Store:
    """As `remot build --no-layers` leaves it: 3 inputs; 20 + 20 frames in = 9 kept + 23 refused + 8 resampled."""
    store = create_store(str(tmp_path / "built"), {"size": (32, 24)})
    two = [clip(0, 4, HOSTILE), clip(1, 5, HOSTILE, "test")]
    store.write_clips(two)
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 24, 3), np.uint8)
    store.write_shard(
        "frames",
        0,
        [Sample(c.key(t), kind("frames").encode({"frames": frames}, t)) for c in two for t in range(c.frames)],
    )
    ledger(store, REJECTS, LINES)
    receipts = [
        {"task": "frames", "shard": 0, "made": {}, "frames": 9, "seconds": {"frames": 3.0}},
        {"task": "annotate", "shard": 0, "made": {}, "frames": 9, "seconds": {"frames": 0.5, "pose": 2.0}},
        {"task": "annotate", "shard": 1, "made": {}, "frames": 11, "seconds": {"frames": 0.5, "pose": 3.0}},
    ]
    logged(store, "receipts", receipts)
    return open_store(store.url)


@pytest.fixture(scope="module")
def dancers_page(dancers: Store, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page(dancers, tmp_path_factory.mktemp("dancers"), most_clips=24)


# The page as such


def check_self_contained(found: Page) -> None:
    for tag, attributes in found.elements:
        for name in attributes.keys() & {"src", "href", "poster", "srcset", "action", "data"}:
            assert attributes[name].startswith(("data:", "#")), f"<{tag} {name}={attributes[name][:60]!r}>"
        assert not any(name.startswith("on") for name in attributes), tag
    assert not re.search(r"https?:|@import|url\(|file:", found.source)
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in found.elements}


def test_page_needs_nothing_else(built: Store, dancers_page: Page, run: Path, tmp_path: Path) -> None:
    check_self_contained(dancers_page)
    check_self_contained(page(built, tmp_path, most_clips=1, runs=[run]))


def test_page_allows_only_its_own_script(dancers_page: Page) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", dancers_page.source, re.DOTALL)
    (policy,) = [m["content"] for m in dancers_page.all("meta") if m.get("http-equiv")]
    assert len(scripts) == 1
    sha = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{sha}'" in policy


def test_page_can_be_read_aloud(dancers_page: Page) -> None:
    assert all(image["alt"] for image in dancers_page.all("img"))
    assert all(film["aria-label"] for film in dancers_page.all("video"))
    pictures = [svg for svg in dancers_page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == len(dancers_page.all("svg")) and all(svg["aria-label"] for svg in pictures)
    assert len(dancers_page.all("caption")) == len(dancers_page.all("table"))
    assert [tag for tag, _ in dancers_page.elements if tag == "h1"] == ["h1"]
    anchors = {a["href"][1:] for a in dancers_page.all("a")}
    assert anchors == {section["id"] for section in dancers_page.all("section")}


def test_hostile_names_stay_text(built: Store, tmp_path: Path) -> None:
    found = page(built, tmp_path, most_clips=1)
    assert found.source.count("<script") == 1
    assert HOSTILE in [row[4] for row in found.rows("One by one")]
    assert "frames 9 to 11 <i>" in found.text and "CC0 <b>" in found.text


def test_an_unfinished_page_is_never_seen(built: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ReportError):
        page(built, tmp_path, runs=[tmp_path / "run"])
    assert not (tmp_path / "page").exists()
    assert list(write_report(built, tmp_path / "page" / "a.html").parent.iterdir()) == [tmp_path / "page" / "a.html"]


# What went in and what was refused


def test_sums_come_out(built: Store, tmp_path: Path) -> None:
    found = page(built, tmp_path)
    assert found.rows("In = kept") == [["videos", "3", "1", "2", "–"], ["frames", "40", "9", "23", "8"]]
    assert "do not come out" not in found.text
    labels = [div["aria-label"] for div in found.all("div") if div.get("class") == "bar"]
    assert labels[0] == "videos: 3 in, 1 kept, 2 refused"


def test_sums_that_do_not_come_out_are_said(built: Store, tmp_path: Path) -> None:
    ledger(built, REJECTS[1:], [])
    assert "do not come out" in page(built, tmp_path).text


def test_inputs_of_earlier_builds_do_not_count(built: Store, tmp_path: Path) -> None:
    logged(built, "videos", [line("/in/removed-since.mp4", 77, 0, 9.0), line(HOSTILE, 20, 8, 2.0)])
    assert page(built, tmp_path).rows("In = kept")[0] == ["videos", "3", "1", "2", "–"]


def test_every_reject_is_listed_with_its_reason(built: Store, tmp_path: Path) -> None:
    found = page(built, tmp_path)
    reasons = {row[0]: row[1:] for row in found.rows("By reason")}
    assert reasons == {
        "no-person": [REASONS["no-person"], "1", "3"],
        "duplicate": [REASONS["duplicate"], "1", "20"],
        "unreadable": [REASONS["unreadable"], "1", "0"],
    }
    assert ("details", {"open": ""}) in found.elements, "a few rejects are not folded away"
    assert found.rows("One by one") == [[r.what, r.id, r.code, r.detail, r.path, str(r.frames)] for r in REJECTS]


def test_store_where_everything_was_refused(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "empty"), {"size": (32, 24)})
    ledger(store, REJECTS[2:], LINES[2:])
    found = page(store, tmp_path)
    assert found.rows("In = kept")[0] == ["videos", "1", "0", "1", "–"]
    assert "There are no clips." in found.text


def test_store_that_was_not_built_from_videos(dancers_page: Page) -> None:
    assert "no ledger of input videos" in dancers_page.text
    assert "Refused" not in dancers_page.text and "Time" not in dancers_page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ledger/rejects.parquet", b"no parquet"),
        ("ledger/videos/0.jsonl", b"{broken\n"),
        ("ledger/videos/0.jsonl", b'{"input": 7, "seal": ""}\n'),
        ("ledger/receipts/0.jsonl", b'{"task": "frames", "seal": ""}\n'),
    ],
)
def test_damaged_ledger_is_named(built: Store, tmp_path: Path, name: str, content: bytes) -> None:
    built.files.write(name, content)
    with pytest.raises(ReportError, match=name.removesuffix("/0.jsonl")):
        page(built, tmp_path)


def test_times_keep_reading_and_writing_of_frames_apart(built: Store, tmp_path: Path) -> None:
    times = {row[0]: row[1:4] for row in page(built, tmp_path).rows("Seconds of all workers")}
    assert times == {
        "look through": ["4.5", "40", "9"],
        "decode, crop, write frames": ["3.0", "9", "3"],
        "read frames back": ["1.0", "20", "20"],
        "pose": ["5.0", "20", "4"],
    }


# Layers and clips


def test_clips_play_with_every_layer(dancers: Store, dancers_page: Page, tmp_path: Path) -> None:
    films = dancers_page.all("video")
    assert [f["aria-label"] for f in films] == [
        f"Clip {c.id}: frame, pose, parsing, flow side by side" for c in dancers.clips
    ]
    (tmp_path / "a.mp4").write_bytes(base64.b64decode(films[0]["src"].removeprefix("data:video/mp4;base64,")))
    probe = media.probe(tmp_path / "a.mp4")
    assert (probe.size, probe.frames, probe.codec) == ((4 * 48, 64), 20, "h264")
    poster = np.frombuffer(base64.b64decode(films[0]["poster"].removeprefix("data:image/jpeg;base64,")), np.uint8)
    assert cv2.imdecode(poster, cv2.IMREAD_COLOR).shape == (64, 4 * 48, 3)
    assert len(dancers_page.all("img")) == 5, "a background a clip"


def test_panels_show_the_layers_they_name(dancers: Store) -> None:
    view, first = View(dancers), dancers.clips[0]
    names, strips = clips._strips(view, first, range(0, 20, 19))
    frames = dancers.read_arrays("frames", "frames", first)["frames"]
    views = dict(zip(names, np.split(strips[-1], 4, axis=1), strict=True))
    assert np.array_equal(views["frame"], frames[19])
    changed = {name: (np.abs(views[name].astype(int) - frames[19]).max(-1) > 0) for name in ("pose", "parsing")}
    labels = dancers.read_arrays(view.folders["parsing"], "parsing", first)["labels"][19]
    assert not changed["parsing"][labels == 0].any() and changed["parsing"][labels != 0].mean() > 0.9
    assert 0.005 < changed["pose"].mean() < changed["parsing"].mean()
    assert strips[0][:, -48:].max() < 100, "the first frame has no flow to be trusted"
    flow = dancers.read_arrays(view.folders["flow"], "flow", first)
    length, confident = np.hypot(*np.moveaxis(flow["flow"][19], -1, 0)), flow["confidence"][19] == 3
    shown = views["flow"][::2, ::2]
    assert (shown[confident & (length == 0)] == 255).all(), "white where nothing moves"
    assert (shown[confident & (length > 1)].min(-1) < 255).all() and (shown[~confident] < 128).all()


def test_absent_layers_leave_no_panel(own_dancers: Store, built: Store, tmp_path: Path) -> None:
    main = own_dancers.snapshot("main")
    own_dancers.write_json("snapshots/main.json", {**main.to_json(), "layers": {"pose": main.layers["pose"]}})
    found = page(own_dancers, tmp_path, most_clips=1)
    assert found.all("video")[0]["aria-label"].endswith(": frame, pose side by side")
    assert not found.all("img") and "Layout" not in found.text and "sharpness" not in found.text
    bare = page(built, tmp_path, most_clips=1)
    assert bare.all("video")[0]["aria-label"].endswith(": frame side by side")
    assert "There is no snapshot yet." in bare.text and "frames only, no layers" in bare.text


def test_contact_sheet_is_chosen_evenly(dancers: Store, tmp_path: Path) -> None:
    found = page(dancers, tmp_path, most_clips=3)
    shown = [dancers.clips[i].id for i in (0, 2, 4)]
    assert [f["aria-label"].split(":")[0] for f in found.all("video")] == [f"Clip {name}" for name in shown]
    assert "3 of 5 clips, chosen evenly" in found.text
    assert not page(dancers, tmp_path).all("video")


def test_clips_come_with_their_facts(built: Store, tmp_path: Path) -> None:
    text = page(built, tmp_path, most_clips=1).text
    for fact in ("300×400 at -10, 20 of 640×480", "someone", "4 at 30 a second", "10 – 13, 0.33 – 0.43 s"):
        assert fact in text


def test_long_and_fast_clips_are_thinned() -> None:
    which = clips._shown(clip(0, 600, "/in/a.mp4"))
    assert (which[0], which[-1], len(which)) == (0, 89, 90)
    fast = Clip.from_json({**clip(0, 600, "/in/a.mp4").to_json(), "fps": 60.0})
    assert (clips._shown(fast)[-1], len(clips._shown(fast))) == (178, 90)


def test_approximate_layers_have_a_badge(own_dancers: Store, dancers_page: Page, tmp_path: Path) -> None:
    assert "approximate" not in dancers_page.text
    layer = own_dancers.snapshot("main").layers["parsing"]
    name = f"layers/parsing/{layer}/layer.json"
    own_dancers.write_json(name, {**json.loads(own_dancers.files.read(name)), "approximate": True, "licence": "MIT"})
    found = page(own_dancers, tmp_path, most_clips=1)
    rows = {row[0]: row for row in found.rows("Layers and the detectors")}
    assert [kind for kind, row in rows.items() if "approximate" in row[1]] == ["parsing"]
    assert rows["parsing"][3:6] == ["atr18", "MIT", "main"]
    assert sum(span.get("class") == "badge warn" for span in found.all("span")) == 2


def test_snapshots_say_what_they_let_through(own_dancers: Store, tmp_path: Path) -> None:
    switch(own_dancers, "late", {}, split="time:0.25", where="frames>=20 and person==dancer-000-00001")
    rows = {row[0]: row[2:] for row in page(own_dancers, tmp_path, most_clips=1).rows("Snapshots")}
    assert rows["main"] == ["none", "that of each clip", "100", "80", "20"]
    assert rows["late"] == ["frames>=20 and person==dancer-000-00001", "time:0.25", "20", "15", "5"]


def test_layout_shares_are_those_of_the_labels(dancers: Store, dancers_page: Page) -> None:
    from remot_data.schemas import convert_labels

    folder = dancers.folders(dancers.snapshot("main"))["parsing"]
    labels = np.stack([dancers.read_arrays(folder, "parsing", c)["labels"] for c in dancers.clips])
    counts = np.bincount(convert_labels(labels, "atr18", "remot6").ravel(), minlength=6)
    rows = dancers_page.rows("The six classes")
    assert [row[0] for row in rows] == ["background", "top", "bottom", "head", "limbs", "shoes"]
    assert [row[1] for row in rows] == [f"{100 * n / counts.sum():.1f} %" for n in counts]


# Drawings


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
def test_histogram_draws_every_value_inside(values: np.ndarray) -> None:
    drawn = charts.histogram("a", "b", values)
    rects = re.findall(r'x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', drawn)
    x, y, width, height = np.array(rects, float).T
    assert y.min() >= 0 and np.allclose(y + height, 96, atol=0.11) and height.max() == 96
    assert x.min() >= -0.06 and (x + width).max() <= charts._WIDE + 0.11
    shown = re.search(r"<figcaption>(\S+) values, median", drawn)
    assert shown and shown[1] == str(len(values))


def test_histogram_of_whole_numbers_has_a_column_for_each() -> None:
    drawn = charts.histogram("persons", "", np.array([1, 1, 1, 1, 2, 4]))
    heights = [float(h) for h in re.findall(r'height="(\S+)"/', drawn)]
    assert heights == [96, 24, 24]


@given(hnp.arrays(np.float64, st.integers(1, 80), elements=st.floats(-1e3, 1e3)), st.integers(1, 30))
def test_smoothing_stays_within_the_values(values: np.ndarray, reach: int) -> None:
    smooth = charts._smoothed(values, reach)
    assert smooth.shape == values.shape
    assert smooth.min() >= values.min() - 1e-6 and smooth.max() <= values.max() + 1e-6
    for i in (0, len(values) // 2, len(values) - 1):
        assert smooth[i] == pytest.approx(values[max(0, i - reach) : i + reach + 1].mean(), abs=1e-6)


@given(st.integers(16, 700), st.integers(8, 500), st.integers(1, 4))
def test_films_have_even_sizes_and_are_no_higher_than_a_panel(height: int, width: int, panels: int) -> None:
    fitted = clips._fitted(np.zeros((height, width * panels, 3), np.uint8), panels)
    assert fitted.shape[0] % 2 == 0 and fitted.shape[1] % (2 * panels) == 0 and fitted.shape[0] <= 256


# Runs


def picture(colour: int) -> bytes:
    return cv2.imencode(".png", np.full((8, 12, 3), colour, np.uint8))[1].tobytes()


METRICS: Mapping[str, Any] = {
    "preset": "tiny",
    "size": [64, 48],
    "split": "test",
    "windows": 4,
    "background": "black: none there",
    "methods": {
        "model": {"ssim": 0.8, "psnr": 21.5, "lpips": 0.2, "fid": None},
        "source copied": {"ssim": 0.9, "psnr": 20.0, "lpips": 0.3, "fid": None},
    },
    "conventions": {"ssim": "window of 11"},
    "unavailable": {"fid": "a library is missing"},
    "published": {"source": "a paper", "note": "Not comparable.", "tables": {"iPER": {"EDN": {"fid": 56.29}}}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything a report shows, a stage of two, and a cut-off last line."""
    run = tmp_path / "first-run"
    (run / "layout" / "samples").mkdir(parents=True)
    (run / "evaluation").mkdir()
    (run / "config.json").write_text(
        json.dumps({"config": {"name": "tiny", "size": [64, 48]}, "stores": ["/data/a"], "seed": 3, "schemas": {}})
    )
    rows = [{"step": i, "lr": 1e-4, "l1": 1 / i, "gan_full": 0.5} for i in range(1, 900)]
    (run / "layout" / "speed.jsonl").write_text('{"step": 899, "seconds": 449.5}\n{"step": 900, "sec')
    (run / "layout" / "stats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 900, "se')
    for step in (250, 500):
        (run / "layout" / "samples" / f"step-{step:06d}.png").write_bytes(picture(step // 2))
    (run / "evaluation" / "metrics.json").write_text(json.dumps(METRICS))
    (run / "evaluation" / "samples.png").write_bytes(picture(7))
    with media.VideoWriter(run / "transfer.mp4", 10, (16, 24)) as writer:
        for i in range(5):
            writer.write(np.full((16, 24, 3), 40 * i, np.uint8))
    (run / ".transfer.part.mp4").write_bytes(b"half a file that is still being written")
    return run


def test_run_is_shown(built: Store, run: Path, tmp_path: Path) -> None:
    found = page(built, tmp_path, runs=[run])
    assert "Run first-run" in found.text and "899 steps in 450 s, 2.00 steps a second" in found.text
    labels = [svg.get("aria-label", "") for svg in found.all("svg")]
    curves = [text for text in labels if text.startswith("Loss")]
    assert [text.split(" by ")[0] for text in curves] == ["Loss l1", "Loss gan full"]
    assert curves[1] == "Loss gan full by step, from 0.5 to 0.5"
    lines = [p["points"].split() for p in found.all("polyline")]
    assert len(lines) == 4 and all(len(points) == 300 for points in lines)
    pictures = {i["alt"]: base64.b64decode(i["src"].partition(",")[2]) for i in found.all("img")}
    assert pictures == {"Samples of the layout stage, step-000500": picture(250), "Evaluation, samples": picture(7)}
    films = [film for film in found.all("video") if film["aria-label"].startswith("Video")]
    assert [film["aria-label"] for film in films] == ["Video transfer.mp4"]
    assert base64.b64decode(films[0]["src"].partition(",")[2]) == (run / "transfer.mp4").read_bytes()


def test_metrics_stand_beside_the_baselines(built: Store, run: Path, tmp_path: Path) -> None:
    found = page(built, tmp_path, runs=[run])
    (caption,) = [c for c in found.tables if c.startswith("Self-reenactment")]
    head, *rows = found.tables[caption]
    assert head == ["method", "SSIM ↑", "PSNR ↑", "LPIPS ↓"]
    assert rows == [["model", "0.800", "21.50", "0.200"], ["source copied", "0.900", "20.00", "0.300"]]
    best = re.findall(r'<b class="best">(.*?)</b>', found.source)
    assert best == ["21.50", "0.200", "0.900"], "the best of each column, less being better for LPIPS"
    assert "FID: not measured; a library is missing" in found.text and "background: black: none there" in found.text
    assert found.rows("iPER, published") == [["EDN", "56.29"]]


def test_what_a_run_does_not_hold_yet_is_not_shown(built: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "nothing in this run folder yet" in page(built, tmp_path, runs=[tmp_path / "run"]).text
    (tmp_path / "run" / "whole").mkdir()
    (tmp_path / "run" / "whole" / "stats.jsonl").write_text('{"step": 1, "d": 0.5}\n')
    text = page(built, tmp_path, runs=[tmp_path / "run"]).text
    assert "Stage whole" in text and "Evaluation" not in text and "Videos" not in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b'{"config": "tiny"}'),
        ("layout/stats.jsonl", b'{"step": 1, "l1": 2}\n{"step": 2,\n{"step": 3, "l1": 2}\n'),
        ("layout/stats.jsonl", b'{"l1": 2}\n'),
        ("layout/stats.jsonl", b'{"step": 1, "l1": null}\n'),
        ("layout/speed.jsonl", b'{"seconds": 1}\n'),
        ("layout/samples/step-000900.png", b"\x89PNG cut off"),
        ("layout/samples/step-000900.png", b""),
        ("evaluation/metrics.json", b'{"methods": 3}'),
        ("evaluation/metrics.json", b"\xff"),
        ("evaluation/samples.png", b"no picture"),
        ("transfer.mp4", b"no video"),
    ],
)
def test_damaged_file_of_a_run_is_named(built: Store, run: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises(ReportError, match=re.escape(str(run / name))):
        page(built, tmp_path, runs=[run])


def spoilt(how: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Stands for a decoder in a child, which crashes or hangs."""
    if how == "crash":
        ctypes.string_at(0)
    time.sleep(1000)
    yield {}, b""


@pytest.mark.parametrize("how", ["crash", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_video_of_a_run_that_spoils_the_decoder_is_named(
    built: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    real, limits = sandbox.call, sandbox.Limits(stall=1 if how == "hang" else 60)
    monkeypatch.setattr(sandbox, "call", lambda *_: real(f"{__name__}:spoilt", {"how": how}, limits))
    why = {"crash": "ended by SIGSEGV", "hang": "no sign of life for 1 s"}[how]
    with pytest.raises(ReportError, match=f"{re.escape(str(run / 'transfer.mp4'))} is no readable video .*{why}"):
        page(built, tmp_path, runs=[run])


def test_a_video_of_a_run_is_decoded_in_a_child(
    built: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("probe", "read"):
        monkeypatch.setattr(media, name, lambda *_, **__: pytest.fail("it was decoded in this process"))
    assert page(built, tmp_path, runs=[run]).source.count('aria-label="Video transfer.mp4"') == 1


def test_run_folder_that_is_not_there_is_an_error(built: Store, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run folder"):
        page(built, tmp_path, runs=[tmp_path / "nowhere"])


def test_large_videos_are_named_instead(
    built: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_EMBEDDED", 10)
    found = page(built, tmp_path, runs=[run])
    assert not [film for film in found.all("video") if film["aria-label"].startswith("Video")]
    assert "transfer.mp4" in found.text and "too large to be shown here" in found.text
