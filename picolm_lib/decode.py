"""One new token at a time: PicoLM's forward pass, written for a single position.

A story is told token by token, and for one token the arithmetic of a small model is next to
nothing. What takes the time is calling things, and reading the weights. So here a block is a few
plain functions in a row, without modules; what is the same for every token is made once; and the
matrices are multiplied in the order that suits few rows on a CPU. They are the model's own; nothing
large is copied.

Measured against the modules in transformers' generate: tests/benchmarks/results/speed.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.model import Block, PicoLM
from picolm_lib.rope import rope_tables

FEW = 32      # rows
LARGE = 2**17  # numbers in a matrix: from here on two threads are worth their meeting


class Layer(NamedTuple):
    """A block's weights, at hand: asking a module for one takes longer than a small sum.

    Matrices are transposed views, (inputs, outputs).
    """

    attn_norm: Tensor
    qkv: Tensor
    bias: Tensor
    qk_norm: Tensor
    """(H + K, E), head by head."""
    gate: Tensor
    """(H, E, E)."""
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
        model: its weights are used as they are. Where they are sharded or of 16 bits, every token
            goes through the modules.
        batch: B.
        max_len: most tokens that a sequence will ever have.
    """

    def __init__(self, model: PicoLM, batch: int, max_len: int) -> None:
        config, weight = model.config, model.embedding.weight
        self.model, self.config, self.length = model, config, 0
        shape = (config.n_layers, batch, 2 * config.n_kv_heads, max_len, config.head_dim)
        self.memory = weight.new_empty(shape)                        # keys, then values
        self.by_modules = hasattr(model, "unshard") or weight.dtype != torch.float32
        if self.by_modules:
            return
        parts = torch.get_num_threads() if batch == 1 and weight.is_cpu else 1
        self.layers = [_layer(block, config.n_heads, config.n_kv_heads, parts)
                       for block in model.blocks]
        self.embedding, self.final_norm = weight, _gain(model.final_norm.weight)
        self.output = _turned(model.output.weight, parts)
        cos, sin = rope_tables(torch.arange(max_len, device=weight.device), config.head_dim,
                               config.rope_theta)                    # (max_len, E/2)
        self.cos, self.sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        self.eps = [torch.tensor(math.sqrt(config.norm_eps * n), device=weight.device)
                    for n in (config.d_model, config.head_dim)]

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Keeps (B, K, T, E) keys and values, as a Cache of attention.py does."""
        end = self.length + key.shape[2]
        keys, values = self.memory[layer_idx].chunk(2, dim=1)        # (B, K, max_len, E)
        keys[:, :, self.length:end], values[:, :, self.length:end] = key, value
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        """Tokens read so far."""
        return self.length

    def read(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids to the (B, V) float32 logits of what follows them."""
        state = self.model.hidden(tokens, self)[:, -1]
        self.length += tokens.shape[1]
        return self.model.output(state).float()

    def next(self, tokens: Tensor) -> Tensor:
        """(B,) token ids to the (B, V) float32 logits of what follows them."""
        if self.by_modules:
            return self.read(tokens[:, None])
        eps, cos, sin = self.eps[0], self.cos[self.length], self.sin[self.length]
        x = F.embedding(tokens, self.embedding) * math.sqrt(self.config.d_model)
        for memory, layer in zip(self.memory, self.layers, strict=True):
            y = self._attention(layer, memory, x * _scale(x, layer.attn_norm, eps), cos, sin)
            x = torch.addcmul(x, y, _scale(y, layer.attn_post_norm, eps))  # (B, D)
            y = x * _scale(x, layer.mlp_norm, eps)
            y = F.silu(_product(y, layer.mlp_gate)) * _product(y, layer.up)
            y = _product(y, layer.down)
            x = torch.addcmul(x, y, _scale(y, layer.mlp_post_norm, eps))
        self.length += 1
        return _product(x * _scale(x, self.final_norm, eps), self.output)

    def _attention(self, layer: Layer, memory: Tensor, x: Tensor, cos: Tensor, sin: Tensor,
                   ) -> Tensor:
        heads, kv_heads, width = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        both, batch = heads + kv_heads, x.shape[0]
        qkv = (_product(x, layer.qkv) + layer.bias).view(batch, -1, width)   # (B, H + 2K, E)
        qk = qkv[:, :both]
        qk = qk * _scale(qk, layer.qk_norm, self.eps[1])             # (B, H + K, E)
        gate = torch.bmm(qk[:, :heads].transpose(0, 1), layer.gate)  # (H, B, E), before RoPE
        torch.addcmul(qk * cos, qk.roll(width // 2, -1), sin, out=qkv[:, :both])
        memory.select(2, self.length).copy_(qkv[:, heads:])
        # One query may see all keys, so heads that share them may pose as queries of one head.
        q = qkv[:, :heads].view(batch, kv_heads, -1, width)          # (B, K, H/K, E)
        keys, values = memory.narrow(2, 0, self.length + 1).chunk(2, dim=1)  # (B, K, S, E)
        y = F.scaled_dot_product_attention(q, keys, values).view(batch, heads, width)
        return _product((y * gate.sigmoid_().transpose(0, 1)).view(batch, -1), layer.out)


def _scale(x: Tensor, gain: Tensor, eps: Tensor) -> Tensor:
    """What RMSNorm multiplies x by: gain / sqrt(mean of squares + eps), by way of the length of x.

    Args:
        gain: from `_gain`.
        eps: sqrt(D * eps).
    """
    return gain / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), eps)


def _gain(gain: Tensor) -> Tensor:
    return gain * math.sqrt(gain.shape[-1])


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """(B, N) @ (N, M) for few rows and a transposed view.

    On a CPU that takes PyTorch several times as long as reading the matrix does. Here the matrix
    stands as it lies, times columns. Measured on two cores, a (49152, 384) one, in milliseconds:
    one row 2.4 instead of 5.7, four rows 3.2 instead of 13.2, sixteen rows 8.3 instead of 13.7.
    """
    if weight.ndim == 3:  # one row, and a part of the matrix for each thread
        return torch.bmm(weight, x.mT.expand(len(weight), -1, -1)).view(1, -1)
    if 1 < x.shape[0] <= FEW and weight.is_cpu:
        return (weight.mT @ x.mT).mT.contiguous()
    return torch.mm(x, weight)


def _turned(weight: Tensor, parts: int) -> Tensor:
    """(M, N) as (N, M), or as (parts, M / parts, N) where that is worth it."""
    fits = parts > 1 and len(weight) % parts == 0 and weight.numel() >= LARGE
    return weight.view(parts, -1, weight.shape[1]) if fits else weight.mT


def _layer(block: Block, heads: int, kv_heads: int, parts: int) -> Layer:
    attn, mlp = block.attn, block.mlp
    qk_norm = torch.cat((attn.q_norm.weight.expand(heads, -1),
                         attn.k_norm.weight.expand(kv_heads, -1)))
    norms = (block.attn_norm, block.attn_post_norm, block.mlp_norm, block.mlp_post_norm)
    before, after, mlp_before, mlp_after = (_gain(norm.weight) for norm in norms)
    qkv, out, gate, up, down = (_turned(linear.weight, parts) for linear in (
        attn.qkv, attn.out, mlp.gate, mlp.up, mlp.down))
    return Layer(before, qkv, attn.qkv.bias, _gain(qk_norm), attn.gate.mT, out, after, mlp_before,
                 gate, up, down, mlp_after)
