"""The bug hunt of notebook 04: a healthy run, a patient, and what both look like inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.course.muon import duel
from picolm_lib.course.plots import BLUE, RED, Picture, canvas, finish
from picolm_lib.course.race import StatusLine, is_smoke

# Learning rate; steps; the step whose change of the weights is shown.
RATE, STEPS, LOOK = 0.005, 60, 30
HIDDEN, OUTPUT = "blocks.1.mlp.up.weight", "output.weight"


@dataclass(frozen=True)
class Findings:
    """What was observed in one run."""

    loss: list[float]
    steps: dict[str, Tensor]
    """Singular values of one step, relative to the largest: a hidden matrix, the output layer."""
    similarity: float
    """Cosine between the qkv weights of blocks 0 and 1 before training."""


def observe(name: str, sort: Callable = duel.groups) -> Findings:
    """Trains a small model and watches it."""
    steps = 6 if is_smoke() else STEPS
    run, losses, moved, line = duel.trainer(rate=RATE, tokens=steps * duel.STEP,
                                            sort=sort), [], {}, StatusLine()
    first, second = (block.attn.qkv.weight.detach().flatten() for block in run.model.blocks[:2])
    similarity = F.cosine_similarity(first, second, 0).item()
    for step in range(steps):
        watched = {key: run.model.get_parameter(key) for key in (HIDDEN, OUTPUT)}
        before = {key: weight.detach().clone() for key, weight in watched.items()}
        losses.append(run.step()["loss"])
        if step == min(LOOK, steps - 1):
            for key, weight in watched.items():
                values = torch.linalg.svdvals((weight.detach() - before[key]).float()).cpu()
                moved[key] = values / values[0]
        if (step + 1) % 10 == 0:
            line.update(f"{name}: step {step + 1} of {steps}, loss {losses[-1]:.2f}")
    return Findings(losses, moved, similarity)


def examine() -> Picture:
    """A healthy run and one with a bug. Do not look before you have named your suspect."""
    return draw_findings({"healthy": observe("healthy"),
                          "patient": observe("patient", duel.output_by_muon)})


def draw_findings(found: dict[str, Findings]) -> Picture:
    """Loss, singular values of one step in two matrices, similarity of two blocks."""
    figure, axes = canvas(5.0, 2, 2)
    (loss, hidden), (similarity, output) = axes
    for (name, seen), color, style in zip(found.items(), (BLUE, RED), ("-", "--"), strict=True):
        loss.plot(range(1, len(seen.loss) + 1), seen.loss, style, color=color, label=name)
        for cell, key in ((hidden, HIDDEN), (output, OUTPUT)):
            values = seen.steps[key]
            cell.plot(range(1, len(values) + 1), values.clamp(1e-2), style, color=color, label=name)
    bars = similarity.bar(list(found), [seen.similarity for seen in found.values()], 0.5,
                     color=(BLUE, RED))
    similarity.bar_label(bars, fmt="%.2f")
    loss.set(xlabel="step", ylabel="loss (nats)", title="A. training loss")
    similarity.set(ylabel="cosine", ylim=(-0.1, 1.1),
                   title="B. similarity of blocks 0 and 1 at the start")
    for cell, title in ((hidden, "C. one step of a hidden matrix"),
                        (output, "D. one step of the output layer")):
        cell.set(yscale="log", ylim=(1e-2, 2), xlabel="singular value, largest first",
                 ylabel="size / largest", title=title)
    loss.legend()
    ends = ", ".join(f"{name} {seen.loss[-1]:.2f}" for name, seen in found.items())
    flat = ", ".join(f"{name} {seen.steps[OUTPUT][-1]:.3f}" for name, seen in found.items())
    return finish(figure, f"Loss at the end: {ends}. The smallest singular value of the output "
                          f"layer's step, relative to its largest: {flat}.")
