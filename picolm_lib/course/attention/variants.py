"""PicoLM with one of its ideas taken out, to see what the idea is worth."""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn

from picolm_lib import attention
from picolm_lib.attention import Attention
from picolm_lib.model import PicoLM
from picolm_lib.rope import apply_rope


def without_rope(model: PicoLM) -> None:
    """Puts every token at position 0, so that no hand is ever turned."""
    hidden = model.hidden

    def nowhere(tokens: Tensor, cache=None, positions=None, mask=None) -> Tensor:
        return hidden(tokens, cache, torch.zeros_like(tokens[0]), mask)

    model.hidden = nowhere


def without_qk_norm(model: PicoLM) -> None:
    """Queries and keys go on as they are."""
    for block in model.blocks:
        block.attn.q_norm = block.attn.k_norm = nn.Identity()


def without_gate(model: PicoLM) -> None:
    """Gates stay half open for ever: they scale everything alike, so they decide nothing."""
    for block in model.blocks:
        block.attn.gate.requires_grad_(False)


def sick(model: PicoLM) -> PicoLM:
    """The patient of the bug hunt. Do not look before you have named your suspect."""
    for block in model.blocks:
        block.attn.forward = MethodType(_sick_forward, block.attn)
    return model


def _sick_forward(self: Attention, x: Tensor, cos: Tensor, sin: Tensor, cache=None,
                  mask=None) -> Tensor:
    """`Attention.forward` with one line wrong."""
    batch, length, _ = x.shape
    qkv = self.qkv(x).unflatten(-1, (sum(self.heads), -1))           # (B, T, H + 2K, E)
    q, k, v = qkv.split(self.heads, dim=2)
    q, k = self.q_norm(q), self.k_norm(k)
    gate = self._gate(q)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))                 # (B, H or K, T, E)
    q, k = (apply_rope(t, cos[:t.shape[1]], sin[:t.shape[1]]) for t in (q, k))  # axis 1: the heads
    y = attention.attend(q, k, v, mask).transpose(1, 2) * gate
    return self.out(y.reshape(batch, length, -1))
