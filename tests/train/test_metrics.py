"""Metrics: what is measured, per device, as strict JSON."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys

import pytest
from helpers import ROOT, tiny_trainer
from tools import (
    TIMES,
    infinite_gradient_once,
    strict_lines,
    watch_loss,
)

from picolm_lib.train.metrics import mfu, read_metrics, truncate_metrics


@pytest.mark.parametrize(("speed", "peak", "world_size", "expected"), [
    (1e6, 100.0, 1, 0.06), (1e6, 100.0, 2, 0.03), (4e6, 100.0, 8, 0.03), (1e6, None, 2, None)])
def test_utilization_is_that_of_one_device(speed, peak, world_size, expected):
    """6 MFLOP per token; a million tokens per second are 6 TFLOP/s."""
    found = mfu(speed, 6e6, peak, world_size)
    assert found == (expected and pytest.approx(expected))


TWO_WITH_A_PEAK = """
import sys
from pathlib import Path
from helpers import tiny_trainer
from picolm_lib.train import trainer
trainer.peak_tflops = lambda device: 0.5
folder = Path(sys.argv[1])
run = tiny_trainer(folder, max_steps=3)
run.run()
if run.processes.is_main:
    (folder / "flops").write_text(str(run.flops))
"""


def test_two_processes_are_measured_against_two_devices(folder):
    (folder / "driver.py").write_text(TWO_WITH_A_PEAK)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         "2", str(folder / "driver.py"), str(folder)], capture_output=True, text=True,
        check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                                       "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert done.returncode == 0, done.stderr
    flops = float((folder / "flops").read_text())
    steps = [m for m in read_metrics(folder) if m["kind"] == "step"]
    assert len(steps) == 3
    for m in steps:
        # The speed is rounded to whole tokens.
        assert m["mfu"] == pytest.approx(m["tokens_per_second"] * flops / (2 * 0.5e12),
                                         rel=1e-9, abs=0.5 * flops / (2 * 0.5e12))


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
    truncate_metrics(folder, 3)
    assert strict_lines(path) == lines[:4]
    truncate_metrics(folder, 0)
    assert path.read_text() == ""


def test_a_listener_hears_all_that_is_measured(folder):
    heard = []
    trainer = tiny_trainer(folder, evals=2)
    trainer.listener = lambda who, line: heard.append((who, line))
    trainer.run()
    assert [line for _, line in heard] == read_metrics(folder)
    assert len(heard) == 12 and all(who is trainer for who, _ in heard)
