"""The exercises of the notebooks, as their sources have them: stub, call of the check, solution."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import build
from nbformat import NotebookNode


@dataclass(frozen=True)
class Found:
    """An exercise in a notebook."""

    checks: ModuleType
    cell: int
    """The number of its cell."""
    name: str
    function: str
    """The learner's function that the check is called with."""
    stub: str
    solution: str

    @property
    def check(self):
        return getattr(self.checks, self.name)


def checks_of(source: Path) -> ModuleType:
    """The module of checks that a notebook imports."""
    folder = re.search(r"from picolm_lib\.course\.(\w+) import checks", source.read_text())[1]
    return importlib.import_module(f"picolm_lib.course.{folder}.checks")


def exercises(source: Path) -> list[Found]:
    """All exercises of a notebook. Below each cell are two hints and the solution, folded."""
    found = []
    cells = build.render(source).cells
    for number, (cell, after) in enumerate(zip(cells, [*cells[1:], None], strict=True)):
        call = re.search(r"^checks\.(\w+)\((\w+)\)$", cell.source, re.MULTILINE)
        if cell.cell_type == "code" and call and "def " in cell.source:
            assert after.source.count("<details>") == 3, f"{call[1]}: two hints, one solution"
            solution = re.search(r"Solution</summary>\n\n```python\n(.+?)```", after.source,
                                 re.DOTALL)[1]
            found.append(Found(checks_of(source), number, call[1], call[2], cell.source, solution))
    return found


def solved(source: Path) -> NotebookNode:
    """A notebook with all of its exercises solved and its bug found; a check that is not content
    stops it.
    """
    notebook = build.render(source)
    for exercise in exercises(source):
        before = exercise.stub[:exercise.stub.index("def ")]
        notebook.cells[exercise.cell].source = (
            f"{before}{exercise.solution}\nverdict = checks.{exercise.name}({exercise.function})\n"
            "assert verdict.passed, verdict.message")
    for cell in notebook.cells:
        if "checks.bug_hunt(suspect)" in cell.source:
            before = cell.source[:cell.source.index("suspect =")]
            cell.source = (f"{before}suspect = {checks_of(source).bug_hunt.culprit!r}\n"
                           "verdict = checks.bug_hunt(suspect)\n"
                           "assert verdict.passed, verdict.message")
    return notebook
