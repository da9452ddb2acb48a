"""Checkpoints of sharded weights: every process writes its rows, any number of them reads.

    resume/shard-00001-model-00001-of-00001.safetensors    the rows of the first process
    resume/shard-00002-...                                 those of the second, and so on
    resume/state.pt                                        the rest, and the SHA-256 of each shard

torch.distributed.checkpoint does the writing and reading, in its storage of safetensors: its usual
one keeps a pickle beside the tensors, and unpickling can run code. `state.pt` is written as
resume.pt is and like it read without unpickling any object.

The folder gets its name when all of it is on the disk, and the checkpoint before it becomes
resume.previous, whether that is a folder or a file: a run may change from one kind to the other.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from picolm_lib.config import PicoError
from picolm_lib.files import disk_errors, file_sha256, save_tensors
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import (
    STATE,
    replace_last,
    write_state,
)
from picolm_lib.train.distributed import Processes
from picolm_lib.train.weights import describe

if TYPE_CHECKING:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.tensor import DTensor


def save_sharded(folder: Path, model: PicoLM, optimizer: torch.optim.Optimizer,
                 rest: dict[str, Any], processes: Processes) -> None:
    """Writes a run's checkpoint and its model.safetensors; all processes call it together.

    Args:
        rest: the small part of the state, the same in all processes.

    Raises:
        PicoError: the disk is full, or a process could not write for another reason.
    """
    import torch.distributed.checkpoint as dcp

    new = folder / "resume.new"
    if processes.is_main:
        with disk_errors(new):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
    dist.barrier()
    tensors, others = _tensors(model, optimizer)
    try:
        dcp.save(tensors, storage_writer=dcp.HuggingFaceStorageWriter(
            str(new), save_distributed=True))
    except dcp.api.CheckpointException as error:
        raise _most_telling(error, new) from None
    mine = {path.name: file_sha256(path) for path in new.glob(f"shard-{processes.rank + 1:05d}-*")}
    everybody: list = [None] * processes.world_size
    dist.all_gather_object(everybody, mine)
    if processes.is_main:
        write_state(new / STATE, {**rest, "others": others, "tensors": list(tensors),
                                  "shards": {k: v for part in everybody for k, v in part.items()}})
        replace_last(folder, new)
    weights = _whole_weights(model, keep=processes.is_main)
    if processes.is_main:
        about = describe(model, rest["identity"]["run"])
        save_tensors(folder / "model.safetensors", weights, **about)


def load_sharded(state: dict[str, Any], model: PicoLM, optimizer: torch.optim.Optimizer) -> None:
    """Resumes from a checkpoint where it, the model, or both are sharded.

    Args:
        state: from `load_resume`.
    """
    (_load_shards if "folder" in state else _load_whole)(state, model, optimizer)


def _load_shards(state: dict[str, Any], model: PicoLM, optimizer: torch.optim.Optimizer) -> None:
    """Reads this process's rows of weights and momenta."""
    import torch.distributed.checkpoint as dcp

    parameters = dict(model.named_parameters())
    for name in state["tensors"]:
        part, _, parameter = name.partition(":")
        if part != "weight":
            like = parameters[parameter]
            optimizer.state[like][part] = torch.zeros_like(like, requires_grad=False)
    for name, values in state["others"].items():
        optimizer.state[parameters[name]].update(values)
    tensors, _ = _tensors(model, optimizer)
    with warnings.catch_warnings():
        # A single process may read what several have written: that is intended.
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(state["folder"])))


def _load_whole(state: dict[str, Any], model: PicoLM, optimizer: torch.optim.Optimizer) -> None:
    """Takes this process's rows of the tensors in resume.pt."""
    for name, parameter in model.state_dict().items():
        parameter.copy_(_rows(state["model"][name], parameter))
    moments, order = state["optimizer"], [p for g in optimizer.param_groups for p in g["params"]]
    for number, values in moments["state"].items():
        like = order[number]
        optimizer.state[like] = {key: _rows(value, like) if value.shape == like.shape else value
                                 for key, value in values.items()}


def _whole_weights(model: PicoLM, keep: bool) -> dict[str, Tensor]:
    """All weights on the CPU, gathered one by one; empty in processes that do not `keep` them."""
    weights = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor()
        if keep:
            weights[name] = whole.cpu()
    return weights


def _tensors(model: PicoLM, optimizer: torch.optim.Optimizer,
             ) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """What is as large as a parameter, by names such as "exp_avg:output.weight"; and the rest."""
    tensors = {f"weight:{name}": value for name, value in model.state_dict().items()}
    others: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            if value.shape == parameter.shape:
                tensors[f"{key}:{name}"] = value
            else:
                others.setdefault(name, {})[key] = value
    return tensors, others


def _rows(whole: Tensor, like: DTensor) -> Tensor:
    """This process's rows of a tensor that every process has."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements,
                             src_data_rank=None)


def _most_telling(error: CheckpointException, path: Path) -> BaseException:
    """Of several processes' errors the most telling one: a full disk before a broken collective."""
    causes = [cause for cause, _ in error.failures.values()]
    for cause in causes:
        try:
            with disk_errors(path):
                raise cause
        except PicoError as line:
            return line
        except BaseException:
            continue
    return causes[0]
