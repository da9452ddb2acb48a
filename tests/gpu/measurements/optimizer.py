"""Muon's share of a training step, and what fusing and lists of tensors save.

Milliseconds of pico's forward and backward passes over a batch, of MuonAdamW's step as a whole and
in its two parts, of the same Muon in a loop over the parameters, and of AdamW's part as one fused
kernel, as lists (foreach) and in a loop. Then MuonAdamW beside torch.optim.Muon
(tests/benchmarks/speed_optimizer.py).

GPU time on an H100, an estimate: 12 turns of at most 0.3 s, 20 seconds with the building of models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline
from gpu.policies import forget, random_tokens
from record import in_turns
from speed_optimizer import steps, with_gradients
from torch import Tensor

from picolm_lib.config import PRESETS
from picolm_lib.device import Precision, choose_precision
from picolm_lib.train.muon import MuonAdamW, parameter_groups

PASS, WHOLE = "forward and backward", "MuonAdamW"


class LoopedMuon(MuonAdamW):
    """Muon that takes one parameter at a time in all but Newton-Schulz."""

    def _muon(self, groups: list[dict]) -> None:
        weights: list[Tensor] = []
        updates: list[Tensor] = []
        lengths: list[float] = []
        for group in groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                weights += self.matrices(parameter, group["rows"])
                updates += (found := self.matrices(update, group["rows"]))
                lengths += [group["lr"] * self.scale(*matrix.shape) for matrix in found]
        for weight, direction, length in zip(weights, self.orthogonalize(updates), lengths,
                                             strict=True):
            weight.add_(direction, alpha=-length)


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each task, then one for each rival of the whole step."""
    end, chosen = deadline(options), choose_precision()
    preset, repeats = ("smoke", 1) if options.small else ("pico", 10)
    taken = in_turns(tasks(preset, chosen), repeats)
    step = taken[PASS][0] + taken[WHOLE][0]
    for name, (seconds, _) in taken.items():
        yield {"preset": preset, "task": name, "device": str(chosen.device),
               "dtype": str(chosen.dtype).removeprefix("torch."), "ms": round(1e3 * seconds, 3),
               "share of pass and MuonAdamW": round(seconds / step, 4)}
    forget()
    if time.monotonic() > end:
        yield {"preset": preset, "end": OUT_OF_MINUTES}
        return
    rivals = argparse.Namespace(device="auto", dtype="auto", repeats=repeats)
    yield from ({"task": "beside torch.optim.Muon"} | row for row in steps(preset, rivals))


def tasks(preset: str, chosen: Precision) -> dict[str, Callable[[], object]]:
    """All on one model: no step changes how long the next one takes."""
    model, train = with_gradients(preset, chosen.device), PRESETS[preset].train
    groups = {kind: [group for group in parameter_groups(model) if group["kind"] == kind]
              for kind in ("muon", "adamw")}
    others = [p for group in groups["adamw"] for p in group["params"]]
    batch = chosen.to_device(*random_tokens(model.config, train.batch_size))
    parts = [part.split(train.micro_batch_size or train.batch_size) for part in batch]

    def both_passes() -> None:
        for inputs, targets in zip(*parts, strict=True):
            with chosen.autocast():
                loss = model.loss(inputs, targets)
            torch.autograd.grad(loss, list(model.parameters()))

    muon = partial(MuonAdamW, dtype=chosen.dtype)
    adamw = partial(torch.optim.AdamW, others, lr=1e-4)
    return {
        PASS: both_passes, WHOLE: muon(parameter_groups(model)).step,
        "Muon, lists of tensors": muon(groups["muon"]).step,
        "Muon, a loop": LoopedMuon(groups["muon"], dtype=chosen.dtype).step,
        "AdamW, as MuonAdamW has it": muon(groups["adamw"]).step,
        "AdamW, fused": adamw(fused=True).step, "AdamW, foreach": adamw(foreach=True).step,
        "AdamW, a loop": adamw(foreach=False).step}
