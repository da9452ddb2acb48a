"""The six notebooks, with all of their exercises solved, on a pretended GPU: a T4."""

from __future__ import annotations

from pathlib import Path

import build
import pytest
from exercises import solved
from gpu.notebook_runs import run_notebooks
from nbformat.v4 import new_code_cell, new_notebook


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda path: path.stem)
def test_every_cell_runs_and_every_check_is_content(source, tmp_path):
    (row,) = run_notebooks([source], tmp_path, at_once=1, pretend=True, make=solved)
    assert row["passed"], row["error"]


def test_a_cell_that_stops_is_named(tmp_path):
    (row,) = run_notebooks([Path("some.py")], tmp_path, at_once=1, make=lambda source: new_notebook(
        cells=[new_code_cell("import os"), new_code_cell("int(os.environ['PICOLM_PRESET'])")]))
    assert not row["passed"] and row["notebook"] == "some"
    assert row["error"].startswith("cell 1: ValueError:") and "'smoke'" in row["error"]
