"""`make test-gpu` without a GPU: its checks pass on pretended ones, and each of them can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from gpu import run
from gpu.policies import POLICIES
from gpu.pretend import pretend_gpu
from helpers import ROOT
from record import results_folder
from torch import nn

from picolm_lib.config import SampleConfig
from picolm_lib.train import muon
from picolm_lib.train.trainer import Trainer

PARTS = run.CHECKS | run.MEASUREMENTS
T4, H100 = (7, 5), (9, 0)
NO_GPU = "error: there is no GPU that this PyTorch can use; nothing was run.\n"
# Those that start processes cannot pretend: test_nccl.py.
PRETENDED = [name for name in run.CHECKS if name not in ("nccl", "notebooks")]
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in ("datasets", "pyarrow")
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from gpu import run
for name in (run.CHECKS | run.MEASUREMENTS).values():
    __import__(f"gpu.{name}")
"""


@pytest.fixture(autouse=True)
def short(tmp_path, monkeypatch):
    """Results in a folder of their own, stories of a few words, and no picture of the loss."""
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr("picolm_lib.train.trainer.SAMPLE", SampleConfig(max_new_tokens=4))
    monkeypatch.setattr("picolm_lib.train.trainer.plot_loss", lambda folder: None)


def rows_of(name: str) -> list[dict]:
    """What a part has written, in strict JSON."""
    def refuse(word: str):
        raise AssertionError(f"{word} is no JSON")
    text = (results_folder() / f"gpu-{name}.json").read_text()
    return json.loads(text, parse_constant=refuse)["rows"]


def failed(name: str, capability: tuple[int, int] = H100) -> set[str]:
    """Runs a part in float32, or all of its precisions; the checks that did not pass."""
    with pretend_gpu(capability):
        status = run.main(["--small", name])
    found = {row["check"] for row in rows_of(name) if row.get("passed") is False}
    assert status == bool(found)
    return found


@pytest.fixture
def float32(monkeypatch):
    """Only the first policy, for want of time."""
    for name in PRETENDED + ["compile"]:
        module = __import__(f"gpu.{PARTS[name]}", fromlist=["POLICIES"])
        if name != "muon":
            monkeypatch.setattr(module, "POLICIES", POLICIES[:1], raising=False)


@pytest.mark.parametrize("capability", [T4, H100])
@pytest.mark.parametrize("name", PRETENDED)
def test_a_part_passes_on_a_pretended_gpu(monkeypatch, name, capability):
    tried = POLICIES
    if capability == H100 and name in ("memory", "resume", "generation", "export"):
        tried = POLICIES[1:2]  # the others would take the time of a T4 once more
        monkeypatch.setattr(f"gpu.{PARTS[name]}.POLICIES", tried)
    assert not failed(name, capability)
    rows = rows_of(name)
    assert all("passed" in row or row.get("policy") == "float32" or "figure" in row for row in rows)
    assert {row["policy"] for row in rows if "policy" in row} == {policy.name for policy in tried}


def without_gpu(command: list[str], **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env})


@pytest.mark.parametrize("parts", ["", "model resume"])
def test_without_a_gpu_make_says_one_line(parts, tmp_path):
    done = without_gpu(["make", "--silent", "test-gpu", f"PYTHON={sys.executable}",
                        f"PARTS={parts}"])
    assert done.returncode == 2 and done.stdout == NO_GPU
    # That is what make itself says.
    assert len(done.stderr.splitlines()) == 1 and "Error 2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_named_in_one_line(capsys):
    assert run.main(["model", "nonsense"]) == 2
    said, = capsys.readouterr().out.splitlines()
    assert said.startswith("error: there is no part 'nonsense'; choose from model, muon")


def test_no_part_needs_datasets_or_pyarrow():
    done = without_gpu([sys.executable, "-c", WITHOUT], PYTHONPATH=os.pathsep.join(
        str(ROOT / folder) for folder in ("", "tests", "tests/benchmarks", "notebooks")))
    assert done.returncode == 0, done.stderr


def test_a_part_that_raises_is_told_and_the_others_go_on(monkeypatch, capsys):
    def broken(options):
        yield {"check": "first", "passed": True, "difference": float("nan")}
        raise RuntimeError("an\nillegal access")

    monkeypatch.setattr("gpu.checks.model.part", broken)
    monkeypatch.setattr("gpu.checks.muon.part", lambda options: iter([{"check": "it runs",
                                                                      "passed": True}]))
    with pretend_gpu():
        assert run.main(["model", "muon"]) == 1
    assert rows_of("model") == [
        {"check": "first", "passed": True, "difference": "nan"},
        {"check": "model", "passed": False, "error": "RuntimeError: an\nillegal access"}]
    assert rows_of("muon") == [{"check": "it runs", "passed": True}]
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["ok   model: first, difference nan",
                        "FAIL model: model, error RuntimeError: an illegal access",
                        said[2]]
    assert said[-1].startswith("1 of 2 parts passed in ") and said[-1].endswith("; failed: model")


def test_after_an_error_that_stays_a_new_process_goes_on(monkeypatch):
    calls = []
    monkeypatch.setattr(run, "works", lambda: False)
    monkeypatch.setattr(run, "run", lambda name, options: name == "model")
    monkeypatch.setattr(subprocess, "call", lambda command: calls.append(command[1:]) or 0)
    with pretend_gpu():
        assert run.main(["model", "muon", "resume", "--small"]) == 0
        assert run.main(["muon", "resume"]) == 1
    assert calls == [[run.__file__, "muon", "resume", "--small"], [run.__file__, "resume"]]


def test_a_bias_that_is_lost_on_the_gpu_is_seen(monkeypatch, float32):
    forward = nn.Linear.forward

    def without_bias(self, x):
        return nn.functional.linear(x, self.weight) if x.is_cuda else forward(self, x)
    monkeypatch.setattr(nn.Linear, "forward", without_bias)
    assert failed("model") >= {"logits", "loss", "gradients"}
    assert failed("evaluation") >= {"loss", "log-probabilities"}
    assert failed("generation") >= {"logits without a cache", "logits with a cache"}


def test_a_gradient_that_is_wrong_on_the_gpu_is_seen(monkeypatch, float32):
    backward = torch.ops.aten.silu_backward
    monkeypatch.setattr(torch.ops.aten, "silu_backward", lambda grad, x: backward(
        grad * (1.0001 if grad.is_cuda else 1), x))
    assert failed("model") == {"gradients"}


def test_directions_that_are_too_long_are_seen_in_every_dtype(monkeypatch, float32):
    newton_schulz = muon.newton_schulz
    monkeypatch.setattr(muon, "newton_schulz", lambda matrices, **options: newton_schulz(
        matrices, **options) * (1.1 if matrices.is_cuda else 1))
    assert failed("muon") == {"Newton-Schulz", "3 steps of Muon"}
    bad = [row["policy"] for row in rows_of("muon") if not row["passed"]]
    assert set(bad) == {policy.name for policy in POLICIES}
    assert failed("trainer") == {"ten steps"}


def test_steps_of_adamw_that_are_too_long_are_seen(monkeypatch):
    adamw = muon.adamw
    monkeypatch.setattr(muon, "adamw", lambda parameters, *lists, lr, **options: adamw(
        parameters, *lists, lr=lr * (1.001 if parameters[0].is_cuda else 1), **options))
    assert failed("muon") == {"3 steps of AdamW"}


def test_one_weight_that_a_resumed_run_has_not_is_seen(monkeypatch, float32):
    resume = Trainer.resume

    def forgetful(self):
        resume(self)
        self.model.final_norm.weight.data[0] += 1e-6
    monkeypatch.setattr(Trainer, "resume", forgetful)
    assert failed("resume") == {"stopped and resumed"}


@pytest.mark.parametrize("excused", [True, False])
def test_only_a_gpu_that_repeats_nothing_is_excused(monkeypatch, float32, excused):
    """Noise as of sums in another order, which deterministic algorithms have not."""
    draw, accumulate = torch.Generator().manual_seed(0), Trainer.accumulate_gradients

    def noisy(self, *batch):
        loss = accumulate(self, *batch)
        if not (torch.are_deterministic_algorithms_enabled() and excused):
            noise = float(torch.rand((), generator=draw))
            self.model.output.weight.grad.mul_(1 + 1e-3 * noise)
        return loss
    monkeypatch.setattr(Trainer, "accumulate_gradients", noisy)
    assert failed("resume") == (set() if excused else {"stopped and resumed"})
    row, = rows_of("resume")
    assert not row["equal"] and row["equal_deterministic"] == excused


def test_halving_that_changes_the_result_is_seen(monkeypatch, float32):
    halve = Trainer._halve_micro_batch

    def careless(self, rows):
        halve(self, rows)
        self.model.final_norm.weight.data[0] *= 1.1
    monkeypatch.setattr(Trainer, "_halve_micro_batch", careless)
    assert failed("memory") == {"halved for want of memory"}


def test_parts_that_do_not_add_up_and_an_estimate_that_is_wrong_are_seen(monkeypatch):
    parts = Trainer._micro_batches

    def wrong(self, inputs, targets, counted):
        total = parts(self, inputs, targets, counted)
        if self.micro_batch_size < len(inputs):
            self.model.final_norm.weight.grad *= 1.2
        return total
    monkeypatch.setattr(Trainer, "_micro_batches", wrong)
    monkeypatch.setattr("gpu.checks.memory.POLICIES", POLICIES[1:2])
    monkeypatch.setattr("gpu.checks.memory.RATIO", (0.1, 0.9))
    assert failed("memory") == {"accumulated gradients", "peak beside its estimate"}


def test_a_cache_and_a_seed_that_are_not_heeded_are_seen(monkeypatch, float32):
    update = "picolm_lib.model.attention.KVCache.update"
    original = sys.modules["picolm_lib.model.attention"].KVCache.update

    def wrong(self, key, value, layer_idx):
        keys, values = original(self, key, value, layer_idx)
        return keys * (1.01 if keys.is_cuda else 1), values
    with monkeypatch.context() as patch:
        patch.setattr(update, wrong)
        assert "logits with a cache" in failed("generation")
    monkeypatch.setattr("picolm_lib.sampling.sample_next_token", lambda logits, config, generator: (
        logits.argmax(-1) if config.temperature == 0 else
        torch.randint(1000, (len(logits),), device=logits.device)))
    assert failed("generation") == {"one seed, one text"}


def test_an_export_of_other_weights_is_seen(monkeypatch, float32):
    load = sys.modules["picolm_lib.train.checkpoint"].load_run

    def other(run, *more):
        model, tokenizer, config = load(run, *more)
        model.final_norm.weight.data[0] *= 1.1
        return model, tokenizer, config
    monkeypatch.setattr("picolm_lib.export.load_run", other)
    assert failed("export") == {"exported logits"}


@pytest.mark.parametrize("factor", [1, 1.01])
def test_a_compiled_loss_of_another_value_is_seen(monkeypatch, float32, factor):
    monkeypatch.setattr("gpu.checks.compile.compiled", lambda loss, device: (
        lambda *batch: factor * loss(*batch)))
    assert failed("compile") == (set() if factor == 1 else {"compiled loss", "compiled gradients"})
