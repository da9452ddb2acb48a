"""A run that was stopped and resumed on the GPU is the uninterrupted one, bit for bit."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from gpu.policies import POLICIES, Policy, model_config, new_trainer
from train.tools import at_step, equal, everything, without_times

from picolm_lib.config import PicoConfig
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.signals import Interrupted

STEPS, STOP = 6, 3
Outcome = tuple[dict[str, Any], list[dict]]


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Six steps of four blocks of pico8k in one go, and stopped after three: all is equal.

    A GPU may add in another order each time, as FlashAttention does on its way back. Where the two
    runs differ, they are done again with PyTorch's deterministic algorithms, and must be equal. The
    part `nccl` resumes in a new process.
    """
    config = model_config(options, **({} if options.small else {"vocab_size": 8_192,
                                                                "n_layers": 4}))
    for policy in POLICIES:
        started = time.monotonic()
        with policy.kernels():
            whole = outcome(config, policy)
            row = {"equal": equal(outcome(config, policy, stop=True), whole)}
            if not row["equal"]:
                row["uninterrupted_equal"] = equal(outcome(config, policy), whole)
                with deterministic():
                    whole = outcome(config, policy)
                    row["equal_deterministic"] = equal(outcome(config, policy, stop=True), whole)
        # Runs that repeat themselves have nothing that would excuse a difference.
        excused = row.get("equal_deterministic") and not row["uninterrupted_equal"]
        yield {"check": "stopped and resumed", "policy": policy.name,
               "passed": bool(row["equal"] or excused), **row,
               "seconds": round(time.monotonic() - started, 2)}


def outcome(config: PicoConfig, policy: Policy, stop: bool = False) -> Outcome:
    """All that a run ends with, and its lines of metrics."""
    options: dict[str, Any] = {"dtype": policy.option, "micro_batch_size": 1, "evals": 2}
    with TemporaryDirectory() as name:
        folder = Path(name)
        trainer = new_trainer(config, STEPS, folder, **options)
        if stop:
            at_step(trainer, STOP, lambda: os.kill(os.getpid(), signal.SIGINT))
            try:
                trainer.run()
                raise AssertionError("the run was not stopped")
            except Interrupted:
                del trainer
            # What the first Trainer has in memory must not help.
            torch.manual_seed(99)
            trainer = new_trainer(config, STEPS, folder, **options)
            trainer.resume()
        trainer.run()
        return everything(trainer), without_times(read_metrics(folder))


@contextmanager
def deterministic() -> Iterator[None]:
    """The algorithms that add in the same order every time."""
    with patch.dict(os.environ, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
