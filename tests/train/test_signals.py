"""A request to stop: the step is finished, everything is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
from helpers import tiny_trainer
from tools import (
    at_step,
)

from picolm_lib.train.checkpoint import load_resume
from picolm_lib.train.signals import Interrupted, stop_afterward, terminable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_finishes_the_step_saves_and_names_the_way_on(folder, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer = tiny_trainer(folder)
    at_step(trainer, 3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match="step 3.*--resume") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert load_resume(folder)["progress"]["step"] == 3
    assert (folder / "model.safetensors").exists()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_stops_at_once(folder):
    handler = signal.getsignal(signal.SIGINT)
    trainer = tiny_trainer(folder)
    at_step(trainer, 3, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert not (folder / "resume.pt").exists()
    assert signal.getsignal(signal.SIGINT) == handler


def test_it_runs_in_a_thread():
    trainer = tiny_trainer(max_steps=2)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    thread.join()
    assert trainer.progress.step == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_short_piece_of_work_is_finished_before_the_stop(number):
    done = []
    with pytest.raises(KeyboardInterrupt), stop_afterward():
        os.kill(os.getpid(), number)
        done.append(number)
    assert done == [number]
    with stop_afterward():
        done.append(0)
    assert done == [number, 0]


def test_a_stop_that_python_drops_is_sent_again(capfd):
    """As where an object is finalized: what is raised there is printed and forgotten."""
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        Finalized()
        for _ in range(6_000):
            time.sleep(0.01)
    assert (sys.unraisablehook, signal.getsignal(signal.SIGTERM)) == before
    assert capfd.readouterr().err == ""
