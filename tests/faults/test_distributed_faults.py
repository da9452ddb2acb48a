"""One of several processes is killed, told to stop, or fails: all end, and nothing is lost.

Real processes under torchrun; each scene is the trainer with a fault in its fourth step. Where a
process fails with a line of its own, that line is printed. Which line the others print, if torchrun
leaves them the time, depends on who is faster, so nothing is said here about it.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, STORIES
from processes import train
from safetensors.torch import load_file

from picolm_lib.train.checkpoint import load_resume
from picolm_lib.train.distributed import LOST_PROCESS

SCENE = """
import errno
import os
import signal
import sys
import time

from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.train.trainer import Trainer

rank = int(os.environ["RANK"])
run = sys.argv[sys.argv.index("--run") + 1]
right = Trainer.step


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def step(self):
    if self.progress.step == 3:
        FAULT
    return right(self)


def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.truncate")) and str(
            arguments[0]).startswith(run):
        print(f"rank {rank} touched {arguments[0]}", file=sys.stderr)


Trainer.step = step
sys.addaudithook(watch)
run_command(train_command)
"""
EVERY_STEP = ("--checkpoint-minutes", "1e-9")


def perform(folder: Path, name: str, fault: str, processes: int = 2):
    script = folder / f"{name}.py"
    script.write_text(SCENE.replace("FAULT", fault))
    done = train(folder, name, processes, *EVERY_STEP, script=script)
    assert done.returncode != 0
    assert "rank 0 touched" in done.stderr and "rank 1 touched" not in done.stderr  # only 0 writes
    assert f'File "{ROOT / "picolm_lib"}' not in done.stderr                 # no traceback of ours
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "stories.txt").write_text("\n\n".join(STORIES))
    done = train(folder, "whole", 1)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_killed_main_process_ends_all_and_the_run_resumes(folder):
    """With one process; with more, and after the death of another one: test_fsdp.py."""
    perform(folder, "killed", "if rank == 0: os.kill(os.getpid(), signal.SIGKILL)")
    assert load_resume(folder / "killed")["progress"]["step"] == 3
    done = train(folder, "killed", 1, "--resume")
    assert done.returncode == 0 and "resuming from step 3" in done.stdout, done.stderr
    whole, resumed = (load_file(folder / run / "model.safetensors") for run in ("whole", "killed"))
    for key in whole:
        torch.testing.assert_close(resumed[key], whole[key], rtol=1e-3, atol=2e-5)


def test_a_process_that_waits_where_nothing_breaks_ends_too(folder):
    """As in a collective of NCCL, whose other side is gone: signals do not reach Python there.

    torchrun kills it 30 seconds after its signal.
    """
    begin = time.monotonic()
    perform(folder, "stuck", "os.kill(os.getpid(), signal.SIGKILL) if rank else "
            "[signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]), time.sleep(600)]")
    assert load_resume(folder / "stuck")["progress"]["step"] == 3
    assert time.monotonic() - begin < 300  # it slept for 600


def test_a_broken_collective_is_answered_by_one_line(folder):
    """The other process outlives torchrun's signal, which it has blocked, and so has its say."""
    done = perform(folder, "broken", "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
                   "rank and os.kill(os.getpid(), signal.SIGKILL)")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {LOST_PROCESS}"] and "--resume" in LOST_PROCESS, done.stderr
    assert load_resume(folder / "broken")["progress"]["step"] == 3


@pytest.mark.parametrize("whom", ["os.getppid()", "os.getpid()"])
def test_a_notice_to_quit_saves_wherever_it_arrives(folder, whom):
    """At torchrun, which passes it on to all, or at one process that is not the main one."""
    name = f"told-{whom[3:-2]}"
    done = perform(folder, name, f"if rank: os.kill({whom}, signal.SIGTERM); time.sleep(3)")
    step = load_resume(folder / name)["progress"]["step"]
    assert f"stopped at step {step}; nothing is lost" in done.stderr and step >= 4, done.stderr


def test_a_full_disk_of_the_main_process_ends_all(folder):
    done = perform(folder, "full", "if rank == 0: os.fsync = full")
    assert "error: the disk is full" in done.stderr, done.stderr
    assert load_resume(folder / "full")["progress"]["step"] == 3


def test_a_bug_in_one_process_shows_its_traceback_and_ends_the_others(folder):
    script = folder / "bug.py"
    script.write_text(SCENE.replace("FAULT", "if rank: raise IndexError('a bug of ours')"))
    done = train(folder, "bug", 2, script=script)
    assert done.returncode != 0 and done.stderr.count("IndexError: a bug of ours") == 1
    assert "[rank0]: Traceback" not in done.stderr, done.stderr
