"""Budgets are met to the token and to the minute, also where clocks jump."""

from __future__ import annotations

import copy
import itertools
import math
import os
import signal
import time

import pytest
from helpers import refused, tiny_trainer, token_files
from tools import (
    Clock,
    at_step,
    equal,
    room_for,
    watch_loss,
)

from picolm_lib.model.loss import IGNORE
from picolm_lib.train import trainer as train
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.signals import Interrupted


@pytest.mark.parametrize("max_tokens", [640, 601, 65, 63, 1])
def test_the_budget_is_met_to_the_token(monkeypatch, max_tokens):
    counted = []
    watch_loss(monkeypatch, lambda loss, targets: counted.append((targets != IGNORE).sum().item()))
    trainer = tiny_trainer(max_tokens=max_tokens)
    trainer.run()
    assert sum(counted) == trainer.progress.tokens == max_tokens
    assert trainer.progress.step == len(counted) == math.ceil(max_tokens / 64)


def test_the_first_limit_ends_the_run():
    trainer = tiny_trainer(max_tokens=300, max_steps=3)
    trainer.run()
    assert (trainer.progress.step, trainer.progress.tokens) == (3, 192)


@pytest.mark.parametrize(("evals", "tokens"), [
    (1, [640]), (4, [192, 320, 512, 640]), (10, list(range(64, 641, 64))),
    (99, list(range(64, 641, 64)))])
def test_evaluations_are_spread_over_the_run(folder, evals, tokens):
    tiny_trainer(folder, evals=evals).run()
    evaluations = [m for m in read_metrics(folder) if m["kind"] == "evaluation"]
    assert [m["tokens"] for m in evaluations] == tokens
    validation = len(token_files()["validation"].tokens) - 1
    assert [m["predicted"] for m in evaluations] == [64] * (len(tokens) - 1) + [validation]


@pytest.mark.parametrize("later", [1.0, 1.5, 0.5])
def test_a_run_of_a_minute_ends_in_time_with_its_decay_complete(monkeypatch, folder, later):
    clock, passes = Clock(monkeypatch), itertools.count()
    watch_loss(monkeypatch, lambda *_: clock.advance(1.0 if next(passes) < 6 else later))
    trainer = tiny_trainer(folder, max_tokens=0, max_minutes=1.0)
    trainer.run()
    assert 40 < clock.now - 1_000 <= 60
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    last = [m["lr_factor"] for m in steps[-5:]]
    assert last == sorted(last, reverse=True) and 0 < last[-1] < 0.1
    assert steps[-1]["tokens"] == trainer.progress.tokens == trainer.total_tokens


@pytest.mark.parametrize("slow", [6.0, 0.1])
def test_a_warm_up_of_another_speed_does_not_decide_the_run(monkeypatch, folder, slow):
    """As on a machine that is busy, or throttled, at one moment and not at the other."""
    clock, passes = Clock(monkeypatch), itertools.count()
    watch_loss(monkeypatch, lambda *_: clock.advance(slow if next(passes) < 4 else 1.0))
    tiny_trainer(folder, max_tokens=0, max_minutes=2.0).run()
    assert 80 < clock.now - 1_000 <= 120
    factors = [m["lr_factor"] for m in read_metrics(folder) if m["kind"] == "step"]
    assert factors[-1] < 0.1 and factors[len(factors) // 2 - 5] == 1.0


def test_costly_evaluations_shorten_the_run_but_do_not_end_it(monkeypatch, folder):
    """They may cluster at first, when the plan is short: each must come once, and be planned for.
    """
    clock, passes, real = Clock(monkeypatch), itertools.count(), train.evaluate
    watch_loss(monkeypatch, lambda *_: clock.advance(4.0 if next(passes) < 6 else 1.0))
    monkeypatch.setattr(train, "evaluate", lambda *args: clock.advance(5.0) or real(*args))
    tiny_trainer(folder, max_tokens=0, max_minutes=2.0, evals=6).run()
    lines = read_metrics(folder)
    assert 90 < clock.now - 1_000 <= 125
    assert 4 <= sum(m["kind"] == "evaluation" for m in lines) <= 6
    assert [m["lr_factor"] for m in lines if m["kind"] == "step"][-1] < 0.1


def test_a_timed_run_goes_on_where_its_data_were(monkeypatch, folder):
    clock = Clock(monkeypatch)
    watch_loss(monkeypatch, lambda *_: clock.advance(1.0))
    first = tiny_trainer(folder, max_tokens=0, max_minutes=1.0)
    at_step(first, 20, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        first.run()
    second = tiny_trainer(folder, max_tokens=0, max_minutes=1.0)
    second.resume()
    started = clock.now
    second.measure_speed()
    assert second.batches.state_dict() == first.batches.state_dict() and clock.now == started
    second.run()
    assert 30 < clock.now - started <= 40 and second.progress.step > 50


def test_the_length_is_a_question_that_changes_nothing(monkeypatch):
    """Only with a limit in minutes must something be measured before it can be answered."""
    passes = []
    watch_loss(monkeypatch, lambda *_: passes.append(1) and None)
    trainer = tiny_trainer(max_tokens=0, max_minutes=1.0)
    with refused("length", "measure_speed"):
        print(trainer.total_tokens)
    assert not passes
    trainer.measure_speed()
    before = copy.deepcopy(trainer.state.state_dict())
    assert trainer.total_tokens == trainer.total_tokens > 0 and len(passes) == 2
    assert equal(trainer.state.state_dict(), before)
    counted = tiny_trainer()
    counted.measure_speed()
    assert counted.total_tokens == 640 and len(passes) == 2


def test_evaluations_are_part_of_the_time(monkeypatch, folder):
    clock, real = Clock(monkeypatch), train.evaluate
    watch_loss(monkeypatch, lambda *_: clock.advance(1.0))
    monkeypatch.setattr(train, "evaluate", lambda *args: clock.advance(
        4.0 if args[-1] else 0.5) or real(*args))
    tiny_trainer(folder, max_tokens=0, max_minutes=1.0, evals=4).run()
    assert 45 < clock.now - 1_000 <= 60


def test_other_limits_hold_beside_the_time(monkeypatch):
    clock = Clock(monkeypatch)
    watch_loss(monkeypatch, lambda *_: clock.advance(1.0))
    trainer = tiny_trainer(max_tokens=0, max_minutes=1.0, max_steps=7)
    trainer.run()
    assert trainer.progress.step == 7


def test_checkpoints_come_by_the_clock(monkeypatch, folder):
    clock, saved = Clock(monkeypatch), []
    watch_loss(monkeypatch, lambda *_: clock.advance(20.0))
    trainer = tiny_trainer(folder, checkpoint_minutes=0.9)  # 54 seconds: every third step
    monkeypatch.setattr(trainer, "save", lambda: saved.append(trainer.progress.step))
    trainer.run()
    assert saved == [3, 6, 9, 10]


def test_the_warm_up_of_a_timed_run_finds_what_fits(monkeypatch):
    clock = Clock(monkeypatch)
    watch_loss(monkeypatch, lambda *_: clock.advance(0.25))
    trainer = tiny_trainer(max_tokens=0, max_minutes=1.0)
    tried = room_for(trainer, 1)
    trainer.run()
    assert tried[:2] == [4, 2] and set(tried[2:]) == {1}
    assert 40 < clock.now - 1_000 <= 60


HOURS = 3 * 3_600.0


def test_a_machine_that_slept_saves_after_it_and_goes_on(monkeypatch, folder):
    trainer, saved = tiny_trainer(folder, checkpoint_minutes=5.0), []
    Clock(monkeypatch).tick(trainer, 1.0, {4: HOURS})
    save = trainer.save
    trainer.save = lambda: saved.append(trainer.progress.step) or save()
    trainer.run()
    assert saved == [4, 10] and trainer.progress.step == 10


@pytest.mark.parametrize("at", [3, 10, 20, 50])
def test_a_timed_run_on_a_machine_that_slept_too_long_still_ends_with_its_decay(monkeypatch, folder,
                                                                                at):
    trainer = tiny_trainer(folder, max_tokens=0, max_minutes=1.0)
    Clock(monkeypatch).tick(trainer, 1.0, {at: HOURS})
    trainer.run()
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert at <= len(steps) <= 60 and 0 < steps[-1]["lr_factor"] < 0.3
    assert trainer.progress.tokens == trainer.total_tokens


def test_a_nap_within_a_timed_run_is_not_taken_for_its_speed(monkeypatch, folder):
    """Ten of sixty minutes asleep: the other fifty are for training."""
    trainer = tiny_trainer(folder, max_tokens=0, max_minutes=10.0)
    clock = Clock(monkeypatch)
    clock.tick(trainer, 1.0, {200: 100.0})
    trainer.run()
    assert 540 < clock.now - 1_000 <= 600
    assert read_metrics(folder)[-2]["lr_factor"] < 0.1


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_minutes": 1.0, "max_steps": 5}])
def test_a_clock_that_stands_still_stops_nothing(monkeypatch, folder, limit):
    """As one of coarse ticks does during a short step."""
    trainer = tiny_trainer(folder, max_tokens=0, **limit)
    Clock(monkeypatch).tick(trainer, 0.0, {})
    trainer.run()
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert len(steps) == 5 and all(math.isfinite(m["tokens_per_second"]) for m in steps)


@pytest.mark.parametrize("days", [1, -1])
def test_a_wall_clock_that_is_set_changes_nothing(monkeypatch, folder, days):
    real, calls = time.time, []
    monkeypatch.setattr("tqdm.std.time", lambda: calls.append(1) or real() + (
        86_400 * days if len(calls) > 3 else 0))
    trainer = tiny_trainer(folder)
    trainer.show = True
    trainer.run()
    assert trainer.progress.step == 10 and calls  # the progress bar looks at that clock
    assert all(m["tokens_per_second"] > 0 for m in read_metrics(folder) if m["kind"] == "step")
