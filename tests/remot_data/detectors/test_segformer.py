"""SegFormer: labels against the schema, the input against the library's own, the real network on real frames."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from remot_data import assets, media
from remot_data.annotating.annotate import plan_job
from remot_data.annotating.task import annotate_shards
from remot_data.detectors import base
from remot_data.detectors.base import Detector, DetectorError, load
from remot_data.detectors.segformer import check_labels, input_of, prepared
from tests.remot_data.detectors.company import assert_company_changes_nothing

pytestmark = pytest.mark.detectors

# id2label of mattmdjaga/segformer_b2_clothes
PUBLISHED = (
    "Background, Hat, Hair, Sunglasses, Upper-clothes, Skirt, Pants, Dress, Belt, Left-shoe, Right-shoe, Face, "
    "Left-leg, Right-leg, Left-arm, Right-arm, Bag, Scarf"
).split(", ")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = base.Entry("parsing", "remot_data.detectors.segformer:SegFormerClothes", extra="transformers")
    monkeypatch.setitem(base.BUILTIN, "segformer", entry)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Three frames of a real video, uint8 [3, 256, 192, 3]."""
    decoded = [image for (_, image), _ in zip(media.read(assets.fetch("sample-cam02")), range(3), strict=False)]
    return np.stack([cv2.resize(image, (192, 256), interpolation=cv2.INTER_AREA) for image in decoded])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, saved by the library; read only."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("segformer") / "saved"
    config = transformers.SegformerConfig(
        id2label=dict(enumerate(PUBLISHED)),
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
    )
    torch.manual_seed(0)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def opened(weights: Path, **settings: Any) -> Any:
    return load("segformer", weights=str(weights), settings={"device": "cpu", **settings})


def raised(weights: Path, **settings: Any) -> str:
    with pytest.raises(DetectorError) as error:
        opened(weights, **settings)
    return str(error.value)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DetectorError, match=r'not installed .*transformers.*pip install "remot\[transformers\]"'):
        load("segformer")


def test_the_published_labels_are_those_of_atr() -> None:
    check_labels(dict(enumerate(PUBLISHED)), "atr18", "config.json")
    check_labels({str(i): name.replace("-", "_").upper() for i, name in enumerate(PUBLISHED)}, "atr18", "config.json")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([*PUBLISHED[:5], "Pants", "Skirt", *PUBLISHED[7:]], "label 5 is 'pants' there and 'skirt' in atr18"),
        (PUBLISHED[:17], "it has 17 labels and atr18 has 18"),
        ([f"LABEL_{i}" for i in range(18)], "label 0 is 'label-0' there and 'background' in atr18"),
    ],
)
def test_other_labels_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(DetectorError, match=f"labels of here are not those of atr18: {said}; give a model"):
        check_labels(dict(enumerate(names)), "atr18", "here")


def test_the_input_is_what_the_preprocessor_file_says() -> None:
    usual = input_of({}, "here")
    assert usual["size"] == [512, 512] and usual["scale"] == 1 / 255
    assert input_of({"size": 256}, "here")["size"] == [256, 256]  # as older files have it
    given = {"size": {"height": 384, "width": 256}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    assert input_of(given, "here") == {"size": [384, 256], "mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1 / 255}
    with pytest.raises(DetectorError, match="here asks for the input size"):
        input_of({"size": {"shortest_edge": 512}}, "here")


def test_frames_are_stretched_to_the_input() -> None:
    torch = pytest.importorskip("torch")
    given = {"size": [384, 256], "mean": [0, 0, 0.5], "std": [1, 1, 0.5], "scale": 1 / 255}
    white = prepared(torch.full((2, 30, 20, 3), 255, dtype=torch.uint8), given)
    assert white.shape == (2, 3, 384, 256) and white.dtype == torch.float32 and white.numpy() == pytest.approx(1)


@pytest.mark.slow
def test_real_frames_give_labels_and_the_same_ones_again(saved: Path, frames: np.ndarray) -> None:
    parser = opened(saved)
    assert isinstance(parser, Detector) and parser.schema == "atr18"
    labels = parser(frames)["labels"]
    assert labels.shape == (3, 256, 192) and labels.dtype == np.uint8
    assert labels.max() < 18 and len(np.unique(labels)) > 3
    assert parser(frames)["labels"].tobytes() == labels.tobytes()
    assert (opened(saved, batch=3)(frames)["labels"] == labels).all()
    assert_company_changes_nothing(opened(saved, batch=3), frames)
    half = opened(saved, precision="bfloat16")
    assert half._network.decode_head.classifier.weight.dtype.itemsize == 2
    assert (half(frames)["labels"] == labels).mean() > 0.8


@pytest.mark.slow
def test_clips_that_share_batches_get_the_labels_they_get_alone(saved: Path, own_dancers: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "small")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 64, "width": 64}}))
    settings = {"device": "cpu", "batch": 7}
    job = plan_job(own_dancers, "parsing", "segformer", weights=str(folder), settings=settings)
    assert [r.shard for r in annotate_shards(own_dancers.url, range(3), [job], threads=2)] == [0, 1, 2]
    alone = opened(folder)
    for clip in own_dancers.clips:
        frames = own_dancers.read_arrays("frames", "frames", clip)["frames"]
        found = own_dancers.read_arrays(job.folder, "parsing", clip)["labels"]
        assert len(np.unique(found)) > 1 and (found == alone(frames)["labels"]).all()


@pytest.mark.slow
def test_the_library_itself_says_the_same(saved: Path, frames: np.ndarray) -> None:
    import torch
    import transformers

    pytest.importorskip("PIL")
    parser = opened(saved)
    processor = getattr(transformers, "SegformerImageProcessorPil", transformers.SegformerImageProcessor)()
    inputs = processor(images=list(frames), return_tensors="pt")
    mine = prepared(torch.from_numpy(frames), parser._input)
    assert (inputs["pixel_values"] - mine).abs().max() < 0.05  # two grey levels: resizing rounds otherwise
    network = transformers.SegformerForSemanticSegmentation.from_pretrained(saved).eval()
    with torch.inference_mode():
        outputs = network(**inputs)
    theirs = processor.post_process_semantic_segmentation(outputs, target_sizes=[frames.shape[1:3]] * len(frames))
    assert (torch.stack(theirs).numpy() == parser(frames)["labels"]).mean() > 0.97


@pytest.mark.slow
def test_a_file_beside_its_config_is_as_good_as_the_folder(saved: Path, frames: np.ndarray, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    wanted = opened(saved)(frames[:1])["labels"]
    assert (opened(saved / "model.safetensors")(frames[:1])["labels"] == wanted).all()
    shutil.copy(saved / "config.json", tmp_path)
    torch.save(load_file(saved / "model.safetensors"), tmp_path / "pytorch_model.bin")
    assert (opened(tmp_path)(frames[:1])["labels"] == wanted).all()


@pytest.mark.slow
def test_the_fingerprint_says_what_the_labels_depend_on(saved: Path, tmp_path: Path) -> None:
    mark = opened(saved).fingerprint()
    assert json.loads(json.dumps(mark)) == mark
    assert mark["weights"] == base.file_sha256(saved / "model.safetensors")
    assert opened(saved, batch=2, precision="float32").fingerprint() == mark
    assert opened(saved, precision="bfloat16").fingerprint()["settings"]["precision"] == "bfloat16"
    other = shutil.copytree(saved, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 256, "width": 256}}))
    assert opened(other).fingerprint()["settings"]["input"]["size"] == [256, 256]


@pytest.mark.slow
def test_wrong_files_are_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there are no weights at" in raised(tmp_path / "missing")
    assert "no precision 'half'; give float32 or bfloat16" in raised(saved, precision="half")
    other = shutil.copytree(saved, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "decoder_hidden_size": 8}))
    assert "do not fit the network of its config.json" in raised(other)
    (other / "config.json").write_text(json.dumps({**config, "depths": [1, 1, 1, 2]}))
    assert "missing" in raised(other)
    (other / "config.json").write_text(json.dumps({**config, "id2label": {i: "part" for i in range(18)}}))
    assert "are not those of atr18" in raised(other)
    (other / "config.json").write_text("{")
    assert "cannot be read as JSON" in raised(other)
    (other / "config.json").unlink()
    assert "has no config.json next to it" in raised(other)
    shutil.copy(saved / "config.json", other)
    (other / "model.safetensors").write_bytes(b"junk")
    assert "is no safetensors file" in raised(other)

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(DetectorError, match="cannot be had from the Hugging Face hub .*no network.*weights=FOLDER"):
        load("segformer", settings={"device": "cpu"})
