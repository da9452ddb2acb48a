"""Schedules of the learning rate, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from picolm_lib.config import TrainConfig
from picolm_lib.course.plots import BLUE, GREEN, ORANGE, SKY, Picture, canvas, finish
from picolm_lib.train.schedule import lr_factor


def cosine(done: float, config: TrainConfig) -> float:
    """The usual alternative: the same warm-up, then half a cosine down to zero."""
    rising = done / config.warmup if config.warmup else 1.0
    return min(rising, 0.5 * (1 + math.cos(math.pi * done)))


def draw_schedules(config: TrainConfig, mine: Sequence[float] | None = None) -> Picture:
    """Three schedules over a run; `mine` is a fourth, at evenly spaced points from 0 to 1."""
    figure, axes = canvas(2.9)
    places = [i / 400 for i in range(401)]
    flat = replace(config, decay=0.0)
    for name, values, color, style in (
            ("warm-up, stable, decay", [lr_factor(p, config) for p in places], BLUE, "-"),
            ("constant", [lr_factor(p, flat) for p in places], ORANGE, "--"),
            ("cosine", [cosine(p, config) for p in places], GREEN, "-.")):
        axes.plot(places, values, style, color=color, label=name)
    if mine is not None:
        axes.plot([i / (len(mine) - 1) for i in range(len(mine))], mine, "o", color=SKY,
                  label="yours")
    axes.set(xlabel="share of the run that is done", ylabel="factor on the learning rate",
             title="Three schedules", ylim=(0, 1.08))
    axes.legend(loc="lower left", bbox_to_anchor=(0.06, 0.02))
    return finish(figure, f"The factor rises for {config.warmup:.0%} of the run, stays at 1, and "
                          f"falls to 0 over the last {config.decay:.0%}; the cosine falls from "
                          "the start.")
