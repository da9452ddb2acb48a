"""How large attention scores become as the weights grow, with QK-norm and without it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from picolm_lib.course.attention.record import attention_weights


def scores_as_weights_grow(scales: list[float], width: int = 128, head_dim: int = 32,
                           length: int = 64, seed: int = 0,
                           ) -> dict[str, tuple[list[float], list[float]]]:
    """Random queries and keys, from projections multiplied by each of `scales`.

    Returns:
        "without QK-norm" and "with QK-norm" -> (the largest |score|, the mean entropy in bits of
        the attention weights of the last token) for each scale.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 8, length, width, generator=generator)        # (B, H, T, D)
    wq, wk = (torch.randn(8, width, head_dim, generator=generator) * 0.06 for _ in range(2))
    found: dict[str, tuple[list[float], list[float]]] = {
        "without QK-norm": ([], []), "with QK-norm": ([], [])}
    for scale in scales:
        q, k = x @ (scale * wq), x @ (scale * wk)                    # (B, H, T, E)
        for name, normalize in (("without QK-norm", False), ("with QK-norm", True)):
            if normalize:
                q, k = (F.rms_norm(t, (head_dim,), eps=1e-6) for t in (q, k))
            scores = q @ k.mT / head_dim**0.5                        # (B, H, T, T)
            last = attention_weights(q, k)[:, :, -1]                 # (B, H, T)
            entropy = torch.special.entr(last).sum(-1).mean() / math.log(2)
            found[name][0].append(scores.abs().max().item())
            found[name][1].append(entropy.item())
    return found
