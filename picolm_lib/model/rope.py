"""Rotary position embedding (RoPE): a position is an angle.

Features i and i + E/2 of a head are the two coordinates of a clock hand. At position p the hand of
pair i is turned by p * theta^(-2i/E): the first pairs turn fast, the last ones hardly at all. A
score q.k depends on the angle between two hands, so it depends on how far apart two tokens are and
not on where they stand.

Source: Jianlin Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.
The paper pairs features 2i and 2i + 1. Pairing i with i + E/2, as Llama does in transformers, is
the same model with the features in another order, and needs no strided reads.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_tables(positions: Tensor, head_dim: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles by which each position turns each pair.

    Args:
        positions: (...,) integer positions, usually (T,) or (B, T).
        head_dim: E, even.
        theta: base of the frequencies.

    Returns:
        cos and sin, each (..., E/2) in float32. A large position times a small frequency needs all
        the digits of float32: in 16 bits neighbors far into a text would share one angle.
    """
    pair = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[..., None] * theta ** (-pair / head_dim)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns every pair of features by its position's angle.

    Args:
        x: (B, T, H, E) queries or keys: the sequence is axis 1, the heads are axis 2.
        cos, sin: (T, E/2) or (B, T, E/2) from `rope_tables`.

    Returns:
        (B, T, H, E), of x's dtype.
    """
    # (T, 1, E/2) or (B, T, 1, E/2): one angle for all heads of a token.
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    first, second = x.chunk(2, dim=-1)                               # (B, T, H, E/2)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
