"""Stores made from trees of the shape that published data sets are downloaded in train with the same command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from remot_data import media
from remot_data.annotating.annotate import annotate
from remot_data.assets import fetch
from remot_data.exchange.exports import export
from remot_data.exchange.importers import import_manifest
from remot_data.ingest.build import build
from remot_data.ingest.policy import Policy
from remot_data.store import open_store
from remot_data.synthetic.store import build_synthetic
from remot_model import checkpoint, cli
from remot_model.config import STAGES

MANIFESTS = Path(__file__).parents[2] / "manifests"
app = typer.Typer()
app.command()(cli.train)


def solodance(folder):
    """A drawn person as SoloDance is laid out: pictures, OpenPose files and label maps; the rest is computed here."""
    drawn = build_synthetic(str(folder / "drawn"), dancers=2, frames=12, test=1, size=(256, 192), workers=0)
    export(drawn, "solodance", folder / "tree", workers=0)
    manifest, store = MANIFESTS / "solodance.yaml", str(folder / "store")
    build(manifest, store, policy=Policy(size=(64, 48), min_frames=6), layers={}, root=folder / "tree", workers=0)
    import_manifest(store, manifest, folder / "tree", snapshot="main", workers=0)
    for layer, detector in (("flow", "dis"), ("background", "temporal-median")):
        annotate(store, layer, detector, snapshot="main", workers=0)
    return store, {"pose": "openpose", "parsing": "labels"}


def iper(folder):
    """Frames of a sample clip as iPER is laid out: folders of pictures alone, so every layer is computed here."""
    import cv2

    for name, camera in (("002/1/1", "sample-cam02"), ("001/9/2", "sample-cam04")):
        (folder / "tree" / "images_HD" / name).mkdir(parents=True)
        for number, (_, frame) in zip(range(10), media.read(fetch(camera), size=(360, 640)), strict=False):
            cv2.imwrite(str(folder / "tree" / "images_HD" / name / f"{number:04d}.png"), frame[..., ::-1])
    policy = Policy(size=(64, 48), min_frames=6)
    chosen = {"policy": policy, "root": folder / "tree", "where": ""}  # ten frames leave nothing to filter
    done = build(MANIFESTS / "iper.yaml", str(folder / "store"), workers=0, **chosen)
    return done.store, {}


@pytest.mark.slow
@pytest.mark.parametrize("tree", [solodance, iper])
def test_every_stage_trains_on_a_published_tree(tree, tmp_path):
    store, imported = tree(tmp_path)
    opened = open_store(store)
    layers = opened.snapshot("main").layers
    assert set(layers) >= {"pose", "parsing", "flow", "background"}
    assert {kind: opened.layer(kind, layers[kind]).detector for kind in imported} == imported
    assert {clip.split for clip in opened.clips} == {"train", "test"}
    words = f"{store} --out {tmp_path / 'run'} --preset tiny --steps 2 --batch 1 --device cpu --json"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout.strip().splitlines()[-1])["stages"]
    assert [(r["stage"], r["steps"]) for r in results] == [(stage, 2) for stage in STAGES]
    assert "stale" not in done.stderr
    assert set(checkpoint.load_run(tmp_path / "run").generators) == set(STAGES)
