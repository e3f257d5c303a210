"""A loader inside torch's own `DataLoader` or torchdata's `StatefulDataLoader`; importing this imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch.utils.data import IterableDataset, get_worker_info

from remot_data.reading.loader import Batch, Loader


class BatchDataset(IterableDataset):
    """The batches of a loader, for ``DataLoader(BatchDataset(loader), batch_size=None, num_workers=…)``.

    Workers share the batches, which come in the order they have without workers. The state is the one that
    `StatefulDataLoader` keeps for each worker. The workers of a plain `DataLoader` get a copy of the loader when an
    epoch begins: call `loader.load_state_dict` before that, or let workers live on (``persistent_workers``).
    """

    def __init__(self, loader: Loader) -> None:
        self.loader, self.taken = loader, 0

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for _, batch in self.loader.part(worker, workers, self.taken):
            self.taken += 1
            yield batch
        self.loader.seen, self.taken = self.loader.end, 0

    def state_dict(self) -> dict[str, int]:
        """Where the epoch was begun, and the batches that this worker has given of it."""
        return {**self.loader.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.loader.load_state_dict(state)
        self.taken = int(state["taken"])
