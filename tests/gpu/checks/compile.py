"""torch.compile of the loss: the same value and gradients, and the seconds that it takes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import torch
from gpu.checks.model import SCALE
from gpu.policies import POLICIES, compared, farthest, model_config, random_model, random_tokens

from picolm_lib.device import compiled


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Two blocks of pico, since each block is compiled anew; beside the same without compiling."""
    model = random_model(model_config(options, n_layers=2)).to("cuda")
    batch = random_tokens(model.config, sequences=2)
    for policy in POLICIES:
        precision = policy.precision()
        inputs, targets = precision.to_device(*batch)
        scale = SCALE / 64 if policy.of_a_t4 else 1.0
        found = {}
        with policy.kernels():
            for name, loss in (("plain", model.loss), ("compiled", compiled(
                    model.loss, precision.device))):
                model.zero_grad()
                started = time.monotonic()
                with precision.autocast():
                    value = loss(inputs, targets)
                (value * scale).backward()
                found[name] = (value.item(), {n: p.grad for n, p in model.named_parameters()},
                               round(time.monotonic() - started, 1))
        plain, fast = found["plain"], found["compiled"]
        yield compared("compiled loss", policy, abs(fast[0] / plain[0] - 1), policy.output / 4,
                       seconds=fast[2])
        difference, name = farthest(fast[1], plain[1])
        yield compared("compiled gradients", policy, difference, policy.gradient, of=name)
        torch.compiler.reset()
