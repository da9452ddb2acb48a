"""Batches from a token file: shuffled windows for training, sequential ones for evaluation.

The file is memory-mapped: a batch is copied out of it as out of an array, and the operating system
keeps as much of the file in memory as there is room for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from picolm_lib.config import PicoError
from picolm_lib.model.loss import IGNORE


class Batches:
    """Shuffled windows of a token file, infinitely many.

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
        # A slice of a memmap takes microseconds longer than one of a plain array.
        self.tokens = np.asarray(tokens)
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
        windows = torch.from_numpy(rows)                             # (B, T + 1)
        # A clone, since a batch of one is contiguous already: its targets would share memory with
        # its inputs.
        return windows[:, :-1].contiguous(), windows[:, 1:].clone()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "window": self.window}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.window = state["epoch"], state["window"]
        self._start_epoch()


def sequential_batches(tokens: np.ndarray, seq_len: int, batch_size: int,
                       limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token once, in order, for evaluation.

    The last window is padded with targets that the loss ignores.

    Args:
        tokens: (N,) token ids.
        seq_len: T, tokens per window.
        batch_size: B, windows per batch; the last batch may have fewer.
        limit: stop after this many targets.

    Yields:
        (B, T) inputs and (B, T) targets.
    """
    total = min(len(tokens) - 1, limit or len(tokens) - 1)
    windows = -(-total // seq_len)
    padded = np.zeros((2, windows * seq_len), dtype=np.int64)
    padded[0, :total], padded[1, :total] = tokens[:total], tokens[1:total + 1]
    padded[1, total:] = IGNORE
    inputs, targets = torch.from_numpy(padded).view(2, windows, seq_len)
    yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
