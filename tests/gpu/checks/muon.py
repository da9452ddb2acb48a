"""Muon on the GPU: Newton-Schulz in three dtypes, in stacks and one by one, and whole steps."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from typing import Any

import torch
from gpu.policies import (
    POLICIES,
    Policy,
    compared,
    distance,
    farthest,
    model_config,
    random_model,
)
from torch import Tensor

from picolm_lib.model.picolm import PicoLM
from picolm_lib.train import muon

STEPS = 3


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Newton-Schulz against float64, and three steps of MuonAdamW against the CPU in float32."""
    model = random_model(model_config(options))
    for policy in POLICIES:
        yield from directions(policy, model)
    gradients = [{name: torch.randn(parameter.shape, generator=generator)
                  for name, parameter in model.named_parameters()}
                 for generator in [torch.Generator().manual_seed(4)] for _ in range(STEPS)]
    wanted = updates(model, gradients, "cpu", torch.float32)
    by_muon = {name for name in wanted if name.startswith("blocks.") and wanted[name].ndim > 1}
    for policy in POLICIES:
        found = updates(model, gradients, "cuda", policy.dtype)
        difference, name = farthest(found, {name: wanted[name] for name in by_muon})
        yield compared(f"{STEPS} steps of Muon", policy, difference, policy.output, of=name)
        difference, name = farthest(found, {name: wanted[name] for name in wanted.keys() - by_muon})
        # AdamW computes in float32, whatever the matrix products do; fused, it has another formula.
        yield compared(f"{STEPS} steps of AdamW", policy, difference, 4 * POLICIES[0].output,
                       of=name)


def directions(policy: Policy, model: PicoLM) -> Iterator[dict[str, Any]]:
    """Newton-Schulz for every shape of matrix that the model has."""
    block = model.blocks[-1]
    generator = torch.Generator().manual_seed(5)
    shapes = {weight.shape[-2:] for weight in block.parameters() if weight.ndim > 1}
    for rows, cols in sorted(shapes):
        # Gradients are as small as this, and float16 begins at 6e-8.
        stack = 1e-6 * torch.randn(3, rows, cols, generator=generator)
        wanted = muon.newton_schulz(stack.double(), dtype=torch.float64)
        stack = stack.to("cuda")
        found = muon.newton_schulz(stack, dtype=policy.dtype)
        shape = f"{rows} x {cols}"
        yield compared("Newton-Schulz", policy, distance(found, wanted), policy.output, shape=shape)
        alone = torch.stack([muon.newton_schulz(matrix, dtype=policy.dtype) for matrix in stack])
        # Other kernels, whose sums have another order.
        yield compared("Newton-Schulz one by one", policy, distance(alone, found), policy.output,
                       shape=shape, equal=bool(torch.equal(alone, found)))


def updates(model: PicoLM, gradients: list[dict[str, Tensor]], device: str,
            dtype: torch.dtype) -> dict[str, Tensor]:
    """What the optimizer changes, on the CPU."""
    moved = copy.deepcopy(model).to(device)
    # Steps so long that the weights before them do not take their digits.
    optimizer = muon.MuonAdamW(muon.parameter_groups(moved), muon_lr=1.0, adamw_lr=1.0,
                               vector_lr=1.0, dtype=dtype)
    for step in gradients:
        for name, parameter in moved.named_parameters():
            parameter.grad = step[name].to(device)
        optimizer.step()
    before = dict(model.named_parameters())
    return {name: parameter.detach().cpu() - before[name].detach()
            for name, parameter in moved.named_parameters()}
