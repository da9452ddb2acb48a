"""What the browser tests need: a browser, a JupyterLab, and a folder for screenshots."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

BROWSERS = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
SCREENSHOTS = ROOT / "build" / "browser"


def browser_path() -> str | None:
    """Where Chromium or Chrome is."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def pytest_configure() -> None:
    if importlib.util.find_spec("playwright") is None:
        raise pytest.UsageError("Playwright is missing. Install it: pip install playwright")
    if browser_path() is None:
        raise pytest.UsageError("Chromium is missing. Install it: apt-get install chromium")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab's address, with a `{}` for the path."""
    from lab import jupyterlab

    with jupyterlab(tmp_path_factory.mktemp("lab")) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=[
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """An empty folder for screenshots, ignored by git."""
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    return SCREENSHOTS
