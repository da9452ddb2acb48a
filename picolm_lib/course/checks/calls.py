"""Calls a learner's function: whatever happens in it becomes an outcome, and none lasts forever."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
import linecache
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from picolm_lib.course.checks.values import shown

# The inputs are small: a right answer needs a few hundred lines, a few thousand at most.
MOST_LINES = 200_000
MOST_SECONDS = 20
STUB = "write your answer in the cell above, run it, and then this one. There are hints below."
LEFT_IN = ("the line `raise NotImplementedError` is still in your function and stops it: delete "
           "that line.")
ENDLESS = ("your function does not end: the check stopped it after {lines:,} lines. Somewhere a "
           "loop never reaches its end; look at what its condition depends on, and whether the "
           "loop changes that.")


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
        return Outcome(arguments, error=LEFT_IN + _place(error, answer) if written else "",
                       unwritten=not written)
    except Endless as error:
        return Outcome(arguments, error=str(error), printed=output.getvalue())
    except RecursionError:
        return Outcome(arguments, error="your function calls itself without end.")
    # A learner's exit() must not end the notebook.
    except (Exception, SystemExit) as error:
        return Outcome(arguments, error=_sentence(error, answer), printed=output.getvalue())
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
            raise Endless(ENDLESS.format(lines=self.lines))
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


def source_tree(answer: Callable) -> ast.FunctionDef | None:
    """The syntax tree of a learner's function; None where its source is not known."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    first = tree.body[0] if tree.body else None
    return first if isinstance(first, ast.FunctionDef) else None


def _has_code(answer: Callable) -> bool:
    """Whether there is more than a docstring and the stub's raise."""
    tree = source_tree(answer)
    if tree is None:
        return False
    return any(not isinstance(node, ast.Raise)
               and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
               for node in tree.body)


def _place(error: BaseException, answer: Callable) -> str:
    """The learner's line in which an error arose, in brackets."""
    found, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if step.tb_frame.f_globals is getattr(answer, "__globals__", None):
            line = linecache.getline(code.co_filename, step.tb_lineno).strip()
            found = f" (in the line `{line}`)" if line else ""
        step = step.tb_next
    return found


def _sentence(error: BaseException, answer: Callable) -> str:
    """An error in the learner's function as a sentence."""
    text = " ".join(str(error).split())
    text = text if len(text) < 200 else text[:196] + " ..."
    hint = next((" " + hint for kind, part, hint in HINTS
                 if isinstance(error, kind) and part in text), "")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"your function stopped with {said}{_place(error, answer)}.{hint}"


# Kind of error, a part of its text -> what it usually means.
HINTS: list[tuple[type[BaseException], str, str]] = [
    (ValueError, "empty", "There was nothing left to choose from: see that before, and end there."),
    (ValueError, "not in list", "`index` looks for a value and returns its place; with square "
                                "brackets, a place gives its value."),
    (ValueError, "unpack", "The number of names on the left is not that of the values."),
    (RuntimeError, "changed", "A dictionary must not change while a loop goes through it: make a "
                              "new one."),
    (RuntimeError, "each tensor to be equal size", "`torch.stack` needs equal lengths; `torch.cat` "
                                                   "puts tensors of any length end to end."),
    (RuntimeError, "invalid for input of size", "`view` needs exactly as many numbers as the shape "
                                                "has places: cut off what is left over first."),
    (RuntimeError, "must match", "The shapes do not fit together: print both."),
    (RuntimeError, "cannot be converted to Scalar", "Several numbers are still there, where one is "
                                                    "needed."),
    (RuntimeError, "oolean value of Tensor", "An `if` or `and` needs one truth value, and these "
                                             "are several: `.any()` or `.all()`."),
    (TypeError, "unhashable", "A list cannot be a key, nor be looked up in a dictionary or set: "
                              "make a tuple of it."),
    (TypeError, "expected str instance, bytes", "Bytes are joined by bytes: `b\"\".join`."),
    (TypeError, "bytes-like object", "Bytes and strings do not mix: decode the bytes, or encode "
                                     "the string."),
    (TypeError, "can only concatenate str", "Strings and bytes do not mix: decode the bytes, or "
                                            "begin with b\"\"."),
    (ValueError, "expected sequence of length", "The rows have different lengths: the last one is "
                                                "too short."),
    (TypeError, "'NoneType'", "Something is None that should have a value: `.get` returns None for "
                              "what is not there, and `append` and `sort` always return None."),
    (TypeError, "not str", "Bytes and strings do not mix: decode the bytes, or encode the string."),
    (TypeError, "not subscriptable", "Square brackets follow something that has no entries."),
    (TypeError, "not iterable", "A loop goes through something that has no entries."),
    (TypeError, "list indices", "A place in a list is a whole number."),
    (TypeError, "unsupported operand", "The two sides do not fit together: print what they are."),
    (AttributeError, "", "This kind of value has no such method: print what it is."),
    (UnboundLocalError, "", "A variable is read before it has a value in this function."),
    (NameError, "", "Is the name spelled as where it was made?"),
    (IndexError, "", "A place is asked for that is not there: look at where the counting ends."),
    (KeyError, "", "An entry is asked for that is not there: ask with `in` first, or use `.get`."),
    (UnicodeDecodeError, "", "These bytes are not whole characters, or not all of them are there."),
    (UnicodeEncodeError, "", "This encoding has no such character."),
    (ZeroDivisionError, "", "What is divided by is 0 for this input."),
]
