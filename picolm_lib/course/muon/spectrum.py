"""Matrices and their singular values: real momenta, and what Newton-Schulz does to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from picolm_lib.config import PicoConfig
from picolm_lib.course.muon import duel
from picolm_lib.course.race import StatusLine
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import COEFFICIENTS, newton_schulz, parameter_groups

CHOICES = {"Jordan's quintic": COEFFICIENTS, "classical cubic": (1.5, -0.5, 0.0),
           "classical quintic": (1.875, -1.25, 0.375)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def with_spectrum(singular: Tensor, cols: int, seed: int = 0) -> Tensor:
    """A (len(singular), cols) matrix with these singular values and random directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(singular)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(cols, rows, generator=generator))
    return left @ torch.diag(singular) @ right.T


def sample(rows: int = 32, cols: int = 48) -> Tensor:
    """A matrix whose singular values fall evenly, on a logarithmic axis, from 1 to 1/1000."""
    return with_spectrum(torch.logspace(0, -3, rows, device="cpu"), cols)


def polynomial(s: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """a s + b s^3 + c s^5, applied `steps` times."""
    a, b, c = coefficients
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def share_of_largest(matrix: Tensor, count: int = 5) -> float:
    """Share of a matrix's squared Frobenius norm in its `count` largest singular values."""
    squares = torch.linalg.svdvals(matrix.float()).square()
    return (squares[:count].sum() / squares.sum()).item()


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of `expected`; NaN and infinity count as 1."""
    error = ((got.double() - expected.double()).norm() / expected.double().norm()).item()
    return min(error, 1.0) if error == error else 1.0


def momentum_matrices(steps: int = 60) -> dict[str, Tensor]:
    """Muon's momenta after a short training of a small PicoLM, on the CPU.

    Returns:
        Name -> matrix. The fused qkv is returned as separate q, k and v.
    """
    run, line = duel.trainer(tokens=duel.RUN.max_tokens), StatusLine()
    for step in range(1, steps + 1):
        loss = run.step()["loss"]
        if step % 10 == 0:
            line.update(f"step {step} of {steps}, loss {loss:.2f}")
    rows = [n * duel.MODEL.head_dim for n in run.model.blocks[0].attn.heads]
    found: dict[str, Tensor] = {}
    for name, parameter in run.model.named_parameters():
        momentum = run.optimizer.state[parameter].get("momentum_buffer")
        if momentum is None:
            continue
        short = name.removesuffix(".weight")
        momentum = momentum.detach().float().cpu()
        if short.endswith("qkv"):
            found |= {short.replace("qkv", part): piece for part, piece in
                      zip("qkv", momentum.split(rows), strict=True)}
        elif momentum.ndim == 2:
            found[short] = momentum
    return found


def all_in_float16(matrix: Tensor) -> Tensor:
    """Newton-Schulz as a first attempt: cast to float16, then normalize and iterate in it."""
    return _iterate(_over(x := matrix.half(), x.square().sum().sqrt()))


def cast_too_early(matrix: Tensor) -> Tensor:
    """Cast to float16, then normalize with a norm that is summed in float32."""
    return _iterate(_over(x := matrix.half(), torch.linalg.matrix_norm(x.float()).half()))


def _over(x: Tensor, norm: Tensor) -> Tensor:
    return x / (norm + 1e-7)


def _iterate(x: Tensor, steps: int = 5) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def errors_by_size(sizes: Sequence[float], matrix: Tensor) -> dict[str, list[float]]:
    """Relative error, against float32, of three ways to use float16, by the gradients' size.

    Args:
        sizes: root mean squares to which to scale the matrix.
        matrix: (M, N), M <= N.
    """
    unit = matrix / matrix.square().mean().sqrt()
    ways = {"all in float16": all_in_float16, "cast first, norm in float32": cast_too_early,
            "normalized in float32 first": lambda x: newton_schulz(x, dtype=torch.float16)}
    return {name: [relative_error(way(size * unit), newton_schulz(size * unit)) for size in sizes]
            for name, way in ways.items()}


def products_flops(rows: int, cols: int, steps: int = 5) -> int:
    """Floating-point operations of Newton-Schulz on one matrix: three products per step."""
    small, large = sorted((rows, cols))
    return steps * (4 * small**2 * large + 2 * small**3)


def muon_shapes(config: PicoConfig) -> list[tuple[int, int]]:
    """Shapes of the matrices that Muon orthogonalizes: q, k and v separately, one gate per head."""
    with torch.device("meta"):
        groups = parameter_groups(PicoLM(config))
    shapes = []
    for group in groups:
        for parameter in group["params"] if group["kind"] == "muon" else []:
            if group["rows"]:
                shapes += [(rows, parameter.shape[1]) for rows in group["rows"]]
            else:
                shapes += [tuple(parameter.shape[-2:])] * (
                    parameter.shape[0] if parameter.ndim == 3 else 1)
    return shapes


def products_seconds(shapes: Sequence[tuple[int, int]], repeats: int = 5) -> float:
    """Median seconds of Newton-Schulz on the CPU, in float32, on matrices of these shapes.

    Matrices of one shape are stacked and iterated together, as the library does.
    """
    stacks = [torch.randn(shapes.count(shape), *shape, device="cpu")
              for shape in dict.fromkeys(shapes)]
    spent = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        for stack in stacks:
            newton_schulz(stack)
        spent.append(time.perf_counter() - started)
    return median(spent[1:])
