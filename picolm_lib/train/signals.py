"""Ctrl-C and SIGTERM: finish the step, save, then stop."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from picolm_lib.config import PicoError


class Interrupted(PicoError):
    """The run was asked to stop. The message says from where it can continue."""


def stop_if(requested: bool, step: int) -> None:
    """Ends a run that has just saved itself after `step`, where that was requested."""
    if requested:
        raise Interrupted(f"stopped at step {step}; nothing is lost: the same command with "
                          "--resume continues from there.")


@contextmanager
def stop_requests(patient: bool = False) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a step is finished and saved before the run stops.

    A second Ctrl-C stops at once, unless `patient`. In a thread, where Python allows no handlers,
    nothing changes.
    """
    requests: list[int] = []

    def ask(number: int, frame: object) -> None:
        if requests and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        requests.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_afterward() -> Iterator[None]:
    """Puts a stop off until a short piece of work is done, in a library that could not bear it."""
    with stop_requests() as stop:
        yield
    if stop:
        raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, too, so that a command can say what happens to its work.

    Python drops an exception that is raised while an object is finalized, and prints a traceback;
    such a signal is sent again. In a thread nothing changes.
    """
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main, [signal.SIGTERM]).start()
        else:
            report(what)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, report = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = report
        signal.signal(signal.SIGTERM, before)
