"""Calls of the commands, as their scripts make them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from safetensors.torch import load_file

from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.train.metrics import read_metrics

TINY = ["--preset", "smoke", "--n-layers", "1", "--d-model", "16", "--n-heads", "2",
        "--max-seq-len", "16", "--batch-size", "4", "--dtype", "float32", "--device", "cpu",
        "--evals", "1", "--eval-tokens", "64", "--prompt", "The", "--max-steps", "6"]


def run(command, *argv: object) -> tuple[int, str, str]:
    """Runs a command as its script does: (exit code, output, errors)."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(out), redirect_stderr(err):
        monkeypatch.setattr(sys, "argv", ["script", *map(str, argv)])
        try:
            run_command(command)
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def run_script(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, text=True, check=False,
                          capture_output=True, stdin=subprocess.DEVNULL, env={
                              **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                              **environment})


def mistake(outcome: tuple[int, str, str]) -> str:
    """The one line on standard error of a command that failed."""
    code, _, errors = outcome
    assert code == 2, errors
    line, = errors.splitlines()
    assert line.startswith("error: ") and line.endswith("."), line
    return line


def train(home: Path, folder: Path, *more: object) -> tuple[int, str, str]:
    return run(train_command, *TINY, "--data", home / "stories.txt", "--tokenizer",
               home / "tokenizer", "--run", folder, *more)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def events(folder: Path) -> list[tuple]:
    return [(m["kind"], m["step"], m["loss"]) for m in read_metrics(folder)]
