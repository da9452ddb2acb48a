"""Real runs of the trainer in one process, or in several under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

OPTIONS = ["--preset", "smoke", "--tokenizer", "bpe:300", "--max-seq-len", "16", "--d-model", "16",
           "--batch-size", "4", "--max-tokens", str(5 * 64 + 7), "--device", "cpu", "--dtype",
           "float32", "--eval-tokens", "64", "--muon-lr", "0.001", "--adamw-lr", "0.001",
           "--prompt", "The"]
RUN_TRAIN = ROOT / "run_train.py"


def start(folder: Path, processes: int, script: Path, *words: str) -> subprocess.CompletedProcess:
    """A script in a process of its own, or in several."""
    # Without the "--" torchrun takes --run for a short form of its own --run-path.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                "--"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(script), *words],
        capture_output=True, text=True, timeout=300, cwd=folder,
        env={**os.environ, "PICOLM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
             "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})


def train(folder: Path, run: str, processes: int, *more: str,
          script: Path = RUN_TRAIN) -> subprocess.CompletedProcess:
    """A run of the trainer."""
    return start(folder, processes, script, *OPTIONS, "--data", str(folder / "stories.txt"),
                 "--run", str(folder / run), *more)
