"""Numbers that are no numbers, and clocks that jump: nothing broken is saved, no run is spoiled."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import bpe, refused, tiny_model_config, tiny_trainer

from picolm_lib import train
from picolm_lib.checkpoint import RunConfig, load_resume, load_run, save_config, save_weights
from picolm_lib.config import TrainConfig
from picolm_lib.evaluate import Scores
from picolm_lib.model import PicoLM
from picolm_lib.pace import Progress
from picolm_lib.report import read_metrics
from picolm_lib.sampling import SampleConfig, generate


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def all_finite(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    return all(map(all_finite, value)) if isinstance(value, (list, tuple)) else True


# --- weights, gradients, losses ------------------------------------------------------------------

def damage_after(trainer: train.Trainer, step: int, action) -> None:
    """Right after the optimizer's `step`-th step, as a flipped bit in memory may do."""
    trainer.optimizer.register_step_post_hook(
        lambda *_: action() if trainer.progress.step == step - 1 else None)


def first_momentum(trainer: train.Trainer) -> torch.Tensor:
    return next(iter(trainer.optimizer.state.values()))["momentum_buffer"]


@pytest.mark.parametrize("evals", [1, 10])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [2, 5, 10])
def test_a_broken_weight_is_never_saved(folder, evals, value, step):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9, evals=evals)
    weight = trainer.model.embedding.weight
    damage_after(trainer, step, lambda: weight.data[7, 3].fill_(value))
    with refused("not finite", f"step {step}", "--resume"):
        trainer.run()
    assert all(map(all_finite, (load_resume(folder), load_resume(folder)["model"])))
    assert load_resume(folder)["progress"]["step"] == step - 1
    untouched = tiny_trainer(folder, checkpoint_minutes=1e-9, evals=evals)
    untouched.resume()
    untouched.run()
    assert untouched.progress.step == 10 and all_finite(untouched.state_dict())


def test_a_broken_momentum_is_never_saved(folder):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9)
    damage_after(trainer, 4, lambda: first_momentum(trainer)[0, 0].fill_(math.inf))
    with refused("not finite", "step 4"):
        trainer.run()
    assert all_finite(load_resume(folder)) and load_resume(folder)["progress"]["step"] == 3


def test_one_gradient_that_is_no_number_costs_one_step(folder):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9)
    handle = trainer.model.blocks[0].attn.qkv.bias.register_hook(
        lambda grad: handle.remove() or grad.index_fill(0, torch.tensor([3]), math.nan))
    trainer.run()
    assert trainer.progress.skipped == 1 and trainer.progress.step == 10
    assert all_finite(load_resume(folder))


def test_gradients_that_stay_no_numbers_end_the_run_with_a_good_checkpoint(folder):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9)
    damage = {"on": False}
    trainer.model.embedding.weight.register_hook(lambda grad: grad * (math.nan if damage["on"]
                                                                      else 1))
    damage_after(trainer, 3, lambda: damage.update(on=True))
    with refused("not finite", "after step 3"):
        trainer.run()
    assert load_resume(folder)["progress"]["step"] == 3 and all_finite(load_resume(folder))


def test_a_saved_model_that_is_broken_is_refused(tmp_path):
    config = tiny_model_config()
    model = PicoLM(config)
    model.final_norm.weight.data[0] = math.nan
    save_config(tmp_path, RunConfig("smoke", config, TrainConfig()))
    bpe().save_pretrained(tmp_path / "tokenizer")
    save_weights(tmp_path / "model.safetensors", model)
    with refused("model.safetensors", "not finite"):
        load_run(tmp_path)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_overflow_tell_no_story(randomize, temperature):
    model = randomize(PicoLM(tiny_model_config()))
    model.output.weight.data *= 1e30
    model.final_norm.weight.data *= 1e20
    with refused("not finite"):
        list(generate(model, torch.tensor([[1, 2]]), SampleConfig(temperature=temperature)))


def test_a_hopeless_loss_has_a_perplexity():
    assert Scores(loss=1e4, accuracy=0, bits_per_byte=1, predicted=1).perplexity == math.inf
    assert Scores(loss=3.0, accuracy=0, bits_per_byte=1, predicted=1).perplexity == (
        pytest.approx(20.0855, rel=1e-5))


# --- clocks --------------------------------------------------------------------------------------

class Clock:
    """A monotonic clock that goes `pace` seconds per step, and leaps where it is told to."""

    def __init__(self, monkeypatch, trainer: train.Trainer, pace: float,
                 leaps: dict[int, float]) -> None:
        self.now, backward = 1_000.0, trainer.accumulator.backward
        monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: self.now))

        def ticking(*args):
            self.now += leaps.get(trainer.progress.step + 1, pace)
            return backward(*args)
        trainer.accumulator.backward = ticking


HOURS = 3 * 3_600.0


def test_a_machine_that_slept_saves_after_it_and_goes_on(monkeypatch, folder):
    trainer, saved = tiny_trainer(folder, checkpoint_minutes=5.0), []
    Clock(monkeypatch, trainer, 1.0, {4: HOURS})
    save = trainer.save
    trainer.save = lambda: saved.append(trainer.progress.step) or save()
    trainer.run()
    assert saved == [4, 10] and trainer.progress.step == 10


@pytest.mark.parametrize("at", [3, 10, 20, 50])
def test_a_timed_run_on_a_machine_that_slept_too_long_still_ends_with_its_decay(monkeypatch, folder,
                                                                                at):
    trainer = tiny_trainer(folder, max_tokens=0, max_minutes=1.0)
    Clock(monkeypatch, trainer, 1.0, {at: HOURS})
    trainer.run()
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert at <= len(steps) <= 60 and 0 < steps[-1]["lr_factor"] < 0.3
    assert trainer.progress.tokens == trainer.plan()


def test_a_nap_within_a_timed_run_is_not_taken_for_its_speed(monkeypatch, folder):
    """Ten of sixty minutes asleep: the other fifty are for training."""
    trainer = tiny_trainer(folder, max_tokens=0, max_minutes=10.0)
    clock = Clock(monkeypatch, trainer, 1.0, {200: 100.0})
    trainer.run()
    assert 540 < clock.now - 1_000 <= 600
    assert read_metrics(folder)[-2]["lr_factor"] < 0.1


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_minutes": 1.0, "max_steps": 5}])
def test_a_clock_that_stands_still_stops_nothing(monkeypatch, folder, limit):
    """As one of coarse ticks does during a short step."""
    trainer = tiny_trainer(folder, max_tokens=0, **limit)
    Clock(monkeypatch, trainer, 0.0, {})
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


def test_a_step_without_tokens_still_takes_time():
    progress = Progress()
    progress.notice(64, 1.0)
    progress.notice(0, 5.0)                                          # skipped
    assert progress.recent_tokens / progress.recent_seconds == pytest.approx(
        0.95 * 64 / (0.95 * 1 + 5))
