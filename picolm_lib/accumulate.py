"""The gradient of a whole batch, in as many parts as memory needs.

A batch of 32 sequences may be too large for a GPU. But its gradient is a sum over sequences, so it
can be added up in parts, the micro-batches, and the optimizer steps once, when all are in. The
result is that of the whole batch, up to rounding. Where even a part is too large for the GPU, parts
are halved until they fit, so a smaller GPU is slower and learns the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from picolm_lib.config import PicoError
from picolm_lib.distributed import Processes, without_sharing
from picolm_lib.doctor import Numerics
from picolm_lib.loss import IGNORE


class Accumulator:
    """Backward passes over a global batch.

    Args:
        objective: (inputs, targets) -> mean loss; its parameters get the gradients.
        numerics: where and in which dtype.
        scaler: scales the loss before the backward pass.
        processes: which share the batch.
        size: sequences per pass (0: all at once). Lower than asked for after a lack of memory.
        say: tells the user a line.
    """

    def __init__(self, objective: nn.Module, numerics: Numerics, scaler: torch.amp.GradScaler,
                 processes: Processes, size: int, say: Callable[[str], object]) -> None:
        self.objective, self.numerics, self.scaler = objective, numerics, scaler
        self.processes, self.size, self.say = processes, size, say

    def backward(self, inputs: Tensor, targets: Tensor, counted: int) -> float:
        """Adds up the gradient of the mean loss over `counted` targets; returns that loss.

        Args:
            inputs, targets: the (B, T) global batch, on the CPU.

        Raises:
            PicoError: not even one sequence at a time fits into memory, or it does not fit and
                there are other processes, which could not know of another micro-batch.
        """
        inputs, targets = self.processes.rows(inputs), self.processes.rows(targets)
        while True:
            size = min(self.size or len(inputs), len(inputs))
            try:
                return self._in_parts(inputs, targets, counted, size)
            except torch.OutOfMemoryError:
                pass  # only after this block the failed pass lets go of its memory
            self._halve(size, len(inputs))

    def _in_parts(self, inputs: Tensor, targets: Tensor, counted: int, size: int) -> float:
        device = self.numerics.device
        parts = list(zip(inputs.split(size), targets.split(size), strict=True))
        total = torch.zeros((), device=device)
        for number, (x, y) in enumerate(parts, start=1):
            share = (y != IGNORE).sum().item() / counted
            if not share:  # nothing counts in this part of the last batch, but nobody may miss it
                y = x
            with without_sharing(self.objective, last=number == len(parts)):
                with self.numerics.autocast():
                    loss = share * self.objective(x.to(device), y.to(device))
                # Sharing takes the mean over the processes; what is wanted is the sum.
                self.scaler.scale(loss * self.processes.count).backward()
            total += loss.detach()
        return self.processes.total(total).item()

    def _halve(self, size: int, rows: int) -> None:
        """After a lack of memory: half the micro-batch, and the batch will be done again."""
        self.objective.zero_grad()                                   # parts that were in already
        if self.numerics.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.processes.count > 1:
            raise PicoError(f"out of memory with {size} sequences at a time in each process; start "
                            f"again with --micro-batch-size {max(size // 2, 1)}.")
        if size == 1:
            raise PicoError("out of memory with one sequence at a time; lower --max-seq-len or "
                            "--d-model, or take a tokenizer with fewer tokens.")
        self.size = size // 2
        self.say(f"out of memory: from here on {self.size} sequences at a time instead of {size}, "
                 f"{-(-rows // self.size)} times per step; the result is the same.")
