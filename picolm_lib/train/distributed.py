"""Several processes, one model: started by torchrun, kept together by PyTorch.

    torchrun --nproc-per-node 2 -- run_train.py --preset pico --run runs/pico
    torchrun --nproc-per-node 8 -- run_train.py --preset planned --run runs/planned

With `--parallel ddp` (DistributedDataParallel) every process has the whole model. With `--parallel
fsdp` (FSDP2, the default of `planned`) it has some rows of every parameter, gradient and momentum;
the weights of a block are gathered while the block computes and released again, so that a model may
be larger than the memory of one GPU.

Every process draws the same global batch and takes its own rows of it, so the result is that of one
process up to rounding. Only the main process prints and writes; but where weights are sharded, each
process writes its own rows of them (checkpoint_distributed.py).

When a process dies, torchrun sends SIGTERM to the others, and SIGKILL 30 seconds later to those
that still wait for it. Those that wait in a collective of gloo get an error at once.

Sources: Shen Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training",
2020. Samyam Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020. Yanli Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", 2023.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from picolm_lib.config import Parallel, PicoError
from picolm_lib.model.picolm import PicoLM

# The longest wait for another process: saving a checkpoint on a slow disk takes minutes.
TIMEOUT = timedelta(minutes=30)
LOST_PROCESS = ("another process of this run has ended, so all end; the same command with --resume "
                "continues from the last checkpoint.")


@dataclass(frozen=True)
class Processes:
    """The processes of this run, seen from one of them."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def check_batch_size(self, size: int) -> None:
        """Raises a PicoError where the processes cannot share a batch of this size."""
        if size % self.world_size:
            raise PicoError(f"batch_size ({size}) must be divisible by the number of processes "
                            f"({self.world_size}).")

    def local_shard(self, batch: Tensor) -> Tensor:
        """This process's rows of a (B, T) global batch."""
        self.check_batch_size(len(batch))
        return batch.chunk(self.world_size)[self.rank]

    def broadcast(self, value: float, device: torch.device) -> float:
        """The main process's value: clocks differ, decisions must not."""
        if self.world_size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def all_reduce_any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process has the flag set: a signal may reach one of them only."""
        if self.world_size == 1:
            return flag
        return bool(self.all_reduce_sum(torch.tensor(float(flag), device=device)).item())

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value


def join_processes(device: torch.device) -> Processes:
    """Joins the processes that torchrun started; alone, when it did not."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size())


def is_joined() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def is_main() -> bool:
    """Whether this is the process that speaks for all."""
    return not is_joined() or dist.get_rank() == 0


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that a collective broke, as it does when another process has died.

    It may have died while this one was still joining.
    """
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and (
        isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error))


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


class LossModule(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        return self.loss(tokens, targets)


def wrap_ddp(objective: LossModule, processes: Processes, sharded: bool) -> nn.Module:
    """Averages gradients over the processes after every backward pass, as sharded weights do."""
    if processes.world_size == 1 or sharded:
        return objective
    return DistributedDataParallel(objective)


def no_sync(objective: nn.Module, last: bool) -> AbstractContextManager:
    """Delays the averaging to the last micro-batch of a step."""
    if last or not isinstance(objective, DistributedDataParallel):
        return nullcontext()
    return objective.no_sync()


def parallelize(model: PicoLM, device: torch.device, processes: Processes,
                parallel: Parallel) -> bool:
    """Moves a model to its device, whole or sharded; True where it is sharded.

    Raises:
        PicoError: this torch cannot write sharded weights as safetensors.
    """
    sharded = parallel == "fsdp" and processes.world_size > 1
    if sharded:
        from torch.distributed import checkpoint

        if not hasattr(checkpoint, "HuggingFaceStorageWriter"):
            raise PicoError(f"--parallel fsdp needs a newer torch than {torch.__version__}; "
                            "install one, or use --parallel ddp.")
        shard(model, device)
    else:
        model.to(device)
    return sharded


def shard(model: PicoLM, device: torch.device) -> None:
    """Keeps of every parameter the rows of this process, on `device`.

    The model may be on the CPU: it moves block by block, so no GPU ever has all of it. Embedding,
    final norm and output layer belong to the model itself. They are gathered when `hidden` begins
    and stay until the backward pass is done or `state_dict` is called, so that loss and evaluation
    can use the output layer after it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")
