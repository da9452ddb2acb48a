"""Two processes, one folder: the second one refuses, and harms nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from runs import OPTIONS, Run, assert_same, one_line, outcome

from picolm_lib.files import lock_run_dir

WAITS = """
import pathlib, time
from picolm_lib.train.trainer import Trainer
real = Trainer.step
def step(trainer):
    while trainer.progress.step == 2 and not pathlib.Path({go!r}).exists():
        pathlib.Path({waits!r}).touch()
        time.sleep(0.01)
    return real(trainer)
Trainer.step = step
"""


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.01)


@pytest.fixture
def first(home, whole, name):
    """A run that waits in its third step until a file "go" appears."""
    go, waits = (home.folder / f"{word}-{name}" for word in ("go", "waits"))
    run = home.start(name, setup=WAITS.format(go=str(go), waits=str(waits)))
    wait_for(waits)
    yield run
    run.signal(signal.SIGKILL)
    run.ends()


def assert_refused(code: int, run: Run, name: str) -> None:
    line = one_line(run)
    assert code == 2 and "another process is training" in line and "--run" in line, line
    assert name in line and line.startswith("error: ") and line.endswith("."), line


@pytest.mark.parametrize("options", [[], ["--resume"]], ids=["anew", "resume"])
def test_the_second_process_refuses_and_the_first_one_ends_as_if_alone(home, whole, name, first,
                                                                       options):
    before = sorted(path.name for path in (home.folder / name).iterdir())
    assert_refused(*home.train(name, *options), name)
    assert sorted(path.name for path in (home.folder / name).iterdir()) == before
    (home.folder / f"go-{name}").touch()
    assert first.ends() == 0
    assert_same(outcome(home.folder / name), whole.outcome)


def test_a_running_run_can_be_read(home, name, first):
    for command, more in (("story", ["The", "--max-new-tokens", 3]),
                          ("evaluate", ["--questions", 0, "--max-tokens", 32])):
        code, run = home.train(name, *more, command=command)
        assert code == 0, run.complained


def test_a_killed_process_locks_nobody_out(home, whole, name, first):
    first.signal(signal.SIGKILL)
    assert first.ends() == -signal.SIGKILL
    code, run = home.train(name, "--resume")
    assert code == 0, run.complained
    assert_same(outcome(home.folder / name), whole.outcome)


def test_of_several_that_start_together_one_trains(home, whole, name):
    runs = [home.start(name) for _ in range(4)]
    codes = sorted(run.ends() for run in runs)
    assert codes == [0, 2, 2, 2]
    for run in runs:
        if run.process.exitcode:
            assert "another process" in (line := one_line(run)) or "already contains" in line
    assert_same(outcome(home.folder / name), whole.outcome)


def test_torchrun_refuses_too(home, name):
    with lock_run_dir(home.folder / name):
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             "--", str(ROOT / "run_train.py"), *OPTIONS, "--run", str(home.folder / name)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PICOLM_CACHE": str(home.cache)},
            cwd=home.folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode and done.stderr.count("another process is training in") == 1
    for ours in ("run_train.py", "picolm_lib"):  # the launcher's own traceback is not ours
        assert f'File "{ROOT / ours}' not in done.stderr
