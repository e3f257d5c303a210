"""The card of a store: read as the Hub reads it, and what licences say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest
import yaml
from huggingface_hub import DatasetCard

from remot_data.care.card import contradictions, known_licence, write_card
from remot_data.care.verify import verify
from remot_data.cli.commands import invoke
from remot_data.records import LayerInfo
from remot_data.store import Store, StoreError, open_store


def licensed(store: Store, *licences: str) -> Store:
    clips = [dataclasses.replace(c, licence=x) for c, x in zip(store.clips, [*licences, *[""] * 5], strict=False)]
    store.write_clips(clips)
    return open_store(store.url)


def layer(detector: str, licence: str) -> LayerInfo:
    return LayerInfo(f"{detector}-1", "pose", detector, "1", "body25", {}, "", licence=licence)


def test_the_hub_reads_it(own_dancers: Store) -> None:
    store = licensed(own_dancers, *["CC-BY-4.0"] * 5)
    assert invoke(["card", store.url]) == 0
    card = DatasetCard.load(Path(store.url) / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    front = yaml.safe_load(card.content.split("---")[1])
    assert {c["config_name"] for c in front["configs"]} == {"frames", *store.snapshot("main").layers}
    for config in front["configs"]:
        assert list(Path(store.url).glob(config["data_files"])), config
    text = card.text
    assert "5 clips of 5 persons" in text and "| train | 4 | 80 | 4 |" in text and "| CC-BY-4.0 | 5 | 5 |" in text
    assert all(f"| {kind} |" in text for kind in store.snapshot("main").layers)
    assert "remot check" in text and (Path(store.url) / "croissant.json").exists()
    assert cv2.imread(str(Path(store.url) / "card.jpg")).shape == (64, 5 * 48, 3)
    assert not list(verify(open_store(store.url))), "the card belongs to the store"


def test_pictures_only_where_their_licence_lets_them_be_shown(own_dancers: Store, tmp_path: Path) -> None:
    store = licensed(own_dancers, "CC-BY-NC-4.0", "no idea", "", "CC0-1.0", "all rights reserved")
    doubts = write_card(store, tmp_path / "card")
    assert cv2.imread(str(tmp_path / "card/card.jpg")).shape == (64, 48, 3), "that of the one clip"
    assert any("1 of 5 clips have no licence" in text for text in doubts)
    assert any("'no idea' of 1 clips is none that is known" in text for text in doubts)
    assert all(text in (tmp_path / "card/README.md").read_text() for text in doubts)
    store = licensed(own_dancers)
    write_card(store, tmp_path / "other")
    assert not (tmp_path / "other/card.jpg").exists() and "![" not in (tmp_path / "other/README.md").read_text()


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("CC-BY-4.0", "cc-by-4.0", True), ("cc by-sa 4.0", "cc-by-sa-4.0", True), ("CC0", "cc0-1.0", True),
        ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0", False), ("BSD-3-Clause", "bsd-3-clause", True), ("MIT", "mit", True),
        ("MITRE terms", "other", False), ("CC-BYE", "other", False), ("", "other", False),
    ],
)  # fmt: skip
def test_known_licences(text: str, name: str, shown: bool) -> None:
    assert known_licence(text) == (name, shown)


def test_what_contradicts_itself_is_said(own_dancers: Store) -> None:
    clips = licensed(own_dancers, "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "CC-BY-4.0", "CC-BY-4.0").clips
    found = contradictions(clips, [layer("ultralytics", "AGPL-3.0"), layer("schp", "MIT")])
    assert any("cannot be passed on together" in text and "cc-by-sa-4.0 and cc-by-nc-4.0" in text for text in found)
    assert any("forbid derivatives" in text for text in found) and any(
        "non-commercial use only" in text for text in found
    )
    assert any("with ultralytics, under AGPL-3.0" in text for text in found) and not any(
        "schp" in text for text in found
    )
    assert contradictions(clips[3:], [layer("blazepose", "Apache-2.0")]) == []
    odd = contradictions(clips[3:], [layer("segformer", "Apache-2.0; weights trained from NVIDIA's: non-commercial")])
    assert len(odd) == 1 and "segformer" in odd[0]


def test_a_store_elsewhere_needs_a_folder(own_dancers: Store, tmp_path: Path) -> None:
    remote = Store(f"memory://{tmp_path.name}")
    for name in own_dancers.files.walk():
        remote.files.write(name, own_dancers.files.read(name))
    with pytest.raises(StoreError, match="give --out FOLDER"):
        write_card(open_store(remote.url))
    write_card(open_store(remote.url), tmp_path / "card")
    assert "5 clips" in (tmp_path / "card/README.md").read_text()
