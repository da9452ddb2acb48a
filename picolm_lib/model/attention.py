"""Causal self-attention with grouped KV heads, QK-norm, RoPE and an output gate.

Letters: B sequences, T tokens, D = d_model, H query heads, K key/value heads, E = head_dim.

Sources: Ashish Vaswani et al., "Attention Is All You Need", 2017. Joshua Ainslie et al., "GQA:
Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", 2023. Alex Henry
et al., "Query-Key Normalization for Transformers", 2020. Zihan Qiu et al., "Gated Attention for
Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free", 2025 (gate position G1).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PicoConfig
from .fast import attention_form
from .norm import RMSNorm
from .rope import apply_rope


class Cache(Protocol):
    """What attention asks of a KV cache: the protocol of transformers' own caches."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Appends (B, K, T, E) keys and values, returns all of the layer's: (B, K, S, E)."""
        ...

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        ...


class KVCache:
    """Keys and values of the tokens read so far, in memory that is reserved once.

    Args:
        max_len: the most tokens that it can keep.
    """

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        self.lengths: dict[int, int] = {}
        """Tokens read so far, by layer index."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Appends (B, K, T, E) keys and values, returns all of the layer's: (B, K, S, E).

        Raises:
            ValueError: there is no room for them.
        """
        start = self.lengths.get(layer_idx, 0)
        end = start + key.shape[2]
        if end > self.max_len:
            raise ValueError(f"the cache has room for {self.max_len} tokens, not {end}")
        if layer_idx not in self._memory:
            batch, heads, _, width = key.shape
            shape = (batch, heads, self.max_len, width)
            self._memory[layer_idx] = key.new_empty(shape), value.new_empty(shape)
        keys, values = self._memory[layer_idx]                      # each (B, K, max_len, E)
        # Detached: the cache is read, and no gradient flows back into it.
        keys[:, :, start:end] = key.detach()
        values[:, :, start:end] = value.detach()
        self.lengths[layer_idx] = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        return max(self.lengths.values(), default=0)


class Attention(nn.Module):
    """One attention layer. Its initial values are set by init.py."""

    def __init__(self, config: PicoConfig, layer_idx: int) -> None:
        super().__init__()
        heads, kv_heads, width = config.n_heads, config.n_kv_heads, config.head_dim
        self.layer_idx = layer_idx
        self.heads = (heads, kv_heads, kv_heads)
        # The model's only biases.
        self.qkv = nn.Linear(config.d_model, sum(self.heads) * width)
        self.q_norm = RMSNorm(width, eps=config.norm_eps)
        self.k_norm = RMSNorm(width, eps=config.norm_eps)
        self.gate = nn.Parameter(torch.empty(heads, width, width))
        self.out = nn.Linear(heads * width, config.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None,
                mask: Tensor | None = None) -> Tensor:
        """Mixes the tokens of each sequence.

        Args:
            x: (B, T, D).
            cos, sin: from `rope_tables`, for the positions of x.
            cache: keys and values of earlier tokens; the new ones are added to it.
            mask: (B, 1, T, S) or (T, S), True where a query may see a key. None is causal.

        Returns:
            (B, T, D).
        """
        batch, length, _ = x.shape
        qkv = self.qkv(x).unflatten(-1, (sum(self.heads), -1))      # (B, T, H + 2K, E)
        q, k, v = qkv.split(self.heads, dim=2)                      # (B, T, H or K, E)
        q, k = self.q_norm(q), self.k_norm(k)
        # Before RoPE, so that the gate does not depend on the position.
        gate = self._gate(q)                                        # (B, T, H, E)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))            # (B, H or K, T, E)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)               # (B, K, S, E)
        y = attend(q, k, v, mask)                                   # (B, H, T, E)
        y = y.transpose(1, 2) * gate                                # (B, T, H, E)
        return self.out(y.reshape(batch, length, -1))               # (B, T, D)

    def _gate(self, q: Tensor) -> Tensor:
        """sigmoid(W_h q_h): each head looks at its query and decides which features to let out."""
        rows = q.flatten(0, 1).transpose(0, 1)                      # (H, B * T, E)
        gate = torch.sigmoid(rows @ self.gate.to(q.dtype).mT)       # (H, B * T, E)
        return gate.transpose(0, 1).unflatten(0, q.shape[:2])       # (B, T, H, E)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, each KV head shared by H/K neighboring query heads.

    Args:
        q: (B, H, T, E), the last T of the S positions.
        k, v: (B, K, S, E).
        mask: (B, 1, T, S) or (T, S), True where a query may see a key. None is causal.

    Returns:
        (B, H, T, E).
    """
    length, total = q.shape[2], k.shape[2]
    if mask is None and 1 < length < total:
        mask = torch.ones(length, total, dtype=torch.bool, device=q.device).tril(total - length)
    if form := attention_form(q, k, mask):
        return form(q, k, v, mask)
    group_size = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group_size, dim=1) for t in (k, v))  # (B, H, S, E)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
