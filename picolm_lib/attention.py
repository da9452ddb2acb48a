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
from .norm import RMSNorm
from .rope import apply_rope

SHORT = 512  # tokens


class Cache(Protocol):
    """What attention asks of a KV cache: the protocol of transformers' own caches."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Appends (B, K, T, E) keys and values, returns all of the layer's: (B, K, S, E)."""
        ...

    def get_seq_length(self) -> int:
        """Tokens held so far."""
        ...


class KVCache:
    """Keys and values of the tokens already read, in memory that is reserved once.

    Args:
        config: the model that will fill it.
        batch: B, sequences.
        max_len: most tokens it will ever hold.
    """

    def __init__(self, config: PicoConfig, batch: int, max_len: int,
                 device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        shape = (config.n_layers, 2, batch, config.n_kv_heads, max_len, config.head_dim)
        self._memory = torch.empty(shape, device=device, dtype=dtype)
        self._lengths = [0] * config.n_layers

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        start = self._lengths[layer_idx]
        end = start + key.shape[2]
        if end > self._memory.shape[4]:
            raise ValueError(f"the cache holds {self._memory.shape[4]} tokens, not {end}")
        self._lengths[layer_idx] = end
        keys, values = self._memory[layer_idx, 0], self._memory[layer_idx, 1]
        keys[:, :, start:end] = key.detach()                       # (B, K, max_len, E): read, not
        values[:, :, start:end] = value.detach()                   # learned from
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        return self._lengths[0]


class Attention(nn.Module):
    """One attention layer. Its initial values are set by init.py."""

    def __init__(self, config: PicoConfig, layer_idx: int) -> None:
        super().__init__()
        heads, kv_heads, width = config.n_heads, config.n_kv_heads, config.head_dim
        self.layer_idx = layer_idx
        self.heads = (heads, kv_heads, kv_heads)
        self.qkv = nn.Linear(config.d_model, sum(self.heads) * width)  # the model's only biases
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
        gate = self._gate(q)                                        # before RoPE: no positions
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))            # (B, H or K, T, E)
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)               # (B, K, S, E)
        y = attend(q, k, v, mask)                                   # (B, H, T, E)
        y = y.transpose(1, 2) * gate                                # (B, T, H, E)
        return self.out(y.reshape(batch, length, -1))               # (B, T, D)

    def _gate(self, q: Tensor) -> Tensor:
        """sigmoid(W_h q_h): each head looks at its query and decides which features to let out."""
        return torch.sigmoid(torch.einsum("bthe,hfe->bthf", q, self.gate.to(q.dtype)))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, each KV head shared by H/K neighboring query heads.

    Args:
        q: (B, H, T, E), the last T of the S positions.
        k, v: (B, K, S, E).
        mask: (B, 1, T, S) or (T, S), True where a query may see a key. None is causal.

    Returns:
        (B, H, T, E).
    """
    share, (length, total) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    if mask is None and 1 < length == total <= SHORT and _multiplies_in_16_bits(q):
        return _attend_by_products(q, k, v)
    if mask is None and 1 < length < total:
        mask = torch.ones(length, total, dtype=torch.bool, device=q.device).tril(total - length)
    grouped = share > 1 and takes_grouped_kv(q.device)
    if share > 1 and not grouped:
        k, v = (t.repeat_interleave(share, dim=1) for t in (k, v))  # (B, H, S, E)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped,
                                          is_causal=mask is None and length == total)


def takes_grouped_kv(device: torch.device) -> bool:
    """True where scaled_dot_product_attention shares KV heads without falling to its slow path.

    Below compute capability 8.0 `enable_gqa=True` silently selects the kernel that holds all T x T
    scores, so there K and V are expanded before the call.
    """
    return device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0))


def _multiplies_in_16_bits(q: Tensor) -> bool:
    """True on a CPU that computes in bfloat16 or float16."""
    mixed = torch.is_autocast_enabled("cpu")
    return q.is_cpu and (torch.get_autocast_dtype("cpu") if mixed else q.dtype).itemsize == 2


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, causal, in two matrix products per KV head, for short sequences on a CPU.

    The queries of all heads that share a KV head are simply more rows of one matrix. Measured
    forward and backward against scaled_dot_product_attention, (B, H, K, T, E) = (8, 4, 1, 256, 32):
    bfloat16 on a CPU with units for it 4.3 against 10.0 ms, float32 21.9 against 18.5 ms (another
    CPU, one thread). The T x T scores are held, so long sequences go the other way, too.
    """
    batch, heads, length, width = q.shape
    kv_heads = k.shape[1]
    future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu(1)
    future = future.repeat(heads // kv_heads, 1)                    # (H/K * T, T)
    rows = q.reshape(batch * kv_heads, -1, width)                   # (B * K, H/K * T, E)
    scores = torch.baddbmm(future, rows, k.flatten(0, 1).mT, alpha=width**-0.5)
    return (scores.softmax(-1) @ v.flatten(0, 1)).reshape(batch, heads, length, width)
