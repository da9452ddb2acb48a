"""Each notebook with all of its exercises solved and its bug found, from top to bottom."""

from __future__ import annotations

import os

import build
import pytest
from exercises import checks_of, exercises
from nbclient import NotebookClient

# Of the kernels; two notebooks run at a time.
os.environ |= {"PICOLM_PRESET": "smoke", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda path: path.stem)
def test_it_runs_and_every_check_is_content(source, tmp_path):
    notebook = build.render(source)
    for exercise in exercises(source):
        cell = notebook.cells[exercise.cell]
        before = exercise.stub[:exercise.stub.index("def ")]
        cell.source = (f"{before}{exercise.solution}\nverdict = checks.{exercise.name}"
                       f"({exercise.function})\nassert verdict.passed, verdict.message")
    hunts = [cell for cell in notebook.cells if "checks.bug_hunt(suspect)" in cell.source]
    for cell in hunts:
        culprit = checks_of(source).bug_hunt.culprit
        before = cell.source[:cell.source.index("suspect =")]
        cell.source = (f"{before}suspect = {culprit!r}\nverdict = checks.bug_hunt(suspect)\n"
                       "assert verdict.passed, verdict.message")
    assert len(exercises(source)) >= 2
    client = NotebookClient(notebook, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
