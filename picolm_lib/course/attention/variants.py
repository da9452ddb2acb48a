"""PicoLM with one of its ideas removed, to see what the idea is worth."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from picolm_lib.model import attention
from picolm_lib.model.attention import Cache
from picolm_lib.model.picolm import PicoLM
from picolm_lib.model.rope import apply_rope, rope_tables


def without_rope(model: PicoLM) -> None:
    """Puts every token at position 0, so that nothing is ever rotated."""
    hidden = model.hidden

    def at_zero(tokens: Tensor, cache: Cache | None = None, positions: Tensor | None = None,
                mask: Tensor | None = None) -> Tensor:
        return hidden(tokens, cache, torch.zeros_like(tokens[0]), mask)

    model.hidden = at_zero  # type: ignore[method-assign]


def without_qk_norm(model: PicoLM) -> None:
    """Leaves queries and keys as they are."""
    for block in model.blocks:
        block.attn.q_norm = block.attn.k_norm = nn.Identity()  # type: ignore[assignment]


def without_gate(model: PicoLM) -> None:
    """Keeps all gates half open: they scale everything equally, so they decide nothing."""
    for block in model.blocks:
        block.attn.gate.requires_grad_(False)


def patient(model: PicoLM) -> PicoLM:
    """The patient of the bug hunt. Do not look before you have named your suspect."""
    config = model.config
    first = torch.arange(config.n_heads, device=model.embedding.weight.device)
    for block in model.blocks:
        block.attn.tables = rope_tables(  # type: ignore[assignment]
            first, config.head_dim, config.rope_theta)
        block.attn.forward = MethodType(  # type: ignore[method-assign]
            _patient_forward, block.attn)
    return model


def _patient_forward(self: Any, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None,
                     mask: Tensor | None = None) -> Tensor:
    """`Attention.forward` with one line wrong."""
    batch, length, _ = x.shape
    qkv = self.qkv(x).unflatten(-1, (sum(self.heads), -1))           # (B, T, H + 2K, E)
    q, k, v = qkv.split(self.heads, dim=2)                           # (B, T, H or K, E)
    q, k = self.q_norm(q), self.k_norm(k)
    gate = self._gate(q)                                             # (B, T, H, E)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))                 # (B, H or K, T, E)
    # RoPE turns along axis 1, and that is the heads here: every token is turned alike.
    q, k = (apply_rope(t, *(table[:t.shape[1]] for table in self.tables)) for t in (q, k))
    if cache is not None:
        k, v = cache.update(k, v, self.layer_idx)                    # (B, K, S, E)
    y = attention.attend(q, k, v, mask).transpose(1, 2) * gate       # (B, T, H, E)
    return self.out(y.reshape(batch, length, -1))                    # (B, T, D)
