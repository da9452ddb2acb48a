"""Wrong ways to write RoPE, so that the check of the exercise can name them."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.model.rope import apply_rope, rope_tables


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the features."""
    first, second = x.chunk(2, dim=-1)
    return first, second


def along_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Tables without an axis for the heads, so that T lines up with H."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)                      # (T, E/2)
    first, second = halves(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated in the opposite direction."""
    return apply_rope(x, cos, -sin)


def no_minus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Two pluses: no rotation."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = halves(x)
    return torch.cat((first * cos + second * sin, second * cos + first * sin), -1)


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs 2i with 2i + 1, as in the paper."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def even_odd_joined(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Even and odd features as halves."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1)


def halves_swapped(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The second half first."""
    first, second = halves(apply_rope(x, cos, sin))
    return torch.cat((second, first), -1)


def overwritten(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The second line reads what the first one wrote."""
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = halves(x)
    first = first * cos - second * sin
    return torch.cat((first, second * cos + first * sin), -1)


def promoted(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """float32 whatever the dtype of x."""
    return apply_rope(x.float(), cos, sin)


def parts(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The halves and the tables, ready to multiply."""
    return *halves(x), cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)


def alternating(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Right numbers, interleaved."""
    return torch.stack(halves(apply_rope(x, cos, sin)), -1).flatten(-2)


def half_turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Only the first half is rotated."""
    return torch.cat((halves(apply_rope(x, cos, sin))[0], halves(x)[1]), -1)


def without_partner(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """No feature is combined with its partner."""
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos + first * sin, second * cos + second * sin), -1)


def same_factors(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first line's factors in the second."""
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos - second * sin, first * cos + second * sin), -1)


def two_minuses(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A minus where the plus should be."""
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos - second * sin, second * cos - first * sin), -1)


def from_zero(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Its own tables, which start at position 0."""
    return apply_rope(x, *rope_tables(torch.arange(x.shape[1], device=x.device), x.shape[3]))
