"""Schedules, by hand and in a race at equal tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.corpus import load_corpus
from picolm_lib.course.plots import BLUE, GREEN, ORANGE, SKY, Picture, canvas, finish
from picolm_lib.course.race import RUN, RUNNER, TINY_TOKENS, Line
from picolm_lib.course.start import preset_name
from picolm_lib.data import TokenFile, prepare
from picolm_lib.evaluate import evaluate
from picolm_lib.schedule import lr_factor
from picolm_lib.tokenizer import load_tokenizer
from picolm_lib.train import Trainer

TOKENS = 160_000
EVAL_TOKENS = 32_768


def cosine(done: float, config: TrainConfig) -> float:
    """The usual rival: the same warm-up, then half a cosine down to zero."""
    rising = done / config.warmup if config.warmup else 1.0
    return min(rising, 0.5 * (1 + math.cos(math.pi * done)))


class CosineTrainer(Trainer):
    """A Trainer whose learning rate follows a cosine."""

    def _set_rates(self, factor: float) -> None:
        middle = (self.progress.tokens + self.batch_tokens / 2) / self.plan()
        super()._set_rates(cosine(min(middle, 1.0), self.config))


@cache
def _stories() -> dict[str, TokenFile]:
    small = preset_name() == "smoke"
    count = PRESETS["smoke"].train.storybook_stories if small else RUN.storybook_stories
    return prepare(load_corpus("storybook", count), load_tokenizer(), show_progress=False)


def train_once(name: str, seed: int = 0, kind: type[Trainer] = Trainer, tokens: int = TOKENS,
               model: PicoConfig = RUNNER, **changes: Any) -> float:
    """Trains one small model and returns its bits per byte on validation stories.

    Args:
        name: what is printed.
        kind: of trainer.
        changes: of TrainConfig, such as decay=0.
    """
    budget = TINY_TOKENS if preset_name() == "smoke" else tokens
    config = replace(RUN, max_tokens=budget, seed=seed, **changes)
    trainer = kind(model, config, load_tokenizer(), _stories(), show=False)
    line, started = Line(), time.monotonic()
    while trainer.progress.tokens < budget:
        trainer.step()
        if trainer.progress.step % 10 == 0:
            line.say(f"{name}: {trainer.progress.tokens:,} of {budget:,} tokens, "
                     f"{time.monotonic() - started:.0f} s")
    scores = evaluate(trainer.model, _stories()["validation"], trainer.numerics, EVAL_TOKENS)
    line.say(f"{name}: {scores.bits_per_byte:.3f} bits per byte, "
             f"{time.monotonic() - started:.0f} s")
    return scores.bits_per_byte


def draw_schedules(config: TrainConfig, mine: Sequence[float] | None = None) -> Picture:
    """Three schedules over a run; `mine` is a fourth, at equally spaced places from 0 to 1."""
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
                          "the beginning.")
