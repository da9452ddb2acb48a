"""Ends a learner's function that would never end."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from picolm_lib.course.checks.sources import loop_of

# The inputs are small: a right answer needs a few hundred lines, a few thousand at most.
MOST_LINES = 200_000
# Of one call, where its lines do not tell: a loop that sleeps, or one within a library.
MOST_SECONDS = 10.0
ENDLESS = "your function does not end: the check stopped it after {lines:,} lines"


class Endless(BaseException):
    """Raised in a learner's function; no `except Exception` there catches it."""


class Limited:
    """Raises Endless in what runs within it, after so many of its lines or seconds."""

    def __init__(self, answer: Callable) -> None:
        plain = inspect.unwrap(getattr(answer, "func", answer))
        if not hasattr(plain, "__globals__"):
            plain = type(plain).__call__
        self.space = getattr(plain, "__globals__", None)
        self.lines = 0

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        self.thread, self.lock = threading.get_ident(), threading.Lock()
        self.inside, self.done = True, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        sys.settrace(self._enter)

    def __exit__(self, *error: object) -> None:
        sys.settrace(self.before)
        with self.lock:
            self.inside = False
        self.done.set()
        # What has been raised and has not arrived yet arrives here.
        with contextlib.suppress(Endless):
            for _ in range(100):
                pass

    def _watch(self) -> None:
        """Waits in a thread of its own, and raises, again if it was caught."""
        seconds = MOST_SECONDS
        while not self.done.wait(seconds):
            seconds = 0.5
            with self.lock:
                if self.inside:
                    # At the other thread's next step in Python.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread),
                                                               ctypes.py_object(Endless))

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        # All cells of a notebook share one namespace; the libraries' lines are not traced.
        return self._line if frame.f_globals is self.space else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable:
        self.lines += event == "line"
        if self.lines > MOST_LINES:
            raise Endless(ENDLESS.format(lines=self.lines) + loop_of(frame))
        return self._line

