"""A training step eager and compiled, and the seconds that compiling takes.

The Trainer's own step with the preset's batch and micro-batches: passes, clipping, optimizer.
Compiling is the first step of the compiled run minus a usual one. It is shorter where PyTorch finds
the same code in its cache on the disk, as after another part that compiles.

GPU time on an H100, an estimate: 32 steps of at most 0.1 s for each; compiling takes 20 to 60
seconds for each preset. 2 to 3 minutes in all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import median

import torch
from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline
from gpu.policies import forget, new_trainer
from record import clock

from picolm_lib.config import PRESETS
from picolm_lib.device import peak_memory_gib
from picolm_lib.train.metrics import mfu

STEPS = 30


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each preset and mode."""
    end = deadline(options)
    for preset in ("smoke",) if options.small else ("pico", "nano"):
        eager = 0.0
        for mode in ("eager", "compiled"):
            if time.monotonic() > end:
                yield {"preset": preset, "mode": mode, "end": OUT_OF_MINUTES}
                return
            forget()
            row = _measure(preset, mode == "compiled", 3 if options.small else STEPS)
            eager = eager or row["ms per step"]
            yield row | {"times the speed of eager": round(eager / row["ms per step"], 3)}


def _measure(preset: str, compiled: bool, steps: int) -> Row:
    config, train = PRESETS[preset].model, PRESETS[preset].train
    # Else the second preset is compiled for any shape, since the first had another one.
    torch.compiler.reset()
    trainer = new_trainer(config, steps + 2, batch_size=train.batch_size, dtype="auto",
                          micro_batch_size=train.micro_batch_size, device="auto", compile=compiled)
    # Clocked here, since a step returns before the GPU has changed the weights.
    first, _, *others = (clock(trainer.step)[0] for _ in range(steps + 2))
    usual = median(others)
    speed = trainer.batch_tokens / usual
    used = mfu(speed, trainer.flops, trainer.peak)
    return {"preset": preset, "mode": "compiled" if compiled else "eager",
            "device": str(trainer.device),
            "dtype": str(trainer.precision.dtype).removeprefix("torch."),
            "ms per step": round(1e3 * usual, 3), "tokens/s": round(speed),
            "first step, s": round(first, 2), "compiling, s": round(max(first - usual, 0), 2),
            "MFU": used and round(used, 4),
            "peak memory, GiB": round(peak_memory_gib(trainer.device), 2)}
