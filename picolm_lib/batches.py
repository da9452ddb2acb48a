"""Batches from a token file: shuffled windows for training, all in order for evaluation.

The file is mapped into memory, not read: a batch is copied out of it as out of an array, and the
system keeps of it what the memory has room for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from picolm_lib.config import PicoError
from picolm_lib.loss import IGNORE


class Batches:
    """Shuffled windows of a token file, for ever.

    Each epoch cuts the file at another offset and shuffles the windows, both drawn from (seed,
    epoch). So the position of a run is two integers, `epoch` and `window`.

    Args:
        tokens: (N,) token ids.
        seq_len: T, tokens per window.
        batch_size: B, windows per batch.
        seed: of the shuffling.

    Raises:
        PicoError: the data are shorter than one window.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, batch_size: int, seed: int = 0) -> None:
        if len(tokens) < 2 * seq_len + 1:
            raise PicoError(f"the training data have {len(tokens):,} tokens, too few for windows "
                            f"of {seq_len}; lower --max-seq-len or take more data.")
        self.tokens = np.asarray(tokens)  # a slice of a memmap object itself takes microseconds
        self._file = tokens.base if hasattr(tokens.base, "madvise") else None
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.epoch, self.window = 0, 0
        self._start_epoch()

    def _start_epoch(self) -> None:
        draw = np.random.default_rng((self.seed, self.epoch))
        self._offset = int(draw.integers(self.seq_len))
        self._order = draw.permutation((len(self.tokens) - 1 - self._offset) // self.seq_len)

    def _next_window(self) -> np.ndarray:
        if self.window == len(self._order):
            self.epoch, self.window = self.epoch + 1, 0
            self._start_epoch()
        start = self._offset + int(self._order[self.window]) * self.seq_len
        self.window += 1
        return self.tokens[start:start + self.seq_len + 1]

    def next(self) -> tuple[Tensor, Tensor]:
        """(B, T) inputs and (B, T) targets; a target is the token after its input."""
        rows = np.stack([self._next_window() for _ in range(self.batch_size)]).astype(np.int64)
        self._announce()
        windows = torch.from_numpy(rows)                             # (B, T + 1)
        # A copy: a batch of one is contiguous as it is, and its targets would lie in its inputs.
        return windows[:, :-1].contiguous(), windows[:, 1:].clone()

    def _announce(self) -> None:
        """Lets the system fetch the next batch from the disk while the model learns from this."""
        if self._file is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        size = self.tokens.itemsize
        for window in self._order[self.window:self.window + self.batch_size]:
            start = size * (self._offset + int(window) * self.seq_len)
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            end = min(start + size * (self.seq_len + 1), len(self._file))
            self._file.madvise(mmap.MADV_WILLNEED, page, end - page)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "window": self.window}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.window = state["epoch"], state["window"]
        self._start_epoch()


def in_order(tokens: np.ndarray, seq_len: int, batch_size: int,
             limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token once, in order, for evaluation: (B, T) inputs and targets.

    The last window is filled up with targets that count for nothing.

    Args:
        limit: stop after this many targets.
    """
    total = min(len(tokens) - 1, limit or len(tokens) - 1)
    windows = -(-total // seq_len)
    padded = np.zeros((2, windows * seq_len), dtype=np.int64)
    padded[0, :total], padded[1, :total] = tokens[:total], tokens[1:total + 1]
    padded[1, total:] = IGNORE
    inputs, targets = torch.from_numpy(padded).view(2, windows, seq_len)
    yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
