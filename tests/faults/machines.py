"""Machines as Colab lends them: notebook 05 in a kernel, of which nothing but Drive survives."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import build
from helpers import ROOT
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

SOURCE = next(path for path in build.SOURCES if path.stem.startswith("05"))
COLAB = Path(__file__).with_name("colab")
PATIENCE_S = 300  # only so that what hangs ends at all
# Cells, by words that only they have.
SETUP, SETTINGS, DRIVE, BUDGET, PLAN, DATA, TRAIN, NEXT_SECTION = (
    "start(seed=0", "# @param", "drive.connect(", "budget.draw_budget(", "plan_run(PRESET",
    "get_data(plan)", "ready.train(trainer)", "import tempfile")
# Cells of our own, in the manner of an accident. A checkpoint after every step:
OFTEN = """
from dataclasses import replace
train = replace(ready.train_config, checkpoint_minutes=1e-9)
ready = replace(ready, plan=replace(ready.plan, config=replace(ready.plan.config, train=train)))
"""
# After so many steps, run 05-1 waits until a file "go" appears.
WAITS = """
import pathlib, time
from picolm_lib.train.trainer import Trainer
real_step = Trainer.step
def waiting_step(trainer):
    if trainer.folder and trainer.folder.name == "05-1" and trainer.progress.step == {step}:
        pathlib.Path("waits").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
    return real_step(trainer)
Trainer.step = waiting_step
"""
# The stop button, pressed `times` at the end of a function's n-th call.
STOPS = """
import signal
import picolm_lib.train.trainer as module
owner, name = {where}
real, calls = getattr(owner, name), []
def stopping(*args, **kwargs):
    result = real(*args, **kwargs)
    calls.append(name)
    if len(calls) == {call}:
        setattr(owner, name, real)
        for _ in range({times}):
            signal.raise_signal(signal.SIGINT)
    return result
setattr(owner, name, stopping)
"""
# Drive has no space while there is a file "full": what is copied breaks off in the middle.
FILLS = """
import errno, os, pathlib, shutil
real_copy = shutil.copy2
def copy(source, target, **how):
    if not pathlib.Path("full").exists():
        return real_copy(source, target, **how)
    content = pathlib.Path(source).read_bytes()
    pathlib.Path(target).write_bytes(content[:len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
shutil.copy2 = copy
"""
# The Hub answers the data's cell with an HTTP status that lasts.
REFUSES = """
from types import SimpleNamespace
from picolm_lib.course.training import run
from picolm_lib.data import hub, local
real_corpus = run.load_corpus
def refused(*_):
    run.load_corpus = real_corpus
    error = Exception("no")
    error.response = SimpleNamespace(status_code={status})
    raise hub.problem("roneneldan/TinyStories", error, local.HINT)
run.load_corpus = refused
"""


class Machine:
    """A new machine with the notebook open, and a kernel.

    Args:
        folder: its disk.
        drive: Drive's folder; None: it cannot be mounted.
        environment: more variables.
    """

    def __init__(self, folder: Path, drive: Path | None, **environment: object) -> None:
        folder.mkdir()
        self.folder, self.runs = folder, folder / "runs"
        self.notebook = build.render(SOURCE)
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("HF_", "TRANSFORMERS_"))}
        own = {"PICOLM_PRESET": "smoke", "PICOLM_CACHE": folder / "cache", "PICOLM_RUNS": "runs",
               "HF_HOME": folder / "hf", "HF_HUB_OFFLINE": 1, "OMP_NUM_THREADS": 1,
               "DRIVE": drive or "", "PYTHONPATH": f"{COLAB}{os.pathsep}{ROOT}", **environment}
        self.client = NotebookClient(
            self.notebook, timeout=PATIENCE_S, kernel_name="python3", allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--log-level=ERROR"])
        self._kernel = ExitStack()
        self._kernel.enter_context(self.client.setup_kernel(
            env={**kept, **{name: str(value) for name, value in own.items()}}))

    def close(self) -> None:
        self._kernel.close()

    def find(self, words: str) -> int:
        """The number of the first code cell with these words."""
        return next(number for number, cell in enumerate(self.notebook.cells)
                    if cell.cell_type == "code" and words in cell.source)

    def run(self, words: str) -> str:
        """Runs the cell with these words, which must be green; what it says."""
        output, errors = self._run(self.find(words))
        assert not errors, errors
        return output

    def fail(self, words: str) -> tuple[str, str]:
        """Runs the cell with these words, which must fail in a line; what it says, that line."""
        output, errors = self._run(self.find(words))
        [error] = errors
        lines = error.splitlines()
        assert len(lines) == 1 and error.startswith("error: ") and error.endswith("."), error
        return output, error

    def run_all(self, after: str = "", until: str = "") -> dict[int, str]:
        """Runs the cells from the first or after one, to the last or before one; all are green."""
        first = self.find(after) + 1 if after else 0
        last = self.find(until) if until else len(self.notebook.cells)
        said = {}
        for number in range(first, last):
            if self.notebook.cells[number].cell_type == "code":
                said[number], errors = self._run(number)
                assert not errors, (self.notebook.cells[number].source, errors)
        return said

    def execute(self, source: str) -> str:
        """Runs what is no cell of the notebook; what it says."""
        output, errors = self._execute(new_code_cell(source), 0)
        assert not errors, errors
        return output

    def set(self, **settings: object) -> None:
        """Changes values in Settings, and runs that cell."""
        cell = self.notebook.cells[self.find(SETTINGS)]
        for name, value in settings.items():
            cell.source, found = re.subn(f"(?m)^{name} = .*?  #", f"{name} = {value!r}  #",
                                         cell.source)
            assert found == 1, name
        self.run(SETTINGS)

    def _run(self, number: int) -> tuple[str, list[str]]:
        return self._execute(self.notebook.cells[number], number)

    def _execute(self, cell: NotebookNode, number: int) -> tuple[str, list[str]]:
        self.client.execute_cell(cell, number)
        texts = [output.get("text") or output.data.get("text/plain", "")
                 for output in cell.outputs if output.output_type != "error"]
        return "".join(texts), ["\n".join(output.traceback) for output in cell.outputs
                                if output.output_type == "error"]

    @contextmanager
    def struck(self, number: int) -> Iterator[None]:
        """Sends a signal to the kernel as soon as it waits in a step (WAITS), and lets it go on."""
        over = threading.Event()
        pid = self.client.km.provisioner.pid

        def strike() -> None:
            while not (self.folder / "waits").exists():
                if over.wait(0.01):
                    return
            os.kill(pid, number)
            (self.folder / "go").touch()

        thread = threading.Thread(target=strike)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def die(self, words: str) -> None:
        """Runs a cell, in the middle of which the machine is taken away."""
        with self.struck(signal.SIGKILL):
            try:
                self.run(words)
            except DeadKernelError:
                return
        raise AssertionError("the kernel outlived SIGKILL")
