"""Keypoints out of the JSON files of OpenPose: the person that a clip's crop was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from remot_data import persons
from remot_data.exchange.places import Misfit, Unusable
from remot_data.records import XYXY, Clip
from remot_data.schemas import convert_keypoints, keypoint_set
from remot_data.store import Store, StoreError

_BY_COUNT = {25: "body25", 18: "coco18", 17: "coco17"}
_WHOLE = ("openpose137", "wholebody133")  # sets with hands and face, which OpenPose writes beside the body


def schema_of(counts: Sequence[int], schema: str | None) -> str:
    """The keypoint set of files with so many points a body: the one that is given, or the one that has as many.

    Raises:
        StoreError: for other numbers of points.
    """
    if schema is None:
        fitting = set(counts) if len(counts) == 1 else set()
    else:
        fitting = set(_BY_COUNT) if schema in _WHOLE else {len(keypoint_set(schema))}
    if not set(counts) <= fitting & set(_BY_COUNT):
        sizes = " and ".join(map(str, counts))
        raise StoreError(f"the files hold {sizes} points a body; that is not {schema or 'body25, coco18 or coco17'}")
    return schema or _BY_COUNT[counts[0] if counts else 25]


def look(clip: Clip, files: Sequence[str | None]) -> tuple[set[int], int]:
    """How many points the bodies in the files of a clip have, and the number of frames in which nobody is chosen.

    Raises:
        Misfit: if the keypoints are of other pictures than those of the clip.
    """
    found = _found(files)
    bodies = [p["body"] for persons in found for p in persons]
    chosen = _main_person([[p["body"] for p in persons] for persons in found], clip.crop)
    if bodies:
        _check_pictures(np.concatenate(bodies), clip, next(filter(None, files)))
        if not any(number is not None for number in chosen):
            raise Misfit("not one of the persons in its files is in the clip's part of the picture")
    return {len(body) for body in bodies}, chosen.count(None)


def _check_pictures(points: np.ndarray, clip: Clip, path: str | None) -> None:
    places = points[points[:, 2] > 0, :2]
    if 0 < places.max(initial=0) <= 1:
        raise Misfit(f"the keypoints of {path} are no pixels; have them written unscaled")
    width, height = clip.source_size
    # Limbs out of the picture may be guessed a little beyond its border.
    inside = ((places >= -1) & (places <= (width, height))).all(1)
    if len(places) and inside.mean() < 0.5:
        raise Misfit(
            f"{1 - inside.mean():.0%} of the keypoints of its files lie outside the picture of {width}x{height}: "
            "were they made of pictures of another size?"
        )


def arrays(store: Store, clip: Clip, files: Sequence[str | None], schema: str) -> dict[str, np.ndarray]:
    """Keypoints float32 [T, K, 3] of the person that the crop was made for."""
    found = _found(files)
    chosen = _main_person([[p["body"] for p in persons] for persons in found], clip.crop)
    points = np.zeros((clip.frames, len(keypoint_set(schema)), 3), np.float32)
    for t, number in enumerate(chosen):
        if number is not None:
            points[t] = _whole_body(found[t][number], schema) if schema in _WHOLE else found[t][number]["body"]
    seen = points[..., 2] > 0
    x, y, w, h = clip.crop
    points[..., :2] = (points[..., :2] - np.array([x, y], np.float32)) * np.array(
        [store.size[1] / w, store.size[0] / h], np.float32
    )
    # OpenPose's confidence is the height of a peak, which can be a little above 1.
    points[..., 2] = points[..., 2].clip(0, 1)
    points[~seen] = 0
    return {"keypoints": points}


def _found(files: Sequence[str | None]) -> list[list[dict[str, np.ndarray]]]:
    """The persons of each file; the same file may stand for several frames."""
    known = {path: _persons(path) for path in dict.fromkeys(files) if path}
    return [known[path] if path else [] for path in files]


def _persons(path: str) -> list[dict[str, np.ndarray]]:
    """The persons of one OpenPose file: ``body`` float32 [K, 3], and ``face``, ``left-hand``, ``right-hand``."""
    try:
        found = [
            {part: np.array(p.get(f"{key}_2d", p.get(key, [])), np.float32).reshape(-1, 3) for part, key in _PARTS}
            for p in json.loads(Path(path).read_bytes())["people"]
        ]
        if not all(np.isfinite(points).all() for person in found for points in person.values()):
            raise ValueError("a value is not finite")
        return [person for person in found if len(person["body"])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unusable(f"{path} is no JSON of OpenPose ({type(error).__name__}: {error})") from error


_PARTS = (
    ("body", "pose_keypoints"),
    ("face", "face_keypoints"),
    ("left-hand", "hand_left_keypoints"),
    ("right-hand", "hand_right_keypoints"),
)


def _whole_body(person: Mapping[str, np.ndarray], schema: str) -> np.ndarray:
    """Body, feet, face and hands of a person as float32 [K, 3]; `wholebody133` has no place for the two pupils."""
    body = person["body"]
    whole = convert_keypoints(body, _BY_COUNT[len(body)], schema)
    names = keypoint_set(schema)
    for part in ("face", "left-hand", "right-hand"):
        start, count = names.index(f"{part}-0"), sum(name.startswith(f"{part}-") for name in names.points)
        points = person[part][:count]
        whole[start : start + len(points)] = points
    return whole


def _main_person(bodies: Sequence[Sequence[np.ndarray]], crop: Sequence[float]) -> list[int | None]:
    """Which person of each frame is the one that the crop was made for, or None where nobody is in it.

    The persons are linked over time by the overlap of their boxes, as when a store is built; the track that fills
    most of the crop is taken, and where it has a gap, the person that does.
    """
    x, y, w, h = crop
    looks: list[list[persons.Person]] = []
    which: dict[tuple[int, XYXY], int] = {}
    for t, found in enumerate(bodies):
        look = []
        for number, body in enumerate(found):
            seen = body[body[:, 2] > 0]
            if not len(seen):
                continue
            (left, top), (right, bottom) = seen[:, :2].min(0).tolist(), seen[:, :2].max(0).tolist()
            box = persons.as_box((max(left, x), max(top, y), min(right, x + w), min(bottom, y + h)))
            if box[2] > box[0] and box[3] > box[1]:
                which[t, box] = number
                look.append(persons.Person(t, box, float(seen[:, 2].mean())))
        looks.append(look)
    main = {person.frame: person for person in persons.main_track(looks)}

    def weight(person: persons.Person) -> float:
        return person.score * (person.box[2] - person.box[0]) * persons.height(person.box)

    chosen = (main.get(t) or max(look, key=weight, default=None) for t, look in enumerate(looks))
    return [None if person is None else which[person.frame, person.box] for person in chosen]
