"""What several tests of the trainer share."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from picolm_lib.model.loss import linear_cross_entropy
from picolm_lib.train import budget
from picolm_lib.train import trainer as train
from picolm_lib.train.trainer import Trainer

TIMES = {"seconds", "tokens_per_second", "peak_memory_gib", "mfu"}


def equal(one: Any, other: Any) -> bool:
    """Equality through dictionaries and lists, down to the last bit of a tensor."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def without_times(metrics: list[dict]) -> list[dict]:
    return [{key: value for key, value in m.items() if key not in TIMES} for m in metrics]


def everything(trainer: Trainer) -> dict:
    """All that a run depends on, but for the clocks and what else this process draws."""
    state = copy.deepcopy(trainer.state.state_dict())
    for clock in ("seconds", "elapsed", "recent_seconds"):
        del state["progress"][clock]
    del state["rng"]
    return state


def at_step(trainer: Trainer, number: int, action: Callable[[], None]) -> None:
    """Does something within the run's `number`-th step."""
    original, calls = trainer.step, itertools.count(1)

    def step():
        if next(calls) == number:
            action()
        return original()
    trainer.step = step


def watch_loss(monkeypatch: pytest.MonkeyPatch, watcher: Callable) -> None:
    """`watcher(loss, targets)` stands in for every training loss; None leaves it as it is."""
    def watched(x, weight, targets):
        loss = linear_cross_entropy(x, weight, targets)
        other = watcher(loss, targets)
        return loss if other is None else other
    monkeypatch.setattr("picolm_lib.model.picolm.linear_cross_entropy", watched)


def infinite_gradient_once(trainer: Trainer) -> None:
    handle = trainer.model.final_norm.weight.register_hook(
        lambda grad: handle.remove() or torch.full_like(grad, math.inf))


class Clock:
    """Goes only where it is told to go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        for module in (train, budget):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def tick(self, trainer: Trainer, pace: float, leaps: dict[int, float]) -> None:
        """From now on `pace` seconds go by in each step, or what `leaps` says for its number."""
        accumulate = trainer.accumulate_gradients

        def ticking(*args):
            self.advance(leaps.get(trainer.progress.step + 1, pace))
            return accumulate(*args)
        trainer.accumulate_gradients = ticking


def room_for(trainer: Trainer, sequences: int, spared: int = 0) -> list[int]:
    """Lets the trainer's device hold this many sequences in a pass; returns what was tried.

    Args:
        spared: passes before memory gets short.
    """
    tried, loss = [], trainer.objective.loss

    def short_of_memory(tokens, targets):
        tried.append(len(tokens))
        if len(tried) > spared and len(tokens) > sequences:
            raise torch.OutOfMemoryError("out of memory")
        return loss(tokens, targets)
    trainer.objective.loss = short_of_memory
    return tried


def strict_lines(path: Path) -> list[dict]:
    """Lines of JSON as the standard has it: NaN and Infinity are none."""
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
