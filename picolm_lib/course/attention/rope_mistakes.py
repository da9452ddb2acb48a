"""Wrong ways to write RoPE, so that the check of the exercise can name them."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.rope import apply_rope, rope_tables


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.chunk(2, dim=-1)


def along_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)                      # lines up with (H, E/2)
    first, second = halves(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope(x, cos, -sin)


def no_minus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = halves(x)
    return torch.cat((first * cos + second * sin, second * cos + first * sin), -1)


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def even_odd_joined(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1)


def halves_swapped(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = halves(apply_rope(x, cos, sin))
    return torch.cat((second, first), -1)


def overwritten(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = halves(x)
    first = first * cos - second * sin
    return torch.cat((first, second * cos + first * sin), -1)


def promoted(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope(x.float(), cos, sin)


def parts(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *halves(x), cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)


def alternating(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.stack(halves(apply_rope(x, cos, sin)), -1).flatten(-2)


def half_turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.cat((halves(apply_rope(x, cos, sin))[0], halves(x)[1]), -1)


def without_partner(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos + first * sin, second * cos + second * sin), -1)


def same_factors(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos - second * sin, first * cos + second * sin), -1)


def two_minuses(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second, cos, sin = parts(x, cos, sin)
    return torch.cat((first * cos - second * sin, second * cos - first * sin), -1)


def from_zero(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope(x, *rope_tables(torch.arange(x.shape[1]), x.shape[3]))
