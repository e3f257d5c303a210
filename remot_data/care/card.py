"""The card of a store: what is in it, from whom, under which licences, how it was made and what is wrong with it.

It is the ``README.md`` that the Hugging Face Hub shows, with the YAML block that it reads, and Croissant beside it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from remot_data.care.check import Report, check
from remot_data.care.check_rules import RULES
from remot_data.exchange import croissant
from remot_data.records import REASONS, Clip, LayerInfo, Snapshot
from remot_data.report.html import plural
from remot_data.store import Store, StoreError
from remot_data.store.content import stats
from remot_data.store.disk import write_whole
from remot_data.store.tables import read_table

# What licences begin with -> what the Hub calls them, whether a picture of the clip may be shown in a card.
_LICENCES = {
    "CC0": ("cc0-1.0", True),
    "CC-BY-SA": ("cc-by-sa-4.0", True),
    "CC-BY-NC-SA": ("cc-by-nc-sa-4.0", False),
    "CC-BY-NC-ND": ("cc-by-nc-nd-4.0", False),
    "CC-BY-NC": ("cc-by-nc-4.0", False),
    "CC-BY-ND": ("cc-by-nd-4.0", False),
    "CC-BY": ("cc-by-4.0", True),
    "MIT": ("mit", True),
    "APACHE-2.0": ("apache-2.0", True),
    "BSD-3-CLAUSE": ("bsd-3-clause", True),
    "BSD-2-CLAUSE": ("bsd-2-clause", True),
    "PDM": ("pddl", True),
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_SHOWN = 8  # clips on the picture
PICTURE = "card.jpg"


def write_card(
    store: Store, out: str | os.PathLike[str] | None = None, snapshot: str = "main", url: str = ""
) -> list[str]:
    """Write ``README.md``, ``croissant.json`` and, where licences let clips be shown, ``card.jpg``.

    Args:
        out: the folder; the store's own by default, which has to be on a local disk then.
        snapshot: whose layers and filter are told.
        url: where the card will lie beside the store's files, if that is elsewhere.

    Returns:
        What contradicts itself or is not known, as sentences; they stand in the card too.

    Raises:
        StoreError: for a store without clips, a snapshot that is not there, or a remote store without `out`.
    """
    if not store.clips:
        raise StoreError(f"{store.url} has no clips to tell of")
    if out is None and not store.files.local:
        raise StoreError(f"{store.url} is not on this disk; give --out FOLDER")
    folder, chosen = Path(out if out is not None else store.files.path("")), store.snapshot(snapshot)
    folder.mkdir(parents=True, exist_ok=True)
    infos = [store.layer(kind, layer_id) for kind, layer_id in chosen.layers.items()]
    doubts = contradictions(store.clips, infos)
    picture = _picture(store, chosen)
    if picture is not None:
        write_whole(folder / PICTURE, cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes())
    text = _text(store, chosen, infos, check(store, snapshot), doubts, picture is not None)
    write_whole(folder / "README.md", text.encode())
    splits = dict.fromkeys(clip.split or "train" for clip in store.clips)
    croissant.finish(store, chosen, folder, None if url else folder, [{"splits": splits}], url)
    return doubts


def known_licence(text: str) -> tuple[str, bool]:
    """What the Hub calls a licence, and whether a picture under it may be shown; ``other`` and no where in doubt."""
    plain = text.strip().upper().replace(" ", "-").replace("CC0-1.0", "CC0")
    for name in sorted(_LICENCES, key=len, reverse=True):
        if plain == name or plain.startswith(f"{name}-") and plain[len(name) + 1 :][:1].isdigit():
            return _LICENCES[name]
    return "other", False


def contradictions(clips: Sequence[Clip], infos: Iterable[LayerInfo]) -> list[str]:
    """What does not go together in the licences of clips and detectors, and what is not known, as sentences."""
    counts = Counter(clip.licence for clip in clips)
    names = {text: known_licence(text)[0] for text in counts if text}
    found = []
    if counts[""]:
        found.append(f"{counts['']} of {len(clips)} clips have no licence: nobody has said that they may be used.")
    for text, name in sorted(names.items()):
        if name == "other":
            found.append(f"The licence {text!r} of {counts[text]} clips is none that is known here: read its terms.")
    shares = sorted({name for name in names.values() if "-sa-" in name})
    bound = sorted({name for name in names.values() if "-nc-" in f"{name}-" or "-nd-" in f"{name}-"})
    others = [name for name in bound if name not in shares]
    if len(shares) > 1 or (shares and others):
        found.append(
            f"Clips under {' and '.join([*shares, *others])} cannot be passed on together under one licence: choose "
            "some of them (`remot remove`)."
        )
    if any("-nd-" in f"{name}-" for name in names.values()):
        found.append("Clips that forbid derivatives are cropped and resized here, which may already be one.")
    if any("-nc-" in f"{name}-" for name in names.values()):
        found.append("Some clips are for non-commercial use only.")
    for info in infos:
        words = info.licence.lower()
        if "agpl" in words:
            found.append(f"The {info.kind} layer was made with {info.detector}, under {info.licence}.")
        elif any(word in words for word in ("non-commercial", "research", "terms of their own")):
            found.append(f"The {info.kind} layer was made with {info.detector}: {info.licence}.")
    return found


def _picture(store: Store, snapshot: Snapshot) -> np.ndarray | None:
    """A frame of some clips that may be shown, uint8 [H, W, 3]; None where none may."""
    free = [clip for clip in store.clips if known_licence(clip.licence)[1]]
    if not free:
        return None
    chosen = [free[i] for i in np.unique(np.linspace(0, len(free) - 1, min(_SHOWN, len(free))).astype(int))]
    frames = [store.read_arrays("frames", "frames", c, which=[c.frames // 2])["frames"][0] for c in chosen]
    return np.concatenate(frames, 1)


def _text(
    store: Store, snapshot: Snapshot, infos: Sequence[LayerInfo], found: Report, doubts: Sequence[str], shown: bool
) -> str:
    told, name = stats(store), os.path.basename(store.url.rstrip("/")) or "store"
    parts = [_front(store, snapshot, name), f"# {name}", _about(store, told)]
    if shown:
        parts.append(f"![Frames of some clips]({PICTURE})")
    parts += [
        "## How much",
        _table(("", "clips", "frames", "persons"), _splits(store.clips)),
        "## Licences",
        _table(("licence", "clips", "videos"), _licences(store.clips)),
        *(f"- {sentence}" for sentence in doubts),
        "## How it was made",
        _made(store, snapshot, infos),
        "## What was refused",
        _refused(store),
        "## What is wrong with it",
        _wrong(found),
        "## How to read it",
        _reading(snapshot),
    ]
    return "\n\n".join(part for part in parts if part).replace("\n\n- ", "\n- ") + "\n"


def _front(store: Store, snapshot: Snapshot, name: str) -> str:
    """The YAML block of the Hub; JSON is YAML, so values need no library to be quoted."""
    frames = sum(clip.frames for clip in store.clips)
    size = next((word for most, word in _SIZES if frames < most), "10M<n<100M")
    licences = sorted({known_licence(clip.licence)[0] for clip in store.clips})
    licence: Any = licences if len(licences) > 1 else licences[0]
    tags = ["human-motion-transfer", "dance", "pose", "human-parsing", "webdataset", "croissant"]
    configs = [{"config_name": "frames", "data_files": "frames/*.tar"}]
    configs += [{"config_name": kind, "data_files": f"layers/{kind}/{i}/*.tar"} for kind, i in snapshot.layers.items()]
    fields = {
        "pretty_name": name,
        "license": licence,
        "size_categories": [size],
        "task_categories": ["image-to-video"],
        "tags": tags,
        "configs": configs,
    }
    lines = [f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _about(store: Store, told: dict[str, Any]) -> str:
    height, width = store.size
    minutes = told["seconds_of_video"] / 60
    counts = (
        plural(told[name], word) for name, word in (("clips", "clip"), ("persons", "person"), ("videos", "video"))
    )
    clips, who, videos = counts
    return (
        f"{clips} of {who} from {videos}: {told['frames']} frames of {height} x {width} pixels, {minutes:.1f} minutes. "
        "Each clip shows one person in one fixed crop."
    )


def _splits(clips: Sequence[Clip]) -> list[tuple[Any, ...]]:
    by_split: dict[str, list[Clip]] = {}
    for clip in clips:
        by_split.setdefault(clip.split or "train", []).append(clip)
    return [
        (name, len(some), sum(clip.frames for clip in some), len({clip.person for clip in some}))
        for name, some in sorted(by_split.items())
    ]


def _licences(clips: Sequence[Clip]) -> list[tuple[Any, ...]]:
    by: dict[str, list[Clip]] = {}
    for clip in clips:
        by.setdefault(clip.licence or "not stated", []).append(clip)
    return [(name, len(some), len({clip.video for clip in some})) for name, some in sorted(by.items())]


def _made(store: Store, snapshot: Snapshot, infos: Sequence[LayerInfo]) -> str:
    policy = store.config.get("policy", {})
    rules = ", ".join(f"`{name}` {value}" for name, value in sorted(policy.items()) if not isinstance(value, dict))
    rows = []
    for info in infos:
        settings = ", ".join(f"{name}={value}" for name, value in sorted(info.settings.items()))
        weights = str(info.fingerprint.get("weights", ""))[:12]
        approximate = "approximate" if info.approximate else ""
        rows.append((info.kind, info.detector, info.version, info.schema, weights, settings, approximate))
    head = ("layer", "detector", "version", "schema", "weights (sha256)", "settings", "")
    made = f"With REMOT Toolkit {version('remot')}. Policy: {rules}." if rules else "It was not built from videos."
    chosen = f"The snapshot `{snapshot.name}` lets through frames where `{snapshot.where}`." if snapshot.where else ""
    return "\n\n".join(filter(None, (made, _table(head, rows), chosen)))


def _refused(store: Store) -> str:
    name = "ledger/rejects.parquet"
    rows = read_table(store.files.read(name)).to_pylist() if store.files.exists(name) else []
    if not rows:
        return "Nothing was refused, or the store does not say."
    counts, frames = Counter(row["code"] for row in rows), Counter[str]()
    for row in rows:
        frames[row["code"]] += row["frames"]
    return _table(
        ("reason", "meaning", "times", "frames"),
        [(code, REASONS.get(code, ""), n, frames[code]) for code, n in counts.most_common()],
    )


def _wrong(found: Report) -> str:
    """What `remot check` found."""
    if not found.counts:
        return f"`remot check` found nothing in {found.checked} clips."
    rows = [(name, RULES[name].why, count) for name, count in found.counts.items()]
    told = f"`remot check` found, in {found.checked} clips:\n\n" + _table(("rule", "why it matters", "clips"), rows)
    kept = f"The filter `{found.filter}` would keep {found.keeps} of {found.frames} frames." if found.filter else ""
    return "\n\n".join(filter(None, (told, kept)))


def _reading(snapshot: Snapshot) -> str:
    code = [
        "from remot_data import stream",
        "",
        f'for window in stream("STORE", snapshot="{snapshot.name}", length=6):',
    ]
    return "\n".join(
        [
            "Each folder of tars is plain WebDataset, keyed `CLIP/FRAME`; `clips.parquet` has a row a clip.",
            "With the toolkit:",
            "",
            "```python",
            *code,
            "    window.arrays",
            "```",
            "",
            "Clips that `removed.json` names are withdrawn: do not use them.",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])
