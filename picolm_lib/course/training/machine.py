"""The training time machine: one run at five moments, asked for the same story."""

from __future__ import annotations

import textwrap
from functools import cache, partial

from picolm_lib.checkpoint import load_run
from picolm_lib.course.plots import BLUE, INK, RED, SKY, Picture, canvas, finish, plain
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig, tell
from picolm_lib.snapshots import History, history, load_snapshot

COLUMNS, LINES = 88, 10  # of the story in the picture


@cache
def _model(number: int) -> PicoLM:
    return load_snapshot(number)


@cache
def story(number: int, prompt: str, temperature: float = 0.8, seed: int = 0,
          length: int = 180) -> str:
    """What the checkpoint `number` tells; the same seed draws the same random numbers."""
    settings = SampleConfig(temperature=temperature, max_new_tokens=length)
    pieces = tell(_model(number), load_run("bundled")[1], prompt, settings, seed)
    return " ".join("".join(pieces).split())


def draw_moment(checkpoint: int, prompt: str = "Once upon a time", temperature: float = 0.8,
                seed: int = 0) -> Picture:
    """Where a checkpoint stands on the loss curve, and the story that it tells.

    Args:
        checkpoint: from 0, the earliest, to the last one.
    """
    past = history()
    told = story(checkpoint, prompt, temperature, seed)
    figure, (top, bottom) = canvas(4.5, 2, 1, height_ratios=(3, 2.8))
    _draw_curve(top, past, checkpoint)
    plain(bottom).set(xlim=(0, 1), ylim=(0, 1))
    lines = textwrap.wrap(told, COLUMNS)
    shown = "\n".join(lines[:LINES]) + (" ..." if len(lines) > LINES else "")
    bottom.text(0, 1, shown, va="top", fontsize=9.5, color=INK, linespacing=1.4,
                parse_math=False)
    moment = past.snapshots[checkpoint]
    return finish(figure, f"After {moment.tokens:,} tokens, at {moment.bits_per_byte:.3f} bits per "
                          f"byte, the model tells: {told}")


def _draw_curve(axes, past: History, checkpoint: int) -> None:
    tokens, losses = zip(*past.curve, strict=True)
    axes.plot([t / 1e6 for t in tokens], losses, color=SKY, label="training")
    axes.plot([s.tokens / 1e6 for s in past.snapshots], [s.loss for s in past.snapshots], "o",
              color=BLUE, label="validation, at the checkpoints")
    moment = past.snapshots[checkpoint]
    axes.plot([moment.tokens / 1e6], [moment.loss], "o", color=RED, markersize=11)
    axes.set(xscale="log", xlabel="tokens trained on (millions)", ylabel="loss (nats per token)",
             title=f"step {moment.step:,}: {moment.tokens / 1e6:.2f} million tokens, loss "
                   f"{moment.loss:.2f}, {moment.bits_per_byte:.3f} bits per byte")
    axes.legend(fontsize=8.5)


def time_machine(prompt: str = "Once upon a time", checkpoint: int = 1) -> Playground:
    """A slider over the bundled checkpoints; same prompt, same seed."""
    last = len(history().snapshots) - 1
    return Playground(partial(draw_moment, prompt=prompt),
                      checkpoint=slider("checkpoint", checkpoint, 0, last))


def time_machine_with_dice(prompt: str) -> Playground:
    """The same, with temperature and seed."""
    last = len(history().snapshots) - 1
    return Playground(partial(draw_moment, prompt=prompt),
                      checkpoint=slider("checkpoint", last, 0, last),
                      temperature=slider("temperature", 0.8, 0.0, 1.6, 0.2),
                      seed=slider("seed", 0, 0, 9))
