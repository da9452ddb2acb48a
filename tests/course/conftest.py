"""All figures that these tests draw must be legible."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from picolm_lib.course import plots


def _ticks_outside(figure: Figure) -> set[Text]:
    """Labels of ticks beyond the ends of an axis, and of axes that are off: they are not drawn."""
    found = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            room = 1e-6 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and low - room <= tick.get_loc() <= high + room):
                    found |= {tick.label1, tick.label2}
    return found


def faults(figure: Figure) -> list[str]:
    """Words of a drawn figure that are too small, cut off at its edge, or on other words."""
    hidden = _ticks_outside(figure)
    places = {words: words.get_window_extent() for words in figure.findobj(Text)
              if words.get_visible() and words.get_text().strip() and words not in hidden}
    found = [f"small: {words.get_text()!r}" for words in places
             if words.get_fontsize() < plots.SMALLEST or "^" in words.get_text()]
    found += [f"cut off: {words.get_text()!r}" for words, box in places.items()
              if min(box.x0, box.y0) < -1 or box.x1 > figure.bbox.x1 + 1
              or box.y1 > figure.bbox.y1 + 1]
    for (words, box), (others, other) in itertools.combinations(places.items(), 2):
        # The boxes of upright words include some air above and below.
        if (min(box.x1, other.x1) - max(box.x0, other.x0) > 1
                and min(box.y1, other.y1) - max(box.y0, other.y0) > 5):
            found.append(f"overlap: {words.get_text()!r} and {others.get_text()!r}")
    return found


@pytest.fixture(autouse=True)
def legible(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Looks at each figure that is finished; returns the list of faults, to be empty at the end."""
    found: list[str] = []

    class Canvas(FigureCanvasAgg):
        def draw(self) -> None:
            super().draw()
            found.extend(faults(self.figure))

    monkeypatch.setattr(plots, "FigureCanvasAgg", Canvas)
    yield found
    assert found == []
