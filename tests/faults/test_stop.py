"""A machine that is taken away says SIGTERM first: save, one line, and go on later."""

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
from runs import OPTIONS, assert_same, one_line, outcome

SEED = 11
LONGEST_S = 60  # only so that a hang is seen; what it took is printed

# Python to run first: the process asks itself to stop within a call of this function.
AT = """
import os, signal, importlib
module, name, call = {module!r}, {name!r}, {call}
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), []
def stopped(*args, **kwargs):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), signal.{signal})
    return real(*args, **kwargs)
setattr(owner, name, stopped)
"""
MOMENTS = {
    "first line": ("picolm_lib.commands.train", "_train_options", 1),
    "looking for the data": ("picolm_lib.commands.train", "load_corpus", 1),
    "encoding the data": ("picolm_lib.data.tokens", "_append", 2),
    "loading the tokenizer": ("picolm_lib.commands.train", "tokenizer_for", 1),
    "building the model": ("picolm_lib.train.trainer", "PicoLM", 1),
    "before the first step": ("picolm_lib.train.trainer", "stop_requests", 1),
    "first step": ("picolm_lib.train.trainer", "Trainer.step", 1),
    "evaluation": ("picolm_lib.train.trainer", "evaluate", 1),
    "telling a story": ("picolm_lib.train.trainer", "stream_text", 1),
    "saving": ("picolm_lib.train.trainer", "save_resume", 2),
    "saving the weights": ("picolm_lib.train.trainer", "save_weights", 2),
    "last step": ("picolm_lib.train.trainer", "Trainer.step", 6),
    "last evaluation": ("picolm_lib.train.trainer", "evaluate", 2),
    "last saving": ("picolm_lib.train.trainer", "save_resume", 7),
    "the picture": ("picolm_lib.train.trainer", "plot_loss", 1),
    "the last story": ("picolm_lib.commands.train", "print_story", 1),
}


def assert_goes_on(home, whole, name: str, **how) -> None:
    code, run = home.train(name, "--resume", **how)
    assert code == 0, run.complained
    assert_same(outcome(home.folder / name), whole.outcome)
    shutil.rmtree(home.folder / name)


@pytest.mark.parametrize(("moment", "number"), [
    *((moment, "SIGTERM") for moment in MOMENTS), ("encoding the data", "SIGINT"),
    ("last evaluation", "SIGINT"), ("the last story", "SIGINT")])
def test_it_stops_in_one_line_and_goes_on(home, whole, name, moment, number):
    module, function, call = MOMENTS[moment]
    cache = home.folder / f"cache of {name}"
    code, run = home.train(name, cache=cache, setup=AT.format(
        module=module, name=function, call=call, signal=number))
    assert code == 2, (code, run.complained)
    line = one_line(run)
    assert line.startswith("stopped") and "--resume" in line and line.endswith("."), line
    assert_goes_on(home, whole, name, cache=cache)


@pytest.mark.parametrize("number", range(5))
def test_it_stops_at_any_moment(home, whole, name, number):
    """Seen from outside: a signal at a random time, and how long it took to stop."""
    wait = random.Random(f"{SEED} {number}").random() * whole.seconds
    run = home.start(name)
    time.sleep(wait)
    begin = time.monotonic()
    run.signal(signal.SIGTERM)
    code = run.ends()
    seconds = time.monotonic() - begin
    print(f"asked after {wait:.2f} s, stopped {seconds:.2f} s later with code {code}")
    assert seconds < LONGEST_S
    assert "Traceback" not in run.complained, run.complained
    # Before the command has begun and after it has ended, nobody listens: the process just ends.
    assert code in (0, 2, -signal.SIGTERM)
    assert_goes_on(home, whole, name)


def test_a_process_that_was_not_forked_saves_and_exits(home, whole, name):
    words = [sys.executable, str(ROOT / "run_train.py"), *OPTIONS, "--data",
             str(home.folder / "stories.txt"), "--tokenizer", str(home.folder / "tokenizer"),
             "--run", str(home.folder / name)]
    process = subprocess.Popen(
        [*words, "--max-steps", "100000"], cwd=home.folder, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PICOLM_CACHE": str(home.cache), "PYTHONPATH": str(ROOT)})
    while not (home.folder / name / "model.safetensors").exists() and process.poll() is None:
        time.sleep(0.01)
    begin = time.monotonic()
    process.terminate()
    errors = process.communicate(timeout=LONGEST_S)[1]
    print(f"stopped {time.monotonic() - begin:.2f} s later")
    assert process.returncode == 2 and "nothing is lost" in errors and "Traceback" not in errors
