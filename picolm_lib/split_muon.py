"""Muon in several processes: each orthogonalizes its share of the matrices and passes them on.

Newton-Schulz is the dear part of Muon, and no matrix needs another one. So the matrices are dealt
out, balanced by their cost, and the directions travel back as plain bytes. In `SplitMuon` every
process holds all weights, in `ShardedMuon` only its rows of each (sharded.py): there the rows of a
matrix meet in the process that does it, a few matrices at a time.

Sources: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
which splits the work so. Jingyuan Liu et al., "Muon is Scalable for LLM Training", 2025, for Muon
on sharded weights. Ronald Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, for `share`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from picolm_lib.distributed import Processes
from picolm_lib.muon import MuonAdamW


def cost(rows: int, cols: int) -> int:
    """What Newton-Schulz takes for a matrix, up to a factor: M M N, with M the smaller side."""
    return rows * cols * min(rows, cols)


def share(costs: Sequence[int], count: int) -> list[list[int]]:
    """Deals out work: the dearest first, each to the process that has the least so far.

    Returns:
        For each of `count` processes the indices of its work, dearest first.
    """
    hands: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = loads.index(min(loads))
        hands[least].append(i)
        loads[least] += costs[i]
    return hands


def make_optimizer(groups: Iterable[dict], processes: Processes, sharded: bool,
                   **options: Any) -> MuonAdamW:
    """MuonAdamW for one process, for several, or for several with sharded weights."""
    if processes.count == 1:
        return MuonAdamW(groups, **options)
    return (ShardedMuon if sharded else SplitMuon)(groups, processes, **options)


class SplitMuon(MuonAdamW):
    """MuonAdamW where every process holds all weights and all gradients.

    Args:
        processes: which share the work.
        options: as in MuonAdamW.
    """

    def __init__(self, groups: Iterable[dict], processes: Processes, **options: Any) -> None:
        super().__init__(groups, **options)
        self.processes = processes

    def orthogonalize(self, matrices: Sequence[Tensor]) -> Sequence[Tensor]:
        """The direction of every matrix, each made by one process and the same in all."""
        if not matrices:
            return []
        hands = share([cost(*m.shape) for m in matrices], self.processes.count)
        longest = max(sum(matrices[i].numel() for i in hand) for hand in hands)
        sent = torch.zeros(longest, dtype=self.dtype, device=matrices[0].device)
        mine = [matrices[i] for i in hands[self.processes.rank]]
        place = 0
        for direction in super().orthogonalize(mine):
            sent[place:place + direction.numel()] = direction.flatten()
            place += direction.numel()
        gathered = sent.new_empty(len(hands), longest)
        dist.all_gather(list(gathered.view(torch.uint8)), sent.view(torch.uint8))
        directions = list(matrices)
        for hand, row in zip(hands, gathered, strict=True):
            sizes = [matrices[i].numel() for i in hand]
            for i, flat in zip(hand, row[:sum(sizes)].split(sizes), strict=True):
                directions[i] = flat.view(matrices[i].shape)
        return directions


@dataclass(frozen=True)
class Rows:
    """One matrix, of which this process holds some rows and the others the rest."""

    shape: tuple[int, int]
    mine: Tensor
    """(rows here, cols); may be empty."""
    heights: list[int]
    """How many rows each process holds."""

    def numel(self) -> int:
        """Numbers in the whole matrix."""
        return self.shape[0] * self.shape[1]

    def sizes(self) -> list[int]:
        """Numbers in the rows of each process."""
        return [height * self.shape[1] for height in self.heights]

    def add_(self, direction: Tensor, alpha: float) -> None:
        """Steps along the rows of a direction."""
        self.mine.add_(direction, alpha=alpha)


class ShardedMuon(SplitMuon):
    """MuonAdamW where every process holds its rows of each weight, as `fully_shard` deals them.

    In every round each process collects the rows of about one of the largest matrices, or of as
    many smaller ones, and returns their directions: so much memory is needed beyond the shards.
    """

    def matrices(self, tensor: Tensor, rows: tuple[int, ...] | None) -> list[Rows]:
        """The matrices of a parameter whose first dimension is sharded as torch.chunk does it."""
        items, cols = tensor.shape[0], tensor.shape[-1]
        depth = tensor.numel() // (items * cols)                     # rows per item that is dealt
        rank, count = self.processes.rank, self.processes.count
        chunk = -(-items // count)                                   # items per process
        edges = [depth * min(other * chunk, items) for other in range(count + 1)]
        local = tensor.to_local().reshape(-1, cols)                  # (rows here, cols), a view
        found, start = [], 0
        for height in rows or ([items] if tensor.ndim == 2 else [depth] * items):
            cuts = [min(max(edge, start), start + height) for edge in edges]
            heights = [stop - begin for begin, stop in pairwise(cuts)]
            mine = local[max(cuts[rank] - edges[rank], 0):][:heights[rank]]
            found.append(Rows((height, cols), mine, heights))
            start += height
        return found

    def orthogonalize(self, matrices: Sequence[Rows]) -> list[Tensor]:
        """This process's rows of the direction of every matrix."""
        hands = share([cost(*m.shape) for m in matrices], self.processes.count)
        directions: list[Any] = [None] * len(matrices)
        for now in _rounds(hands, [m.numel() for m in matrices]):
            mine = [matrices[i] for i in now[self.processes.rank]]
            done = MuonAdamW.orthogonalize(self, self._collect(matrices, now, mine))
            for i, direction in self._return(matrices, now, mine, done):
                directions[i] = direction
        return directions

    def _collect(self, matrices: Sequence[Rows], now: list[list[int]],
                 mine: list[Rows]) -> list[Tensor]:
        """Sends rows to whoever does their matrix; gets all rows of those done here."""
        sent = [[matrices[i].mine.flatten() for i in hand] for hand in now]
        sizes = [[m.sizes()[rank] for m in mine] for rank in range(self.processes.count)]
        received = _exchange(sent, sizes, torch.float32, matrices[0].mine.device)
        return [torch.cat(rows).view(m.shape) for m, *rows in zip(mine, *received, strict=True)]

    def _return(self, matrices: Sequence[Rows], now: list[list[int]], mine: list[Rows],
                done: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Sends rows of the directions done here to their holders; yields those that came."""
        split = [d.flatten().split(m.sizes()) for m, d in zip(mine, done, strict=True)]
        sent = [[rows[rank] for rows in split] for rank in range(self.processes.count)]
        sizes = [[matrices[i].mine.numel() for i in hand] for hand in now]
        received = _exchange(sent, sizes, self.dtype, matrices[0].mine.device)
        for hand, rows in zip(now, received, strict=True):
            for i, direction in zip(hand, rows, strict=True):
                yield i, direction.view(matrices[i].mine.shape)


def _rounds(hands: list[list[int]], sizes: list[int]) -> Iterator[list[list[int]]]:
    """What each process does at a time: one of the largest matrices, or as much in smaller ones."""
    hands, limit = [list(hand) for hand in hands], max(sizes, default=0)
    while any(hands):
        now = []
        for hand in hands:
            count, room = 0, limit
            while count < len(hand) and sizes[hand[count]] <= room:
                room -= sizes[hand[count]]
                count += 1
            now.append([hand.pop(0) for _ in range(count)])
        yield now


def _exchange(sent: list[list[Tensor]], sizes: list[list[int]], dtype: torch.dtype,
              device: torch.device) -> list[list[Tensor]]:
    """Sends flat tensors to each process and gets some from each, in one exchange of bytes.

    Args:
        sent: for each process what goes to it.
        sizes: for each process the sizes of what comes from it.
    """
    width = dtype.itemsize
    bundles = [torch.cat([torch.empty(0, dtype=dtype, device=device), *parts]) for parts in sent]
    received = torch.empty(sum(map(sum, sizes)), dtype=dtype, device=device)
    dist.all_to_all_single(received.view(torch.uint8), torch.cat(bundles).view(torch.uint8),
                           [width * sum(part) for part in sizes],
                           [width * len(bundle) for bundle in bundles])
    return [list(bundle.split(part)) for bundle, part in zip(
        received.split([sum(part) for part in sizes]), sizes, strict=True)]
