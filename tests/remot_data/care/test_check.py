"""`remot check` on a store of drawn dancers that is spoilt on purpose: a clip for each rule, and one that is sound."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from remot_data.annotating.annotate import switch
from remot_data.care.check import Report, check
from remot_data.care.check_rules import RULES, chosen
from remot_data.cli.commands import invoke
from remot_data.detectors.quality_scores import QualityScores
from remot_data.persons import valid
from remot_data.reading.filters import where
from remot_data.records import XYWH, Clip, LayerInfo, Snapshot, Times
from remot_data.schemas import LABELS, keypoint_set
from remot_data.store import Store, create_store, open_store
from remot_data.store import layers as layer_kinds
from remot_data.store.currency import saw
from remot_data.store.shards import Sample, encoded
from remot_data.synthetic import Dancer, dance

T, SIZE, BAD = 40, (256, 192), slice(12, 18)
P, ATR = keypoint_set("body25").points, LABELS["atr18"].labels
Arrays = dict[str, np.ndarray]
SCHEMAS = {"pose": "body25", "parsing": "atr18", "background": "rgb", "scores": "quality"}


def drawn(**changed: float) -> Arrays:
    """All arrays of a clip: a dancer seen from the front, and the boxes around her."""
    scene = dance(dataclasses.replace(Dancer.random(3), **changed), T, seed=3, turned=0.0)
    person = scene.mask > 0
    ys, xs = np.nonzero(person.any(0))
    own = np.tile(np.array([xs.min(), ys.min(), xs.max(), ys.max()], np.float32), (T, 1))
    behind = np.where(person.all(0), 0, 255).astype(np.uint8)
    return {
        "frames": scene.frames, "keypoints": scene.keypoints, "mask": scene.mask, "labels": scene.labels,
        "image": scene.background, "seen": behind, "own": own, "others": np.zeros((T, 0, 4), np.float32),
    }  # fmt: skip


def swaps(a: Arrays) -> None:
    pairs = np.array([(i, P.index(n.replace("left", "right"))) for i, n in enumerate(P) if n.startswith("left")])
    part = a["keypoints"][BAD]
    part[:, np.r_[pairs[:, 0], pairs[:, 1]]] = part[:, np.r_[pairs[:, 1], pairs[:, 0]]]


def jitter(a: Arrays) -> None:
    a["keypoints"][4:36:4, P.index("left-wrist"), :2] += 40


def lost_joints(a: Arrays) -> None:
    a["keypoints"][BAD, P.index("right-wrist")] = 0


def passes_disagree(a: Arrays) -> None:
    a["checks"] = np.zeros((T, 2, len(P)), np.uint8)
    a["checks"][BAD, 1, P.index("left-knee")] = 100


def wrong_person(a: Arrays) -> None:
    a["others"] = a["own"][:, None].copy()
    a["own"] = a["own"] * 0 + np.array([0, 0, 20, 60], np.float32)


def beside_mask(a: Arrays) -> None:
    a["labels"][BAD] = np.roll(a["labels"][BAD], 24, 2)


def ghosts(a: Arrays) -> None:
    for name, value in (("labels", ATR.index("pants")), ("mask", 255)):
        a[name][BAD, 4:120, 2:40] = value


def flicker(a: Arrays) -> None:
    most = np.bincount(a["labels"][a["labels"] > 0]).argmax()
    a["labels"][::2][a["labels"][::2] == most] = ATR.index("scarf")


def overlay(a: Arrays) -> None:
    y, x = np.argwhere(a["mask"].min(0) > 0).mean(0).astype(int)
    for frame in a["frames"]:
        for colour, thick in (((0, 0, 0), 6), ((255, 255, 255), 3)):
            cv2.putText(frame, "WMWMW", (int(x) - 40, int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.9, colour, thick)


def clipping(a: Arrays) -> None:
    a["frames"][10:30][a["mask"][10:30] > 0] = 255


def camera(a: Arrays) -> None:
    wide = cv2.resize(np.random.default_rng(1).integers(0, 255, (40, 60, 3)).astype(np.uint8), (600, 400))
    walking = np.stack([wide[: SIZE[0], 6 * t : 6 * t + SIZE[1]] for t in range(T)])
    a["frames"] = np.where(a["mask"][..., None] > 0, a["frames"], walking)


def few_labels(a: Arrays) -> None:
    for side in ("left", "right"):
        a["labels"][a["labels"] == ATR.index(f"{side}-shoe")] = ATR.index(f"{side}-leg")


def background_ghost(a: Arrays) -> None:
    a["seen"][:] = 255


def nothing(a: Arrays) -> None:
    pass


FAULTS: dict[str, Callable[[Arrays], None]] = {
    "sound": nothing, "swaps": swaps, "jitter": jitter, "lost-joints": lost_joints, "passes-disagree": passes_disagree,
    "wrong-person": wrong_person, "beside-mask": beside_mask, "ghosts": ghosts, "flicker": flicker, "overlay": overlay,
    "clipping": clipping, "camera": camera, "tiny-faces": nothing, "few-labels": few_labels,
    "invented-pixels": nothing, "background-ghost": background_ghost, "one-person": nothing, "test-in-train": nothing,
}  # fmt: skip
OF_SETS = {"one-person", "test-in-train"}


def clip(name: str) -> Clip:
    """Ada has most clips, among them that of the test split."""
    crop = (-60.0, 0.0, 192.0, 256.0) if name == "invented-pixels" else (0.0, 0.0, 192.0, 256.0)
    person = "bob" if name in ("sound", "swaps") else "ada"
    split = "test" if name == "test-in-train" else "train"
    size = (SIZE[1], SIZE[0])
    return Clip(name, name, "", "", 0, Times(range(T)), (1, 30), 30.0, size, XYWH(crop), person, split, shard=0)


def spoilt_store(url: str) -> Store:
    store = create_store(url, {"size": list(SIZE), "policy": {"persons": "all"}})
    store.write_clips(clips := [clip(name) for name in sorted(FAULTS)])
    ids = {kind: f"made-{kind}" for kind in SCHEMAS}
    samples: dict[str, list[Sample]] = {"frames": [], **{kind: [] for kind in ids}}
    for one in clips:
        made = drawn(height=0.2, ground=0.6) if one.id == "tiny-faces" else drawn()
        FAULTS[one.id](made)
        pose = {name: made[name] for name in ("keypoints", "mask")}
        given = {"pose": {**pose, **({"checks": made["checks"]} if "checks" in made else {})}}
        given |= {"parsing": {"labels": made["labels"]}, "boxes": {name: made[name] for name in ("own", "others")}}
        given["valid"] = {"valid": valid(one.crop, one.source_size, SIZE)}
        held = {"pose": pose, "parsing": given["parsing"], "background": {n: made[n] for n in ("image", "seen")}}
        held["scores"] = QualityScores()(made["frames"], **given, times={"times": one.seconds})
        for t, pts in enumerate(one.pts):
            jpeg = layer_kinds.kind("frames").encode({"frames": made["frames"]}, t)
            samples["frames"].append(Sample(one.key(t), jpeg, {"pts": pts}))
        for kind, arrays in held.items():
            samples[kind] += encoded(kind, one, arrays)
    store.write_shard("frames", 0, samples.pop("frames"))
    for kind, layer_id in ids.items():
        info = LayerInfo(layer_id, kind, "made", "1", SCHEMAS[kind], {}, store.policy)
        store.write_shard(info.folder, 0, samples[kind], saw(store, {}, 0))
        store.write_json(f"{info.folder}/layer.json", info.to_json())
    store.write_snapshot(Snapshot("main", ids))
    return open_store(url)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return spoilt_store(str(tmp_path_factory.mktemp("check") / "spoilt"))


@pytest.fixture(scope="module")
def found(spoilt: Store) -> Report:
    return check(spoilt)


def test_every_rule_has_a_clip_that_is_spoilt() -> None:
    assert set(FAULTS) - {"sound"} == set(RULES)


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(set(RULES) - OF_SETS))
def test_each_fault_is_named(found: Report, rule: str) -> None:
    fired = {sick.clip: {f.rule for f in sick.fired} for sick in found.clips}
    assert rule in fired[rule]
    assert len([clip for clip, rules in fired.items() if rule in rules]) <= 3, "others have other faults"


@pytest.mark.slow
def test_what_is_sound_is_not_named(found: Report) -> None:
    assert {sick.clip for sick in found.clips}.isdisjoint({"sound", *OF_SETS}) and not found.unjudged
    assert found.checked == len(FAULTS) and found.frames == len(FAULTS) * T


@pytest.mark.slow
def test_faults_of_the_set_are_named(found: Report) -> None:
    whole = {fired.rule: fired for fired in found.whole}
    assert whole.keys() == OF_SETS
    assert whole["one-person"].detail == "ada" and whole["one-person"].value == pytest.approx(16 / 18, abs=1e-3)
    assert whole["test-in-train"].detail == "ada" and whole["test-in-train"].value == 1


@pytest.mark.slow
def test_details_and_worst_frames(found: Report) -> None:
    fired = {sick.clip: {f.rule: f for f in sick.fired} for sick in found.clips}
    assert fired["few-labels"]["few-labels"].detail == "shoes"
    assert set(fired["lost-joints"]["lost-joints"].frames) <= set(range(BAD.start, BAD.stop))
    assert fired["lost-joints"]["lost-joints"].value == pytest.approx(6 / T)
    scores = [sick.score for sick in found.clips]
    assert scores == sorted(scores, reverse=True) and found.clips[0].score >= 1


@pytest.mark.slow
def test_the_suggested_filter_drops_what_was_found(spoilt: Store, found: Report) -> None:
    planned = dataclasses.replace(spoilt.snapshot("main"), where=found.filter)
    passed = {clip.id: where(planned, spoilt, clip) for clip in spoilt.clips}
    assert found.keeps == sum(int(x.sum()) for x in passed.values()) and found.passes == found.frames
    assert passed["sound"].all() and not passed["swaps"][BAD].any() and not passed["wrong-person"].any()
    assert passed["tiny-faces"].any(), "no rule of frames is for it"
    assert found.command == f"remot snapshot {spoilt.url} main --where '{found.filter}'"


@pytest.mark.slow
def test_the_filter_that_is_there_stays_in_it(spoilt: Store, tmp_path: Path) -> None:
    store = Store(str(shutil.copytree(spoilt.url, tmp_path / "own")))
    switch(store, "main", {}, where="jumps<=0.01 and twist<=0.5 and person==ada")
    again = check(store)
    assert "jumps<=0.01 and twist<=0.03 and person==ada" in again.filter
    assert again.passes < again.frames and again.keeps < again.passes


@pytest.mark.slow
def test_where_the_filter_is_there_nothing_is_suggested(
    spoilt: Store, found: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(str(shutil.copytree(spoilt.url, tmp_path / "own")))
    switch(store, "main", {}, where=found.filter)
    assert invoke(["check", store.url, "--out", str(tmp_path / "c.html")]) == 0
    out = capsys.readouterr().out
    assert "suggested" not in out and "leaves their frames out already" in out
    assert "leaves these frames out already" in (tmp_path / "c.html").read_text()


@pytest.mark.slow
def test_the_page_is_one_file_with_the_worst_frames(spoilt: Store, tmp_path: Path) -> None:
    check(spoilt, out=tmp_path / "check.html")
    text = (tmp_path / "check.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text) and "<script></script>" in text
    assert text.count("data:image/jpeg") >= 12 and all(f"<code>{name}</code>" in text for name in RULES)
    assert "swaps/0000" in text and "<b>main</b>" in text


@pytest.mark.slow
def test_the_command(spoilt: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert invoke(["check", spoilt.url, "--json", "--out", str(tmp_path / "c.html")]) == 0
    out = capsys.readouterr().out
    told = json.loads(out.splitlines()[-1])
    assert set(told["counts"]) == set(RULES) and told["command"] in out and (tmp_path / "c.html").exists()
    assert invoke(["check", spoilt.url, "--fail-on", "swaps,jitter"]) == 1
    assert invoke(["check", spoilt.url, "--fail-on", "any"]) == 1
    capsys.readouterr()
    assert invoke(["check", spoilt.url, "--fail-on", "beauty"]) == 2
    assert "swaps, jitter" in " ".join(capsys.readouterr().err.split())


def test_a_set_without_the_columns_says_how_to_get_them(dancers: Store, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(dancers)
    assert "--layer scores --with quality-scores --snapshot main" in report.unjudged["swaps"]
    assert "boxes" in report.unjudged["wrong-person"] and "few-labels" not in report.unjudged
    assert invoke(["check", dancers.url, "--fail-on", "swaps"]) == 2
    assert "quality-scores" in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_far_away_is_checked(spoilt: Store, found: Report) -> None:
    import fsspec

    fsspec.filesystem("memory").put(spoilt.url, "/spoilt", recursive=True)
    far = check("memory://spoilt")
    assert far.counts == found.counts and [s.clip for s in far.clips] == [s.clip for s in found.clips]


def test_rules_say_all_that_is_asked_of_them() -> None:
    for rule in RULES.values():
        assert rule.what and rule.why and rule.cure
        assert sum(map(bool, (rule.filter, rule.measure, rule.whole))) == 1
    assert [rule.name for rule in chosen("jitter, swaps")] == ["jitter", "swaps"] and len(chosen("any")) == len(RULES)
