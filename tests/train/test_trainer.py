"""The training loop: exact steps, exact resumption, and nothing broken is saved."""

from __future__ import annotations

import copy
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import refused, tiny_trainer, token_files
from tools import (
    at_step,
    equal,
    everything,
    infinite_gradient_once,
    watch_loss,
    without_times,
)

from picolm_lib.data.batches import Batches
from picolm_lib.device import Precision
from picolm_lib.train import trainer as train
from picolm_lib.train.checkpoint import load_resume
from picolm_lib.train.metrics import read_metrics, truncate_metrics
from picolm_lib.train.signals import Interrupted
from picolm_lib.train.trainer import MAX_SKIPPED_STEPS


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


def test_a_batch_goes_to_a_gpu_from_pinned_memory_without_waiting():
    class Batch:
        def __init__(self) -> None:
            self.calls = []

        def pin_memory(self):
            self.calls.append("pinned")
            return self

        def to(self, device, **options):
            self.calls.append((device.type, options))
            return self

    batch, other = Batch(), Batch()
    cuda = Precision(torch.device("cuda"), torch.float16, "")
    assert cuda.to_device(batch, other) == [batch, other]
    assert batch.calls == other.calls == ["pinned", ("cuda", {"non_blocking": True})]
    tokens = torch.arange(4)
    assert torch.equal(Precision(torch.device("cpu"), torch.float32, "").to_device(tokens)[0],
                       tokens)


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
    truncate_metrics(folder, second.progress.step)
    second.run()
    assert equal((everything(second), without_times(read_metrics(folder))), expected)


def test_a_resumed_run_draws_the_random_numbers_that_would_have_come():
    trainer = tiny_trainer()
    state = copy.deepcopy(trainer.state.state_dict())
    expected = torch.rand(5)
    other = tiny_trainer()
    other.state.load_state_dict(state)
    assert torch.equal(torch.rand(5), expected)


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
    with refused("not finite", str(MAX_SKIPPED_STEPS), "after step 1", "--muon-lr"):
        trainer.run()
    assert trainer.progress.skipped == MAX_SKIPPED_STEPS
    assert (folder / "resume.pt").read_bytes() == saved
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_step(folder):
    with refused("prompt", "16"):
        tiny_trainer(folder, prompt="The cat saw a red ball. " * 9).run()
    assert read_metrics(folder) == []


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


def all_finite(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    return all(map(all_finite, value)) if isinstance(value, (list, tuple)) else True


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
    assert untouched.progress.step == 10 and all_finite(untouched.state.state_dict())


def test_a_broken_momentum_is_never_saved(folder):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9)
    damage_after(trainer, 4, lambda: first_momentum(trainer)[0, 0].fill_(math.inf))
    with refused("not finite", "step 4"):
        trainer.run()
    assert all_finite(load_resume(folder)) and load_resume(folder)["progress"]["step"] == 3


def test_gradients_that_stay_no_numbers_end_the_run_with_a_good_checkpoint(folder):
    trainer = tiny_trainer(folder, checkpoint_minutes=1e-9)
    damage = {"on": False}
    trainer.model.embedding.weight.register_hook(lambda grad: grad * (math.nan if damage["on"]
                                                                      else 1))
    damage_after(trainer, 3, lambda: damage.update(on=True))
    with refused("not finite", "after step 3"):
        trainer.run()
    assert load_resume(folder)["progress"]["step"] == 3 and all_finite(load_resume(folder))
