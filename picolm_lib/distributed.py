"""Several processes, one model: what torchrun starts, DistributedDataParallel keeps together.

    torchrun --nproc-per-node 2 -- run_train.py --preset pico --run runs/pico

Every process draws the same global batch and takes its own rows of it, so the result is that of one
process up to rounding. Only the main process prints and writes; but where weights are sharded
(sharded.py), each process writes its own rows of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from picolm_lib.config import PicoError
from picolm_lib.peers import watch_peers


@dataclass(frozen=True)
class Processes:
    """The processes of this run, seen from one of them."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def rows(self, batch: Tensor) -> Tensor:
        """This process's rows of a (B, T) global batch."""
        if len(batch) % self.count:
            raise PicoError(f"batch_size ({len(batch)}) must be divisible by the number of "
                            f"processes ({self.count}).")
        return batch.chunk(self.count)[self.rank]

    def agree(self, value: float, device: torch.device) -> float:
        """The main process's value: clocks and signals differ, decisions must not."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes: a signal may reach one of them alone."""
        if self.count == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=device)).item())

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value


def join_processes(device: torch.device) -> Processes:
    """Joins the processes that torchrun started; alone, when it did not."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        watch_peers()
    return Processes(dist.get_rank(), dist.get_world_size())


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process: torchrun numbers the processes of a machine.

    Raises:
        PicoError: there are more processes than GPUs.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise PicoError("there are more processes than GPUs; start torchrun with "
                            f"--nproc-per-node {torch.cuda.device_count()}.")
        torch.cuda.set_device(device)
    return device


class Objective(nn.Module):
    """The loss as a module, which is what DistributedDataParallel can watch over."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss(tokens, targets)


def share_gradients(objective: Objective, processes: Processes, sharded: bool) -> nn.Module:
    """Averages gradients over the processes after every backward pass, as sharded weights do."""
    if processes.count == 1 or sharded:
        return objective
    return DistributedDataParallel(objective)


def without_sharing(objective: nn.Module, last: bool) -> AbstractContextManager:
    """Holds the averaging back until the last micro-batch of a step."""
    if last or not isinstance(objective, DistributedDataParallel):
        return nullcontext()
    return objective.no_sync()
