"""Runs the notebooks from their sources, on the GPU that is there, or on a pretended one.

It needs nbclient, jupytext and ipykernel, and no network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import build
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

TESTS = Path(__file__).resolve().parents[1]
CELL_SECONDS = 300
# Modes of PyTorch belong to a thread, and all cells of a kernel run in one.
PRETEND = f"""\
import sys

sys.path.insert(0, {str(TESTS)!r})

from contextlib import ExitStack

from gpu.pretend import pretend_gpu

PRETENDED = ExitStack()
PRETENDED.enter_context(pretend_gpu())"""


def run_notebooks(sources: Sequence[Path], folder: Path, at_once: int, pretend: bool = False,
                  make: Callable[[Path], NotebookNode] = build.render) -> Iterator[dict[str, Any]]:
    """Runs notebooks with the preset "smoke", each in a kernel and in a folder of its own.

    Args:
        sources: of the notebooks.
        folder: an empty one, for what they write.
        at_once: how many run at the same time.
        pretend: whether their kernels pretend to have a T4.
        make: makes the notebook of a source.

    Yields:
        {"notebook", "passed", "seconds"} of each as it ends, with "error" where it stopped: the
        number of the cell and the message, in one line.
    """
    with ThreadPoolExecutor(at_once) as pool:
        runs = [pool.submit(_run, source.stem, make(source), folder / source.stem, pretend)
                for source in sources]
        for run in as_completed(runs):
            yield run.result()


def _run(name: str, notebook: NotebookNode, folder: Path, pretend: bool) -> dict[str, Any]:
    folder.mkdir(parents=True)
    cells = list(notebook.cells)
    if pretend:
        notebook.cells.insert(0, new_code_cell(PRETEND))
    at: list[NotebookNode] = []
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}},
                            on_cell_start=lambda cell, cell_index: at.append(cell),
                            extra_arguments=["--log-level=ERROR"])
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PICOLM_PRESET": "smoke", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                        "PICOLM_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    started, error = time.monotonic(), ""
    try:
        client.execute(env=env)
    except CellExecutionError as stopped:
        error = f"{stopped.ename}: {stopped.evalue}"
    except (CellTimeoutError, DeadKernelError) as stopped:
        error = f"{type(stopped).__name__}: {stopped}"
    row = {"notebook": name, "passed": not error, "seconds": round(time.monotonic() - started, 1)}
    if not error:
        return row
    # The number that its source gives it, as in `build.render(source).cells`.
    number = next((n for n, cell in enumerate(cells) if at and cell is at[-1]), "of the set-up")
    return {**row, "error": f"cell {number}: {' '.join(error.split())}"}
