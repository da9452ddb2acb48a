"""Calls a learner's function: whatever happens in it becomes an outcome, and none lasts forever."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from picolm_lib.course.checks.errors import sentence_of
from picolm_lib.course.checks.sources import loop_of, place_of, source_tree
from picolm_lib.course.checks.values import shown

# The inputs are small: a right answer needs a few hundred lines, a few thousand at most.
MOST_LINES = 200_000
MOST_SECONDS = 20
STUB = "write your answer in the cell above, run it, and then this one. There are hints below."
LEFT_IN = ("the line `raise NotImplementedError` is still in your function and stops it: delete "
           "that line.")
ENDLESS = "your function does not end: the check stopped it after {lines:,} lines"


class Endless(BaseException):
    """Raised in a learner's function; no `except Exception` there catches it."""


@dataclass(frozen=True)
class Outcome:
    """What a call came to."""

    arguments: tuple
    value: Any = None
    error: str = ""
    """What stopped it, as a sentence; "" where it returned something."""
    unwritten: bool = False
    """It is still the stub."""
    changed: bool = False
    """It changed its arguments."""
    printed: str = ""


def call(answer: Callable, arguments: tuple) -> Outcome:
    """Calls a learner's function with a copy of the arguments."""
    used, output = copy.deepcopy(arguments), io.StringIO()
    try:
        inspect.signature(answer).bind(*used)
    except TypeError:
        names = ", ".join(inspect.signature(answer).parameters)
        return Outcome(arguments, error=f"it is called with {len(used)} arguments, and your "
                                        f"function takes ({names}).")
    except ValueError:
        # A function written in C does not say what it takes.
        pass
    try:
        with contextlib.redirect_stdout(output), _limited(answer):
            value = answer(*used)
    except NotImplementedError as error:
        written = _has_code(answer)
        return Outcome(arguments, error=LEFT_IN + place_of(error, answer) if written else "",
                       unwritten=not written)
    except Endless as error:
        return Outcome(arguments, error=str(error), printed=output.getvalue())
    except RecursionError:
        return Outcome(arguments, error="your function calls itself without end.")
    # A learner's exit() must not end the notebook.
    except (Exception, SystemExit) as error:
        return Outcome(arguments, error=sentence_of(error, answer), printed=output.getvalue())
    if value is ...:
        return Outcome(arguments, unwritten=True)
    return Outcome(arguments, value, changed=not _equal(used, arguments), printed=output.getvalue())


def shown_call(name: str, reference: Callable, arguments: tuple) -> str:
    """A call as a learner could write it, such as `merge(ids=[1, 2], pair=(1, 2), new=9)`."""
    try:
        names = list(inspect.signature(reference).parameters)
    except ValueError:
        names = []
    # With one argument, its name says nothing.
    named = len(names) >= len(arguments) > 1
    parts = [f"{names[i]}={shown(value)}" if named else shown(value)
             for i, value in enumerate(arguments)]
    return f"{name}({', '.join(parts)})"


class _limited:
    """Ends what runs within it after so many lines of the learner's own code."""

    def __init__(self, answer: Callable) -> None:
        self.space = getattr(answer, "__globals__", None)
        self.lines, self.started = 0, time.monotonic()

    def __enter__(self) -> None:
        self.before = sys.gettrace()
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable | None:
        # All cells of a notebook share one namespace; the libraries' lines are not traced.
        return self._line if frame.f_globals is self.space else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable:
        self.lines += event == "line"
        late = self.lines % 64 == 0 and time.monotonic() - self.started > MOST_SECONDS
        if self.lines > MOST_LINES or late:
            raise Endless(ENDLESS.format(lines=self.lines) + loop_of(frame))
        return self._line


def _equal(left: Any, right: Any) -> bool:
    """Whether arguments are what they were, bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and left.dtype == right.dtype and bool(
            ((left == right) | ((left != left) & (right != right))).all())
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    return type(left) is type(right) and (left is right or bool(left == right)
                                          or not hasattr(type(left), "__eq__"))


def _has_code(answer: Callable) -> bool:
    """Whether there is more than a docstring and the stub's raise."""
    tree = source_tree(answer)
    if tree is None:
        return False
    return any(not isinstance(node, ast.Raise)
               and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
               for node in tree.body)
