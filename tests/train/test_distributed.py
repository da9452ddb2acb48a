"""Two processes under torchrun do what one does on the same global batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, STORIES, refused
from processes import RUN_TRAIN, start, train
from safetensors.torch import load_file

from picolm_lib.train.distributed import is_lost_process, local_device
from picolm_lib.train.metrics import read_metrics
from picolm_lib.train.muon_distributed import partition_by_cost

SHORT_OF_MEMORY = """
import torch
import picolm_lib.model.picolm
from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command

right = picolm_lib.model.picolm.linear_cross_entropy


def loss(x, weight, targets):
    if torch.distributed.get_rank() == 1 and len(x) > 16:
        raise torch.OutOfMemoryError("out of memory")
    return right(x, weight, targets)


picolm_lib.model.picolm.linear_cross_entropy = loss
run_command(train_command)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "stories.txt").write_text("\n\n".join(STORIES))
    short = folder / "short.py"
    short.write_text(SHORT_OF_MEMORY)
    for run, processes, script, *more in (("one", 1, RUN_TRAIN), ("two", 2, RUN_TRAIN),
                                          ("parts", 2, short, "--micro-batch-size", "1")):
        done = train(folder, run, processes, *more, script=script)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("A story, after 6 steps") == 1  # only the main process speaks
    return folder


@pytest.mark.parametrize("run", ["two", "parts"])
def test_two_processes_learn_what_one_learns(runs, run):
    one, other = (load_file(runs / name / "model.safetensors") for name in ("one", run))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=2e-5)
    measured = [[(m["step"], m["tokens"], m["loss"], m["grad_norm"]) for m in
                 read_metrics(runs / name) if m["kind"] == "step"] for name in ("one", run)]
    for expected, found in zip(*measured, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_run_of_one_process_goes_on_with_two(runs):
    shutil.copytree(runs / "one", runs / "longer")
    done = train(runs, "longer", 2, "--resume", "--max-tokens", str(8 * 64))
    assert done.returncode == 0 and "resuming from step 6" in done.stdout, done.stderr
    steps = [(m["step"], m["tokens"]) for m in read_metrics(runs / "longer") if m["kind"] == "step"]
    assert steps[-1] == (9, 8 * 64)


def test_a_process_may_be_lost_while_this_one_is_still_joining(monkeypatch):
    """One that fails at once ends the others, which may not have reached it yet."""
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:144] Connection closed by peer")
    assert not is_lost_process(broken)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_process(broken)
    assert is_lost_process(torch.distributed.DistNetworkError("the client socket timed out"))
    assert not is_lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_batch_that_cannot_be_shared_is_refused_in_one_line(runs):
    done = train(runs, "odd", 2, "--batch-size", "3")
    assert done.returncode != 0
    assert "error: batch_size (3) must be divisible by the number of processes (2)." in done.stderr
    for ours in ("run_train.py", "picolm_lib"):  # the launcher's own traceback is not ours
        assert f'File "{ROOT / ours}' not in done.stderr


def test_one_process_short_of_memory_ends_all_and_names_the_micro_batch(runs):
    """It could halve its own micro-batch, but the others would wait for it at other places.

    With the micro-batch that is named it fits: that is the run "parts".
    """
    done = train(runs, "short", 2, "--micro-batch-size", "2", script=runs / "short.py")
    assert done.returncode != 0
    assert ("error: out of memory with 2 sequences at a time in each process; start again with "
            "--micro-batch-size 1.") in done.stderr


def test_muon_divides_its_work_and_the_result_is_the_same(tmp_path):
    """The hidden matrices bit for bit, whole or sharded, by numbers that do not divide."""
    done = start(tmp_path, 3, Path(__file__).with_name("muon_worker.py"))
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 3
    for result in results:
        largest = result.pop("largest")
        assert len(result) == 4  # split and sharded, each in two dtypes
        for way, found in result.items():
            assert found["muon"] == 0, way
            assert found["adamw"] < 1e-7, way  # its kernel rounds the end of a row in another way
            assert 0.32 < found["share"] < 0.35, way
            if "sharded" in way:  # no more in one place than the largest matrix has
                assert found["most"] <= largest, way


def test_more_processes_than_gpus_are_refused(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 1) == chosen[0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with refused("more processes than GPUs", "--nproc-per-node 2"):
        local_device(torch.device("cuda"))


@pytest.mark.parametrize("costs, count", [([9, 8, 7, 6, 5, 4], 3), ([5], 4), ([], 2), ([1] * 7, 2)])
def test_all_work_is_assigned_and_balanced(costs, count):
    assignments = partition_by_cost(costs, count)
    assert len(assignments) == count
    assert sorted(sum(assignments, [])) == list(range(len(costs)))
    loads = [sum(costs[i] for i in assignment) for assignment in assignments]
    assert max(loads) - min(loads) <= max(costs, default=0)
