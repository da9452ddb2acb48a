"""The part nccl on a CPU, with gloo in place of NCCL."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from gpu.checks import nccl as check_nccl
from safetensors.torch import save_file


@pytest.fixture
def two_runs(tmp_path):
    """One that went straight through and one that was stopped, as they should be."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        save_file({"weight": torch.arange(6.0)}, tmp_path / name / "model.safetensors")
        lines = [json.dumps({"kind": "train", "step": step, "loss": 1.0}) for step in range(1, 21)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_group_of_one_and_a_run_that_goes_on_in_a_new_process(monkeypatch):
    monkeypatch.setattr(check_nccl, "DEVICE", "cpu")
    rows = list(check_nccl.part(argparse.Namespace(small=True)))
    assert [row["check"] for row in rows] == [
        "collectives", "split muon", "replicated", "sharded", "sharded checkpoint",
        "resumed in a new process, by torchrun"]
    assert all(row["passed"] is True for row in rows), rows
    assert all(row["backend"] == "gloo" for row in rows[:-1])


def test_equal_runs_are_equal(two_runs):
    assert check_nccl.compare(two_runs, check_nccl.STOP)["passed"]
    assert not check_nccl.compare(two_runs, check_nccl.STOP + 3)["passed"]


def test_another_weight_is_seen(two_runs):
    save_file({"weight": torch.arange(6.0) * 1.0001}, two_runs / "stopped" / "model.safetensors")
    row = check_nccl.compare(two_runs, check_nccl.STOP)
    assert (row["passed"], row["weights_equal"], row["metrics_equal"]) == (False, False, True)


def test_another_loss_and_a_run_without_weights_are_seen(two_runs):
    path = two_runs / "whole" / "metrics.jsonl"
    path.write_text(path.read_text().replace("1.0", "1.1", 1))
    row = check_nccl.compare(two_runs, check_nccl.STOP)
    assert (row["passed"], row["weights_equal"], row["metrics_equal"]) == (False, True, False)
    for name in ("whole", "stopped"):
        (two_runs / name / "model.safetensors").unlink()
    assert check_nccl.compare(two_runs, check_nccl.STOP)["weights_equal"] is False


def test_a_process_that_fails_says_why(tmp_path):
    failing = check_nccl.start(tmp_path, "x", ["-c", "raise SystemExit('no NCCL here')"])
    assert check_nccl.finish(failing) == ("", "status 1: no NCCL here")


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(check_nccl, "SECONDS", 0.5)
    hanging = check_nccl.start(tmp_path, "x", ["-c", "import time; time.sleep(60)"])
    output, error = check_nccl.finish(hanging)
    assert "took more than 0.5 seconds" in error and hanging.returncode not in (None, 0)
    assert sys.executable == hanging.args[0]
