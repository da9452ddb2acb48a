"""torchrun and NCCL, as far as one process can show them, and a run that goes on in a new process.

NCCL refuses two processes on one GPU. And started by torchrun as the only process, the package
joins no group. So a group of one is made by the check itself, in group_child.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu.policies import Row
from safetensors.torch import load_file
from train.tools import without_times

from picolm_lib.train.metrics import read_metrics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DEVICE = "cuda"
SECONDS = 150
# Nothing may ask for the machine's name, which need not be known where there is no network.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
            "--nproc-per-node", "1", "--"]
STOP = 10


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """NCCL in a group of one; a smoke run that is stopped, and resumed by torchrun."""
    words = ["--preset", "smoke", "--device", DEVICE, "--dtype", "float32"]
    if options.small:
        words += ["--storybook-stories", "60", "--d-model", "16", "--eval-tokens", "64"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        group = start(folder, "group", [*TORCHRUN, str(HERE / "group_child.py"), DEVICE])
        whole = start(folder, "whole", ["run_train.py", *words, "--run", str(folder / "whole")])
        stopped = start(folder, "stopped", [str(HERE / "stopped_run.py"), str(STOP), *words,
                                            "--run", str(folder / "stopped")])
        started = time.monotonic()
        outcomes = {"whole": finish(whole), "stopped": finish(stopped)}
        output, error = finish(group)
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        yield from rows
        if error or not rows:
            yield {"check": "a group of one process", "passed": False, "error": error or output}
        steps = max((line["step"] for line in read_metrics(folder / "stopped")), default=0)
        resumed = start(folder, "stopped", [*TORCHRUN, "run_train.py", *words, "--resume", "--run",
                                            str(folder / "stopped")])
        outcomes["resumed"] = finish(resumed)
        row = compare(folder, steps)
        # The stopped one ends with what Ctrl-C ends with.
        errors = {name: error for name, (_, error) in outcomes.items()
                  if error and (name != "stopped" or not row["passed"])}
        yield {**row, "passed": row["passed"] and not errors, **({"errors": errors} if errors
               else {}), "seconds": round(time.monotonic() - started, 1)}


def start(folder: Path, name: str, command: list[str]) -> subprocess.Popen[str]:
    """A process with a cache of its own, which needs no network."""
    env = os.environ | {
        "PICOLM_CACHE": str(folder / f"cache-{name}"), "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", "lo"),
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed, and where it failed the end of its errors."""
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        return output, f"took more than {SECONDS} seconds: {_end(errors)}"
    return output, f"status {process.returncode}: {_end(errors)}" if process.returncode else ""


def _end(text: str) -> str:
    return " ".join(text.split())[-600:]


def compare(folder: Path, steps: int) -> Row:
    """The resumed run beside the one that went straight through, bit for bit."""
    row: Row = {"check": "resumed in a new process, by torchrun", "stopped_after": steps,
                "exercised": "torchrun's environment and device; the package joins no group alone"}
    weights = [load_file(file) if file.exists() else {} for file in (
        folder / name / "model.safetensors" for name in ("whole", "stopped"))]
    same = bool(weights[0]) and weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    lines = [without_times(read_metrics(folder / name)) for name in ("whole", "stopped")]
    metrics = bool(lines[0]) and lines[0] == lines[1]
    return {**row, "passed": same and metrics and steps == STOP, "weights_equal": same,
            "metrics_equal": metrics}
