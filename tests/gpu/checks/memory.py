"""Memory of a real GPU: accumulation, what happens when it runs out, and the estimate of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gpu.policies import (
    POLICIES,
    Policy,
    Row,
    compared,
    distance,
    farthest,
    forget,
    model_config,
    new_trainer,
    random_model,
    set_scale,
    settled_scale,
)
from torch import Tensor

from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.estimate import MemoryEstimate
from picolm_lib.train.trainer import Trainer

BATCH = 32
SMALL_BATCH = 8
# The estimate knows no workspaces of cuBLAS and of attention's way back, and not what a kernel
# keeps in another dtype.
RATIO = 0.75, 1.25


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Steps of 32 sequences of pico: all at once, in parts, and halved for want of memory."""
    batch = SMALL_BATCH if options.small else BATCH
    # A new model's output layer is zero, and then many gradients are.
    model = random_model(model_config(options))
    # What counts is the size of a number and not its format, and counting takes seconds.
    estimates = {size: MemoryEstimate(model.config, dtype)
                 for size, dtype in ((4, torch.float32), (2, torch.bfloat16))}
    for policy in POLICIES:
        with policy.kernels():
            scale = settled_scale(model.config, policy, model=model) if policy.of_a_t4 else 0
            runs = Runs(model, policy, scale, batch)
            whole, parts = runs.measure(batch), runs.measure(batch // 4)
            yield compared("accumulated loss", policy, abs(parts.loss / whole.loss - 1),
                           policy.output / 4)
            difference, name = farthest(parts.gradients, whole.gradients)
            yield compared("accumulated gradients", policy, difference, policy.gradient, of=name)
            estimated = estimates[policy.dtype.itemsize]
            for size, one in ((batch, whole), (batch // 4, parts)):
                yield beside_estimate(estimated, policy, size, one.peak)
            yield out_of_memory(runs, (whole.peak + parts.peak) // 2)


class Measured(NamedTuple):
    """What two steps told."""

    loss: float
    gradients: dict[str, Tensor]
    peak: int
    """Bytes that were allocated at once, beside what was before."""


@dataclass(frozen=True)
class Runs:
    """Runs that differ in their micro-batches only."""

    model: PicoLM
    policy: Policy
    scale: float
    batch: int

    def start(self, size: int) -> Trainer:
        """One with micro-batches of this size."""
        trainer = new_trainer(self.model.config, model=self.model, dtype=self.policy.option,
                              batch_size=self.batch, micro_batch_size=size)
        set_scale(trainer, self.scale)
        return trainer

    def measure(self, size: int) -> Measured:
        """Loss and gradients of the first batch, and the peak of the second step."""
        before = forget()
        trainer = self.start(size)
        loss = trainer.accumulate_gradients(*trainer.batches.next(), trainer.batch_tokens).item()
        gradients = {name: parameter.grad.cpu() / (self.scale or 1)
                     for name, parameter in trainer.model.named_parameters()}
        trainer.optimizer.zero_grad()
        trainer.step()  # allocates the momenta
        torch.cuda.reset_peak_memory_stats()
        trainer.step()
        return Measured(loss, gradients, torch.cuda.max_memory_allocated() - before)


def beside_estimate(estimated: MemoryEstimate, policy: Policy, size: int, peak: int) -> Row:
    """A peak beside what `picolm estimate` says.

    Only a figure in float32, in which nobody trains on a GPU.
    """
    expected = estimated.memory(1, False, size).total
    row = {"check": "peak beside its estimate", "policy": policy.name, "micro_batch": size,
           "bytes": peak, "estimated": expected, "ratio": round(peak / expected, 3)}
    passed = RATIO[0] <= peak / expected <= RATIO[1]
    return row if policy.dtype == torch.float32 else {**row, "passed": passed}


def out_of_memory(runs: Runs, limit: int) -> Row:
    """Two steps with less memory than the whole batch needs, and the same with enough of it."""
    limit += forget()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        short = runs.start(runs.batch)
        losses = [short.step()["loss"] for _ in range(2)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    size = short.micro_batch_size
    enough = runs.start(size)
    wanted = [enough.step()["loss"] for _ in range(2)]
    pairs = list(zip(short.model.parameters(), enough.model.parameters(), strict=True))
    difference = max(distance(one, other) for one, other in pairs)
    row = compared("halved for want of memory", runs.policy, difference, runs.policy.output,
                   limit=limit, micro_batch=size, losses=losses,
                   equal=losses == wanted and difference == 0)
    return {**row, "passed": row["passed"] and size < runs.batch}
