"""Looks into a running model: attention weights, gates, and the loss at every position."""

from __future__ import annotations

from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib import attention
from picolm_lib.attention import Attention
from picolm_lib.model import PicoLM
from picolm_lib.rope import rope_tables


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """(B, H, T, T) causal attention weights of (B, H, T, E) queries and (B, K, T, E) keys."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)         # (B, H, T, E)
    scores = q.float() @ k.float().mT / q.shape[-1] ** 0.5           # (B, H, T, T)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


@torch.no_grad()
def attention_maps(model: PicoLM, tokens: Tensor) -> Tensor:
    """The attention weights of all blocks.

    Args:
        tokens: (T,) token ids.

    Returns:
        (L, H, T, T): row t of a map says how token t spreads its attention over tokens 0 to t.
    """
    maps = []
    attend = attention.attend

    def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        maps.append(attention_weights(q, k)[0])
        return attend(q, k, v, mask)

    with patch.object(attention, "attend", spy):
        model(tokens[None])
    return torch.stack(maps)                                         # (L, H, T, T)


@torch.no_grad()
def gates(model: PicoLM, tokens: Tensor) -> Tensor:
    """The output gates of all blocks for (T,) tokens: (L, T, H, E), between 0 and 1."""
    opened = []
    gate = Attention._gate

    def spy(self: Attention, q: Tensor) -> Tensor:
        opened.append(gate(self, q)[0])
        return gate(self, q)

    with patch.object(Attention, "_gate", spy):
        model(tokens[None])
    return torch.stack(opened)                                       # (L, T, H, E)


@torch.no_grad()
def loss_by_position(model: PicoLM, tokens: Tensor, squeeze: float = 1.0) -> Tensor:
    """The loss in nats at every position.

    Args:
        tokens: (B, T + 1) token ids.
        squeeze: positions are multiplied by it; 0.25 turns every clock at a quarter of its speed.

    Returns:
        (T,), the mean over the B rows.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]                  # (B, T)
    positions = squeeze * torch.arange(inputs.shape[1])
    logits = model(inputs, positions=positions)                      # (B, T, V)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(0)


def head_weights_by_distance(layer: Attention, theta: float, length: int) -> Tensor:
    """How a head's attention depends on distance alone: (H, length).

    All tokens are alike here, so what differs between them is their position. Entry d is the weight
    that the last token gives to the token d places before it.
    """
    with torch.no_grad():
        x = layer.qkv.weight.new_ones(1, length, layer.qkv.in_features)
        maps = []

        def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
            maps.append(attention_weights(q, k)[0])
            return torch.zeros_like(q)

        with patch.object(attention, "attend", spy):
            layer(x, *rope_tables(torch.arange(length), layer.q_norm.normalized_shape[0], theta))
    return maps[0][:, -1].flip(-1)                                   # (H, length)
