"""The exercises of all notebooks: folded solutions pass, untouched stubs say "Not yet"."""

from __future__ import annotations

import importlib
import math
import re

import pytest
import torch
import torch.nn.functional as F
from test_notebooks import build
from torch import nn


def exercises() -> list:
    """(notebook, checks module, exercise, function, stub's code, solution's code)."""
    found = []
    for source in build.SOURCES:
        cells = build.render(source).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        module = re.search(r"from (picolm_lib\.course\.\w+) import checks", code)[1]
        for cell, after in zip(cells, [*cells[1:], None], strict=True):
            call = re.search(r"^checks\.(\w+)\((\w+)\)$", cell.source, re.MULTILINE)
            if cell.cell_type == "code" and call and "def " in cell.source:
                assert after.source.count("<details>") == 3, f"{call[1]}: two hints, one solution"
                solution = re.search(r"Solution</summary>\n\n```python\n(.+?)```", after.source,
                                     re.DOTALL)[1]
                found.append(pytest.param(f"{module}.checks", call[1], call[2], cell.source,
                                          solution, id=f"{source.stem[:2]}-{call[1]}"))
    return found


EXERCISES = exercises()


def run(code: str, name: str):
    space = {"torch": torch, "F": F, "nn": nn, "math": math}
    exec(re.sub(r"^(checks\.|from picolm_lib).*$", "", code, flags=re.MULTILINE), space)
    return space[name]


def test_every_notebook_has_two_or_three():
    for source in build.SOURCES:
        count = sum(e.id.startswith(source.stem[:2]) for e in EXERCISES)
        assert 2 <= count <= 3, source.stem


@pytest.mark.parametrize("module, exercise, function, stub, solution", EXERCISES)
def test_the_solution_passes_and_the_stub_waits(module, exercise, function, stub, solution):
    check = getattr(importlib.import_module(module), exercise)
    verdict = check(run(solution, function))
    assert verdict.passed, verdict.message
    verdict = check(run(stub, function))
    assert not verdict.passed and verdict.message.startswith("Not yet")


@pytest.mark.parametrize("module, exercise, function, stub, solution", EXERCISES)
def test_the_checks_tell_their_mistakes_apart(module, exercise, function, stub, solution):
    check = getattr(importlib.import_module(module), exercise)
    assert len(check.mistakes) >= 5
    for message, mistake in check.mistakes.items():
        verdict = check(lambda *a, wrong=mistake: (wrong(*a)))
        assert not verdict.passed
        assert message in verdict.message, message


@pytest.mark.parametrize("module, exercise, function, stub, solution", EXERCISES)
def test_an_unforeseen_answer_an_error_and_a_changed_input(module, exercise, function, stub,
                                                            solution):
    check, right = getattr(importlib.import_module(module), exercise), run(solution, function)
    assert "Not right yet" in check(lambda *a: "nonsense").message
    assert "KeyError" in check(lambda *a: {}["x"]).message

    def spoiling(first, *rest):
        answer = right(first, *rest)
        if isinstance(first, torch.Tensor):
            first.add_(1)
        elif isinstance(first, list):
            first.append(0)
        return answer

    first = check.cases()[0][0]
    if isinstance(first, (torch.Tensor, list)):
        assert "in place" in check(spoiling).message
