"""Pictures of spectra, polynomials, errors in 16 bits, and parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.course.muon.spectrum import CHOICES, DTYPES, polynomial
from picolm_lib.course.plots import BLUE, CYCLE, GREEN, INK, ORANGE, RED, Picture, canvas, finish
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import newton_schulz, parameter_groups
from picolm_lib.train.schedule import lr_factor, momentum

# Rows and columns of a matrix in an image: more would look like noise.
SHOWN = 32


def draw_stepper(matrix: Tensor, steps: int = 5, coefficients: str = "Jordan's quintic",
                 dtype: str = "fp32") -> Picture:
    """A matrix's singular values before and after Newton-Schulz, and the polynomial behind it.

    "After" is u'Xv for each pair (u, v) of the matrix's singular directions, so the order stays.
    """
    after = newton_schulz(matrix, steps, DTYPES[dtype], CHOICES[coefficients]).float()
    exact = newton_schulz(matrix, steps, torch.float32, CHOICES[coefficients])
    u, before, vh = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    found = (u.T @ after @ vh.T).diagonal()
    done = f"{steps} iteration{'s' * (steps != 1)} in {dtype}"
    figure, (left, right) = canvas(3.3, 1, 2, sharey=True, width_ratios=(1.15, 1))
    place = range(1, len(before) + 1)
    left.plot(place, before, "o", color="#999999", markersize=4, label="before")
    left.plot(place, found, "o", color=BLUE, markersize=4, label="after")
    left.axhline(1, color="#999999", linewidth=1)
    left.set(xlabel="direction, largest first", ylabel="singular value", ylim=(-0.05, 1.75),
             title=done)
    left.legend(loc="upper right")
    s = torch.logspace(-4, 0, 500, device="cpu")
    right.axhline(1, color="#999999", linewidth=1)
    right.plot(s, polynomial(s, steps, CHOICES[coefficients]), color=ORANGE,
               label="the polynomial, applied")
    right.plot(before, found, "o", color=BLUE, markersize=3.5, label="the matrix, after")
    right.set(xscale="log", xlabel="singular value before", title=coefficients)
    # Minor ticks would take half of the drawing time.
    right.minorticks_off()
    right.legend(loc="upper left")
    error = (after - exact).norm() / exact.norm()
    return finish(figure, f"{coefficients}, {done}: singular values of "
                          f"{before[-1]:.1e} to {before[0]:.2f} become {found.min():.1e} to "
                          f"{found.max():.2f}; the result is {error:.1%} away from fp32.")


def draw_spectra(matrices: Mapping[str, Tensor], title: str) -> Picture:
    """The first matrix as an image, and the singular values of all of them, largest = 1."""
    figure, (left, right) = canvas(3.3, 1, 2, width_ratios=(1, 1.5))
    name, first = next(iter(matrices.items()))
    bound = first.abs().quantile(0.99).item()
    left.imshow(first[:SHOWN, :SHOWN].numpy(), cmap="RdBu", vmin=-bound, vmax=bound,
                interpolation="nearest")
    left.grid(False)
    left.set(title=name, xlabel="column", ylabel="row")
    for (name, matrix), color in zip(matrices.items(), CYCLE, strict=False):
        values = torch.linalg.svdvals(matrix)
        right.plot(np.linspace(0, 100, len(values)), (values / values[0]).clamp(1e-4), color=color,
                   label=name)
    generator = torch.Generator().manual_seed(0)
    noise = torch.linalg.svdvals(torch.randn(first.shape, generator=generator))
    right.plot(np.linspace(0, 100, len(noise)), noise / noise[0], "--", color="#999999",
               label="random numbers")
    right.set(yscale="log", xlabel="rank of the singular value (%)", ylabel="size / largest",
              title=title)
    right.legend()
    return finish(figure, "Singular values relative to the largest one; the middle one is "
                  + ", ".join(f"{(v := torch.linalg.svdvals(m))[len(v) // 2] / v[0]:.2f} for {n}"
                              for n, m in matrices.items())
                  + f", and {noise[len(noise) // 2] / noise[0]:.2f} for random numbers.")


def draw_warm_up(config: TrainConfig, steps: int) -> Picture:
    """The learning rate's factor and Muon's momentum over a run."""
    figure, (left, right) = canvas(2.7, 1, 2)
    at = range(steps)
    left.plot(at, [lr_factor((step + 0.5) / steps, config) for step in at], color=BLUE)
    left.set(xlabel="step", ylabel="factor on the learning rates", title="warm-up, stable, decay",
             ylim=(0, 1.05))
    right.plot(at, [momentum(step, config) for step in at], color=RED)
    right.set(xlabel="step", ylabel="momentum", title="Muon's momentum", ylim=(0.8, 1.0))
    return finish(figure, f"Over {steps:,} steps the learning rate rises, stays and falls; the "
                          f"momentum rises from {momentum(0, config)} to "
                          f"{momentum(steps, config)}.")


def draw_orthogonal(matrices: Mapping[str, Tensor]) -> Picture:
    """Matrices as images, and below each one X X^T, which shows whether rows are orthogonal."""
    figure, axes = canvas(4.0, 2, len(matrices))
    for column, (name, matrix) in zip(axes.T, matrices.items(), strict=True):
        short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        gram = short @ short.T
        gram = gram / gram.diagonal().max()
        for cell, shown in ((column[0], short / short.abs().max()), (column[1], gram)):
            cell.imshow(shown[:SHOWN, :SHOWN].numpy(), cmap="RdBu", vmin=-1, vmax=1,
                        interpolation="nearest")
            cell.set(xticks=[], yticks=[])
        column[0].set_title(name)
    axes[0, 0].set_ylabel("X")
    axes[1, 0].set_ylabel("X Xᵀ")
    off = {name: _off_diagonal(matrix) for name, matrix in matrices.items()}
    return finish(figure, "Below, off the diagonal, the rms is " + ", ".join(
        f"{value:.1%} of the diagonal for {name}" for name, value in off.items()) + ".")


def _off_diagonal(matrix: Tensor) -> float:
    """How far from orthogonal the rows are: rms off the diagonal over rms on it."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = short @ short.T
    diagonal = gram.diagonal()
    rest = gram - torch.diag(diagonal)
    count = len(gram) * (len(gram) - 1)
    return ((rest.square().sum() / count).sqrt() / diagonal.square().mean().sqrt()).item()


def draw_errors(sizes: Sequence[float], errors: Mapping[str, Sequence[float]],
                real: Sequence[float] = ()) -> Picture:
    """Relative error by the size of the gradient; ticks at the bottom are real momenta."""
    figure, axes = canvas(3.7)
    for (name, values), color, marker in zip(errors.items(), (RED, ORANGE, BLUE), "oxs",
                                             strict=False):
        axes.plot(sizes, [100 * value for value in values], marker=marker, markersize=5,
                  color=color, label=name)
    axes.plot(real, [0.02] * len(real), "|", color=INK, markersize=14,
              label="momenta of the small PicoLM")
    axes.set(xscale="log", yscale="log", ylim=(0.01, 300), xlabel="rms of the gradient",
             ylabel="relative error (%)", title="Newton-Schulz in float16, three ways")
    figure.legend(loc="outside upper center", ncols=2)
    return finish(figure, "; ".join(f"{name}: {values[0]:.1%} at {sizes[0]:.0e}, {values[-1]:.1%} "
                                    f"at {sizes[-1]:.0e}" for name, values in errors.items()) + ".")


PARTS = {"embedding": "embedding", "attn.qkv.weight": "attention q, k, v",
         "attn.gate": "attention gate", "attn.out": "attention out", "mlp.gate": "MLP gate",
         "mlp.up": "MLP up", "mlp.down": "MLP down", "output": "output layer"}


def part_of(name: str) -> str:
    """The part of the model to which a parameter belongs, in words."""
    return next((part for key, part in PARTS.items() if key in name), "norms and biases")


def group_counts(config: PicoConfig) -> dict[str, tuple[str, int, int]]:
    """Part -> (kind of its group, tensors, parameters), from `parameter_groups`."""
    with torch.device("meta"):
        model = PicoLM(config)
    kinds = {id(p): group["kind"] for group in parameter_groups(model) for p in group["params"]}
    found: dict[str, tuple[str, int, int]] = {}
    for name, parameter in model.named_parameters():
        kind, part = kinds[id(parameter)], part_of(name)
        _, tensors, numbers = found.get(part, (kind, 0, 0))
        found[part] = (kind, tensors + 1, numbers + parameter.numel())
    return {part: found[part] for part in [*PARTS.values(), "norms and biases"]}


def draw_groups(config: PicoConfig, title: str) -> Picture:
    """Which part gets which optimizer, and how many parameters it has."""
    counts = group_counts(config)
    figure, axes = canvas(3.4)
    colors = {"muon": BLUE, "adamw": ORANGE}
    drawn = axes.barh(list(counts), [n / 1e6 for _, _, n in counts.values()], height=0.65,
                      color=[colors[kind] for kind, _, _ in counts.values()])
    axes.bar_label(drawn, [f" {kind}: {tensors} tensors, {n:,}"
                           for kind, tensors, n in counts.values()])
    axes.invert_yaxis()
    axes.set(xlabel="parameters (millions)", title=title,
             xlim=(0, 1.75 * max(n for _, _, n in counts.values()) / 1e6))
    axes.grid(False)
    total = {k: sum(n for kind, _, n in counts.values() if kind == k) for k in colors}
    return finish(figure, f"Muon gets {total['muon']:,} parameters, AdamW {total['adamw']:,}.")


def draw_polynomials(count: int = 5) -> Picture:
    """The three polynomials, applied once and several times, for small and large values."""
    figure, axes = canvas(2.9, 1, 2)
    s = torch.logspace(-3, 0, 300, device="cpu")
    for cell, steps in zip(axes, (1, count), strict=True):
        for (name, coefficients), color in zip(CHOICES.items(), (BLUE, ORANGE, GREEN),
                                               strict=True):
            cell.plot(s, polynomial(s, steps, coefficients), color=color, label=name)
        cell.axhline(1, color="#999999", linewidth=1)
        cell.set(xscale="log", xlabel="singular value before", ylim=(-0.05, 1.75),
                 title="one step" if steps == 1 else f"{steps} steps")
    axes[0].set_ylabel("after")
    axes[0].legend(loc="upper left")
    small = torch.tensor(0.01, device="cpu")
    at = {name: polynomial(small, count, c).item() for name, c in CHOICES.items()}
    return finish(figure, f"After {count} steps a singular value of 0.01 has become "
                  + ", ".join(f"{value:.2f} ({name})" for name, value in at.items()) + ".")
