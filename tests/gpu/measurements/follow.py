"""A training run as rows: its loss by tokens, and what it costs."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean, median
from typing import Any

from picolm_lib.config import PRESETS, Preset
from picolm_lib.model.picolm import count_parameters
from picolm_lib.train.metrics import MetricsLogger, mfu
from picolm_lib.train.trainer import Trainer

Row = dict[str, Any]
POINTS = 400  # of a run's curve, at most
ENOUGH, OUT_OF_MINUTES = "all tokens", "out of minutes (--minutes)"


def preset_of(options: argparse.Namespace) -> Preset:
    """pico, or what a test has time for."""
    if not options.small:
        return PRESETS["pico"]
    smoke = PRESETS["smoke"]
    return replace(smoke, train=replace(smoke.train, max_tokens=4 * 8 * 64, eval_tokens=512))


def deadline(options: argparse.Namespace) -> float:
    """When the minutes are over, in seconds of time.monotonic."""
    return time.monotonic() + 60 * options.minutes


def follow(trainer: Trainer, end: float = math.inf, **about: object) -> Iterator[Row]:
    """Trains; yields a row at every evaluation of the run.

    The last one scores all validation documents, has the beginning of a story, and says why it is
    the last.
    """
    progress, lines, since = trainer.progress, [], time.monotonic()

    def lap() -> float:
        nonlocal since
        now = time.monotonic()
        seconds, since = now - since, now
        progress.elapsed += seconds
        return seconds

    trainer.measure_speed()
    since = time.monotonic()
    while (before := progress.tokens) < trainer.total_tokens and time.monotonic() < end:
        lines.append(trainer.step())
        progress.record_speed(progress.tokens - before, lap())
        if progress.evaluation_due(trainer.total_tokens, trainer.config.evals):
            row = _row(trainer, lines, trainer.config.eval_tokens)
            trainer.budget.evaluation_seconds = lap()
            yield about | row
            lines = []
            lap()
        trainer.budget.update(progress)
    reason = ENOUGH if progress.tokens >= trainer.total_tokens else OUT_OF_MINUTES
    yield about | _row(trainer, lines, None) | {"end": reason}


def _row(trainer: Trainer, lines: list[Row], limit: int | None) -> Row:
    """What the steps since the last row did, and the scores on `limit` validation tokens or all."""
    heard: list[Row] = []
    scores = trainer.evaluate(MetricsLogger(show=False, listener=heard.append), limit)
    finite = [line for line in lines if math.isfinite(line["loss"])]
    speed = median(line["tokens_per_second"] for line in lines) if lines else 0
    used = mfu(speed, trainer.flops, trainer.peak)
    row = {
        "tokens": trainer.progress.tokens, "step": trainer.progress.step,
        "skipped": trainer.progress.skipped,
        "training loss": round(fmean(line["loss"] for line in finite), 4) if finite else None,
        "validation loss": round(scores.loss, 4), "bits per byte": round(scores.bits_per_byte, 4),
        "tokens/s": round(speed), "MFU": used and round(used, 4),
        "peak memory, GiB": round(lines[-1]["peak_memory_gib"], 2) if lines else None,
        "seconds": round(trainer.progress.seconds, 1), "micro-batch": trainer.micro_batch_size,
        "dtype": str(trainer.precision.dtype).removeprefix("torch."),
        "parameters": count_parameters(trainer.model), "FLOPs per token": trainer.flops,
        "peak TFLOP/s": trainer.peak, "curve": _thinned(finite, POINTS // trainer.config.evals)}
    # What cannot write, as some variants of the model, has no story.
    return row if limit or not heard else row | {"story": heard[-1]["story"]}


def _thinned(lines: list[Row], points: int) -> list[list[float]]:
    """[tokens, mean loss] of so many groups of steps at most."""
    every = max(1, math.ceil(len(lines) / points))
    groups = [lines[i:i + every] for i in range(0, len(lines), every)]
    return [[group[-1]["tokens"], round(fmean(line["loss"] for line in group), 4)]
            for group in groups]
