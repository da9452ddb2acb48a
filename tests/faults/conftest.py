"""A home for the runs of this suite, and the run that nothing happened to."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's library

from runs import Home, outcome  # noqa: E402


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def whole(home):
    """An uninterrupted run: what it learned, what it did to the disk, how long it took."""
    home.train("warm-up")                                            # the server, and the cache
    started = time.monotonic()
    code, run = home.train("whole")
    assert code == 0, run.complained
    return SimpleNamespace(outcome=outcome(home.folder / "whole"), events=run.events,
                           seconds=time.monotonic() - started)


@pytest.fixture
def name(request, home):
    """The name of this test's run."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)
