"""Sharded weights: a small `planned` in several processes does what one process does.

The runs of the chain are killed on the way and go on with another number of processes and another
way of sharing the weights; at the end they stand where a run stands that nothing befell.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT, STORIES, refused
from processes import start
from safetensors import safe_open
from safetensors.torch import load_file

from picolm_lib.commands.export import export_command
from picolm_lib.commands.generate import generate_command
from picolm_lib.train import checkpoint
from picolm_lib.train.checkpoint import (
    find_checkpoint,
    is_intact,
    load_resume,
    load_run,
    replace_last,
)
from picolm_lib.train.metrics import read_metrics

# The heads of `planned`, its KV heads and its pyramid; six layers, 4 features per head.
OPTIONS = ["--preset", "planned", "--tokenizer", "bpe:300", "--max-seq-len", "16",
           "--n-layers", "6", "--d-model", "40", "--multiple-of", "8", "--batch-size", "4",
           "--max-steps", "10", "--device", "cpu", "--dtype", "float32", "--eval-tokens", "64",
           "--muon-lr", "0.001", "--adamw-lr", "0.001", "--vector-lr", "0.003",
           "--prompt", "The", "--evals", "2"]
KILLED = """
import os
import signal
import sys

from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.train import checkpoint_distributed
from picolm_lib.train.trainer import Trainer

right, last = Trainer.step, int(sys.argv.pop(1))


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def step(self):
    if self.progress.step == last and self.processes.rank == self.processes.world_size - 1:
        if self.processes.world_size < 4:
            die()
        # In the next checkpoint, when its shard is written.
        checkpoint_distributed.file_sha256 = die
    return right(self)


Trainer.step = step
run_command(train_command)
"""
FULL = """
import errno
import os

from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


if os.environ["RANK"] == "1":
    os.fsync = full
run_command(train_command)
"""
CHAIN = ((2, 3, ()), (1, 5, ()), (4, 7, ()), (2, 0, ("--parallel", "ddp")))


def train(folder: Path, run: str, processes: int, *more: str, killed_at: int = 0):
    script = folder / "killed.py"
    script.write_text(KILLED)
    words = (script, str(killed_at)) if killed_at else (ROOT / "run_train.py",)
    done = start(folder, processes, *words, *OPTIONS, "--data", str(folder / "stories.txt"),
                 "--run", str(folder / run), *more)
    assert (done.returncode == 0) == (not killed_at), done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """one and two: ten steps each. chain: killed three times. stopped: the chain's first part."""
    folder = tmp_path_factory.mktemp("fsdp")
    (folder / "stories.txt").write_text("\n\n".join(STORIES))
    train(folder, "one", 1)
    train(folder, "two", 2)
    for number, (processes, killed_at, more) in enumerate(CHAIN):
        done = train(folder, "chain", processes, "--checkpoint-minutes", "1e-9", *more,
                     *(["--resume"] if number else []), killed_at=killed_at)
        if number:
            assert f"resuming from step {CHAIN[number - 1][1]}\n" in done.stdout, done.stderr
        assert f'File "{ROOT / "picolm_lib"}' not in done.stderr  # no traceback of ours
        if not number:
            shutil.copytree(folder / "chain", folder / "stopped")
    return folder


@pytest.mark.parametrize("run", ["two", "chain"])
def test_sharded_weights_learn_what_whole_ones_learn(runs, run):
    one, other = (load_file(runs / name / "model.safetensors") for name in ("one", run))
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=2e-5)
    measured = [[(m["step"], m["loss"], m["grad_norm"]) for m in read_metrics(runs / name)
                 if m["kind"] == "step"] for name in ("one", run)]
    assert len(measured[0]) == 10
    for expected, found in zip(*measured, strict=True):
        assert found == pytest.approx(expected, rel=1e-3)


def test_evaluations_and_their_stories_are_the_same(runs):
    one, two = ([m for m in read_metrics(runs / name) if m["kind"] == "evaluation"]
                for name in ("one", "two"))
    assert [m["story"] for m in one] == [m["story"] for m in two] and len(one) == 2
    for expected, found in zip(one, two, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_each_process_holds_and_writes_its_half(runs):
    shards = sorted((runs / "two" / "resume").glob("*.safetensors"))
    assert len(shards) == 2
    whole = load_file(runs / "one" / "model.safetensors")
    rows = [load_file(path) for path in shards]
    for name, value in load_file(runs / "two" / "model.safetensors").items():
        parts = [part[f"weight:{name}"] for part in rows]
        assert torch.equal(torch.cat(parts), value)
        assert parts[0].shape[0] == -(-whole[name].shape[0] // 2)
    moments = {name.split(":")[0] for name in rows[0]}
    assert moments == {"weight", "momentum_buffer", "exp_avg", "exp_avg_sq"}


def test_a_sharded_checkpoint_holds_no_pickle_that_is_ever_opened(runs):
    """Tensors are safetensors; the one other file is read by torch.load(weights_only=True)."""
    for path in (runs / "two" / "resume").iterdir():
        if path.name != "state.pt":
            with safe_open(path, framework="pt") as file:
                assert file.keys()


def test_a_full_disk_of_any_process_ends_all_and_harms_nothing(runs):
    shutil.copytree(runs / "stopped", runs / "full")
    script = runs / "full.py"
    script.write_text(FULL)
    done = start(runs, 2, script, *OPTIONS, "--data", str(runs / "stories.txt"), "--run",
                 str(runs / "full"), "--resume", "--checkpoint-minutes", "1e-9")
    assert done.returncode != 0 and "resuming from step 3" in done.stdout, done.stderr
    assert "error: the disk is full: " in done.stderr
    assert load_resume(runs / "full")["progress"]["step"] == 3
    assert f'File "{ROOT / "picolm_lib"}' not in done.stderr


def test_the_model_file_serves_every_command(runs, tmp_path, capsys):
    model, _, config = load_run(runs / "two")
    assert config.train.parallel == "fsdp" and len(model.blocks) == 6
    generate_command(["The", "--run", str(runs / "two")])
    export_command(["--run", str(runs / "two"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith("The")
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["shard-00001*", "shard-00002*", "state.pt"])
@pytest.mark.parametrize("fault", ["flip", "cut", "lose"])
def test_damage_is_found_and_the_one_before_is_named(runs, tmp_path, name, fault):
    folder = shutil.copytree(runs / "stopped", tmp_path / "run")
    assert load_resume(folder)["progress"]["step"] == 3
    path, = (folder / "resume").glob(name)
    content = bytearray(path.read_bytes())
    if fault == "flip":
        content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content[:-1] if fault == "cut" else content)
    if fault == "lose":
        path.unlink()
    assert not is_intact(folder / "resume")
    with refused("resume' is damaged", "resume.previous' is good", "--resume-previous"):
        load_resume(folder)
    assert load_resume(folder, previous=True)["progress"]["step"] == 2


@pytest.mark.parametrize("kinds", list(itertools.product(("file", "folder"), repeat=3)))
def test_a_crash_at_any_moment_leaves_a_checkpoint(tmp_path, monkeypatch, kinds):
    """Before every move and removal that makes a new checkpoint the last one, of either kind."""
    monkeypatch.setattr(checkpoint, "is_intact", lambda path: True)

    def write(kind: str, number: int) -> Path:
        path = tmp_path / "run" / ("resume.new" if kind == "folder" else "resume.new.pt")
        if kind == "folder":
            path.mkdir()
        (path / "number" if kind == "folder" else path).write_text(str(number))
        return path

    def numbers() -> list[str]:
        paths = [find_checkpoint(tmp_path / "run", name) for name in ("resume", "resume.previous")]
        return [(path / "number" if path.is_dir() else path).read_text() for path in paths if path]

    seen: list[list[str]] = []

    def crash_at(moment: int) -> None:
        """Replays three saves; the third one stops before its operation of that number."""
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        for number, kind in enumerate(kinds[:2]):
            replace_last(tmp_path / "run", write(kind, number))
        new, left = write(kinds[2], 2), [moment]

        def counted(right):
            def operation(*args, **options):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return right(*args, **options)
            return operation

        with monkeypatch.context() as patch:
            for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                replace_last(tmp_path / "run", new)
            except KeyboardInterrupt:
                seen.append(numbers())
                assert seen[-1][0] == "1"                            # what --resume would take

    for moment in range(5):
        crash_at(moment)
    assert len(seen) >= 3 and numbers() == ["2", "1"]
