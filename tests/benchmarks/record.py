"""What all benchmarks share: clocks, the machine, and a result as a table and as a file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[2]
CORES = os.cpu_count() or 1


def machine() -> dict:
    """What a number depends on beside the code."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"date": datetime.date.today().isoformat(), "platform": platform.platform(),
            "processor": _processor(), "cores": CORES, "gpu": gpu,
            "threads": torch.get_num_threads(), "load_average": round(os.getloadavg()[0], 1),
            "environment": {name: value for name, value in os.environ.items()
                            if name.startswith(("MALLOC_", "OMP_", "RAYON_", "TORCH_"))},
            "python": platform.python_version(), **{name: _version(name) for name in (
                "torch", "transformers", "numpy", "tokenizers", "datasets")}}


def results_folder() -> Path:
    """Where results go: into $OUT, or into the folder results beside this file."""
    return Path(os.environ.get("OUT") or RESULTS)


def save(name: str, rows: list[dict], **more: object) -> None:
    """Writes the rows to <name>.json, with the command and the machine."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = " ".join(["python", str(shown), *sys.argv[1:]])
    result = {"command": command, "machine": machine(), **more, "rows": rows}
    path = results_folder() / f"{name}.json"
    # Whoever stops the program meanwhile still has what was there before.
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(result, indent=2) + "\n")
    new.replace(path)


def write(name: str, rows: list[dict], **more: object) -> None:
    """Saves the rows and prints them as a Markdown table."""
    save(name, rows, **more)
    heads = list(dict.fromkeys(key for row in rows for key in row))
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(str(row.get(head, "")) for head in heads) + " |")
    for key, value in more.items():
        print(f"{key}: {value}")


def wait() -> None:
    """Until a GPU has done all that was asked of it: a call returns before its work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(task: Callable, *arguments: object) -> tuple[float, float]:
    """Seconds by the clock, and by the processor over all threads."""
    wait()
    used, started = time.process_time(), time.monotonic()
    task(*arguments)
    wait()
    return time.monotonic() - started, time.process_time() - used


def in_turns(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple]:
    """Medians of (seconds, processor seconds) of each task, all taking turns.

    So what disturbs the machine for a while disturbs all of them. The first turn warms up.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            taken = clock(task)
            if repeat:
                times[name].append(taken)
    return {name: tuple(statistics.median(column) for column in zip(*taken, strict=True))
            for name, taken in times.items()}


def without_processor_seconds(rows: list[dict]) -> list[dict]:
    """The same rows where a GPU has computed: there the processor's seconds say nothing."""
    return [{key: value for key, value in row.items() if "processor s" not in key}
            for row in rows]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
