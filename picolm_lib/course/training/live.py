"""A run to watch: one picture that is redrawn, and the stories that the model writes."""

from __future__ import annotations

import time
from typing import Any

from IPython import get_ipython
from IPython.display import display

from picolm_lib.course.plots import BLUE, GREEN, ORANGE, RED, SKY, Picture, canvas, finish
from picolm_lib.train.metrics import smooth
from picolm_lib.train.trainer import Trainer

# At least so many seconds between two pictures.
EVERY = 4.0
# At most this share of the run's time goes into drawing.
SHARE = 0.02
# Points of the training curve: more could not be seen.
POINTS = 400


class Live:
    """A listener for a Trainer that draws its loss while it runs.

    Args:
        title: above the picture.
        width: characters of each story that are shown.
    """

    def __init__(self, title: str, width: int = 300) -> None:
        self.title, self.width = title, width
        self.steps: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.text = ""
        self._next = 0.0
        self._picture = self._text = None
        if get_ipython() is not None:
            self._picture = display(self.draw(), display_id=True)
            self._text = display({"text/plain": self.text}, raw=True, display_id=True)

    def __call__(self, trainer: Trainer, line: dict[str, Any]) -> None:
        """Takes a line of metrics, and redraws when it is time."""
        if line["kind"] == "step" and line["loss"] is not None:
            self.steps.append(line)
        elif line["kind"] == "note":
            self._add_text(line["note"])
        elif line["kind"] == "evaluation":
            self.evaluations.append(line)
            story = " ".join(line["story"].split())
            self._add_text(f"{line['tokens']:,} tokens, {line['bits_per_byte']:.3f} bits per "
                           f"byte:\n  {story[:self.width]}")
        if line["kind"] == "evaluation" or time.monotonic() > self._next:
            self.show()

    def _add_text(self, text: str) -> None:
        self.text += ("\n" if self.text else "") + text
        if self._text is not None:
            self._text.update({"text/plain": self.text}, raw=True)

    def show(self) -> None:
        """Replaces the old picture with a new one."""
        started = time.monotonic()
        if self._picture is not None:
            self._picture.update(self.draw())
        now = time.monotonic()
        self._next = now + max(EVERY, (now - started) / SHARE)

    def draw(self) -> Picture:
        """Training and validation loss, and bits per byte, by tokens."""
        figure, (left, right) = canvas(3.1, 1, 2, width_ratios=(3, 2))
        every = max(len(self.steps) // POINTS, 1)
        tokens = [m["tokens"] / 1e6 for m in self.steps][::every]
        losses = [m["loss"] for m in self.steps]
        left.plot(tokens, losses[::every], color=SKY, linewidth=0.8, label="training, each step")
        left.plot(tokens, smooth(losses, 0.9)[::every], color=BLUE, label="training, smoothed")
        seen = [m["tokens"] / 1e6 for m in self.evaluations]
        left.plot(seen, [m["loss"] for m in self.evaluations], "o", color=RED, label="validation")
        left.set(xlabel="tokens trained on (millions)", ylabel="loss (nats per token)",
                 ylim=(0, 1.05 * max(losses, default=1.0)))
        left.legend(fontsize=8.5)
        bits = [m["bits_per_byte"] for m in self.evaluations]
        right.plot(seen, bits, "o-", color=GREEN)
        for x, y in list(zip(seen, bits, strict=True))[-1:]:
            right.annotate(f"{y:.3f}", (x, y), xytext=(0, 8), textcoords="offset points",
                           horizontalalignment="right", fontsize=9)
        right.set(xlabel="tokens (millions)", ylabel="bits per byte (validation)",
                  ylim=(0, 1.15 * max(bits, default=1.0)))
        figure.suptitle(self.title, fontsize=10.5)
        said = f"step {self.steps[-1]['step']}, loss {losses[-1]:.2f}" if losses else "no step yet"
        said += f"; validation: {bits[-1]:.3f} bits per byte" if bits else ""
        return finish(figure, f"{self.title}: {said}.")


def draw_norms(steps: list[dict[str, Any]], limit: float) -> Picture:
    """The gradient norm of every step, the limit, and the learning rate below."""
    figure, (top, bottom) = canvas(3.6, 2, 1, sharex=True, height_ratios=(2, 1))
    tokens = [m["tokens"] / 1e6 for m in steps]
    norms = [m["grad_norm"] or float("nan") for m in steps]
    every = max(len(steps) // POINTS, 1)
    top.plot(tokens[::every], norms[::every], color=BLUE, linewidth=0.9)
    top.axhline(limit, color=RED, linewidth=1.2)
    top.text(tokens[-1], 0.9 * limit, "clipped above", color=RED, ha="right", va="top", fontsize=9)
    top.set(yscale="log", ylabel="gradient norm", title="Gradient norm and learning rate, by step")
    bottom.plot(tokens, [m["lr_factor"] for m in steps], color=ORANGE)
    bottom.set(xlabel="tokens trained on (millions)", ylabel="lr factor", ylim=(0, 1.1))
    share = sum(norm > limit for norm in norms) / len(norms)
    return finish(figure, f"{share:.0%} of the {len(steps):,} steps were clipped to a norm of "
                          f"{limit:g}.")
