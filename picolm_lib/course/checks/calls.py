"""Calls a learner's function: whatever happens in it becomes an outcome, and none lasts forever."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from picolm_lib.course.checks.errors import sentence_of
from picolm_lib.course.checks.limits import Endless, Limited
from picolm_lib.course.checks.sources import place_of, source_tree, unsafe
from picolm_lib.course.checks.values import shown

STUB = "write your answer in the cell above, run it, and then this one. There are hints below."
LEFT_IN = ("the line `raise NotImplementedError` is still in your function and stops it: delete "
           "that line.")
LATE = "your function had not ended after a while, and was stopped: it goes on without end."


@dataclass(frozen=True)
class Outcome:
    """What a call came to."""

    arguments: tuple = ()
    value: Any = None
    error: str = ""
    """What stopped it, as a sentence; "" where it returned something."""
    endless: bool = False
    """It did not end by itself."""
    unwritten: bool = False
    """It is still the stub."""
    changed: bool = False
    """It changed its arguments."""
    printed: str = ""


def call(answer: Callable, arguments: tuple) -> Outcome:
    """Calls a learner's function with a copy of the arguments."""
    used = copy.deepcopy(arguments)
    try:
        inspect.signature(answer).bind(*used)
    except TypeError:
        names = ", ".join(inspect.signature(answer).parameters)
        return Outcome(arguments, error=f"it is called with {len(used)} arguments, and your "
                                        f"function takes ({names}).")
    except ValueError:
        # A function written in C does not say what it takes.
        pass
    outcome = run(answer, lambda: answer(*used))
    return replace(outcome, arguments=arguments, changed=not _equal(used, arguments))


def run(answer: Callable, work: Callable[[], Any]) -> Outcome:
    """What comes of work that calls a learner's function."""
    if problem := unsafe(answer):
        return Outcome(error=problem)
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), Limited(answer):
            value = work()
    except KeyboardInterrupt:
        raise
    except NotImplementedError as error:
        written = _has_code(answer)
        return Outcome(error=LEFT_IN + place_of(error, answer) if written else "",
                       unwritten=not written)
    except Endless as error:
        return Outcome(error=str(error) or LATE, endless=True, printed=output.getvalue())
    except RecursionError:
        return Outcome(error="your function calls itself without end.")
    # A learner's sys.exit() must not end the notebook.
    except BaseException as error:
        return Outcome(error=sentence_of(error, answer), printed=output.getvalue())
    if value is ...:
        return Outcome(unwritten=True)
    # A list that the function itself goes on changing must not change here.
    with contextlib.suppress(Exception):
        value = copy.deepcopy(value)
    return Outcome(value=value, printed=output.getvalue())


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
