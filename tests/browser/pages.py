"""What a learner does in JupyterLab: open a notebook, run all cells, drag a slider, look."""

from __future__ import annotations

import re

from lab import eventually
from playwright.sync_api import Locator, Page

SECONDS = 1_800  # for a whole notebook, even on a busy machine


def open_notebook(page: Page, address: str, name: str) -> None:
    """Opens a notebook and waits for its kernel: before that, "Run All Cells" does nothing.

    It gets its own workspace, or notebooks opened before would be opened too.
    """
    page.goto(address.format(f"lab/workspaces/{name}/tree/{name}.ipynb"))
    wait_until_idle(page)


def run_all(page: Page) -> list[int]:
    """Runs all cells by the menu, to the end or to an error; returns their execution counts."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")

    def counts() -> list[int]:
        found = [re.fullmatch(r"\[(\d+)\]:", text) for text in prompts.all_inner_texts()]
        return [int(match[1]) for match in found if match]

    eventually(lambda: bool(errors(page)) or len(counts()) == prompts.count(),
               "all cells have run", SECONDS)
    if not errors(page):
        wait_until_idle(page)
    return counts()


def wait_until_idle(page: Page) -> None:
    """Waits for an idle kernel. The status bar distinguishes it from no kernel at all."""
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=120_000)


def errors(page: Page) -> list[str]:
    """Errors and warnings of cells: JupyterLab marks both as stderr."""
    return page.locator("[data-mime-type='application/vnd.jupyter.stderr'],"
                        "[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()


def playgrounds(page: Page) -> list[Locator]:
    """The boxes of sliders above drawings."""
    return page.locator(".jp-OutputArea .widget-vbox:has(> .widget-html)").all()


def drawings(playground: Locator) -> list[str]:
    """The HTML of what is shown, one below the other."""
    return [shown.inner_html() for shown in playground.locator(".widget-html-content").all()]


def reading(playground: Locator) -> str:
    """The value beside the first slider."""
    return playground.locator(".widget-readout").first.inner_text()


def drag(page: Page, playground: Locator, to: float, steps: int) -> float:
    """Drags the first slider's handle with the mouse.

    Args:
        to: where to, in pixels from the page's left edge.
        steps: moves of the mouse, each of which the slider may answer.

    Returns:
        Where the handle was, in the same pixels.
    """
    handle = playground.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    x, y = _middle(handle)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(to, y, steps=steps)
    page.mouse.up()
    return x


def far_off(playground: Locator) -> float:
    """A place for the first slider's handle near the other end of its track.

    Near the end, since the bundled model may write the same text over half of a slider.
    """
    track = playground.locator(".noUi-base").first
    middle, width = _middle(track)[0], track.bounding_box()["width"]
    handle = _middle(playground.locator(".noUi-handle").first)[0]
    return middle + (0.48 if handle < middle else -0.48) * width


def _middle(part: Locator) -> tuple[float, float]:
    box = part.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def as_on_a_phone(page: Page) -> None:
    """Makes the page narrow and closes the list of files."""
    page.set_viewport_size({"width": 400, "height": 860})
    page.keyboard.press("Control+b")
    page.locator("#jp-left-stack").wait_for(state="hidden")


def misfits(playground: Locator) -> list[str]:
    """What sticks out of the playground, is cut off, too small to drag, or distorted."""
    return playground.evaluate("""box => {
        const room = box.getBoundingClientRect(), found = []
        const report = (what, node) => found.push(`${what}: ${node.className} ${node.innerText}`)
        if (room.right > innerWidth) report("outside of the window", box)
        if (box.scrollWidth > box.clientWidth) report("must be scrolled", box)
        const parts = ".noUi-handle, .widget-label, .widget-readout, img, figure, figure div"
        for (const node of box.querySelectorAll(parts)) {
            const {left, right, width} = node.getBoundingClientRect()
            if (width && (left < room.left || right > room.right)) report("sticks out", node)
            if (width && node.scrollWidth > node.clientWidth) report("is cut", node)
        }
        for (const node of box.querySelectorAll(".noUi-base"))
            if (node.clientWidth < 100) report("is short", node)
        for (const {width, height, naturalWidth, naturalHeight} of box.querySelectorAll("img"))
            if (Math.abs(height - naturalHeight * width / naturalWidth) > 2)
                found.push(`is distorted: ${width} x ${height}`)
        return found
    }""")
