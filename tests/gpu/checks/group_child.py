"""What nccl.py starts under torchrun: a group of one process, on a GPU or on a CPU.

    torchrun --nproc-per-node 1 -- tests/gpu/checks/group_child.py cuda

The package itself joins no group where it is alone. So its parts for several processes are called
here one by one, in a group of one: whatever they send goes through NCCL and comes back. That tells
whether NCCL takes their calls, dtypes and views, and not whether two processes agree, which
tests/train/test_distributed.py tells with gloo. Prints one row of JSON per line.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from gpu.policies import POLICIES, farthest, random_model, random_tokens  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from picolm_lib.config import PicoConfig  # noqa: E402
from picolm_lib.model.picolm import PicoLM  # noqa: E402
from picolm_lib.train.checkpoint import load_resume  # noqa: E402
from picolm_lib.train.checkpoint_distributed import load_sharded, save_sharded  # noqa: E402
from picolm_lib.train.distributed import LossModule, Processes, no_sync, shard  # noqa: E402
from picolm_lib.train.muon import MuonAdamW, parameter_groups  # noqa: E402
from picolm_lib.train.muon_distributed import DistributedMuon, ShardedMuon  # noqa: E402

CONFIG = PicoConfig(vocab_size=512, max_seq_len=64, n_layers=3, d_model=128, n_heads=4)
FLOAT32 = POLICIES[0]


def main() -> None:
    """Joins, does every task, and leaves."""
    device = torch.device(sys.argv[1])
    if device.type == "cuda":
        device = torch.device("cuda", 0)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    for task in (collectives, split_muon, replicated, sharded, sharded_checkpoint):
        row = {"check": task.__name__.replace("_", " "), "backend": dist.get_backend(),
               "exercised": task.__doc__.splitlines()[0]}
        try:
            row |= task(device)
        except Exception as error:
            row |= {"passed": False, "error": " ".join(f"{type(error).__name__}: {error}".split())}
        print(json.dumps(row), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    # Threads of PyTorch that outlive the group have aborted processes that were done.
    os._exit(0)


def collectives(device: torch.device) -> dict[str, Any]:
    """all_reduce, broadcast of a float64, all_gather and all_to_all of bytes, objects, barrier."""
    value = torch.tensor(3.5, device=device)
    dist.all_reduce(value)
    clock = torch.tensor(1e9 + 1 / 3, dtype=torch.float64, device=device)
    dist.broadcast(clock, src=0)
    sent = torch.arange(12, dtype=torch.bfloat16, device=device).view(torch.uint8)
    gathered = sent.new_empty(1, len(sent))
    dist.all_gather(list(gathered), sent)
    exchanged = torch.empty_like(sent)
    dist.all_to_all_single(exchanged, sent, [len(sent)], [len(sent)])
    objects: list[Any] = [None]
    dist.all_gather_object(objects, {"name": "value"})
    dist.barrier()
    right = (value.item() == 3.5, clock.item() == 1e9 + 1 / 3, torch.equal(gathered[0], sent),
             torch.equal(exchanged, sent), objects == [{"name": "value"}])
    return {"passed": all(right), "right": right}


def split_muon(device: torch.device) -> dict[str, Any]:
    """DistributedMuon, which gathers directions in three dtypes, beside MuonAdamW."""
    differences = {}
    for policy in POLICIES:
        alone, split = (steps(random_model(CONFIG).to(device), kind, policy.dtype)
                        for kind in (MuonAdamW, DistributedMuon))
        differences[policy.option] = farthest(split, alone)[0]
    return {"passed": all(difference <= policy.output for difference, policy in zip(
        differences.values(), POLICIES, strict=True)), "differences": differences}


def replicated(device: torch.device) -> dict[str, Any]:
    """DistributedDataParallel around the loss, with no_sync for the first micro-batch."""
    model = random_model(CONFIG).to(device)
    wanted = gradients(model, LossModule(model, model.loss), device)
    found = gradients(model, DistributedDataParallel(LossModule(model, model.loss)), device)
    difference, name = farthest(found, wanted)
    return {"passed": difference <= FLOAT32.gradient, "difference": difference, "of": name}


def sharded(device: torch.device) -> dict[str, Any]:
    """fully_shard, its norm of the gradient, and ShardedMuon, beside one model that is whole."""
    whole, parts = random_model(CONFIG).to(device), random_model(CONFIG)
    shard(parts, device)
    norms, weights = [], []
    for model, kind in ((whole, MuonAdamW), (parts, ShardedMuon)):
        optimizer = kind(parameter_groups(model), dtype=torch.float32)
        for _ in range(2):
            loss(model, device).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        norms.append(plain(norm).item())
        weights.append(state(model))
    # The differences of two steps' gradients are in the weights.
    difference, name = farthest(weights[1], weights[0])
    return {"passed": difference <= FLOAT32.gradient, "difference": difference, "of": name,
            "norms": norms}


def sharded_checkpoint(device: torch.device) -> dict[str, Any]:
    """A checkpoint of sharded weights and momenta, written and read again."""
    models = [random_model(CONFIG, seed) for seed in (1, 2)]
    optimizers = []
    for model in models:
        shard(model, device)
        optimizers.append(ShardedMuon(parameter_groups(model), dtype=torch.float32))
        loss(model, device).backward()
        optimizers[-1].step()
    with TemporaryDirectory() as name:
        save_sharded(Path(name), models[0], optimizers[0], {"identity": {"run": "gpu"}},
                     Processes())
        load_sharded(load_resume(Path(name)), models[1], optimizers[1])
    one, other = (state(model) for model in models)
    momenta = [[plain(value) for p in model.parameters() for value in optimizer.state[p].values()]
               for model, optimizer in zip(models, optimizers, strict=True)]
    same = [all(map(torch.equal, one.values(), other.values())),
            all(map(torch.equal, *momenta))]
    return {"passed": all(same), "equal": same}


def steps(model: PicoLM, kind: Callable[..., MuonAdamW], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights after two steps along random gradients."""
    generator = torch.Generator().manual_seed(6)
    optimizer = kind(parameter_groups(model), dtype=dtype)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        optimizer.step()
    return state(model)


def gradients(model: PicoLM, objective: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Those of two micro-batches."""
    model.zero_grad()
    inputs, targets = (tensor.to(device) for tensor in random_tokens(CONFIG, sequences=4))
    for number, (x, y) in enumerate(zip(inputs.split(2), targets.split(2), strict=True)):
        with no_sync(objective, last=number == 1):
            objective(x, y).backward()
    return {name: copy.deepcopy(p.grad) for name, p in model.named_parameters()}


def loss(model: PicoLM, device: torch.device) -> Tensor:
    """Of random tokens."""
    return model.loss(*(tensor.to(device) for tensor in random_tokens(CONFIG, sequences=2)))


def state(model: PicoLM) -> dict[str, Tensor]:
    """Its weights, whole."""
    return {name: plain(value).detach().clone() for name, value in model.state_dict().items()}


def plain(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


if __name__ == "__main__":
    main()
