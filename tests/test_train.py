"""The training loop: exact budgets, exact resumption, and a clean way out of every trouble."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import isolate, refused, tiny_trainer, token_files

from picolm_lib import train
from picolm_lib.batches import Batches
from picolm_lib.checkpoint import load_resume
from picolm_lib.distributed import Processes
from picolm_lib.loss import IGNORE, linear_cross_entropy
from picolm_lib.report import forget_after, read_metrics
from picolm_lib.train import MOST_SKIPS, Interrupted, Trainer

TIMES = {"seconds", "tokens_per_second", "peak_memory_gib", "mfu"}


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


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
    state = copy.deepcopy(trainer.state_dict())
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
    monkeypatch.setattr("picolm_lib.model.linear_cross_entropy", watched)


def infinite_gradient_once(trainer: Trainer) -> None:
    handle = trainer.model.final_norm.weight.register_hook(
        lambda grad: handle.remove() or torch.full_like(grad, math.inf))


# --- one step ------------------------------------------------------------------------------------

def test_an_untrained_model_loses_the_logarithm_of_the_vocabulary():
    assert tiny_trainer().step()["loss"] == pytest.approx(math.log(300), rel=1e-6)


@pytest.mark.parametrize("max_tokens", [12 * 64, 2 * 192 + 7])
def test_accumulated_gradients_are_those_of_the_whole_batch(max_tokens):
    whole = tiny_trainer(batch_size=12, max_tokens=max_tokens)
    parts = tiny_trainer(batch_size=12, max_tokens=max_tokens, micro_batch_size=3)
    for _ in range(3):
        one, other = whole.step(), parts.step()
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip", [0.0, 1e-3, 1e3])
def test_gradients_are_clipped_by_their_global_norm(clip):
    trainer, seen = tiny_trainer(grad_clip=clip), []
    for _ in range(3):
        trainer.step()
    model = copy.deepcopy(trainer.model)
    batches = Batches(token_files()["train"].tokens, 16, 4)
    batches.load_state_dict(trainer.batches.state_dict())
    inputs, targets = batches.next()
    F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters()))
    scale = min(1.0, clip / norm) if clip else 1.0

    trainer.optimizer.register_step_pre_hook(lambda *_: seen.extend(
        p.grad.clone() for p in trainer.model.parameters()))
    assert trainer.step()["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert 1e-3 < norm < 1e3
    for grad, parameter in zip(seen, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad * scale, rtol=1e-3, atol=1e-6 * scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_learns_in_every_dtype(dtype):
    trainer = tiny_trainer(dtype=dtype, max_tokens=64 * 40)
    assert trainer.run().loss < 0.7 * math.log(300)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert trainer.progress.skipped < 10


def test_the_schedule_runs_over_the_tokens():
    trainer = tiny_trainer(warmup=0.2, decay=0.5, momentum=0.95, momentum_warmup=5,
                           muon_lr=0.02, adamw_lr=6e-3, vector_lr=1e-3)
    vector = trainer.model.final_norm.weight
    rates, factors = [], []
    trainer.optimizer.register_step_pre_hook(lambda *_: rates.append(
        {"vector" if group["params"][0].ndim == vector.ndim else group["kind"]:
         (group["lr"], group["momentum"]) for group in trainer.optimizer.param_groups}))
    for _ in range(10):
        factors.append(trainer.step()["lr_factor"])
    # Each at the middle of its step: 0.05 of the run at the first, 0.95 at the last.
    assert factors == pytest.approx([0.25, 0.75, 1, 1, 1, 0.9, 0.7, 0.5, 0.3, 0.1])
    for step, (rate, factor) in enumerate(zip(rates, factors, strict=True)):
        assert rate["adamw"][0] == pytest.approx(6e-3 * factor)
        assert rate["vector"][0] == pytest.approx(1e-3 * factor)
        assert rate["muon"][0] == pytest.approx(0.02 * factor)
        assert rate["muon"][1] == pytest.approx(0.85 + 0.1 * min(step / 5, 1))


# --- the budget ----------------------------------------------------------------------------------

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


class Clock:
    """Goes only where it is told to go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds


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
    assert steps[-1]["tokens"] == trainer.progress.tokens == trainer.plan()


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


def test_the_warm_up_is_done_once(monkeypatch):
    passes = []
    watch_loss(monkeypatch, lambda *_: passes.append(1) and None)
    trainer = tiny_trainer(max_tokens=0, max_minutes=1.0, max_steps=3)
    trainer.run()
    assert len(passes) == 2 + 3


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
    second.plan()
    assert second.batches.state_dict() == first.batches.state_dict() and clock.now == started
    second.run()
    assert 30 < clock.now - started <= 40 and second.progress.step > 50


def test_a_run_without_decay_ends_in_time_too(monkeypatch):
    clock = Clock(monkeypatch)
    watch_loss(monkeypatch, lambda *_: clock.advance(1.0))
    tiny_trainer(max_tokens=0, max_minutes=1.0, decay=0.0).run()
    assert 40 < clock.now - 1_000 <= 62


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


def test_a_time_limit_that_was_lifted_ends_no_run():
    trainer = tiny_trainer()
    trainer.progress.planned_tokens = 128  # of an earlier call, with max_minutes
    trainer.run()
    assert trainer.progress.tokens == 640


# --- the same bits -------------------------------------------------------------------------------

def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    states = []
    for seed in (3, 3, 4):
        trainer = tiny_trainer(seed=seed, max_tokens=256)
        trainer.run()
        states.append(everything(trainer))
    assert equal(states[0], states[1])
    assert not equal(states[0]["model"], states[2]["model"])


def finished(folder: Path, **changes) -> tuple[dict, list[dict]]:
    """An uninterrupted run, more than an epoch long."""
    folder.mkdir(exist_ok=True)
    trainer = tiny_trainer(folder, max_tokens=64 * 20 + 5, evals=3, **changes)
    trainer.run()
    assert trainer.batches.epoch > 0
    return everything(trainer), without_times(read_metrics(folder))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stop", [1, 7, 16, 20])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, folder, stop, dtype):
    expected = finished(tmp_path / "whole", dtype=dtype)
    options = {"max_tokens": 64 * 20 + 5, "evals": 3, "dtype": dtype}
    first = tiny_trainer(folder, **options)
    at_step(first, stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        first.run()
    second = tiny_trainer(folder, **options, seed=0)
    second.resume()
    second.run()
    assert equal((everything(second), without_times(read_metrics(folder))), expected)


def test_a_run_resumed_from_the_checkpoint_before_is_the_same_too(tmp_path, folder):
    expected = finished(tmp_path / "whole")
    first = tiny_trainer(folder, max_tokens=64 * 20 + 5, evals=3)
    for number in (4, 7):
        at_step(first, number, first.save)  # before it is taken
    at_step(first, 10, lambda: [][0])
    with pytest.raises(IndexError):
        first.run()
    second = tiny_trainer(folder, max_tokens=64 * 20 + 5, evals=3)
    second.resume(previous=True)
    assert second.progress.step == 3
    forget_after(folder, second.progress.step)
    second.run()
    assert equal((everything(second), without_times(read_metrics(folder))), expected)


def test_a_resumed_run_draws_the_random_numbers_that_would_have_come():
    trainer = tiny_trainer()
    state = copy.deepcopy(trainer.state_dict())
    expected = torch.rand(5)
    other = tiny_trainer()
    other.load_state_dict(state)
    assert torch.equal(torch.rand(5), expected)


# --- trouble -------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_infinite_gradient_skips_the_step_and_the_next_one_goes_on(dtype):
    trainer = tiny_trainer(dtype=dtype, muon_lr=1e-3, adamw_lr=1e-3, vector_lr=1e-3)
    for _ in range(3):
        trainer.step()
    before, scale = everything(trainer), trainer.scaler.get_scale()
    infinite_gradient_once(trainer)
    metrics = trainer.step()
    after = everything(trainer)
    assert equal(before["model"], after["model"])
    assert equal(before["optimizer"]["state"], after["optimizer"]["state"])
    assert (metrics["step"], metrics["tokens"], metrics["skipped"]) == (3, 192, 1)
    assert trainer.scaler.get_scale() == (scale / 2 if dtype == "float16" else 1.0)
    metrics = trainer.step()
    assert (metrics["step"], metrics["tokens"], metrics["skipped"]) == (4, 256, 1)
    assert not equal(after["model"], trainer.model.state_dict())
    assert trainer.progress.skipped_in_a_row == 0


def test_an_infinite_loss_skips_the_step_though_its_gradients_are_finite(monkeypatch):
    trainer = tiny_trainer()
    trainer.step()
    before = everything(trainer)
    watch_loss(monkeypatch, lambda loss, _: loss + math.inf)
    trainer.step()
    assert equal(before["model"], trainer.model.state_dict())
    assert trainer.progress.skipped == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_that_cannot_go_on_says_so_and_leaves_its_checkpoint_alone(folder, dtype):
    trainer = tiny_trainer(folder, dtype=dtype)
    trainer.step()
    trainer.save()
    saved = (folder / "resume.pt").read_bytes()
    weights = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        trainer.model.embedding.weight.fill_(math.nan)
    with refused("not finite", str(MOST_SKIPS), "after step 1", "--muon-lr"):
        trainer.run()
    assert trainer.progress.skipped == MOST_SKIPS
    assert (folder / "resume.pt").read_bytes() == saved
    assert (folder / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_finishes_the_step_saves_and_names_the_way_on(folder, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer = tiny_trainer(folder)
    at_step(trainer, 3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match="step 3.*--resume") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert load_resume(folder)["progress"]["step"] == 3
    assert (folder / "model.safetensors").exists()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_stops_at_once(folder):
    handler = signal.getsignal(signal.SIGINT)
    trainer = tiny_trainer(folder)
    at_step(trainer, 3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert not (folder / "resume.pt").exists()
    assert signal.getsignal(signal.SIGINT) == handler


def test_it_runs_in_a_thread():
    trainer = tiny_trainer(max_steps=2)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    thread.join()
    assert trainer.progress.step == 2


def test_checkpoints_come_by_the_clock(monkeypatch, folder):
    clock, saved = Clock(monkeypatch), []
    watch_loss(monkeypatch, lambda *_: clock.advance(20.0))
    trainer = tiny_trainer(folder, checkpoint_minutes=0.9)  # 54 seconds: every third step
    monkeypatch.setattr(trainer, "save", lambda: saved.append(trainer.progress.step))
    trainer.run()
    assert saved == [3, 6, 9, 10]


# --- too little memory ---------------------------------------------------------------------------

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


@pytest.mark.parametrize("room", [4, 2, 1])
def test_out_of_memory_halves_the_micro_batch_and_the_result_is_the_same(folder, capsys, room):
    trainer = tiny_trainer(folder, batch_size=8, max_tokens=8 * 16 * 6 + 5)
    trainer.show, expected = True, tiny_trainer(batch_size=8, max_tokens=8 * 16 * 6 + 5,
                                                micro_batch_size=room)
    tried = room_for(trainer, room)
    capsys.readouterr()
    for _ in range(7):
        metrics = trainer.step()
        assert metrics["loss"] == expected.step()["loss"] and metrics["micro_batch"] == room
    assert equal(everything(trainer), everything(expected))
    assert tried[:4] == {4: [8, 4, 4, 4], 2: [8, 4, 2, 2], 1: [8, 4, 2, 1]}[room]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == {4: 1, 2: 2, 1: 3}[room]
    assert f"{room} sequences at a time instead of {2 * room}, {8 // room} times" in said[-1]


@pytest.mark.parametrize("spared", [1, 2, 3, 5])
def test_memory_that_runs_out_within_a_step_loses_neither_data_nor_gradients(spared):
    whole = tiny_trainer(batch_size=12, micro_batch_size=3)
    trainer = tiny_trainer(batch_size=12, micro_batch_size=3)
    tried = room_for(trainer, 1, spared)
    for _ in range(3):
        one, other = whole.step(), trainer.step()
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert tried[spared] == 3 and tried[-1] == 1
    assert trainer.batches.state_dict() == whole.batches.state_dict()
    for a, b in zip(whole.model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_sequence_that_does_not_fit_is_refused_in_one_line():
    trainer = tiny_trainer()
    tried = room_for(trainer, 0)
    with refused("out of memory", "one sequence", "--max-seq-len"):
        trainer.run()
    assert tried == [4, 2, 1] and all(p.grad is None for p in trainer.model.parameters())


def test_the_warm_up_of_a_timed_run_finds_what_fits(monkeypatch):
    clock = Clock(monkeypatch)
    watch_loss(monkeypatch, lambda *_: clock.advance(0.25))
    trainer = tiny_trainer(max_tokens=0, max_minutes=1.0)
    tried = room_for(trainer, 1)
    trainer.run()
    assert tried[:2] == [4, 2] and set(tried[2:]) == {1}
    assert 40 < clock.now - 1_000 <= 60


def test_one_of_several_processes_cannot_halve_alone(monkeypatch):
    trainer = tiny_trainer(micro_batch_size=2)
    trainer.accumulator.processes = Processes(rank=0, count=2)
    room_for(trainer, 1)
    with refused("out of memory with 2 sequences", "each process", "--micro-batch-size 1"):
        trainer.accumulator.backward(*trainer.batches.next(), 64)


def test_a_listener_hears_all_that_is_measured(folder):
    heard = []
    trainer = tiny_trainer(folder, evals=2)
    trainer.listener = lambda who, line: heard.append((who, line))
    trainer.run()
    assert [line for _, line in heard] == read_metrics(folder)
    assert len(heard) == 12 and all(who is trainer for who, _ in heard)


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_step(folder):
    with refused("prompt", "16"):
        tiny_trainer(folder, prompt="The cat saw a red ball. " * 9).run()
    assert read_metrics(folder) == []


# --- what is left behind -------------------------------------------------------------------------

def strict_lines(path: Path) -> list[dict]:
    """Lines of JSON as the standard has it: NaN and Infinity are none."""
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_metrics_are_json_with_all_fields(folder):
    tiny_trainer(folder, evals=2).run()
    lines = strict_lines(folder / "metrics.jsonl")
    steps = [m for m in lines if m["kind"] == "step"]
    assert [m["step"] for m in steps] == list(range(1, 11))
    for m in steps:
        assert m.keys() >= {"tokens", "loss", "grad_norm", "lr_factor", "skipped"} | TIMES
    evaluations = [m for m in lines if m["kind"] == "evaluation"]
    assert [m["step"] for m in evaluations] == [5, 10]
    for m in evaluations:
        assert m.keys() >= {"tokens", "loss", "perplexity", "accuracy", "bits_per_byte", "seconds"}
        assert m["perplexity"] == pytest.approx(math.exp(m["loss"]))
        assert m["story"].startswith("The")


@pytest.mark.parametrize("trouble", ["gradient", "loss"])
def test_metrics_are_json_even_where_numbers_are_not_finite(monkeypatch, folder, trouble):
    trainer = tiny_trainer(folder)
    if trouble == "gradient":
        infinite_gradient_once(trainer)
    else:
        passes = itertools.count()
        watch_loss(monkeypatch, lambda loss, _: loss * math.nan if next(passes) == 2 else None)
    trainer.run()
    assert trainer.progress.skipped == 1
    assert len(strict_lines(folder / "metrics.jsonl")) == 10 + 1 + 1
    assert (folder / "loss.png").exists()


def test_metrics_after_a_step_can_be_forgotten(folder):
    lines = [{"kind": "step", "step": i} for i in range(1, 6)]
    lines.insert(3, {"kind": "evaluation", "step": 3})
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(m) + "\n" for m in lines) + '{"kind": "st')
    forget_after(folder, 3)
    assert strict_lines(path) == lines[:4]
    forget_after(folder, 0)
    assert path.read_text() == ""


def test_a_run_leaves_its_files(folder):
    tiny_trainer(folder).run()
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {f.name for f in folder.iterdir()} == {
        "loss.png", "metrics.jsonl", "model.safetensors", "resume.pt"}


def test_a_run_without_a_folder_leaves_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    scores = tiny_trainer(checkpoint_minutes=1e-9).run()
    assert scores.predicted == len(token_files()["validation"].tokens) - 1
    assert not list((tmp_path / "here").iterdir())
    assert capsys.readouterr() == ("", "")
