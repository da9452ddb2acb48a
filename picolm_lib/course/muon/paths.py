"""Paths down a narrow valley: SGD, momentum and AdamW on a loss of two weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from picolm_lib.course.plots import CYCLE, INK, Picture, canvas, finish
from picolm_lib.course.widgets import Playground, slider, steps

START = (-4.0, 1.5)
STEPS = 40
RULES: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda w, rate: torch.optim.SGD([w], rate),
    "momentum": lambda w, rate: torch.optim.SGD([w], rate, momentum=0.8),
    "AdamW": lambda w, rate: torch.optim.AdamW([w], rate, betas=(0.8, 0.99), weight_decay=0.0),
}


def turn(degrees: float) -> Tensor:
    """The (2, 2) matrix that rotates the plane."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], device="cpu")


def valley(steepness: float = 25.0, degrees: float = 0.0) -> Tensor:
    """The (2, 2) matrix A of the loss w'A w / 2: slope 1 along the valley, `steepness` across.

    Args:
        degrees: angle by which the valley is rotated.
    """
    along_and_across = torch.tensor([1.0, steepness], device="cpu")
    return turn(degrees) @ torch.diag(along_and_across) @ turn(degrees).T


def loss(w: Tensor, a: Tensor) -> Tensor:
    """w'A w / 2 for (..., 2) weights."""
    return 0.5 * ((w @ a) * w).sum(-1)


def descend(make: Callable[[Tensor], torch.optim.Optimizer], a: Tensor, start: Sequence[float],
            count: int = STEPS) -> Tensor:
    """The (count + 1, 2) weights that one of PyTorch's optimizers visits."""
    w = torch.nn.Parameter(torch.tensor(start, device=a.device))
    optimizer, path = make(w), [w.detach().clone()]
    for _ in range(count):
        optimizer.zero_grad()
        loss(w, a).backward()
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def draw_paths(paths: Mapping[str, Tensor], a: Tensor, title: str = "", extent: float = 5.0,
               ) -> Picture:
    """Paths over the contours of a valley, one panel each, and the loss along them.

    Args:
        paths: name -> (N, 2) weights.
        a: the valley.
    """
    figure, axes = canvas(3.4, 1, len(paths) + 1, width_ratios=[1] * len(paths) + [1.3])
    lines = torch.linspace(-extent, extent, 80, device="cpu")
    grid = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1)
    heights = loss(grid, a).sqrt().numpy()
    for cell, (name, path), color in zip(axes, paths.items(), CYCLE, strict=False):
        cell.contour(lines.numpy(), lines.numpy(), heights, levels=9, colors="#BBBBBB",
                     linewidths=0.7)
        seen = path.clamp(-3 * extent, 3 * extent)
        cell.plot(seen[:, 0], seen[:, 1], "o-", color=color, markersize=2.5, linewidth=1.0)
        cell.plot(0, 0, "x", color=INK, markersize=7)
        cell.set(xlim=(-extent, extent), ylim=(-extent, extent), title=name, xlabel="weight 1")
        cell.grid(False)
        axes[-1].plot(loss(path, a).clamp(1e-9, 1e9), color=color, label=name)
    axes[0].set_ylabel("weight 2")
    axes[-1].set(yscale="log", xlabel="step", title="loss", ylim=(1e-6, 1e4))
    figure.legend(loc="outside lower center", ncols=len(paths))
    figure.suptitle(title)
    ends = ", ".join(f"{name} {loss(path[-1], a):.1e}" for name, path in paths.items())
    return finish(figure, f"The loss after {len(path) - 1} steps: {ends}.")


def draw_descent(rule: str = "SGD", rate: float = 0.07, steepness: float = 25.0,
                 degrees: float = 0.0) -> Picture:
    """One optimizer's path down a valley of your choice."""
    a = valley(steepness, degrees)
    start = turn(degrees) @ torch.tensor(START, device="cpu")
    path = descend(lambda w: RULES[rule](w, rate), a, start.tolist())
    return draw_paths({rule: path}, a, f"learning rate {rate:g}, {steepness:g} times as steep "
                                       "across as along")


def descent() -> Playground:
    """Sliders over the optimizer, its learning rate, and the valley."""
    return Playground(
        draw_descent, rule=steps("optimizer", list(RULES), "SGD"),
        rate=steps("learning rate", [0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.4, 0.8], 0.07),
        steepness=steps("steepness", [1, 5, 25, 100], 25),
        degrees=slider("valley rotated by", 0, 0, 45, 5))
