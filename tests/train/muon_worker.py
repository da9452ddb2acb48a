"""What test_distributed.py starts in three processes: Muon, its work split and its weights sharded.

Prints one JSON line per process: the largest differences from an unsplit MuonAdamW, the share of
the Newton-Schulz work that the process did, and the most numbers it had at once in whole matrices.
"""

from __future__ import annotations

import json
import os

import torch
import torch.distributed as dist

import picolm_lib.train.muon
from picolm_lib.config import PicoConfig
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.distributed import join_processes, shard
from picolm_lib.train.muon import MuonAdamW, newton_schulz, parameter_groups
from picolm_lib.train.muon_distributed import DistributedMuon, ShardedMuon, cost

# Heads, KV heads and norms that three processes cannot share evenly.
CONFIG = PicoConfig(vocab_size=50, max_seq_len=8, n_layers=5, d_model=40, n_heads=10, n_kv_heads=5,
                    multiple_of=8)
work = []


def counted(matrices: torch.Tensor, **options) -> torch.Tensor:
    work.append((len(matrices) * cost(*matrices.shape[1:]), matrices.numel()))
    return newton_schulz(matrices, **options)


def train(model: PicoLM, optimizer: MuonAdamW, place=lambda gradient, like: gradient) -> list:
    work.clear()
    for step in range(3):
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(1000 * step + len(name))
            parameter.grad = place(torch.randn(parameter.shape, generator=generator), parameter)
        optimizer.step()
    return list(work)


def main() -> None:
    from torch.distributed.tensor import distribute_tensor

    picolm_lib.train.muon.newton_schulz = counted
    processes = join_processes(torch.device("cpu"))
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        options = {"dtype": dtype, "weight_decay": 0.1}
        alone, split, sharded = (PicoLM(CONFIG) for _ in range(3))
        names = {parameter: name for name, parameter in alone.named_parameters()}
        all_work = train(alone, MuonAdamW(parameter_groups(alone), **options))
        shard(sharded, torch.device("cpu"))
        done = {
            "split": (split, train(split, DistributedMuon(parameter_groups(split),
                                                    **options))),
            "sharded": (sharded, train(
                sharded, ShardedMuon(parameter_groups(sharded), **options),
                lambda gradient, like: distribute_tensor(gradient, like.device_mesh,
                                                         like.placements)))}
        for name, (model, its_work) in done.items():
            whole = {key: getattr(value, "full_tensor", lambda value=value: value)()
                     for key, value in model.state_dict().items()}
            difference = {key: (whole[key] - value).abs().max().item()
                          for key, value in alone.state_dict().items()}
            by_muon = {names[p] for group in parameter_groups(alone) if group["kind"] == "muon"
                       for p in group["params"]}
            result[f"{name} {str(dtype)[6:]}"] = {
                "muon": max(difference[key] for key in by_muon),
                "adamw": max(difference[key] for key in difference.keys() - by_muon),
                "share": sum(c for c, _ in its_work) / sum(c for c, _ in all_work),
                "most": max(n for _, n in its_work)}
    result["largest"] = max(p.numel() for block in alone.blocks for p in block.parameters())
    for rank in range(processes.world_size):  # one line at a time
        if rank == processes.rank:
            print(json.dumps(result), flush=True)
        dist.barrier()
    # What PyTorch's threads do while a process ends is not what is tested here: once in a while one
    # of them aborts it.
    os._exit(0)


if __name__ == "__main__":
    main()
