"""Faster forms of three plain functions, with the same results, and the loss's chunks.

The plain forms stand in norm.py, mlp.py and attention.py. Each asks its function below which form
to take: `norm_form`, `swiglu_form` and `attention_form` are the only places where that is decided,
and None is the plain form. Compiled code takes the plain forms of norm and SwiGLU, because the
compiler fuses them. `rows_of_logits` decides how much of the output layer is computed at once.

Times are those of one forward and backward pass with the plain form instead, of 8 sequences for
nano and 2 for pico, on one thread of a CPU with bfloat16 units: medians of 25 and 6 turns, in
processor seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT = 512  # tokens up to which T x T scores are small
ROWS = 512  # of logits at once: 100 MB for 49,152 words in float32
MOST_LOGITS = 2**29  # bytes of a chunk on a GPU
PRETENDED_MEMORY = 16 * 2**30  # of a GPU on which nothing runs
_pretended_gpu: bool | None = None


def norm_form(x: Tensor) -> Callable[..., Tensor] | None:
    """The fast form of RMSNorm for this input."""
    return rms_norm if x.is_cpu and not torch.compiler.is_compiling() else None


def swiglu_form() -> Callable[[Tensor, Tensor], Tensor] | None:
    """The fast form of SwiGLU: where gradients will be asked for, on every device."""
    learns = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return _SwiGLU.apply if learns else None


def attention_form(q: Tensor, k: Tensor, mask: Tensor | None,
                   ) -> Callable[..., Tensor] | None:
    """The fast form of attention for (B, H, T, E) queries and (B, K, S, E) keys."""
    if q.shape[2] == 1:
        return attend_with_one_query
    in_16_bits = _multiplies_in_16_bits(q)
    short = mask is None and q.shape[2] == k.shape[2] <= SHORT
    if short and in_16_bits and q.is_cpu and _pretended_gpu is None:
        return attend_by_products
    if k.shape[1] < q.shape[1] and takes_grouped_kv(q.device, in_16_bits):
        return attend_in_groups
    return None


def rows_of_logits(vocab_size: int, device: torch.device) -> int:
    """Rows of logits that exist at once, in loss and evaluation.

    On a CPU 512. With every chunk the loss adds to the gradient of the output layer, (V, D)
    numbers, so on a GPU a few large chunks should move less memory: it gets as many rows, a power
    of two, as take half a GiB in float32, or a 32nd of its memory where that is less. For 49,152
    words on a T4 that is 2,048. Not measured: no GPU. On one, `python tests/gpu/run.py loss-chunks`
    tries other sizes.
    """
    if device.type != "cuda" and _pretended_gpu is None:
        return ROWS
    memory = (PRETENDED_MEMORY if _pretended_gpu is not None
              else torch.cuda.get_device_properties(device).total_memory)
    fitting = min(MOST_LOGITS, memory // 32) // (4 * vocab_size)
    return max(ROWS, 1 << fitting.bit_length() >> 1)


@contextmanager
def kernels_of_a_gpu(grouped: bool = True) -> Iterator[None]:
    """Lets attention and loss choose as a certain GPU does, on any device.

    Attention is always scaled_dot_product_attention. Its kernel for CPUs keeps what FlashAttention
    and the memory-efficient kernel keep: queries, keys, values, output and one number per row of
    scores; never the T x T scores.

    Args:
        grouped: whether heads share keys and values. Below compute capability 8.0 they are copied
            for each head first, and the copies are saved in place of the fused qkv: 0.6% more for
            pico, less for planned, so the memory estimate leaves that out.
    """
    global _pretended_gpu
    before, _pretended_gpu = _pretended_gpu, grouped
    try:
        yield
    finally:
        _pretended_gpu = before


def takes_grouped_kv(device: torch.device, in_16_bits: bool = True) -> bool:
    """True where scaled_dot_product_attention shares KV heads without falling to its slow path.

    On a GPU only FlashAttention and cuDNN's kernel share them, which need compute capability 8.0
    and 16 bits. Elsewhere `enable_gqa=True` silently selects the kernel that keeps all T x T
    scores, so there K and V are expanded before the call.
    """
    if _pretended_gpu is not None:
        return _pretended_gpu
    return device.type == "cpu" or (device.type == "cuda" and in_16_bits
                                    and torch.cuda.get_device_capability(device) >= (8, 0))


def _multiplies_in_16_bits(q: Tensor) -> bool:
    """True where attention computes in bfloat16 or float16."""
    # Autocast does not know the device meta.
    device = "cpu" if q.is_meta else q.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    return dtype.itemsize == 2


def attend_in_groups(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention whose kernel shares the KV heads, where the plain form copies them."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                          enable_gqa=True)


def attend_with_one_query(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one new token: (B, H, 1, E) queries, which see all S keys.

    So the queries of the heads that share a KV head are simply more queries of one head, on every
    device. Measured for one token of nano: 5.1 instead of 6.9 microseconds, in each block.
    """
    y = F.scaled_dot_product_attention(q.view(len(q), k.shape[1], -1, q.shape[3]), k, v, mask)
    return y.reshape(q.shape)                                        # (B, K, H/K, E) before


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: None) -> Tensor:
    """Causal attention in two matrix products per KV head, for short sequences on a CPU.

    The queries of all heads that share a KV head are more rows of one matrix. Without it a step in
    bfloat16 takes 1.23 times as long for nano, 1.07 times for pico; in float32 there is no
    difference. The T x T scores are kept, so long sequences take the kernel.
    """
    batch, heads, length, width = q.shape
    kv_heads = k.shape[1]
    future = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    future = future.repeat(heads // kv_heads, 1)                     # (H/K * T, T)
    rows = q.reshape(batch * kv_heads, -1, width)                    # (B * K, H/K * T, E)
    scores = torch.baddbmm(future, rows, k.flatten(0, 1).mT, alpha=width**-0.5)
    return (scores.softmax(-1) @ v.flatten(0, 1)).reshape(batch, heads, length, width)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean of squares + eps) * gain, on a CPU.

    PyTorch has no fused kernel there. It puts the norm together from seven operations and takes the
    gradient through each; written out, the gradient is two lines. Without it a nano step takes 1.20
    times as long in bfloat16, 1.06 times in float32; pico's 1.02 times in bfloat16. A norm of one
    token, of which nano has 25, takes 7 instead of 9 microseconds.
    """
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, gain, eps)
    return x * _per_rms(x, eps) * gain


def _per_rms(x: Tensor, eps: float) -> Tensor:
    """(..., D) to (..., 1): 1 / sqrt(mean of squares + eps)."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(torch.full_like(length, eps), length, length,
                         value=1 / x.shape[-1]).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """Keeps the normalized input, from which the backward pass needs no further root."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        per_rms = _per_rms(x, eps)                                   # (..., 1)
        unit = x * per_rms                                           # (..., D)
        ctx.save_for_backward(unit, gain, per_rms)
        return unit * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        unit, gain, per_rms = ctx.saved_tensors
        product = grad * unit
        grad_gain = product.reshape(-1, len(gain)).sum(0)            # (D,)
        # What would only change the length of x is taken out: the norm undoes it.
        along = (product @ gain / len(gain)).unsqueeze(-1)           # (..., 1)
        grad_x = (grad * gain).addcmul_(unit, along, value=-1).mul_(per_rms)
        return grad_x, grad_gain, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, which keeps its two inputs for the backward pass and not silu(gate) as well.

    That is cheap to compute again, and the MLPs keep nearly half of what a training step has in
    memory: without this, pico's step of 8 sequences peaks at 2.8 instead of 2.0 GiB. Its time is
    the same within the noise.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, F.silu(gate).mul_(grad)
