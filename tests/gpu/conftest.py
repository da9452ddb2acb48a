"""Skips what pretends a GPU on a PyTorch that it was not tried with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
TRIED = (2, 13)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pretended GPU is made of PyTorch's inner parts, which change."""
    if tuple(map(int, torch.__version__.split(".")[:2])) >= TRIED:
        return
    reason = f"the pretended GPU was tried with torch {'.'.join(map(str, TRIED))} and newer"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))
