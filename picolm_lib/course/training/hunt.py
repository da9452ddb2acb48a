"""The bug hunt of notebook 05: a run that reports more than it has learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from picolm_lib.config import PRESETS
from picolm_lib.course.plots import BLUE, GREEN, ORANGE, RED, SKY, Picture, canvas, finish
from picolm_lib.course.race import StatusLine
from picolm_lib.course.training.small_runs import MODEL, small_config
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.data.tokenizer import encode, load_tokenizer
from picolm_lib.evaluate import evaluate
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.metrics import smooth
from picolm_lib.train.trainer import Trainer

STORIES, STEPS, EVERY = 30, 96, 12
TOKENS = 2_048  # per check


@dataclass
class Findings:
    """What was recorded over one run."""

    tokens: list[int] = field(default_factory=list)
    """At each check; the lists below have the same length."""
    apart: list[float] = field(default_factory=list)
    """Loss on stories that are not in the training data."""
    inside: list[float] = field(default_factory=list)
    """Loss on a piece of the training stream."""
    end_at_ends: list[float] = field(default_factory=list)
    """Mean probability of end-of-text where a story ends."""
    end_elsewhere: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    """Loss of every step."""
    norms: list[float] = field(default_factory=list)
    """Gradient norm of every step before clipping, gradients unscaled."""
    stepped: list[float] = field(default_factory=list)
    """Norm of what the optimizer got."""


def token_file(texts: Sequence[str]) -> TokenFile:
    """Stories as a token file in memory, with an end of text around each."""
    tokenizer = load_tokenizer()
    ids = [tokenizer.eos_token_id]
    for text in encode(tokenizer, list(texts)):
        ids += [*text, tokenizer.eos_token_id]
    count = TokenCounts(len(texts), sum(len(text.encode()) for text in texts), len(ids))
    return TokenFile(np.array(ids, dtype=np.uint16), count)


@torch.no_grad()
def end_probabilities(model: PicoLM, text: TokenFile, windows: int = 8) -> tuple[float, float]:
    """Mean probability of end-of-text where it comes next, and everywhere else."""
    length = model.config.max_seq_len
    ids = torch.from_numpy(text.tokens[:windows * length + 1].astype(np.int64))
    inputs, targets = ids[:-1].view(-1, length), ids[1:].view(-1, length)
    end = load_tokenizer().eos_token_id
    probability = F.softmax(model(inputs), dim=-1)[..., end]         # (B, T)
    ends = targets == end
    return probability[ends].mean().item(), probability[~ends].mean().item()


@cache
def investigate(steps: int = STEPS, seed: int = 0) -> Findings:
    """Trains a small model on few stories for many epochs, with a scaled loss, and records it.

    Training never looks at the validation data. So this one run serves as the healthy one and the
    patient's: they differ only in the stories that the validation loss is measured on.
    """
    texts = list(load_corpus("storybook", PRESETS["smoke"].train.storybook_stories).split("train"))
    train, apart = token_file(texts[:STORIES]), token_file(texts[STORIES:3 * STORIES])
    config = small_config(seed, max_tokens=steps * 8 * MODEL.max_seq_len)
    trainer = Trainer(MODEL, config, load_tokenizer(), {"train": train, "validation": apart},
                      show=False)
    trainer.scaler = torch.amp.GradScaler("cpu")  # as on a T4
    found, line = Findings(), StatusLine()

    def record_norm(*_: object) -> None:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        found.stepped.append(math.sqrt(sum(g.double().square().sum().item() for g in gradients)))

    trainer.optimizer.register_step_pre_hook(record_norm)
    while trainer.progress.tokens < config.max_tokens:
        metrics = trainer.step()
        found.training.append(metrics["loss"])
        found.norms.append(metrics["grad_norm"])
        if trainer.progress.step % EVERY == 0:
            _check(found, trainer, train, apart)
            line.update(f"{trainer.progress.step} of {steps} steps")
    return found


def _check(found: Findings, trainer: Trainer, train: TokenFile, apart: TokenFile) -> None:
    found.tokens.append(trainer.progress.tokens)
    found.apart.append(evaluate(trainer.model, apart, trainer.precision, TOKENS).loss)
    found.inside.append(evaluate(trainer.model, train, trainer.precision, TOKENS).loss)
    at_ends, elsewhere = end_probabilities(trainer.model, train)
    found.end_at_ends.append(at_ends)
    found.end_elsewhere.append(elsewhere)


def examine_report(found: Findings) -> Picture:
    """The losses as a healthy project reports them, and as the patient does."""
    figure, axes = canvas(3.0, 1, 2, sharey=True)
    steps = range(1, len(found.training) + 1)
    checked = [EVERY * (i + 1) for i in range(len(found.tokens))]
    for cell, validation, name in ((axes[0], found.apart, "healthy"),
                                   (axes[1], found.inside, "patient")):
        cell.plot(steps, smooth(found.training, 2), color=SKY, label="training")
        cell.plot(checked, validation, "o-", color=RED, markersize=4, label="validation")
        cell.set(xlabel="step", title=name, ylim=(0, None))
    axes[0].set_ylabel("loss (nats per token)")
    axes[1].legend()
    return finish(figure, f"At the end the healthy report says: training {found.training[-1]:.2f}, "
                          f"validation {found.apart[-1]:.2f}. The patient's says: training "
                          f"{found.training[-1]:.2f}, validation {found.inside[-1]:.2f}.")


def examine_insides(found: Findings, limit: float = 1.0) -> Picture:
    """The patient's probability of stopping, and its gradients before and after clipping."""
    figure, (left, right) = canvas(3.0, 1, 2)
    checked = [EVERY * (i + 1) for i in range(len(found.tokens))]
    left.plot(checked, found.end_at_ends, "o-", color=GREEN, markersize=4,
              label="where stories end")
    left.plot(checked, found.end_elsewhere, "x-", color=ORANGE, label="everywhere else")
    left.set(xlabel="step", ylabel="probability of end-of-text", title="Can it stop?",
             ylim=(-0.03, 1.03))
    left.legend(loc="upper left")
    right.plot(found.norms, color=BLUE, label="before clipping")
    right.plot(found.stepped, color=RED, linewidth=1.2, label="what the optimizer gets")
    right.axhline(limit, color="#777777", linewidth=1, linestyle=":")
    right.set(xlabel="step", ylabel="gradient norm", yscale="log", title="Is it clipped?")
    right.legend()
    return finish(figure, f"At the end the patient gives end-of-text {found.end_at_ends[-1]:.0%} "
                          f"where a story ends and {found.end_elsewhere[-1]:.1%} elsewhere; the "
                          f"largest norm after clipping is {max(found.stepped):.2f}.")
