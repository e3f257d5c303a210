"""The source: the person of an image, cropped as the driving person is, and dressed in parts of others where asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from remot_data import media, persons
from remot_data.ingest import people
from remot_data.media import in_child
from remot_data.records import XYXY
from remot_data.schemas import REGIONS, convert_labels
from remot_model.generating.alignment import align, boxes, centres, placement
from remot_model.generating.rollout import to_uint8
from remot_model.transferring.eyes import Eyes
from remot_model.transferring.pictures import MARGIN, cut, read_image, whole
from remot_model.transferring.request import TransferError


@dataclass(frozen=True)
class Source:
    """Who appears: crop uint8 [h, w, 3] at the detectors' size, its labels uint8 [h, w] (remot11).

    `keypoints` float32 [K, 3] are in the run's schema; `notes` say what is not as it might be expected. `valid` bool
    [h, w] is where the crop lies in the picture, None where that is not to matter.
    """

    image: np.ndarray
    labels: np.ndarray
    keypoints: np.ndarray
    notes: tuple[str, ...] = ()
    valid: np.ndarray | None = None


def find_source(path: Path, eyes: Eyes, share: float = 1.0) -> Source:
    """The person of an image, cropped and parsed; `TransferError` where there is none.

    The person fills the share `share` of the crop's height, as in the driving crop: in training source and driving
    person are of one clip, so about as tall. The default margin is left at least.
    """
    image, notes = _whole(path)
    found = sorted(people.find(image), key=lambda p: p.score * _area(p.box), reverse=True)
    if not found:
        raise TransferError(
            f"no person was found in the source {path}; give a picture that shows one from head to feet"
        )
    margin, picture = max(MARGIN, (1 / share - 1) / 2), image.shape[1::-1]
    for person in found:  # the largest may be several who stand close together
        crop = whole(persons.crop([person.box], picture, eyes.size[1] / eyes.size[0], margin, eyes.outside is not None))
        frame = cut(image, crop, eyes.size, eyes.outside)
        valid = None if eyes.outside is None else persons.valid(crop, picture, eyes.size)
        pose = eyes.look(frame[None])
        labels = eyes.labels(frame[None], pose, valid)[0]
        if labels.any():
            break
    else:
        raise TransferError(f"no person in the source {path} could be parsed; give a clearer or larger picture")
    if len(found) > 1:
        notes.append(f"{len(found)} persons are in the source {path}; the largest that is clear is taken")
    if absent := [name for name in REGIONS if not _region(labels, name).any()]:
        notes.append(f"the source {path} shows no {' and no '.join(absent)}; the networks have to make that up")
    return Source(frame, labels, eyes.keypoints(pose)[0], tuple(notes), valid)


def _whole(path: Path) -> tuple[np.ndarray, list[str]]:
    """All of an image, or of the first frame of a video, uint8 [H, W, 3] RGB, and what is to be said of it."""
    if picture := read_image(path):
        return picture.pixels, list(picture.notes)
    try:
        return in_child.first_frame(path), []
    except media.VideoError as error:
        if error.code == "no-frames":
            raise TransferError(f"the source {path} holds no frame; give an image") from error
        raise TransferError(f"the source {path} is neither an image nor a video that can be read") from error


def dressed(who: Source, other: Source, region: str) -> Source:
    """`who` with one region of another person, scaled as by GAM and laid centre on centre over the same region.

    What the new region does not cover of the old one counts as background. `TransferError` if the other person
    does not show the region.
    """
    if not _region(other.labels, region).any():
        raise TransferError(f"the picture that is to give the {region} shows none; choose another")
    parts, bodies = (
        torch.from_numpy(np.stack(masks))
        for masks in zip(*((_region(x.labels, region), x.labels > 0) for x in (other, who)), strict=True)
    )
    scale, offset = placement(bodies[:1], bodies[1:])
    if parts[1].any():
        theirs, ours = centres(boxes(parts)[0])
        offset = (ours - scale * theirs)[None]
    image = torch.from_numpy(other.image).movedim(-1, 0)[None].float() / 127.5 - 1
    layouts = (torch.from_numpy(x.labels).long()[None] for x in (other, who))
    moved = align(image, *layouts, placed=(scale, offset))
    labels = moved.labels[0].numpy().astype(np.uint8)
    picture = to_uint8(moved.image[0]).numpy()
    left = np.where(_region(who.labels, region), np.uint8(0), who.labels)
    new = _region(labels, region) & ~_region(left, "head")  # clothes may cover arms, never the head
    return replace(
        who,
        image=np.where(new[..., None], picture, who.image),
        labels=np.where(new, labels, left),
        notes=(*who.notes, *other.notes),
    )


def _area(box: XYXY) -> float:
    return (box[2] - box[0]) * persons.height(box)


def _region(labels: np.ndarray, name: str) -> np.ndarray:
    """Where a region is in labels of remot11, bool."""
    return convert_labels(labels, "remot11", "remot6") == 1 + REGIONS.index(name)
