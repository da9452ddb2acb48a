"""The six notebooks on the GPU, with all of their exercises solved."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import build
from exercises import solved
from gpu.notebook_runs import run_notebooks


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every cell; as many notebooks at a time as there are, one core each and one to spare."""
    at_once = max(1, min(len(build.SOURCES), (os.cpu_count() or 1) - 1))
    with TemporaryDirectory() as folder:
        yield from run_notebooks(build.SOURCES, Path(folder), at_once, make=solved)
