"""The training time machine: the checkpoints of one run, each asked for the same story."""

from __future__ import annotations

from functools import cache, partial

from picolm_lib.course.boxes import token_boxes
from picolm_lib.course.plots import BLUE, CARD, RED, SKY, Drawing, Picture, canvas, finish, stack
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, stream_text
from picolm_lib.train.checkpoint import load_run
from picolm_lib.train.snapshots import History, history, load_snapshot

LINES = 10  # of the story


@cache
def _model(number: int) -> PicoLM:
    return load_snapshot(number)


@cache
def story(number: int, prompt: str, temperature: float = 0.8, seed: int = 0,
          length: int = 180) -> str:
    """The story of checkpoint `number`; the same seed draws the same random numbers."""
    settings = SampleConfig(temperature=temperature, max_new_tokens=length)
    pieces = stream_text(_model(number), load_run("bundled")[1], prompt, settings, seed)
    return " ".join("".join(pieces).split())


def draw_checkpoint(checkpoint: int, prompt: str = "Once upon a time", temperature: float = 0.8,
                    seed: int = 0) -> Drawing:
    """The place of a checkpoint on the loss curve, and the story that it writes.

    Args:
        checkpoint: its number, from 0, the earliest.
    """
    text = story(checkpoint, prompt, temperature, seed)
    return stack(_draw_curve(history(), checkpoint), token_boxes(
        [text], "", f"The model writes: {text}", [CARD], lines=LINES))


def _draw_curve(past: History, checkpoint: int) -> Picture:
    figure, axes = canvas(2.9)
    tokens, losses = zip(*past.curve, strict=True)
    axes.plot([t / 1e6 for t in tokens], losses, color=SKY, label="training")
    axes.plot([s.tokens / 1e6 for s in past.snapshots], [s.loss for s in past.snapshots], "o",
              color=BLUE, label="validation, at the checkpoints")
    now = past.snapshots[checkpoint]
    axes.plot([now.tokens / 1e6], [now.loss], "o", color=RED, markersize=11)
    axes.set(xscale="log", xlabel="tokens trained on (millions)", ylabel="loss (nats per token)",
             title=f"step {now.step:,}: {now.tokens / 1e6:.2f} million tokens, loss "
                   f"{now.loss:.2f}, {now.bits_per_byte:.3f} bits per byte")
    axes.legend()
    return finish(figure, f"The loss falls with the tokens; after {now.tokens:,} tokens it is "
                          f"{now.loss:.2f}, and the model has {now.bits_per_byte:.3f} bits per "
                          "byte.")


def time_machine(prompt: str = "Once upon a time", checkpoint: int = 1) -> Playground:
    """A slider over the bundled checkpoints, with the same prompt and the same seed."""
    last = len(history().snapshots) - 1
    return Playground(partial(draw_checkpoint, prompt=prompt),
                      checkpoint=slider("checkpoint", checkpoint, 0, last))


def time_machine_with_sampling(prompt: str) -> Playground:
    """The same, with sliders for temperature and seed."""
    last = len(history().snapshots) - 1
    return Playground(partial(draw_checkpoint, prompt=prompt),
                      checkpoint=slider("checkpoint", last, 0, last),
                      temperature=slider("temperature", 0.8, 0.0, 1.6, 0.2),
                      seed=slider("seed", 0, 0, 9))
