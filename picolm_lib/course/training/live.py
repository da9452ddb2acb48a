"""A run to watch: one picture that is redrawn, and the stories that the model writes."""

from __future__ import annotations

import time
from typing import Any

from IPython import get_ipython
from IPython.display import display
from matplotlib.ticker import NullFormatter

from picolm_lib.course.plots import BLUE, GREEN, ORANGE, SKY, Picture, canvas, finish
from picolm_lib.course.training.recorded import Recorded
from picolm_lib.train.metrics import smooth
from picolm_lib.train.trainer import Trainer

# At least so many seconds between two pictures.
EVERY = 4.0
# At most this share of the run's time goes into drawing.
SHARE = 0.02
# Points of the training curve: more could not be seen.
POINTS = 400
GRAY = "#777777"


class Live:
    """A listener for a Trainer that draws its loss while it runs, and says how long it will take.

    Args:
        title: above the picture.
        recorded: an earlier run to draw beside it.
        width: characters of each story that are shown.
    """

    def __init__(self, title: str, recorded: Recorded | None = None, width: int = 300) -> None:
        self.title, self.recorded, self.width = title, recorded, width
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.status, self.text = "", ""
        self.decay_begins = 0.0
        self._next = 0.0
        self._picture = self._text = None
        if get_ipython() is not None:
            self._picture = display(self.draw(), display_id=True)
            self._text = display({"text/plain": ""}, raw=True, display_id=True)

    def recall(self, trainer: Trainer, metrics: list[dict[str, Any]]) -> None:
        """Takes the lines of metrics that the run has written before."""
        self.decay_begins = (1 - trainer.config.decay) * trainer.total_tokens
        self.steps = [m for m in metrics if m["kind"] == "step" and m["loss"] is not None]
        self.evaluations = [m for m in metrics if m["kind"] == "evaluation"]
        if self.steps:
            self.add_text(f"goes on from step {trainer.progress.step:,}")
        self.show()

    def __call__(self, trainer: Trainer, line: dict[str, Any]) -> None:
        """Takes a line of metrics, and redraws when it is time."""
        if line["kind"] == "step" and line["loss"] is not None:
            self.steps.append(line)
        elif line["kind"] == "note":
            self.add_text(line["note"])
        elif line["kind"] == "evaluation":
            self.evaluations.append(line)
            story = " ".join(line["story"].split())
            self.add_text(f"{line['tokens']:,} tokens, {line['bits_per_byte']:.3f} bits per "
                          f"byte:\n  {story[:self.width]}")
        is_last = trainer.progress.tokens >= trainer.total_tokens
        if line["kind"] == "evaluation" or is_last or time.monotonic() > self._next:
            self.status = _status(trainer, done=is_last and line["kind"] == "evaluation")
            self.show()

    def announce(self, status: str) -> None:
        """Says what is going on now."""
        self.status = status
        self._show_text()

    def add_text(self, text: str) -> None:
        """Adds lines below the picture."""
        self.text += ("\n" if self.text else "") + text
        self._show_text()

    def _show_text(self) -> None:
        if self._text is not None:
            text = "\n".join(filter(None, (self.status, self.text)))
            self._text.update({"text/plain": text}, raw=True)

    def show(self) -> None:
        """Replaces the old picture with a new one."""
        started = time.monotonic()
        self._show_text()
        if self._picture is not None:
            self._picture.update(self.draw())
        now = time.monotonic()
        self._next = now + max(EVERY, (now - started) / SHARE)

    def draw(self) -> Picture:
        """Training and validation loss, and bits per byte, by tokens."""
        figure, (left, right) = canvas(4.0, 1, 2, width_ratios=(3, 2))
        every = max(len(self.steps) // POINTS, 1)
        tokens = [m["tokens"] / 1e6 for m in self.steps][::every]
        losses = [m["loss"] for m in self.steps]
        left.plot(tokens, losses[::every], color=SKY, linewidth=0.8, label="training, each step")
        left.plot(tokens, smooth(losses)[::every], color=BLUE, label="training, smoothed")
        seen = [m["tokens"] / 1e6 for m in self.evaluations]
        left.plot(seen, [m["loss"] for m in self.evaluations], "o", color=ORANGE,
                  label="validation")
        if tokens and tokens[-1] > self.decay_begins / 1e6 > 0:
            left.axvline(self.decay_begins / 1e6, color=GRAY, linestyle=":",
                         label="the learning rate begins to fall")
        left.set(xlabel="tokens trained on (millions)", ylabel="loss (nats per token)",
                 ylim=(0, 1.05 * max(losses, default=1.0)))
        bits = [m["bits_per_byte"] for m in self.evaluations]
        right.plot(seen, bits, "o-", color=GREEN, label="this run")
        if self.recorded:
            right.plot([t / 1e6 for t, _ in self.recorded.bits_per_byte],
                       [b for _, b in self.recorded.bits_per_byte], "s--", color=GRAY,
                       markersize=4, label=self.recorded.label)
        highest = max([*bits, *(b for _, b in self.recorded.bits_per_byte)] if self.recorded
                      else bits, default=1.0)
        right.set(xlabel="tokens (millions)", ylabel="bits per byte (validation)", xscale="log",
                  ylim=(0, 1.1 * highest), title=f"last: {bits[-1]:.3f}" if bits else " ")
        # Few tokens make long labels.
        left.locator_params(axis="x", nbins=5)
        right.xaxis.set_minor_formatter(NullFormatter())
        figure.legend(loc="outside lower center", ncols=2)
        figure.suptitle(self.title)
        said = f"step {self.steps[-1]['step']}, loss {losses[-1]:.2f}" if losses else "no step yet"
        said += f"; validation: {bits[-1]:.3f} bits per byte" if bits else ""
        said += f"; beside it, in gray, {self.recorded.label}" if self.recorded else ""
        return finish(figure, f"{self.title}: {said}.")


def _status(trainer: Trainer, done: bool) -> str:
    """How far the run is, and how long it will take."""
    progress, total = trainer.progress, trainer.total_tokens
    text = (f"step {progress.step:,}: {progress.tokens / 1e6:,.2f} of {total / 1e6:,.2f} million "
            f"tokens, {progress.elapsed / 60:.1f} minutes")
    if done:
        return f"{text}, done"
    if progress.tokens >= total:
        return f"{text}; now all validation documents are scored"
    if not progress.recent_tokens:
        return text
    speed = progress.recent_tokens / progress.recent_seconds
    return (f"{text}; {speed:,.0f} tokens/s, about {(total - progress.tokens) / speed / 60:.1f} "
            "minutes left")


def draw_norms(steps: list[dict[str, Any]], limit: float) -> Picture:
    """The gradient norm of every step, the limit, and the learning rate below."""
    figure, (top, bottom) = canvas(3.6, 2, 1, sharex=True, height_ratios=(2, 1))
    # A step that the loss scale has skipped has none.
    steps = [m for m in steps if m["grad_norm"]]
    tokens, norms = [m["tokens"] / 1e6 for m in steps], [m["grad_norm"] for m in steps]
    share = sum(norm > limit for norm in norms) / max(len(norms), 1)
    every = max(len(steps) // POINTS, 1)
    top.plot(tokens[::every], norms[::every], color=BLUE, linewidth=0.9)
    top.axhline(limit, color=ORANGE, linewidth=1.2)
    top.annotate("clipped above", (1, limit), xycoords=("axes fraction", "data"), color=ORANGE,
                 xytext=(0, -3), textcoords="offset points", ha="right", va="top")
    top.set(yscale="log", ylabel="gradient norm",
            title=f"Gradient norm: {share:.0%} of the {len(steps):,} steps were clipped")
    bottom.plot(tokens, [m["lr_factor"] for m in steps], color=GREEN)
    bottom.set(xlabel="tokens trained on (millions)", ylabel="lr factor", ylim=(0, 1.1))
    return finish(figure, f"{share:.0%} of the {len(steps):,} steps were clipped to a norm of "
                          f"{limit:g}.")
