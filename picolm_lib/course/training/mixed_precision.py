"""What 16-bit formats can represent, and what they lose of a model's real gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from picolm_lib.course.plots import BLUE, GREEN, ORANGE, RED, SKY, Picture, canvas, finish
from picolm_lib.model.picolm import PicoLM

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALES = tuple(range(0, 33, 2))  # exponents of 2


@dataclass(frozen=True)
class Lost:
    """What float16 loses of some nonzero numbers."""

    zeros: float
    """Share that becomes exactly zero."""
    infinite: float
    """Share that becomes infinite."""


def lost(values: Tensor, scale: float, dtype: torch.dtype = torch.float16) -> Lost:
    """What is lost when `values` are multiplied by `scale` and rounded to `dtype`."""
    values = values[values != 0]
    if not len(values):
        return Lost(0.0, 0.0)
    rounded = (values.double() * scale).to(dtype)
    return Lost((rounded == 0).double().mean().item(), rounded.isinf().double().mean().item())


def real_gradients(model: PicoLM, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """All gradients of one backward pass in float32, by what they belong to.

    Returns:
        "weights": of every parameter. "activations": of every block's output, (B, T, D) each, from
        which the gradients of the weights are computed. Each as one flat tensor.
    """
    found: list[Tensor] = []
    model.zero_grad()
    with ExitStack() as stack:
        for block in model.blocks:
            handle = block.register_forward_hook(
                lambda module, inputs, output: output.register_hook(
                    lambda gradient: found.append(gradient.detach().flatten())) and None)
            stack.callback(handle.remove)
        model.loss(tokens, targets).backward()
    weights = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return {"weights": weights, "activations": torch.cat(found)}


def draw_ranges(gradients: dict[str, Tensor]) -> Picture:
    """The positive numbers that three formats can represent, and where real gradients are.

    Args:
        gradients: of which a band shows the range of 98%, from the 1st to the 99th percentile.
    """
    figure, axes = canvas(2.8)
    for row, dtype in enumerate(FORMATS.values()):
        info = torch.finfo(dtype)
        smallest = math.log10(info.smallest_normal)
        finest, largest = smallest + math.log10(info.eps), math.log10(info.max)
        axes.barh(row, largest - smallest, left=smallest, height=0.5, color=BLUE)
        axes.barh(row, smallest - finest, left=finest, height=0.5, color=SKY)
        axes.text(largest + 1, row, f"{-math.log10(info.eps):.1f} digits", va="center")
    half = torch.finfo(torch.float16)
    bands = []
    for row, (name, values) in enumerate(gradients.items(), start=len(FORMATS)):
        low, high = np.percentile(values[values != 0].abs().log10().numpy(), (1, 99))
        axes.barh(row, high - low, left=low, height=0.5, color=ORANGE)
        axes.axvspan(low, high, color=ORANGE, alpha=0.12, linewidth=0)
        bands.append(f"98% of the gradients of the {name} are between 1e{low:.1f} and 1e{high:.1f}")
        # The caption's claim.
        assert low < math.log10(half.smallest_normal * half.eps), f"{name} fit into float16"
    names = [*FORMATS, *(f"gradients:\n{name}" for name in gradients)]
    axes.set(yticks=range(len(names)), yticklabels=names, xlim=(-47, 52),
             xlabel="power of ten (light: subnormal numbers, with fewer digits)",
             title="From the smallest to the largest number above zero",
             ylim=(len(names) - 0.5, -0.5))
    axes.grid(False, axis="y")
    return finish(figure, "float32 and bfloat16 have the same range, bfloat16 with 2.1 digits "
                          f"instead of 6.9; float16 ends at {half.max:,.0f} and loses digits below "
                          f"{half.smallest_normal:.0e}; " + "; ".join(bands) + ".")


def draw_lost(gradients: dict[str, Tensor], exponents: Sequence[int] = SCALES) -> Picture:
    """The share of gradients that float16 loses, by the loss scale."""
    figure, axes = canvas(3.7)
    texts = []
    for (name, values), color in zip(gradients.items(), (BLUE, GREEN), strict=False):
        shares = [lost(values, 2.0**exponent) for exponent in exponents]
        axes.plot(exponents, [100 * s.zeros for s in shares], "o-", color=color, markersize=4,
                  label=f"{name}: becomes 0")
        axes.plot(exponents, [100 * s.infinite for s in shares], "x:", color=color, markersize=6,
                  label=f"{name}: becomes infinite")
        texts.append(f"{shares[0].zeros:.1%} of the {name}' gradients vanish without a scale")
    axes.axvline(16, color=RED, linewidth=1)
    axes.text(16.3, axes.get_ylim()[1] * 0.6, "GradScaler\nstarts here", color=RED)
    axes.set(xlabel="loss scale (power of 2)", ylabel="share of the gradients (%)",
             title="What float16 loses of real gradients")
    figure.legend(loc="outside upper center", ncols=2)
    return finish(figure, "; ".join(texts) + ".")
