"""The order of training as pure functions: numbers in, numbers out, no state.

Everything is a function of (seed, epoch, index), so resuming is one integer and neither the number of
ranks nor of workers changes what comes when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A random generator that depends on nothing but these non-negative integers (counter-based, Philox)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def runs(allowed: np.ndarray) -> list[tuple[int, int]]:
    """Spans [start, stop) of consecutive true values in a bool array [T]."""
    edges = np.flatnonzero(np.diff(np.r_[False, allowed, False].astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def windows(
    spans: Sequence[tuple[int, int, int]],
    length: int,
    *,
    stride: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
) -> np.ndarray:
    """The windows of one epoch, in order: int64 [N, 2] of clip number and first frame.

    Args:
        spans: clip number, start and stop of each run of usable frames.
        length: frames in a window; shorter spans give none.
        stride: frames between the first frames of neighbours, `length` by default.
        shuffle: shift the grid of each span by a random phase and shuffle all windows. The number of windows is
            the same in every epoch, and every position of a span is reached over the epochs.
    """
    stride = stride or length
    chance = generator(seed, epoch)
    out = []
    for clip, start, stop in spans:
        room = stop - start - length
        if room < 0:
            continue
        count = (room - (min(stride - 1, room) if shuffle else 0)) // stride + 1
        phase = int(chance.integers(room - (count - 1) * stride + 1)) if shuffle else 0
        firsts = start + phase + stride * np.arange(count)
        out.append(np.stack([np.full(len(firsts), clip), firsts], 1))
    found = np.concatenate(out) if out else np.empty((0, 2), np.int64)
    return chance.permutation(found) if shuffle else found


def source_frame(candidates: np.ndarray, seed: int, epoch: int, index: int) -> int:
    """One of `candidates` (int [N], N >= 1), by chance but the same for the same window of an epoch."""
    return int(candidates[generator(seed, epoch, index + 1).integers(len(candidates))])


def share(total: int, rank: int, world_size: int, start: int = 0) -> Iterator[int]:
    """The global indices that rank `rank` of `world_size` takes: start + rank, and on by `world_size`.

    All ranks get equally many: the last total - start modulo world_size indices are dropped.

    Raises:
        ValueError: unless 0 <= rank < world_size and start >= 0.
    """
    if not 0 <= rank < world_size or start < 0:
        raise ValueError(f"rank {rank} of {world_size} from {start}: need 0 <= rank < world_size and start >= 0")
    even = start + max(0, total - start) // world_size * world_size
    return iter(range(start + rank, even, world_size))


def split_mask(frames: int, policy: str, split: str | None, clip_split: str) -> np.ndarray:
    """Which frames of a clip belong to a split: bool [frames].

    `policy` is ``column`` (the clip's own split; a clip without one is ``train``) or ``time:F`` (the last share F
    of the clip is ``test``, the rest ``train``). `split` None means every frame.
    """
    if split is None:
        return np.ones(frames, bool)
    kind, _, share_of_test = policy.partition(":")
    if kind == "column":
        return np.full(frames, (clip_split or "train") == split)
    if kind != "time":
        raise ValueError(f"a split policy is 'column' or 'time:F', not {policy!r}")
    test = np.arange(frames) >= frames - round(frames * float(share_of_test))
    return test if split == "test" else ~test if split == "train" else np.zeros(frames, bool)
