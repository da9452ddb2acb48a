"""Pictures of widths, scales, histograms and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.course.plots import (
    BLUE,
    CYCLE,
    GREEN,
    ORANGE,
    RED,
    Picture,
    canvas,
    finish,
)
from picolm_lib.model.picolm import PicoLM

# Where a gradient of exactly zero is drawn, since its logarithm does not exist.
DEAD = 1e-12


def draw_gating(up: Sequence[float] = (-1.0, 0.5, 2.0)) -> Picture:
    """SwiGLU's output by its gate, for several values of the other branch."""
    figure, (left, right) = canvas(2.9, 1, 2)
    x = torch.linspace(-6, 6, 200, device="cpu")
    for name, curve, color in (("ReLU", F.relu(x), ORANGE), ("SiLU", F.silu(x), BLUE)):
        left.plot(x.numpy(), curve.numpy(), color=color, label=name)
    for value, color in zip(up, (RED, GREEN, BLUE), strict=False):
        right.plot(x.numpy(), (F.silu(x) * value).numpy(), color=color, label=f"up = {value:g}")
    left.set(xlabel="x", ylabel="f(x)", title="Two activation functions")
    right.set(xlabel="gate", ylabel="silu(gate) · up", title="SwiGLU: the gate scales up")
    left.legend()
    right.legend()
    return finish(figure, "SiLU is a soft ReLU. In SwiGLU it decides how much of a second value "
                          "passes, which may be negative.")


def draw_scales(scales: Mapping[str, Sequence[float]], title: str, top: float = 100.0) -> Picture:
    """The scale of the residual stream after the embedding and after every block, up to `top`."""
    figure, axes = canvas(3.6)
    markers = ("o", "s", "x", "^")
    for (name, values), marker in zip(scales.items(), markers, strict=False):
        axes.plot(values, marker=marker, markersize=6, label=name)
    axes.set(yscale="log", xlabel="blocks passed (0: the embedding)", ylabel="rms of the stream",
             title=title, ylim=(None, top))
    figure.legend(loc="outside upper center", ncols=2)
    ends = {name: f"{values[-1]:.3g}" if values[-1] < top else f"over {top:g}"
            for name, values in scales.items()}
    ends |= {name: "too large for float32" for name, values in scales.items()
             if not math.isfinite(values[-1])}
    return finish(figure, "The stream's scale at the end: "
                          + ", ".join(f"{name} {end}" for name, end in ends.items()) + ".")


def draw_histograms(rows: Mapping[str, Sequence[Tensor]], label: str, title: str) -> Picture:
    """Histograms of log10 |value| by depth: one panel per row, one curve per block.

    Args:
        rows: name -> one tensor for each block.
        label: what the values are, for the axis.
    """
    figure, axes = canvas(3.0, 1, len(rows), sharex=True, sharey=True, squeeze=False)
    values = [[_magnitudes(tensor) for tensor in tensors] for tensors in rows.values()]
    seen = np.concatenate([v for row in values for v in row if v.size])
    edges = np.linspace(np.quantile(seen, 0.001), seen.max(), 50)
    for cell, name, row in zip(axes[0], rows, values, strict=True):
        for block, logs in enumerate(row):
            if logs.size:
                share = np.histogram(logs, edges)[0] / logs.size
                cell.stairs(100 * share, edges, color=CYCLE[block % len(CYCLE)], linewidth=1.5,
                            label=f"block {block}")
            else:
                cell.plot([], [], color=CYCLE[block % len(CYCLE)], label=f"block {block}: all 0")
        cell.set(xlabel=f"log10 of |{label}|", title=name)
        cell.legend(handlelength=1)
    axes[0][0].set_ylabel("share (%)")
    figure.suptitle(title)
    medians = {name: [10 ** float(np.median(v)) if v.size else 0.0 for v in row]
               for name, row in zip(rows, values, strict=True)}
    return finish(figure, "; ".join(f"{name}: median {m[0]:.1e} in the first block, {m[-1]:.1e} in "
                                    "the last" for name, m in medians.items()) + ".")


def _magnitudes(tensor: Tensor) -> np.ndarray:
    values = tensor.detach().flatten().abs()
    return values[values > 0].log10().numpy()


def gradient_norms(model: PicoLM, found: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Root mean square of the gradients of each kind of matrix, block by block."""
    kinds = {"attention qkv": "attn.qkv.weight", "attention out": "attn.out.weight",
             "MLP up": "mlp.up.weight", "MLP down": "mlp.down.weight"}
    return {label: [found[f"blocks.{i}.{name}"].pow(2).mean().sqrt().item()
                    for i in range(len(model.blocks))] for label, name in kinds.items()}


def draw_gradients(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """Gradients by block, one panel per model; a gradient of exactly zero is a cross at the bottom.

    Args:
        panels: name of the model -> what `gradient_norms` returns.
    """
    figure, axes = canvas(3.2, 1, len(panels), sharey=True, squeeze=False)
    dead = 0
    for cell, (name, kinds) in zip(axes[0], panels.items(), strict=True):
        for (kind, values), color in zip(kinds.items(), CYCLE, strict=False):
            shown = [max(value, DEAD) for value in values]
            cell.plot(shown, "o-", color=color, markersize=4, label=kind)
            zeros = [block for block, value in enumerate(values) if value == 0]
            cell.plot(zeros, [DEAD] * len(zeros), "x", color=color, markersize=11,
                      markeredgewidth=2.5)
            dead += len(zeros)
        cell.set(yscale="log", xlabel="block", title=name, ylim=(DEAD / 4, 1),
                 xticks=range(len(values)))
    axes[0][0].set_ylabel("rms of the gradient")
    axes[0][-1].legend()
    return finish(figure, f"Gradients by block. {dead} matrices have a gradient of exactly zero.")


def draw_norm_trap(eps: float = 1e-6, width: int = 32) -> Picture:
    """What RMSNorm does to a small vector: its output and its slope, by the size of the input."""
    sizes = torch.logspace(-6, 1, 60, device="cpu")
    direction = torch.ones(width, device="cpu")
    outputs = [F.rms_norm(size * direction, (width,), eps=eps)[0].item() for size in sizes]
    slopes = [(out / size).item() for out, size in zip(outputs, sizes, strict=True)]
    figure, (left, right) = canvas(2.9, 1, 2)
    left.plot(sizes.numpy(), outputs, color=BLUE)
    left.set(xscale="log", xlabel="rms of the input", ylabel="rms of the output",
             title="From 0.01 on, every size becomes 1")
    right.plot(sizes.numpy(), slopes, color=RED)
    right.set(xscale="log", yscale="log", xlabel="rms of the input",
              ylabel="output / input", title=f"Near zero: 1 / sqrt(eps) = {eps**-0.5:,.0f}")
    return finish(figure, f"RMSNorm multiplies an input near zero by {slopes[0]:,.0f}, and an "
                          "input of size 10 by 0.1.")
