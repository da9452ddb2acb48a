"""What a GPU must show, in parts, each of which can be run alone.

    make test-gpu PYTHON=python3                         # all checks: at most 4 minutes on an H100
    make test-gpu PYTHON=python3 PARTS="model resume"    # only these
    python tests/gpu/run.py --help                       # the parts, and what each of them does

It takes that Python as it is: no virtual environment, no network. It needs PyTorch with CUDA, what
`pyproject.toml` names except datasets and pyarrow, and for the notebooks nbclient and jupytext.

Every part writes gpu-<part>.json after each of its rows, into $OUT or tests/benchmarks/results, so
that nothing is lost where time runs out. A row with "passed": false, or an error, ends the whole
with exit status 1; without CUDA it is 2.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "benchmarks"),
                str(TESTS.parent / "notebooks")]

import torch  # noqa: E402
from record import save  # noqa: E402

Row = dict[str, Any]
Part = Callable[[argparse.Namespace], Iterator[Row]]
"""Yields a row for everything that it has found."""
CHECKS = {
    "model": "check_model",
}
MEASUREMENTS: dict[str, str] = {
}


def main(argv: list[str] | None = None) -> int:
    """Runs the parts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", default=list(CHECKS),
                        help=f"checks: {', '.join(CHECKS)}; measurements: "
                             f"{', '.join(MEASUREMENTS)}; all checks if none is named")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("error: there is no GPU that this PyTorch can use; nothing was run.")
        return 2
    passed = [run(name, options) for name in options.parts]
    return 0 if all(passed) else 1


def run(name: str, options: argparse.Namespace) -> bool:
    """Runs one part and writes its rows; True if nothing failed."""
    part: Part = import_module(f"gpu.{(CHECKS | MEASUREMENTS)[name]}").part
    started, rows = time.monotonic(), []
    try:
        for row in part(options):
            rows.append(row)
            save(f"gpu-{name}", rows, seconds=round(time.monotonic() - started, 1))
    except Exception as error:  # the other parts are worth their minutes
        traceback.print_exc()
        rows.append({"check": name, "passed": False, "error": f"{type(error).__name__}: {error}"})
    seconds = round(time.monotonic() - started, 1)
    save(f"gpu-{name}", rows, seconds=seconds)
    failed = [row for row in rows if row.get("passed") is False]
    print(f"{name}: {len(rows) - len(failed)} of {len(rows)} in {seconds} s", flush=True)
    return not failed


if __name__ == "__main__":
    sys.exit(main())
