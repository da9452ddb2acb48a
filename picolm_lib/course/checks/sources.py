"""Where in a learner's function something went wrong: its tree, the line of an error, a loop."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
from collections.abc import Callable
from types import FrameType


def source_tree(answer: Callable) -> ast.FunctionDef | None:
    """The syntax tree of a learner's function; None where its source is not known."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(answer)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    first = tree.body[0] if tree.body else None
    return first if isinstance(first, ast.FunctionDef) else None


def unsafe(answer: Callable) -> str | None:
    """Why a function must not be called: the check, or the notebook, could not go on after it."""
    tree = source_tree(answer)
    for node in ast.walk(tree) if tree else ():
        called = getattr(node, "func", None)
        if isinstance(called, ast.Name) and called.id in ("exit", "quit"):
            return f"`{called.id}()` ends the whole notebook. A function ends with `return`."
        if isinstance(node, ast.While) and any(
                _catches_all(handler) for handler in ast.walk(node)
                if isinstance(handler, ast.ExceptHandler)):
            return ("a bare `except:` in a `while` catches everything, also what would end a "
                    "loop that never ends. Name the error, as in `except IndexError:`.")
    return None


def _catches_all(handler: ast.ExceptHandler) -> bool:
    everything = handler.type is None or ast.unparse(handler.type) == "BaseException"
    return everything and not any(isinstance(node, (ast.Raise, ast.Return, ast.Break))
                                  for node in ast.walk(handler))


def place_of(error: BaseException, answer: Callable) -> str:
    """The learner's line in which an error arose, in brackets."""
    found, step = "", error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if step.tb_frame.f_globals is getattr(answer, "__globals__", None):
            line = linecache.getline(code.co_filename, step.tb_lineno).strip()
            found = f" (in the line `{line}`)" if line else ""
        step = step.tb_next
    return found


def loop_of(frame: FrameType) -> str:
    """What is known of the loop that never ends."""
    line = frame.f_lineno - frame.f_code.co_firstlineno + 1
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(frame.f_code)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return ". A loop never reaches its end."
    around = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))
              and node.lineno <= line <= (node.end_lineno or line)]
    # A `for` over a list ends, unless the list grows; so the likely one is a `while`.
    loop = next((node for node in reversed(around) if isinstance(node, ast.While)),
                around[-1] if around else None)
    if loop is None:
        return ". It goes on without end."
    if isinstance(loop, ast.For):
        head = f"for {ast.unparse(loop.target)} in {ast.unparse(loop.iter)}:"
        return f", in the loop `{head}`. What it goes through grows while it runs."
    head = f"while {ast.unparse(loop.test)}:"
    names = sorted({node.id for node in ast.walk(loop.test) if isinstance(node, ast.Name)}
                   - {"len", "any", "all", "max", "min", "sum", "tuple", "list", "set", "zip"})
    stored = {name.id for part in loop.body for node in ast.walk(part)
              if isinstance(node, (ast.Name, ast.Subscript, ast.Attribute)) and (
                  isinstance(node.ctx, ast.Store) or isinstance(node, ast.Attribute))
              for name in ast.walk(node) if isinstance(name, ast.Name)}
    if not names:
        return (f", in the loop `{head}`. Only a `break` or a `return` ends it, and none is "
                "reached: look at the condition before it, and whether the loop changes what it "
                "tests.")
    if not stored & set(names):
        return f", in the loop `{head}`. Nothing in the loop gives {_or(names)} another value."
    return (f", in the loop `{head}`. At some point a round no longer changes {_or(names)}: each "
            "round does the same as the one before.")


def _or(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)
