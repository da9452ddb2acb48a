"""One new token at a time: PicoLM's forward pass, written for a single position.

A story is told token by token, and for one token the arithmetic of a small model is next to
nothing: what takes the time is calling things. So here a block is a few plain functions in a row,
without modules, q and k are normalized and turned together, and what is the same for every token is
made once. The weights are the model's own; nothing is copied.

Measured against the modules and against transformers: see tests/benchmarks/results/.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.attention import KVCache, attend
from picolm_lib.model import Block, PicoLM
from picolm_lib.rope import rope_tables


class Layer(NamedTuple):
    """The weights of a block, at hand: asking a module for one takes longer than a small sum."""

    attn_norm: Tensor
    qkv: Tensor
    bias: Tensor
    gains: Tensor
    """(H + K, E) of QK-norm, head by head."""
    gate: Tensor
    """(H, E, E), transposed."""
    out: Tensor
    attn_post_norm: Tensor
    mlp_norm: Tensor
    mlp_gate: Tensor
    up: Tensor
    down: Tensor
    mlp_post_norm: Tensor


class Decoder:
    """Reads prompts as the model does, then goes on by one token per call.

    Letters as in attention.py: B sequences, D = d_model, H and K heads, E = head_dim, V words.

    Args:
        model: its weights are used as they are.
        batch: B.
        max_len: most tokens that a sequence will ever have.
    """

    def __init__(self, model: PicoLM, batch: int, max_len: int) -> None:
        config, weight = model.config, model.embedding.weight
        self.model, self.config = model, config
        self.cache = KVCache(config, batch, max_len, weight.device, weight.dtype)
        self.sharded = hasattr(model, "unshard")                     # fully_shard has seen it
        self.layers = [] if self.sharded else [
            _layer(block, config.n_heads, config.n_kv_heads) for block in model.blocks]
        positions = torch.arange(max_len, device=weight.device)
        cos, sin = rope_tables(positions, config.head_dim, config.rope_theta)  # (max_len, E/2)
        self.cos = torch.cat((cos, cos), -1).to(weight.dtype)        # (max_len, E)
        self.sin = torch.cat((-sin, sin), -1).to(weight.dtype)

    def read(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids to the (B, V) float32 logits of what follows them."""
        return self.model.output(self.model.hidden(tokens, self.cache)[:, -1]).float()

    def next(self, tokens: Tensor) -> Tensor:
        """(B,) token ids to the (B, V) float32 logits of what follows them."""
        if self.sharded:  # weights are whole only while the modules are at work
            return self.read(tokens[:, None])
        x = F.embedding(tokens, self.model.embedding.weight) * math.sqrt(self.config.d_model)
        place = self.cache.get_seq_length()
        cos, sin = self.cos[place], self.sin[place]                  # (E,)
        for number, layer in enumerate(self.layers):
            y = self._attention(layer, number, self._norm(x, layer.attn_norm), cos, sin)
            x = x + self._norm(y, layer.attn_post_norm)              # (B, D)
            y = self._norm(x, layer.mlp_norm)
            y = F.silu(F.linear(y, layer.mlp_gate)) * F.linear(y, layer.up)
            x = x + self._norm(F.linear(y, layer.down), layer.mlp_post_norm)
        x = self._norm(x, self.model.final_norm.weight)
        return F.linear(x, self.model.output.weight).float()

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], gain, self.config.norm_eps)

    def _attention(self, layer: Layer, number: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv_heads, width = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        qkv = F.linear(x, layer.qkv, layer.bias).view(len(x), -1, width)        # (B, H + 2K, E)
        qk = self._norm(qkv[:, :heads + kv_heads], None) * layer.gains          # (B, H + K, E)
        gate = torch.bmm(qk[:, :heads].transpose(0, 1), layer.gate).sigmoid_()  # (H, B, E)
        qk = torch.addcmul(qk * cos, qk.roll(width // 2, -1), sin)              # RoPE
        q, k, v = (t.unsqueeze(2) for t in (qk[:, :heads], qk[:, heads:], qkv[:, -kv_heads:]))
        y = attend(q, *self.cache.update(k, v, number))[:, :, 0]                # (B, H, E)
        return F.linear((y * gate.transpose(0, 1)).reshape(len(x), -1), layer.out)


def _layer(block: Block, heads: int, kv_heads: int) -> Layer:
    attn, mlp = block.attn, block.mlp
    gains = torch.cat((attn.q_norm.weight.expand(heads, -1),
                       attn.k_norm.weight.expand(kv_heads, -1)))
    return Layer(block.attn_norm.weight, attn.qkv.weight, attn.qkv.bias, gains, attn.gate.mT,
                 attn.out.weight, block.attn_post_norm.weight, block.mlp_norm.weight,
                 mlp.gate.weight, mlp.up.weight, mlp.down.weight, block.mlp_post_norm.weight)
