"""Killed at any moment, a run goes on to the weights of a run that nothing happened to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from runs import OPTIONS, assert_same, outcome

from picolm_lib.train.checkpoint import is_intact

SEED = 7
DRAWN = random.Random(SEED)
SHARES = [DRAWN.random() for _ in range(15)]
FRESH = [DRAWN.random() for _ in range(2)]


def assert_goes_on(home, whole, name: str, **how) -> None:
    """With --resume, to the same bits, and with each line of metrics once."""
    folder = home.folder / name
    for path in folder.glob("resume*.pt"):
        assert is_intact(path), path
    code, run = home.train(name, "--resume", **how)
    assert code == 0, run.complained
    assert_same(outcome(folder), whole.outcome)
    steps = [m["step"] for m in outcome(folder)[2] if m["kind"] == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not list(folder.rglob("*.part"))
    shutil.rmtree(folder)


@pytest.mark.parametrize("share", SHARES, ids=lambda share: f"{share:.3f}")
def test_at_a_random_time(home, whole, name, share):
    """`share` of the time that a run takes; whether it still runs by then is left to chance."""
    run = home.start(name)
    time.sleep(share * whole.seconds)
    run.signal(signal.SIGKILL)
    assert run.ends() in (-signal.SIGKILL, 0)
    print(f"killed after {share * whole.seconds:.2f} s of {whole.seconds:.2f} s")
    assert_goes_on(home, whole, name)


@pytest.mark.parametrize("number", range(15))
def test_within_a_random_write(home, whole, name, number):
    at = random.Random(f"{SEED} {number}").randint(1, len(whole.events))
    print(f"killed in event {at} of {len(whole.events)}: {whole.events[at - 1]}")
    run = home.start(name, at=at)
    assert run.ends() == -signal.SIGKILL
    assert_goes_on(home, whole, name)


def test_within_every_write_of_a_checkpoint_in_turn(home, whole, name):
    begins = [n for n, event in enumerate(whole.events, start=1)
              if event.startswith("create resume.new.pt")]
    moments = range(begins[2], begins[3])
    kinds = {event.split()[0] for event in whole.events[begins[2] - 1:begins[3] - 1]}
    assert len(moments) >= 12 and kinds == {"create", "write", "fsync", "replace"}
    for at in moments:
        print(f"killed in event {at}: {whole.events[at - 1]}")
        assert home.start(name, at=at).ends() == -signal.SIGKILL
        assert_goes_on(home, whole, name)


def test_again_and_again(home, whole, name):
    """Killed at the next checkpoint but one, every time that it goes on."""
    kills = 0
    while (code := home.start(name, "--resume", at=1 + whole.events.index(
            "replace resume.previous.pt") + 3).ends()) == -signal.SIGKILL:
        kills += 1
        assert kills < 20
    assert code == 0 and kills >= 3
    assert_goes_on(home, whole, name)


SMALL_BLOCKS = "from picolm_lib.data import tokens\ntokens.BLOCK_DOCUMENTS = 4"


def test_within_writes_of_the_data(home, whole, name):
    cache = home.folder / "other cache"
    code, run = home.train(name, cache=cache, setup=SMALL_BLOCKS)
    assert code == 0
    shutil.rmtree(home.folder / name)
    last = max(n for n, event in enumerate(run.events, start=1) if "counts.json" in event)
    assert last > 20
    for at in sorted(random.Random(SEED).sample(range(1, last + 1), 20)):
        shutil.rmtree(cache)
        print(f"killed in event {at}: {run.events[at - 1]}")
        killed = home.start(name, at=at, cache=cache, setup=SMALL_BLOCKS)
        assert killed.ends() == -signal.SIGKILL
        assert_goes_on(home, whole, name, cache=cache, setup=SMALL_BLOCKS)


@pytest.mark.parametrize("share", FRESH, ids=lambda share: f"{share:.3f}")
def test_a_process_that_was_not_forked(home, whole, name, share):
    words = [sys.executable, str(ROOT / "run_train.py"), *OPTIONS, "--data",
             str(home.folder / "stories.txt"), "--tokenizer", str(home.folder / "tokenizer"),
             "--run", str(home.folder / name)]
    how = {"env": {**os.environ, "PICOLM_CACHE": str(home.cache), "PYTHONPATH": str(ROOT)},
           "cwd": home.folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, **how)
    while not (home.folder / name / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(share * whole.seconds)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    assert subprocess.run([*words, "--resume"], **how, check=False).returncode == 0
    assert_same(outcome(home.folder / name), whole.outcome)
