"""Muon in several processes: each orthogonalizes some of the matrices, and all get every direction.

Newton-Schulz is the expensive part of Muon, and no matrix needs another one. So the matrices,
sorted by cost, are distributed in turn, and the directions are gathered. In `DistributedMuon` every
process has all weights. In `ShardedMuon` it has only its rows of each weight: there the rows of a
matrix are brought together in one process, a few matrices at a time.

Sources: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
which divides the work in this way. Jingyuan Liu et al., "Muon is Scalable for LLM Training", 2025,
for Muon on sharded weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from picolm_lib.train.distributed import Processes
from picolm_lib.train.muon import MuonAdamW

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def cost(rows: int, cols: int) -> int:
    """FLOPs of Newton-Schulz for a matrix, up to a factor: M M N, with M the smaller side."""
    return rows * cols * min(rows, cols)


def partition_by_cost(costs: Sequence[int], world_size: int) -> list[list[int]]:
    """Distributes work: sorted by cost, one item to each process in turn.

    Returns:
        For each process the indices of its work, the most expensive first. The loads differ by at
        most the cost of one item.
    """
    order = sorted(range(len(costs)), key=lambda i: -costs[i])
    return [order[rank::world_size] for rank in range(world_size)]


def make_optimizer(groups: Iterable[dict], processes: Processes, sharded: bool,
                   **options: Any) -> MuonAdamW:
    """MuonAdamW for one process, for several, or for several with sharded weights."""
    if processes.world_size == 1:
        return MuonAdamW(groups, **options)
    return (ShardedMuon if sharded else DistributedMuon)(groups, **options)


class DistributedMuon(MuonAdamW):
    """MuonAdamW where every process has all weights and all gradients."""

    def orthogonalize(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The direction of every matrix, each computed by one process and the same in all."""
        if not matrices:
            return []
        assignments = partition_by_cost([cost(*m.shape) for m in matrices], dist.get_world_size())
        # all_gather takes equal chunks, so shorter ones are padded.
        longest = max(sum(matrices[i].numel() for i in assignment) for assignment in assignments)
        sent = torch.zeros(longest, dtype=self.dtype, device=matrices[0].device)
        mine = super().orthogonalize([matrices[i] for i in assignments[dist.get_rank()]])
        if mine:
            flat = torch.cat([direction.flatten() for direction in mine])
            sent[:len(flat)] = flat
        gathered = sent.new_empty(len(assignments), longest)  # (world_size, longest)
        dist.all_gather(list(gathered.view(torch.uint8)), sent.view(torch.uint8))
        directions = list(matrices)
        for assignment, row in zip(assignments, gathered, strict=True):
            sizes = [matrices[i].numel() for i in assignment]
            for i, flat in zip(assignment, row[:sum(sizes)].split(sizes), strict=True):
                directions[i] = flat.view(matrices[i].shape)
        return directions


@dataclass(frozen=True)
class RowShard:
    """One matrix, of which this process has some rows and the others have the rest."""

    shape: tuple[int, int]
    """(rows, cols) of the whole matrix."""
    local: Tensor
    """(rows here, cols); may be empty."""
    heights: list[int]
    """How many rows each process has."""

    def numel(self) -> int:
        """Elements of the whole matrix."""
        return self.shape[0] * self.shape[1]

    def sizes(self) -> list[int]:
        """Elements in the rows of each process."""
        return [height * self.shape[1] for height in self.heights]


class ShardedMuon(MuonAdamW):
    """MuonAdamW where every process has its rows of each weight, as `fully_shard` divides them.

    It goes in rounds. In each, every process collects the rows of one of the largest matrices, or
    of as many smaller ones as are no larger together, and sends back their directions. So beside
    the shards, memory is needed for one of the largest matrices and its direction.
    """

    # Weights are DTensors here, and a RowShard stands where a whole matrix would.
    def matrices(self, tensor: DTensor,  # type: ignore[override]
                 rows: tuple[int, ...] | None) -> list[RowShard]:
        """The matrices of a parameter whose first dimension is sharded as torch.chunk does it."""
        items, cols = tensor.shape[0], tensor.shape[-1]
        # A gate (H, E, E) is sharded by heads, of E rows each; a matrix by single rows.
        rows_per_item = tensor.numel() // (items * cols)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        chunk = -(-items // world_size)
        # Process r has the rows from edges[r] to edges[r + 1] of the (items * rows_per_item, cols).
        edges = [rows_per_item * min(r * chunk, items) for r in range(world_size + 1)]
        local = tensor.to_local().reshape(-1, cols)  # (rows here, cols), a view
        found, start = [], 0
        for height in rows or ([items] if tensor.ndim == 2 else [rows_per_item] * items):
            cuts = [min(max(edge, start), start + height) for edge in edges]
            heights = [stop - begin for begin, stop in pairwise(cuts)]
            here = local[max(cuts[rank] - edges[rank], 0):][:heights[rank]]
            found.append(RowShard((height, cols), here, heights))
            start += height
        return found

    def local(self, matrix: RowShard) -> Tensor:  # type: ignore[override]
        """The rows of a matrix that are here."""
        return matrix.local

    def orthogonalize(self, matrices: Sequence[RowShard],  # type: ignore[override]
                      ) -> list[Tensor]:
        """This process's rows of the direction of every matrix."""
        directions: list[Any] = [None] * len(matrices)
        for assignments in _rounds([m.numel() for m in matrices], dist.get_world_size()):
            mine = [matrices[i] for i in assignments[dist.get_rank()]]
            done = super().orthogonalize(self._collect(matrices, assignments, mine))
            for i, direction in self._return(matrices, assignments, mine, done):
                directions[i] = direction
        return directions

    def _collect(self, matrices: Sequence[RowShard], assignments: list[list[int]],
                 mine: list[RowShard]) -> list[Tensor]:
        """Sends rows to the process that does their matrix; gets all rows of those done here."""
        sent = [[matrices[i].local.flatten() for i in assignment] for assignment in assignments]
        sizes = [[m.sizes()[rank] for m in mine] for rank in range(dist.get_world_size())]
        received = _exchange(sent, sizes, matrices[0].local)
        return [torch.cat(rows).view(m.shape) for m, *rows in zip(mine, *received, strict=True)]

    def _return(self, matrices: Sequence[RowShard], assignments: list[list[int]],
                mine: list[RowShard], done: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Sends rows of the directions done here to their owners; yields those that came."""
        split = [d.flatten().split(m.sizes()) for m, d in zip(mine, done, strict=True)]
        sent = [[rows[rank] for rows in split] for rank in range(dist.get_world_size())]
        sizes = [[matrices[i].local.numel() for i in assignment] for assignment in assignments]
        received = _exchange(sent, sizes, matrices[0].local.new_empty(0, dtype=self.dtype))
        for assignment, rows in zip(assignments, received, strict=True):
            for i, direction in zip(assignment, rows, strict=True):
                yield i, direction.view(matrices[i].local.shape)


def _rounds(sizes: list[int], world_size: int) -> Iterator[list[list[int]]]:
    """What each process does at a time: one of the largest matrices, or as much in smaller ones."""
    # By size, for it is what memory limits; between matrices of one model costs have its order.
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    while order:
        per_process = max(sizes) // sizes[order[0]]
        now, order = order[:per_process * world_size], order[per_process * world_size:]
        yield [now[rank::world_size] for rank in range(world_size)]


def _exchange(sent: list[list[Tensor]], sizes: list[list[int]], like: Tensor,
              ) -> list[list[Tensor]]:
    """Sends flat tensors to each process and gets some from each, in one exchange of bytes.

    Args:
        sent: for each process what goes to it.
        sizes: for each process the sizes of what comes from it.
        like: a tensor of their dtype and device.
    """
    width, nothing = like.itemsize, like.new_empty(0)
    bundles = [torch.cat([nothing, *tensors]) for tensors in sent]
    received = like.new_empty(sum(map(sum, sizes)))
    dist.all_to_all_single(received.view(torch.uint8), torch.cat(bundles).view(torch.uint8),
                           [width * sum(part) for part in sizes],
                           [width * len(bundle) for bundle in bundles])
    pieces = iter(received.split([size for part in sizes for size in part]))
    return [[next(pieces) for _ in part] for part in sizes]
