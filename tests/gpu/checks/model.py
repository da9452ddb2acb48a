"""Forward pass, loss and gradients on the GPU, beside the CPU."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.attention
from gpu.policies import (
    CPU,
    POLICIES,
    Policy,
    compared,
    distance,
    farthest,
    model_config,
    random_model,
    random_tokens,
)
from torch import Tensor
from torch.nn.attention import SDPBackend

from picolm_lib.device import Precision
from picolm_lib.model.picolm import PicoLM

# Those of its kernels that keep no T x T scores.
KERNELS = {"float32": SDPBackend.EFFICIENT_ATTENTION, "bfloat16": SDPBackend.FLASH_ATTENTION,
           "float16 of a T4": SDPBackend.EFFICIENT_ATTENTION}
SCALE = 2.0**16  # of the loss in float16, where a GradScaler begins


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Logits, loss and every gradient of pico, in float32, bfloat16 and the T4's policy."""
    config = model_config(options)
    model, batch = random_model(config), random_tokens(config, sequences=2)
    wanted = one_pass(model, batch, CPU)
    model.to("cuda")
    for policy in POLICIES:
        with policy.kernels():
            found = one_pass(model, batch, policy.precision())
        yield compared("logits", policy, distance(found.logits, wanted.logits), policy.output)
        # A mean over many tokens: their errors cancel out.
        yield compared("loss", policy, abs(found.loss / wanted.loss - 1), policy.output / 4,
                       loss=found.loss)
        difference, name = farthest(found.gradients, wanted.gradients)
        yield compared("gradients", policy, difference, policy.gradient, of=name,
                       loss_scale=found.scale)
        yield attention_kernel(policy, model, batch)


class Pass(NamedTuple):
    """What a pass leaves."""

    logits: Tensor
    loss: float
    gradients: dict[str, Tensor]
    scale: float
    """Of the loss; in float16 small gradients would be lost."""


def one_pass(model: PicoLM, batch: tuple[Tensor, Tensor], precision: Precision) -> Pass:
    """Forward and backward."""
    inputs, targets = precision.to_device(*batch)
    with precision.autocast(), torch.no_grad():
        logits = model(inputs)
    scale = SCALE if precision.scales_gradients else 1.0
    while True:
        model.zero_grad()
        with precision.autocast():
            loss = model.loss(inputs, targets)
        (loss * scale).backward()
        gradients = {name: torch.zeros_like(parameter) if parameter.grad is None
                     else parameter.grad / scale for name, parameter in model.named_parameters()}
        # As a GradScaler does, which has a step skipped for it.
        if scale == 1 or all(gradient.isfinite().all() for gradient in gradients.values()):
            return Pass(logits, loss.item(), gradients, scale)
        scale /= 2


def attention_kernel(policy: Policy, model: PicoLM, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Whether a kernel that keeps no T x T scores takes what the model gives it.

    And which kernel PyTorch chooses where nobody tells it: cuDNN's on some GPUs.
    """
    precision, backend = policy.precision(), KERNELS[policy.name]
    inputs, targets = precision.to_device(*batch)
    row: dict[str, Any] = {"check": "attention without T x T scores", "policy": policy.name,
                           "kernel": backend.name}
    with warnings.catch_warnings(record=True) as reasons:
        warnings.simplefilter("always")
        try:
            with (policy.kernels(), torch.nn.attention.sdpa_kernel(backend), precision.autocast()):
                model.loss(inputs, targets).backward()
        except RuntimeError as refused:
            row["refused"] = [str(refused), *(str(reason.message) for reason in reasons)]
    row["passed"] = "refused" not in row
    shape = (len(inputs), model.config.n_heads, model.config.max_seq_len, model.config.head_dim)
    q = k = torch.zeros(shape, dtype=policy.dtype, device="cuda")
    if grouped := policy.name == "bfloat16":
        k = k[:, :model.config.n_kv_heads]
    with policy.kernels():
        choice = torch._fused_sdp_choice(q, k, k, is_causal=True, enable_gqa=grouped)
    return {**row, "chosen": SDPBackend(choice).name}
