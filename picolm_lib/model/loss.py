"""Cross-entropy in the memory of a few rows of logits.

With 49,152 words and 12,288 tokens the float32 logits alone take 2.4 GB, and their gradient as
much again. But the loss of a token needs only its own row. So rows are taken in chunks: logits,
loss and both gradients of one chunk, then the next chunk in the same memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .fast import rows_of_logits

IGNORE = -100
"""Target of a row that does not count, as in F.cross_entropy."""


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor,
                         chunk_rows: int = 0) -> Tensor:
    """F.cross_entropy(x @ weight.T, targets), in the memory of one chunk of logits.

    Args:
        x: (N, D) final states.
        weight: (V, D) output layer.
        targets: (N,) token ids; rows whose target is IGNORE do not count.
        chunk_rows: R, rows of logits that exist at once (0: as many as suit the device).

    Returns:
        The mean loss in nats, a float32 scalar; NaN where no row counts, as in F.cross_entropy.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    chunk_rows = chunk_rows or rows_of_logits(len(weight), x.device)
    return _LinearCrossEntropy.apply(x, weight, targets, chunk_rows)


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of a row is softmax - onehot, so it is known as soon as the loss is.

    Both gradients are computed during the forward pass, summed over rows and not yet divided by
    their number: values near 1 survive float16, values near 1/N would not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
        matrix = weight.to(x.dtype)                                  # (V, D)
        counts = (targets != IGNORE).float()                         # (N,) of 0 or 1
        total = torch.zeros((), device=x.device)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        for start in range(0, len(x), chunk_rows):
            rows = slice(start, start + chunk_rows)
            target, count = targets[rows, None].clamp(min=0), counts[rows, None]  # (R, 1)
            logits = F.linear(x[rows], matrix).float()               # (R, V)
            at_target, largest = logits.gather(1, target), logits.amax(1, keepdim=True)
            # In place, here and below, so that there is one chunk in memory and not two.
            exps = logits.sub_(largest).exp_()                       # (R, V)
            partition = exps.sum(1, keepdim=True)                    # (R, 1)
            total += ((partition.log() + largest - at_target) * count).sum()
            if any(ctx.needs_input_grad):
                # softmax - onehot, and zeros in rows that do not count.
                error = exps.mul_(count / partition).scatter_add_(1, target, -count).to(x.dtype)
                torch.mm(error, matrix, out=grad_x[rows])
                grad_weight += error.T @ x[rows]
                del error
            # Freed now, or the next chunk is made beside this one.
            del logits, exps
        ctx.save_for_backward(grad_x, grad_weight, counts.sum())
        return total / counts.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight, number = ctx.saved_tensors
        scale = grad / number
        # In place, since a second (V, D) gradient would come on top of all activations.
        return (grad_x.float() * scale).to(grad_x.dtype), grad_weight.mul_(scale), None, None
