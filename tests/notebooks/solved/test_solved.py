"""Each notebook with all of its exercises solved and its bug found, from top to bottom."""

from __future__ import annotations

import os

import build
import pytest
from exercises import exercises, solved
from nbclient import NotebookClient

# Of the kernels; two notebooks run at a time.
os.environ |= {"PICOLM_PRESET": "smoke", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("source", build.SOURCES, ids=lambda path: path.stem)
def test_it_runs_and_every_check_is_content(source, tmp_path):
    notebook = solved(source)
    assert len(exercises(source)) >= 2
    client = NotebookClient(notebook, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
