"""What a GPU must show, in parts, each of which can be run alone.

    make test-gpu PYTHON=python3                         # all checks: 4 to 5 minutes on an H100
    make test-gpu PYTHON=python3 PARTS="model resume"    # only these
    python tests/gpu/run.py --help                       # this page, and all parts

It takes that Python as it is: no virtual environment, no network. It needs PyTorch with CUDA, what
`pyproject.toml` names except datasets and pyarrow, pytest, and for the notebooks nbclient,
ipykernel and jupytext. What compiles needs a C compiler.

All minutes here are estimates. Ten are enough for the checks and, in this order, for

    PARTS="loss-chunks optimizer loop t4-policy peers --minutes 1.5"

and ten more for PARTS="long-run evidence --minutes 5". The minutes are those of each part.

Every part writes gpu-<part>.json after each of its rows, into $OUT or tests/benchmarks/results, so
that nothing is lost where time runs out. A row with "passed": false, or an error, is told and the
next part begins; the exit status is then 1. Without CUDA it is 2.
"""

from __future__ import annotations

import argparse
import gc
import math
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "benchmarks"),
                str(TESTS.parent / "notebooks")]

import torch  # noqa: E402
from record import results_folder, save  # noqa: E402

Row = dict[str, Any]
Part = Callable[[argparse.Namespace], Iterator[Row]]
"""Yields a row for everything that it has found."""
CHECKS = {
    "model": "checks.model",
    "muon": "checks.muon",
    "trainer": "checks.trainer",
    "resume": "checks.resume",
    "memory": "checks.memory",
    "evaluation": "checks.evaluation",
    "generation": "checks.generation",
    "export": "checks.export",
    "nccl": "checks.nccl",
    "notebooks": "checks.notebooks",
}
# Not among the four minutes: what compiles, and what measures.
MEASUREMENTS = {
    "compile": "checks.compile",
    "t4-policy": "measurements.t4_policy",
    "long-run": "measurements.long_run",
    "peers": "measurements.peers",
    "optimizer": "measurements.optimizer",
    "loss-chunks": "measurements.loss_chunks",
    "generation-speed": "measurements.generation",
    "compile-speed": "measurements.compile",
    "loop": "measurements.loop",
    "evidence": "measurements.evidence",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the parts; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", default=list(CHECKS),
                        help=f"checks: {', '.join(CHECKS)}; measurements: "
                             f"{', '.join(MEASUREMENTS)}; all checks if none is named")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the parts out")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each measurement, at most")
    parser.add_argument("--data", default=".gpu", help="folder of the measurements' texts: "
                        "train.txt, validation.txt, smollm-tokenizer/ (default: .gpu)")
    options = parser.parse_args(argv)
    parts = CHECKS | MEASUREMENTS
    if unknown := [name for name in options.parts if name not in parts]:
        print(f"error: there is no part {unknown[0]!r}; choose from {', '.join(parts)}.")
        return 2
    with warnings.catch_warnings(action="ignore"):  # of a driver that is not there
        there = torch.cuda.is_available()
    if not there:
        print("error: there is no GPU that this PyTorch can use; nothing was run.")
        return 2
    started, passed = time.monotonic(), {}
    for number, name in enumerate(options.parts, start=1):
        passed[name] = run(name, options)
        rest = options.parts[number:]
        if rest and not works():
            print("after that the GPU answers this process no more; a new one goes on", flush=True)
            words = sys.argv[1:] if argv is None else argv
            status = subprocess.call([sys.executable, __file__, *rest, *(
                word for word in words if word not in parts)])
            return 1 if status or not all(passed.values()) else 0
    failed = [name for name, good in passed.items() if not good]
    print(f"{len(passed) - len(failed)} of {len(passed)} parts passed in "
          f"{time.monotonic() - started:.0f} s" + (f"; failed: {', '.join(failed)}" if failed
                                                   else ""))
    return 1 if failed else 0


def run(name: str, options: argparse.Namespace) -> bool:
    """Runs one part, prints and writes its rows; True if nothing failed."""
    started, rows, threads = time.monotonic(), [], torch.get_num_threads()
    results_folder().mkdir(parents=True, exist_ok=True)

    def add(row: Row) -> None:
        rows.append(plain(row))
        save(f"gpu-{name}", rows, seconds=round(time.monotonic() - started, 1))
        print(line(name, rows[-1]), flush=True)

    try:
        part: Part = import_module(f"gpu.{(CHECKS | MEASUREMENTS)[name]}").part
        # What the tests share takes one for itself, but the CPU has a reference to compute.
        torch.set_num_threads(threads)
        for row in part(options):
            add(row)
    except (Exception, SystemExit) as error:  # the other parts are worth their minutes
        traceback.print_exc()
        add({"check": name, "passed": False, "error": f"{type(error).__name__}: {error}"})
    failed = sum(row.get("passed") is False for row in rows)
    seconds = round(time.monotonic() - started, 1)
    print(f"{name}: {len(rows) - failed} of {len(rows)} in {seconds} s", flush=True)
    gc.collect()
    return not failed


def works() -> bool:
    """Whether the GPU still answers: after an illegal access it answers a process no more."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def plain(value: Any) -> Any:
    """A value as JSON has it, which knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def line(name: str, row: Row) -> str:
    """A row on one line of the terminal."""
    mark = {True: "ok  ", False: "FAIL"}.get(row.get("passed"), "    ")
    texts = [f"{key} {value:.3g}" if isinstance(value, float) else
             str(value) if key in ("check", "policy", "figure") else f"{key} {value}"
             for key, value in row.items() if key != "passed"]
    whole = " ".join(", ".join(texts).split())
    # An error is told to its end, but a list of losses is for the file.
    return f"{mark} {name}: {whole if 'error' in row else whole[:150]}"


if __name__ == "__main__":
    sys.exit(main())
