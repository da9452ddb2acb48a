"""Playgrounds: a few sliders over a pure function that draws.

It uses only what ipywidgets 7.7 (Colab) and 8 share. A drawing is plain HTML, so no output has to
be captured, and each move of a slider is answered with one small message.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from IPython.display import display

from picolm_lib.course.plots import PAGE_WIDTH, Drawing, stack

VIEW = "application/vnd.jupyter.widget-view+json"


class Playground:
    """Sliders above a drawing that follows them.

    Args:
        draw: makes a drawing from one value per slider, given by name.
        later: makes a second one below the first, from the same values. It is for what takes
            longer: the first has been sent before this one is started.
        sliders: name of the parameter -> its slider.

    Where sliders cannot be shown, as on GitHub, the first drawings are shown instead.
    """

    def __init__(self, draw: Callable[..., Drawing], later: Callable[..., Drawing] | None = None,
                 **sliders: ipywidgets.ValueWidget) -> None:
        self.draws = (draw,) if later is None else (draw, later)
        self.sliders = sliders
        self.drawings = [self._draw(number) for number in range(len(self.draws))]
        # As wide as the page lets it be: HTML alone would be as wide as its longest line.
        self.shown = [ipywidgets.HTML(value=drawing.html, layout=ipywidgets.Layout(
            margin="0", width="100%", max_width=f"{PAGE_WIDTH}px"))
            for drawing in self.drawings]
        for slider in sliders.values():
            slider.observe(self._redraw, names="value")
        self.box = ipywidgets.VBox([*map(_row, sliders.values()), *self.shown])

    @property
    def picture(self) -> Drawing:
        """What is shown now."""
        return stack(*self.drawings)

    def _draw(self, number: int) -> Drawing:
        values = {name: slider.value for name, slider in self.sliders.items()}
        return self.draws[number](**values)

    def _redraw(self, _: object = None) -> None:
        for number, shown in enumerate(self.shown):
            self.drawings[number] = self._draw(number)
            shown.value = self.drawings[number].html

    def _ipython_display_(self) -> None:
        """Live sliders and, for readers without a kernel, the drawings as they are now."""
        bundle: dict[str, object] = {**self.picture._repr_mimebundle_()}
        bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        display(bundle, raw=True)


def slider(label: str, value: float, smallest: float, largest: float, step: float = 1,
           ) -> ipywidgets.ValueWidget:
    """A slider over numbers: over integers if all of its arguments are integers."""
    whole = all(isinstance(number, int) for number in (value, smallest, largest, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value=value, min=smallest, max=largest, step=step, **_looks(label))


def steps(label: str, options: list, value: object) -> ipywidgets.ValueWidget:
    """A slider over the values of a list, such as powers of two or names."""
    return ipywidgets.SelectionSlider(options=options, value=value, **_looks(label))


def _looks(label: str) -> dict:
    # As wide as the row leaves room for; the margin is for the handle at either end.
    return {"description": label, "layout": ipywidgets.Layout(
        width="auto", flex="1 1 240px", max_width="460px", margin="2px 8px")}


def _row(slider: ipywidgets.ValueWidget) -> ipywidgets.HBox:
    """The label beside its slider, or above it where space is tight, as on a phone.

    A slider's own label would never wrap, and would push the slider out of sight.
    """
    label = ipywidgets.Label(slider.description, layout=ipywidgets.Layout(flex="0 0 150px"))
    slider.description = ""
    return ipywidgets.HBox([label, slider], layout=ipywidgets.Layout(flex_flow="row wrap"))
