"""Croissant's metadata against the files of the store."""

from __future__ import annotations

import json

from remot_data.detectors.base import file_sha256


def test_croissant_names_every_file_by_its_digest(dancers, exported):
    folder = exported / "croissant"
    told = json.loads((folder / "croissant.json").read_text())
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert told["license"] == "Apache-2.0"
    files = [d for d in told["distribution"] if d["@type"] == "cr:FileObject"]
    assert len(files) == 1 + 6 * 3
    for file in files:
        path = (folder / file["contentUrl"]).resolve()
        assert file_sha256(path) == file["sha256"]
        assert file["contentSize"] == f"{path.stat().st_size} B"
    ids = [d["@id"] for d in told["distribution"]] + [f["@id"] for r in told["recordSet"] for f in [r, *r["field"]]]
    # One name is one thing, except that a layer's records and its only file may not share it.
    assert len(ids) == len(set(ids))
    for record in told["recordSet"]:
        for field in record["field"]:
            source = field.get("source", {})
            named = source.get("fileSet", source.get("fileObject"))
            assert named is None or named["@id"] in ids
    splits = next(r for r in told["recordSet"] if r["@id"] == "splits")
    assert {row["splits/name"] for row in splits["data"]} == {"train", "test"}
