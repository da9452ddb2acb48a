"""The sliders and clocks of the course on a pretended GPU: a T4.

Whole notebooks take minutes there: parts/test_notebooks_on_a_gpu.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from course.test_playgrounds import PLAYGROUNDS, PROMPT
from gpu.pretend import pretend_gpu

from picolm_lib.course.attention.cost import write_tokens
from picolm_lib.course.muon import duel
from picolm_lib.course.sampling.playgrounds import sampling_playground
from picolm_lib.course.sampling.speed import tokens_per_second
from picolm_lib.course.training.budget import measure_steps
from picolm_lib.course.widgets import Playground
from picolm_lib.train.checkpoint import load_run

ON_A_GPU: dict[str, Callable[[], Playground]] = PLAYGROUNDS | {
    "sampling": lambda: sampling_playground(*load_run("bundled", "cuda")[:2], PROMPT)}


@pytest.mark.parametrize("make", ON_A_GPU.values(), ids=ON_A_GPU)
def test_the_sliders_draw(make):
    """Where they are at first, and all of them elsewhere."""
    with pretend_gpu():
        playground = make()
        elsewhere = {}
        for name, control in playground.sliders.items():
            options = getattr(control, "options", None) or (control.min, control.max)
            elsewhere[name] = next(option for option in options if option != control.value)
        for draw, drawing in zip(playground.draws, playground.drawings, strict=True):
            assert draw(**elsewhere).html != drawing.html


def test_the_clocks_are_read_when_the_gpu_is_done(monkeypatch):
    """As many waits as times that are measured."""
    monkeypatch.setenv("PICOLM_PRESET", "smoke")
    with pretend_gpu():
        waited: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
        model, prompt = load_run("bundled", "cuda")[0], torch.zeros(1, 3, dtype=int, device="cuda")
        for measure, times in (
                (lambda: write_tokens(model, prompt, 2, cached=True), 2),
                (lambda: tokens_per_second(lambda count: None, [1, 2], "nothing"), 4),
                (lambda: duel.step_seconds(steps=1), 2 * 3),
                (lambda: measure_steps(duel.trainer(), steps=2, seconds=0), 3)):
            waited.clear()
            measure()
            assert len(waited) == times
