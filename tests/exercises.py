"""The exercises of the notebooks, as their sources have them: stub, call of the check, solution."""

from __future__ import annotations

import importlib
import linecache
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import build
import torch
import torch.nn.functional as F
from nbformat import NotebookNode
from torch import nn

from picolm_lib.course.my_picolm.reference import merge
from picolm_lib.course.tokens.exercises.learning import count_pairs

_numbers = count()


def define(code: str, name: str, **given: Any) -> Callable:
    """A function that a cell defines; its source can be found, as that of a cell can."""
    file = f"<cell {next(_numbers)}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    space = {"__name__": "__main__", "torch": torch, "F": F, "nn": nn, "math": math,
             "Counter": Counter, "count_pairs": count_pairs, "merge": merge, **given}
    exec(compile(code, file, "exec"), space)
    return space[name]


@dataclass(frozen=True)
class Found:
    """An exercise in a notebook."""

    checks: ModuleType
    cell: int
    """The number of the cell with the stub."""
    name: str
    """Of the check."""
    function: str
    """The learner's function, which the check is called with."""
    stub: str
    solution: str

    @property
    def check(self):
        return getattr(self.checks, self.name)


def checks_of(source: Path) -> ModuleType:
    """The module of checks that a notebook imports."""
    folder = re.search(r"from picolm_lib\.course\.(\w+) import checks", source.read_text())[1]
    return importlib.import_module(f"picolm_lib.course.{folder}.checks")


def solution_after(cells: list[NotebookNode], number: int) -> str:
    """The folded solution in the cell below, after two hints."""
    text = cells[number + 1].source
    assert text.count("<details>") == 3, f"two hints and one solution belong below {number}"
    return re.search(r"Solution</summary>\n\n```python\n(.+?)```", text, re.DOTALL)[1]


def exercises(source: Path) -> list[Found]:
    """All exercises of a notebook: the stub, the call of the check, two hints and the solution."""
    found = []
    cells = build.render(source).cells
    for number, cell in enumerate(cells):
        call = re.search(r"^(\w+) = checks\.(\w+)\(\1\)$", cell.source, re.MULTILINE)
        if cell.cell_type == "code" and call:
            # The call stands below the stub, in the same cell or in the next.
            place = number if f"def {call[1]}(" in cell.source else number - 1
            found.append(Found(checks_of(source), place, call[2], call[1], cells[place].source,
                               solution_after(cells, number)))
    return found


def solved(source: Path) -> NotebookNode:
    """A notebook with all of its exercises solved and its bug found; a check that is not content
    stops it.
    """
    notebook = build.render(source)
    for exercise in exercises(source):
        before = exercise.stub[:exercise.stub.index("def ")]
        notebook.cells[exercise.cell].source = f"{before}{exercise.solution}"
        call = f"{exercise.function} = checks.{exercise.name}({exercise.function})"
        asserted = (f"verdict = checks.{exercise.name}.verdict({exercise.function})\n"
                    f"assert verdict.passed, verdict.message\n{call}")
        if call in exercise.stub:
            notebook.cells[exercise.cell].source += f"\n{asserted}"
        else:
            below = notebook.cells[exercise.cell + 1]
            below.source = below.source.replace(call, asserted)
    for number, cell in enumerate(notebook.cells):
        if "checks.bug_hunt(suspect)" in cell.source:
            before = cell.source[:cell.source.index("suspect =")]
            cell.source = (f"{before}suspect = {checks_of(source).bug_hunt.culprit!r}\n"
                           "verdict = checks.bug_hunt(suspect)\n"
                           "assert verdict.passed, verdict.message")
        elif cell.source.startswith("diagnosis = "):
            cell.source = (f"{solution_after(notebook.cells, number)}\n"
                           "verdict = hunt.verdict(diagnosis)\n"
                           "assert verdict.passed, verdict.message")
    return notebook
