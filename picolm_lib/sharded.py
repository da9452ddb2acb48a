"""Weights spread over processes: each holds its rows of every parameter, gradient and momentum.

A block's weights are gathered when the block is at work and let go again, so a model may be larger
than one GPU's memory. PyTorch's `fully_shard` (FSDP2) does that.

    torchrun --nproc-per-node 8 -- run_train.py --preset planned --run runs/planned

Sources: Samyam Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020. Yanli Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", 2023.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from picolm_lib.config import Parallel, PicoError
from picolm_lib.distributed import Processes
from picolm_lib.model import PicoLM


def place(model: PicoLM, device: torch.device, processes: Processes, parallel: Parallel) -> bool:
    """Brings a model to its device, whole or sharded; True where it is sharded.

    Raises:
        PicoError: this torch cannot write sharded weights as safetensors.
    """
    sharded = parallel == "fsdp" and processes.count > 1
    if sharded:
        from torch.distributed import checkpoint

        if not hasattr(checkpoint, "HuggingFaceStorageWriter"):
            raise PicoError(f"--parallel fsdp needs a newer torch than {torch.__version__}; "
                            "install one, or take --parallel ddp.")
        shard(model, device)
    else:
        model.to(device)
    return sharded


def shard(model: PicoLM, device: torch.device) -> None:
    """Leaves of every parameter this process's rows, on `device`.

    The model may be on the CPU: it moves block by block, so no GPU ever holds all of it. Embedding,
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
