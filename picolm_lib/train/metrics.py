"""What a run reports while it works: a progress bar, metrics.jsonl, and the loss curve."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

from tqdm import tqdm

from picolm_lib.evaluate import Scores
from picolm_lib.files import atomic_write, atomic_write_text, disk_errors
from picolm_lib.train.budget import Progress
from picolm_lib.train.signals import stop_afterward


def mfu(tokens_per_second: float, flops_per_token: float, peak_tflops: float | None,
        world_size: int = 1) -> float | None:
    """Model FLOPs utilization: the share of the devices' peak that the model's own FLOPs reach.

    Args:
        tokens_per_second: of all processes together.
        flops_per_token: forward and backward.
        peak_tflops: of one device, in TFLOP/s; None where it is not known.
        world_size: number of processes, one device each.

    Returns:
        Between 0 and 1, or None where the peak is not known.

    Source: Aakanksha Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022.
    """
    if not peak_tflops:
        return None
    return tokens_per_second * flops_per_token / (world_size * peak_tflops * 1e12)


class MetricsLogger:
    """Progress and metrics of one run.

    Args:
        folder: where metrics.jsonl goes; None writes no file.
        done: tokens trained on already, when the run is resumed.
        total: tokens that it will train on.
        show: whether to print.
        listener: called with every line of metrics, whether there is a folder or not.
    """

    def __init__(self, folder: Path | None = None, done: int = 0, total: int = 0, show: bool = True,
                 listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.show, self._listener = show, listener
        self._metrics = folder / "metrics.jsonl" if folder else None
        # In a log file a line every ten seconds is enough.
        self._bar = tqdm(total=total, initial=done, unit="tok", unit_scale=True, disable=not show,
                         smoothing=0.05, mininterval=0.3 if sys.stderr.isatty() else 10.0,
                         dynamic_ncols=True, desc="training")

    def step(self, metrics: dict[str, Any], total: int) -> None:
        """After each optimizer step; `total` is where the run will end by the current plan."""
        self._write({"kind": "step", **metrics})
        self._bar.total = total
        self._bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
        self._bar.update(metrics["tokens"] - self._bar.n)

    def evaluation(self, progress: Progress, scores: Scores, story: str) -> None:
        """After each evaluation; `story` is a sample of the model's text."""
        self._write({"kind": "evaluation", "story": story, "step": progress.step,
                     "tokens": progress.tokens, "seconds": progress.seconds,
                     "perplexity": scores.perplexity, **asdict(scores)})
        if self.show:
            one_line = " ".join(story.split())
            self._bar.write(f"step {progress.step:>6}   validation loss {scores.loss:.3f}   "
                            f"{scores.bits_per_byte:.3f} bits per byte   {one_line[:60]} ...")

    def close(self) -> None:
        """Ends the progress bar."""
        self._bar.close()

    def _write(self, metrics: dict[str, Any]) -> None:
        # JSON has no NaN: a skipped step has no loss.
        metrics = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                   for key, value in metrics.items()}
        if self._metrics:
            with disk_errors(self._metrics), self._metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(metrics) + "\n")
        if self._listener:
            self._listener(metrics)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, except any that a crash cut short or that is damaged."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(read, dict) and "kind" in read and isinstance(read.get("step"), int):
            metrics.append(read)
    return metrics


def truncate_metrics(folder: Path, step: int, finished: bool = False) -> None:
    """Drops the metrics that a run resumed from `step` will write again.

    Those are all of later steps, and the last evaluation of a finished run.
    """
    kept = [m for m in read_metrics(folder) if m["step"] < step or (
        m["step"] == step and not (finished and m["kind"] == "evaluation"))]
    atomic_write_text(folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))


@stop_afterward()
def plot_loss(folder: Path) -> Path:
    """Plots loss.png from metrics.jsonl: training and validation loss against tokens."""
    from matplotlib.figure import Figure

    metrics = [m for m in read_metrics(folder) if m.get("loss") is not None and "tokens" in m]
    steps = [m for m in metrics if m["kind"] == "step"]
    evaluations = [m for m in metrics if m["kind"] == "evaluation" and "bits_per_byte" in m]
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    millions = [m["tokens"] / 1e6 for m in steps]
    losses = [m["loss"] for m in steps]
    axes.plot(millions, losses, color="#9ecae1", linewidth=0.7, label="training, each step")
    axes.plot(millions, smooth(losses), color="#08519c", label="training, smoothed")
    axes.plot([m["tokens"] / 1e6 for m in evaluations], [m["loss"] for m in evaluations], "o",
              color="#d95f02", label="validation")
    if evaluations:
        last = evaluations[-1]
        label = f"{last['loss']:.3f} nats per token\n{last['bits_per_byte']:.3f} bits per byte"
        axes.annotate(label, (last["tokens"] / 1e6, last["loss"]), xytext=(0, 14), ha="right",
                      textcoords="offset points", color="#a04000")
    axes.set(xlabel="tokens trained on (millions)", ylabel="loss (nats per token)",
             title="Loss over the run")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path = folder / "loss.png"
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png")
    return path


def smooth(values: list[float], half_width: int = 0) -> list[float]:
    """Mean of each value and its neighbors on both sides, fewer near the ends.

    A mean of the values before, as an exponential one, would lag behind a curve that falls: it
    would lie above all of its points.

    Args:
        half_width: neighbors on each side (0: one in fifty).
    """
    half_width = half_width or max(len(values) // 50, 1)
    sums, smoothed = [0.0, *accumulate(values)], []
    for place in range(len(values)):
        width = min(half_width, place, len(values) - 1 - place)
        smoothed.append((sums[place + width + 1] - sums[place - width]) / (2 * width + 1))
    return smoothed
