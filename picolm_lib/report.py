"""What a run says while it works: a progress bar, metrics.jsonl, and the loss picture."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from picolm_lib.files import disk_errors, replace_text, replacing


class Report:
    """Progress and metrics of one run.

    Args:
        folder: where metrics.jsonl and loss.png go; None keeps nothing.
        done: tokens trained already, when the run goes on.
        total: tokens that it will train on.
        show: whether to print.
        listener: hears every line of metrics, whether there is a folder or not.
    """

    def __init__(self, folder: Path | None, done: int = 0, total: int = 0, show: bool = True,
                 listener: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.show, self._listener = show, listener
        self._metrics = folder / "metrics.jsonl" if folder else None
        # Where nobody watches, such as in a log file, a line now and then is enough.
        self._bar = tqdm(total=total, initial=done, unit="tok", unit_scale=True, disable=not show,
                         smoothing=0.05, mininterval=0.3 if sys.stderr.isatty() else 10.0,
                         dynamic_ncols=True, desc="training")

    def step(self, metrics: dict[str, Any], total: int) -> None:
        """After each optimizer step; `total` is where the run will end, as planned by now."""
        self._write({"kind": "step", **metrics})
        self._bar.total = total
        self._bar.set_postfix_str(f"loss {metrics['loss']:.3f}", refresh=False)
        self._bar.update(metrics["tokens"] - self._bar.n)

    def evaluation(self, story: str, **metrics: Any) -> None:
        """After each evaluation; `story` is what the model tells by now."""
        self._write({"kind": "evaluation", "story": story, **metrics})
        first_line = " ".join(story.split())
        self.say(f"step {metrics['step']:>6}   validation loss {metrics['loss']:.3f}   "
                 f"{metrics['bits_per_byte']:.3f} bits per byte   {first_line[:60]} ...")

    def say(self, line: str) -> None:
        """Prints a line above the progress bar."""
        if self.show:
            self._bar.write(line)

    def close(self) -> None:
        self._bar.close()

    def _write(self, metrics: dict[str, Any]) -> None:
        # JSON has no word for NaN: a skipped step has no loss.
        metrics = {key: None if isinstance(value, float) and not math.isfinite(value) else value
                   for key, value in metrics.items()}
        if self._metrics:
            with disk_errors(self._metrics), self._metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(metrics) + "\n")
        if self._listener:
            self._listener(metrics)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. One that a crash cut short, or that is damaged, is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict) and "kind" in read and isinstance(read.get("step"), int):
            metrics.append(read)
    return metrics


def forget_after(folder: Path, step: int, finished: bool = False) -> None:
    """Drops the metrics that a run which goes on from `step` makes anew.

    Those are all of later steps, and the last evaluation of a finished run.
    """
    kept = [m for m in read_metrics(folder) if m["step"] < step or (
        m["step"] == step and not (finished and m["kind"] == "evaluation"))]
    replace_text(folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))


def draw_loss(folder: Path) -> Path:
    """Draws loss.png from metrics.jsonl: training and validation loss against tokens."""
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
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
    return path


def smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average, corrected for its start at zero (as in Adam)."""
    average, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        average = keep * average + (1 - keep) * value
        smoothed.append(average / (1 - keep**count))
    return smoothed
