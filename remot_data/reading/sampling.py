"""The order of training as pure functions: numbers in, numbers out, no state but small tables.

Everything is a function of (seed, epoch, index), so resuming is one integer and neither the number of
ranks nor of workers changes what comes when. Nothing is kept for each window: an epoch of ten million windows
costs what its clips cost, and the windows of one group of shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_TABLES = 4  # groups of shards whose windows are kept


def generator(*key: int) -> np.random.Generator:
    """A random generator that depends on nothing but these non-negative integers (counter-based, Philox)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def runs(allowed: np.ndarray) -> list[tuple[int, int]]:
    """Spans [start, stop) of consecutive true values in a bool array [T]."""
    edges = np.flatnonzero(np.diff(np.r_[False, allowed, False].astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@dataclass(frozen=True)
class Rules:
    """How windows are cut and shuffled.

    `length` frames; `stride` frames between the first frames of neighbours (`length` unless given); frames of a
    window lie 1 to `max_step` apart, drawn for each window; `open_shards` are shuffled together.

    Raises:
        ValueError: for a number below 1.
    """

    length: int = 6
    stride: int | None = None
    max_step: int = 1
    shuffle: bool = True
    open_shards: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("length", "stride", "max_step", "open_shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Order:
    """The windows of one data set, pass after pass; a pass shows each window once.

    The shards are shuffled, and cut into groups of `open_shards`; inside a group all windows are shuffled. So a reader
    that can keep one group (and the beginning of the next) reads each shard once a pass. Each run of usable
    frames is cut into windows at a random phase: their number is the same in every pass, and every position comes
    up over the passes.

    Args:
        spans: int64 [S, 4]: shard, clip, start and stop of each run of usable frames; shorter than a window: no use.
        sources: int64 [R, 3]: clip, start and stop of each run of frames that may be the source, sorted by clip.
        part: number of this data set among several, so that they are shuffled differently.
    """

    def __init__(self, spans: np.ndarray, sources: np.ndarray, rules: Rules, part: int = 0) -> None:
        self.rules, self._part = rules, part
        spans = np.asarray(spans, np.int64).reshape(-1, 4)
        self._spans = spans = spans[np.argsort(spans[:, 0], kind="stable")]
        room = spans[:, 3] - spans[:, 2] - rules.length
        slack = np.minimum(self._stride - 1, room) if rules.shuffle else 0
        self._counts = np.where(room >= 0, (room - slack) // self._stride + 1, 0)
        self._shards, starts = np.unique(spans[:, 0], return_index=True)
        self._bounds = np.r_[starts, len(spans)]
        ends = np.r_[0, np.cumsum(self._counts)]
        self._of_shard = ends[self._bounds[1:]] - ends[self._bounds[:-1]]
        self._sources = np.asarray(sources, np.int64).reshape(-1, 3)
        self._before = np.r_[0, np.cumsum(self._sources[:, 2] - self._sources[:, 1])]
        self._ends: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._tables: dict[tuple[int, int], np.ndarray] = {}

    @property
    def _stride(self) -> int:
        return self.rules.stride or self.rules.length

    def __len__(self) -> int:
        return int(self._of_shard.sum())

    @property
    def groups(self) -> int:
        return -(-len(self._shards) // self.rules.open_shards)

    def window(self, number: int, index: int) -> tuple[int, int, int, int]:
        """Clip, first frame, step and source frame of window `index` of pass `number`."""
        _, ends = self._pass(number)
        group = int(np.searchsorted(ends, index, "right"))
        clip, first, step, source = self.table(number, group)[index - (int(ends[group - 1]) if group else 0)].tolist()
        return clip, first, step, source

    def table(self, number: int, group: int) -> np.ndarray:
        """The windows of one group of a pass, in order: int64 [N, 4] of clip, first frame, step and source frame."""
        found = self._tables.get((number, group))
        if found is None:
            found = self._tables[number, group] = self._drawn(number, group)
            for key in list(self._tables)[:-_TABLES]:
                self._tables.pop(key, None)
        return found

    def shards(self, number: int, group: int) -> np.ndarray:
        """The shards that are read for one group of a pass."""
        size = self.rules.open_shards
        return self._shards[self._pass(number)[0][group * size : (group + 1) * size]]

    def of_clips(self, clips: int) -> np.ndarray:
        """How many windows of a pass each clip gives: int64 [clips]."""
        return np.bincount(self._spans[:, 1], self._counts, clips).astype(np.int64)

    def sources(self, clip: int) -> np.ndarray:
        """The frames of a clip that may be the source: int64 [N]."""
        rows = self._sources[np.searchsorted(self._sources[:, 0], clip, "left") :]
        return np.concatenate([np.arange(start, stop) for _, start, stop in rows[rows[:, 0] == clip]])

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the shards in a pass, and how many windows have gone by at the end of each group."""
        found = self._ends.get(number)
        if found is None:
            count = len(self._shards)
            order = np.arange(count)
            if self.rules.shuffle:
                order = generator(self.rules.seed, self._part, number, 0).permutation(count)
            last = np.minimum(np.arange(1, self.groups + 1) * self.rules.open_shards, count) - 1
            found = self._ends[number] = order, np.cumsum(self._of_shard[order])[last]
            for key in list(self._ends)[:-2]:
                self._ends.pop(key, None)
        return found

    def _drawn(self, number: int, group: int) -> np.ndarray:
        rules, size = self.rules, self.rules.open_shards
        chance = generator(rules.seed, self._part, number, 1 + group)
        shards = self._pass(number)[0][group * size : (group + 1) * size]
        which = np.concatenate([np.arange(self._bounds[s], self._bounds[s + 1]) for s in shards])
        which = which[self._counts[which] > 0]
        _, clips, starts, stops = self._spans[which].T
        counts = self._counts[which]
        spare = stops - starts - rules.length - (counts - 1) * self._stride
        phase = chance.integers(0, spare + 1) if rules.shuffle else np.zeros_like(spare)
        span = np.repeat(np.arange(len(which)), counts)
        nth = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts, counts)
        first, step = (starts + phase)[span] + self._stride * nth, np.ones_like(span)
        if rules.max_step > 1 and rules.length > 1:
            reach = np.minimum((stops - starts - 1) // (rules.length - 1), rules.max_step)[span]
            step = chance.integers(1, reach + 1)
            first = np.minimum(first, stops[span] - 1 - (rules.length - 1) * step)
        out = np.stack([clips[span], first, step, self._source(chance, clips[span])], 1)
        return chance.permutation(out) if rules.shuffle else out

    def _source(self, chance: np.random.Generator, clips: np.ndarray) -> np.ndarray:
        """A source frame for each of `clips`, evenly over the frames that may be one."""
        low = self._before[np.searchsorted(self._sources[:, 0], clips, "left")]
        high = self._before[np.searchsorted(self._sources[:, 0], clips, "right")]
        drawn = chance.integers(low, high)
        run = np.searchsorted(self._before, drawn, "right") - 1
        return self._sources[run, 1] + drawn - self._before[run]


class Mix:
    """Several orders as one, each with its share of every stretch of an epoch, however short.

    With weight w an epoch shows w times the windows that the data set has. What a weight leaves over is not lost:
    the next epoch continues where this one stopped, so all windows of a data set come up equally often.

    Raises:
        ValueError: for weights that are not positive, or too few of them.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(orders) if weights is None else list(weights)
        if len(weights) != len(orders) or not all(w > 0 for w in weights):
            raise ValueError(f"{len(orders)} data sets need as many weights above 0, not {weights}")
        self.orders = list(orders)
        self.sizes = [max(1, round(w * len(o))) if len(o) else 0 for o, w in zip(orders, weights, strict=True)]
        self._sums = np.cumsum(self.sizes).tolist()

    def __len__(self) -> int:
        return self._sums[-1]

    def locate(self, number: int) -> tuple[int, int, int]:
        """Data set, pass, and index in that pass of window `number`, counted over all epochs.

        Of two merged sequences of a and b elements, i b // (a + b) of the first i come from the second; several are
        merged one after the other.
        """
        epoch, index = divmod(number, len(self))
        part = len(self.orders) - 1
        while part:
            size, total = self.sizes[part], self._sums[part]
            before = index * size // total
            if (index + 1) * size // total > before:
                index = before
                break
            index, part = index - before, part - 1
        passed, index = divmod(epoch * self.sizes[part] + index, len(self.orders[part]))
        return part, passed, index

    def window(self, number: int) -> tuple[int, int, int, int, int]:
        """Data set, clip, first frame, step and source frame of window `number`, counted over all epochs."""
        part, passed, index = self.locate(number)
        return part, *self.orders[part].window(passed, index)


def distinct(counts: np.ndarray, batch: int) -> float:
    """How many different kinds a batch without repetition has on average, after a full shuffle of counts[k] of each."""
    total = int(counts.sum())
    missing = np.ones(len(counts))
    for i in range(min(batch, total)):
        missing *= np.maximum(total - counts - i, 0) / (total - i)
    return float((1 - missing)[counts > 0].sum())


def spare(number: int, attempt: int, total: int, seed: int) -> int:
    """The window that stands in for window `number` of an order of `total` in the same epoch, where that is damaged."""
    chance = generator(seed, 0x5BA2E, number, attempt)
    return number // total * total + int(chance.integers(total))


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


LASTS = ("drop", "pad", "through")


def batches(
    total: int,
    size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    worker: int = 0,
    workers: int = 1,
    skip: int = 0,
    last: str = "drop",
) -> Iterator[tuple[int, np.ndarray]]:
    """The batches of one worker of one rank: the number that the next round begins at, and `size` window numbers.

    Numbers count over all epochs of `total` windows. A round takes world_size * size of them from `start` on; number
    start + i goes to rank i modulo world_size, and round r to worker r modulo `workers`. So the ranks together go
    through the numbers in order, whatever their number, and each gets equally many batches.

    Args:
        skip: batches that this worker has done already.
        last: what becomes of the end of the epoch that `start` is in, where it is no whole round: ``drop`` leaves it
            out, ``pad`` fills up with the beginning of the epoch, ``through`` continues with the next, without end.

    Raises:
        ValueError: for a rank or worker outside its range, or another `last`.
    """
    if not 0 <= rank < world_size or not 0 <= worker < workers or start < 0 or size < 1:
        raise ValueError(
            f"rank {rank} of {world_size}, worker {worker} of {workers}, batches of {size} from {start}: need "
            "0 <= rank < world_size, 0 <= worker < workers, 1 <= size and 0 <= start"
        )
    if last not in LASTS:
        raise ValueError(f"last is one of {', '.join(LASTS)}, not {last!r}")
    step = world_size * size
    begin = start // total * total if total else 0
    mine, number = rank + world_size * np.arange(size), start + (worker + skip * workers) * step
    while last == "through" or number < begin + total:
        after = number + step
        if last != "through" and after > begin + total:
            if last == "drop":
                return
            after = begin + total
        found = number + mine
        yield after, found if last == "through" else begin + (found - begin) % total
        number += workers * step


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
