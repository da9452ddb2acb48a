"""Notebooks in a real JupyterLab and browser: all cells run, sliders answer, on a phone, too.

Run by `make test-browser`, which takes minutes; a plain pytest leaves this folder out.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from helpers import ROOT
from lab import eventually
from pages import (
    as_on_a_phone,
    drag,
    drawings,
    errors,
    far_off,
    misfits,
    open_notebook,
    playgrounds,
    reading,
    run_all,
)
from playwright.sync_api import Browser, Locator, Page

PLAYGROUNDS = {"02_rope_and_gqa": 5, "04_muon": 3, "06_sampling": 2}


@pytest.fixture(scope="module", params=PLAYGROUNDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(name: str, lab: str, browser: Browser, screenshots: Path) -> Page:
    """A notebook after "Run All Cells"."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    open_notebook(page, lab, name)
    counts = run_all(page)
    page.screenshot(path=screenshots / f"{name}.png")
    assert errors(page) == []
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    assert counts == list(range(1, cells + 1))
    yield page
    page.close()


def follows(page: Page, playground: Locator) -> None:
    """Drags the first slider: its number and all drawings below change, come back, and change."""
    number, before = reading(playground), drawings(playground)

    def has_moved() -> bool:
        return reading(playground) != number and all(
            old != new for old, new in zip(before, drawings(playground), strict=True))

    start = drag(page, playground, to=far_off(playground), steps=5)
    eventually(has_moved, "the number and every drawing have changed")
    drag(page, playground, to=start, steps=5)
    eventually(lambda: (reading(playground), drawings(playground)) == (number, before),
               "the drawings of the last place of the slider are shown")
    drag(page, playground, to=far_off(playground), steps=1)
    eventually(has_moved, "the number and every drawing have changed")
    assert misfits(playground) == []


def all_follow(page: Page, name: str, screenshots: Path, suffix: str = "") -> None:
    found = playgrounds(page)
    assert len(found) == PLAYGROUNDS[name]
    for number, playground in enumerate(found, start=1):
        follows(page, playground)
        playground.screenshot(path=screenshots / f"{name}_{number}{suffix}.png")
    assert errors(page) == []


def test_every_playground_follows_its_slider(page, name, screenshots):
    all_follow(page, name, screenshots)


def test_every_playground_fits_on_a_phone(page, name, screenshots):
    as_on_a_phone(page)
    all_follow(page, name, screenshots, "_phone")
