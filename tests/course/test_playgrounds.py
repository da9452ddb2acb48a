"""Every slider of every playground moves its drawing, which stays small."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from picolm_lib.course import plots, widgets
from picolm_lib.course.attention import playgrounds as attention
from picolm_lib.course.muon import paths
from picolm_lib.course.muon import playgrounds as muon
from picolm_lib.course.pyramid import designer, residual_stream
from picolm_lib.course.sampling import pictures, playgrounds
from picolm_lib.course.tokens import pictures as tokens
from picolm_lib.course.tokens import vocabulary
from picolm_lib.course.training import time_machine
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.storybook.story import stories
from picolm_lib.train.checkpoint import load_run

MAPS, PIECES = torch.rand(3, 2, 5, 5).tril(), ["a", "b", "\n", "d", "e"]
PROMPT = "Once upon a time, there was a girl named Lily. She loved to run. She loved to"
PLAYGROUNDS: dict[str, Callable[[], Playground]] = {
    "vocabulary": vocabulary.vocabulary_cost,
    "merges": lambda: tokens.merge_slider(next(stories(1, seed=3)).text),
    "rope": attention.rope_clocks,
    "KV cache": attention.kv_cache,
    "layers": partial(attention.attention_layers, MAPS, PIECES),
    "attention": partial(attention.attention_on_story, MAPS, PIECES),
    "pyramid": designer.pyramid_designer,
    "stream": residual_stream.stream_playground,
    "Newton-Schulz": muon.spectrum_stepper,
    "descent": paths.descent,
    "time machine": time_machine.time_machine,
    "time machine with sampling": lambda: time_machine.time_machine_with_sampling("One day, Tom"),
    "sampling": lambda: playgrounds.sampling_playground(*load_run("bundled")[:2], PROMPT),
}


@pytest.mark.parametrize("make", PLAYGROUNDS.values(), ids=PLAYGROUNDS)
def test_every_slider_moves_its_drawing_there_and_back(make):
    playground = make()

    def shown() -> list[str]:
        return [drawing.value for drawing in playground.shown]

    first = shown()
    for name, control in playground.sliders.items():
        value, options = control.value, getattr(control, "options", None)
        control.value = (next(option for option in options if option != value) if options
                         else control.max if value != control.max else control.min)
        assert shown() != first, name
        # As base64: four characters for three bytes.
        assert all(len(html) < 80_000 * 4 / 3 for html in shown())
        control.value = value
        assert shown() == first, name


def test_the_bars_are_sent_before_the_text_is_begun():
    seen = []

    def draw(x):
        return pictures.draw_story(["a" * x], [0.5], "first")

    def later(x):
        seen.append((x, playground.shown[0].value) if seen else (x, None))
        return pictures.draw_story(["b" * x], [0.5], "second")

    playground = Playground(draw, later=later, x=slider("x", 1, 1, 9))
    playground.sliders["x"].value = 4
    assert [x for x, _ in seen] == [1, 4]
    assert seen[1][1] == draw(4).html and len(playground.shown) == 2


def test_without_sliders_the_drawings_are_shown_as_they_are_now(monkeypatch):
    bundles = []
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: bundles.append(bundle))
    playground = Playground(lambda x: pictures.draw_story([f"{x} & more"], [0.5], "a"),
                            later=lambda x: plots.lines({"b": ([0, 1], [0, x])}, "", "", "", '"b"'),
                            x=slider("x", 1, 1, 9))
    playground.sliders["x"].value = 7
    playground._ipython_display_()
    [bundle] = bundles
    assert "7 &amp; more" in bundle["text/html"] and 'alt="&quot;b&quot;"' in bundle["text/html"]
    assert bundle["text/plain"].endswith('7 & more\' and so on. "b"]')
    assert bundle["text/html"] == "".join(drawing.value for drawing in playground.shown)
