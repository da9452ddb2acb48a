"""The loss by rows per chunk: time and memory, beside all logits at once.

pico's output layer (49,152 x 384) in float16 over 12,288 rows, a whole step, and 6,144, a
micro-batch: forward and backward of model/loss.py. `rows_of_logits` in model/fast.py chooses by it.

GPU time on an H100, an estimate: a pass over 12,288 rows is 1.4 TFLOP and moves 10 GB for logits,
10 ms; 10 turns of 10 tasks are 1 second. 5 seconds in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from gpu.measurements.follow import Row
from gpu.policies import forget
from record import in_turns
from torch import Tensor

from picolm_lib.config import PRESETS
from picolm_lib.device import choose_precision
from picolm_lib.model.fast import rows_of_logits
from picolm_lib.model.loss import linear_cross_entropy

CHUNKS = (512, 1_024, 2_048, 4_096, 8_192)
ROWS = (12_288, 6_144)


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each number of rows and of rows per chunk, and one for all logits at once."""
    precision = choose_precision("auto", "float16")
    config = PRESETS["smoke" if options.small else "pico"].model
    scale = 48 if options.small else 1
    for rows in (number // scale for number in ROWS):
        x, weight, targets = problem(rows, config.d_model, config.vocab_size, precision.device)

        def both_passes(loss: Callable[..., Tensor], x=x, weight=weight, targets=targets) -> None:
            with precision.autocast():
                value = loss(x, weight, targets)
            torch.autograd.grad(value, (x, weight))

        tasks = {str(chunk // scale): partial(both_passes, partial(
            linear_cross_entropy, chunk_rows=chunk // scale))
                 for chunk in CHUNKS[2 if options.small else 0:]}
        tasks["all logits at once"] = partial(both_passes, plain)
        taken = in_turns(tasks, 1 if options.small else 10)
        chosen = str(rows_of_logits(config.vocab_size, precision.device))
        for name, task in tasks.items():
            yield {"rows": rows, "rows per chunk": name, "device": str(precision.device),
                   "ms": round(1e3 * taken[name][0], 3), "peak memory, GiB": memory(task),
                   "chosen here": name == chosen}


def problem(rows: int, width: int, words: int, device: torch.device) -> tuple[Tensor, ...]:
    """Final states, output layer and targets, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator, device="cpu").to(device).requires_grad_()
    weight = 0.02 * torch.randn(words, width, generator=generator, device="cpu")
    targets = torch.randint(words, (rows,), generator=generator, device="cpu").to(device)
    return x, weight.to(device).requires_grad_(), targets


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """All logits, and PyTorch's own loss."""
    return F.cross_entropy(F.linear(x, weight).float(), targets)


def memory(task: Callable[[], None]) -> float | None:
    """GiB at the task's peak, beside what is there before; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    forget()
    before = torch.cuda.memory_allocated()
    task()
    return round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)
