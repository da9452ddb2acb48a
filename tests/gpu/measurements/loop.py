"""What two habits of the training loop save: pinned asynchronous batches, and one wait per step.

Ten steps of the Trainer with the preset's batch, in turns: as it is; with batches copied from
memory that is not pinned, which waits; with the two further waits per step that an earlier version
had, for the loss before the optimizer and for the optimizer.

GPU time on an H100, an estimate: 6 turns x 3 x 10 steps of at most 0.1 s, 25 seconds in all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import astuple

import torch
from gpu.measurements.follow import OUT_OF_MINUTES, Row, deadline
from gpu.policies import forget, new_trainer
from record import in_turns, wait

from picolm_lib.config import PRESETS
from picolm_lib.device import Precision
from picolm_lib.train.trainer import Trainer

AS_IS, PAGEABLE, WAITING = "as it is", "batches not pinned", "three waits per step"


class Pageable(Precision):
    """A Precision that copies from where the batch lies."""

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copies CPU tensors to the device; returns when they are there."""
        return [tensor.to(self.device) for tensor in tensors]


def part(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each preset and habit."""
    end, steps = deadline(options), 1 if options.small else 10
    for preset in ("smoke",) if options.small else ("pico", "nano"):
        if time.monotonic() > end:
            yield {"preset": preset, "end": OUT_OF_MINUTES}
            return
        forget()
        trainers = {name: _trainer(preset, name) for name in (AS_IS, PAGEABLE, WAITING)}
        taken = in_turns({name: lambda t=trainer: [t.step() for _ in range(steps)]
                          for name, trainer in trainers.items()}, 1 if options.small else 5)
        for name, (seconds, _) in taken.items():
            yield {"preset": preset, "loop": name, "device": str(trainers[name].device),
                   "ms per step": round(1e3 * seconds / steps, 3),
                   "times as long": round(seconds / taken[AS_IS][0], 3)}


def _trainer(preset: str, habit: str) -> Trainer:
    config, train = PRESETS[preset].model, PRESETS[preset].train
    trainer = new_trainer(config, 1_000, batch_size=train.batch_size, dtype="auto",
                          micro_batch_size=train.micro_batch_size, device="auto")
    if habit == PAGEABLE:
        trainer.precision = Pageable(*astuple(trainer.precision))
    if habit == WAITING:
        for hook in (trainer.optimizer.register_step_pre_hook,
                     trainer.optimizer.register_step_post_hook):
            hook(lambda *arguments: wait())
    return trainer
