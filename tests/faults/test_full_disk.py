"""A disk that is full at any moment: one line, nothing lost, and once there is space it goes on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from runs import Run, assert_same, one_line, outcome

from picolm_lib.train.checkpoint import is_intact

SHORT = ["--max-steps", "2", "--evals", "1"]
PARTS = 4  # of the work, so that a failure is nearer to its place


def complaint(code: int, run: Run, folder: Path) -> str:
    """What is wrong with how a command met a full disk; nothing where it said so in one line."""
    if code != 2 or "Traceback" in run.complained:
        return f"exit code {code}: {run.complained[-900:]}"
    line = one_line(run)
    if "disk is full" not in line or not line.startswith("error: ") or not line.endswith("."):
        return line
    damaged = [path.name for path in folder.glob("resume*.pt") if not is_intact(path)]
    return f"damaged: {damaged}" if damaged else ""


@pytest.fixture(scope="module")
def short(home, whole):
    """An uninterrupted short run, its events, and those of one that prepares its data first."""
    code, run = home.train("short", *SHORT)
    assert code == 0, run.complained
    code, fresh = home.train("fresh", *SHORT, cache=home.folder / "fresh cache")
    assert code == 0, fresh.complained
    assert_same(outcome(home.folder / "fresh"), outcome(home.folder / "short"))
    return outcome(home.folder / "short"), run.events, fresh.events


@pytest.mark.parametrize(("fault", "part"), [*(("full once", part) for part in range(PARTS)),
                                             ("full", 1)])
def test_at_every_write_of_a_run_in_turn(home, short, name, part, fault):
    expected, events, _ = short
    second, third = [n for n, event in enumerate(events, start=1)
                     if event == "create resume.new.pt.part"][1:]
    moments = [*range(1, second), *range(third, len(events) + 1)]    # one checkpoint left out
    assert len(moments) > 60
    complaints = []
    for at in moments[part::PARTS]:
        code, run = home.train(name, *SHORT, at=at, fault=fault)
        complaints.append((at, events[at - 1], complaint(code, run, home.folder / name)))
        code, run = home.train(name, *SHORT, "--resume")
        assert code == 0, (events[at - 1], run.complained)
        assert_same(outcome(home.folder / name), expected)
        shutil.rmtree(home.folder / name)
    assert not [each for each in complaints if each[2]]


def test_at_every_write_of_the_data_in_turn(home, short, name):
    expected, _, events = short
    last = max(n for n, event in enumerate(events, start=1) if "counts.json" in event)
    cache, complaints = home.folder / "full cache", []
    for at in range(1, last + 1):
        code, run = home.train(name, *SHORT, at=at, fault="full", cache=cache)
        complaints.append((at, events[at - 1], complaint(code, run, home.folder / name)))
        code, run = home.train(name, *SHORT, "--resume", cache=cache)
        assert code == 0, (events[at - 1], run.complained)
        assert_same(outcome(home.folder / name), expected)
        shutil.rmtree(home.folder / name)
        shutil.rmtree(cache)
    assert not [each for each in complaints if each[2]]


def mount(*words: str) -> bool:
    done = subprocess.run(["mount", *words], capture_output=True, check=False)
    return done.returncode == 0


def test_on_a_small_disk_that_is_really_full(home, short, name):
    """Here also what libraries write past Python meets the end of the disk."""
    folder, size = home.folder / name, 8
    folder.mkdir()
    complaints = []
    while True:
        if not mount("-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)):
            pytest.skip("this machine lets nobody mount a small disk")
        try:
            code, run = home.train(name, *SHORT)
            if code == 0:
                break
            complaints.append((size, complaint(code, run, folder)))
            assert mount("-o", "remount,size=100m", str(folder))
            code, run = home.train(name, *SHORT, "--resume")
            assert code == 0, run.complained
            assert_same(outcome(folder), short[0])
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        size += 20
    assert len(complaints) > 5 and not [each for each in complaints if each[1]]
