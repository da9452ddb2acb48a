"""How much memory the tensors of a pretended GPU take, and what happens when it runs out."""

from __future__ import annotations

import weakref

import torch


class Allocations:
    """Bytes of the storages that are alive, and their peak.

    As on a GPU, an allocation beyond the limit raises torch.OutOfMemoryError. Not as on one: what
    is freed is not kept for later, and within an operation nothing is counted.

    Args:
        total: bytes of the whole GPU.
    """

    def __init__(self, total: int) -> None:
        self.total = self.limit = total
        self.now, self.peak = 0, 0
        self._known: set[int] = set()

    def set_fraction(self, fraction: float, device: object = None) -> None:
        """What torch.cuda.set_per_process_memory_fraction does."""
        self.limit = int(fraction * self.total)

    def reset_peak(self, device: object = None) -> None:
        """What torch.cuda.reset_peak_memory_stats does."""
        self.peak = self.now

    def add(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        if self.now + size > self.limit:
            raise torch.OutOfMemoryError(f"the pretended GPU is out of memory: {size:,} bytes "
                                         f"beside {self.now:,} of {self.limit:,}")
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
