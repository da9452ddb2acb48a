"""Every test has caches of its own."""

import pytest
from helpers import isolate


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")
