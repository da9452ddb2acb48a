"""Wrong ways to write Newton-Schulz, so that the check of the exercise can name them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from picolm_lib.train.muon import COEFFICIENTS
from picolm_lib.train.muon import newton_schulz as library_newton_schulz


def unit(x: Tensor) -> Tensor:
    """The matrix divided by its Frobenius norm, in float32: the correct way."""
    return x.float() / x.float().square().sum().sqrt()


def products(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """One step of the polynomial: the correct way."""
    gram = x @ x.mT
    return a * x + (b * gram + c * gram @ gram) @ x


def iteration(normalize: Callable = unit, step: Callable = products, extra: int = 0,
              order: Callable = tuple, last: Callable = lambda x: x) -> Callable:
    """Newton-Schulz, with a mistake chosen by the arguments."""
    def orthogonalize(matrix: Tensor, steps: int) -> Tensor:
        x = normalize(matrix)
        for _ in range(steps + extra):
            x = step(x, *order(COEFFICIENTS))
        return last(x).float()

    return orthogonalize


def always_wide(matrix: Tensor, steps: int) -> Tensor:
    """A tall matrix is transposed and never transposed back."""
    found = library_newton_schulz(matrix, steps)
    return found.mT if matrix.shape[0] > matrix.shape[1] else found


def wrong_side(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """The Gram matrix of the other side."""
    gram = x.mT @ x
    return a * x + (b * gram + c * gram @ gram) @ x


def gram_of_entries(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """The entries of the Gram matrix squared, not the matrix."""
    gram = x @ x.mT
    return a * x + (b * gram + c * gram * gram) @ x


def without_square(x: Tensor, a: float, b: float, c: float) -> Tensor:
    """The Gram matrix itself in place of its square."""
    gram = x @ x.mT
    return a * x + (b * gram + c * gram) @ x
