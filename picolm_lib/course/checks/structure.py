"""Mistakes that can be read from the text of a learner's function, whatever the exercise."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from picolm_lib.course.checks.sources import source_tree

# Functions that are called for what they do.
DOING = {"print", "setattr", "exec", "next", "exit", "quit", "input", "breakpoint"}
# Methods that return something new and leave their object as it was.
PURE = {"replace", "strip", "lower", "upper", "decode", "encode", "join", "split", "view",
        "reshape", "flatten", "clone", "detach", "transpose", "permute", "masked_fill", "softmax",
        "sum", "mean", "float", "to", "squeeze", "unsqueeze", "repeat_interleave", "tolist", "item"}


def slip(answer: Callable, arguments: tuple) -> str | None:
    """A slip that explains a wrong answer or an error; None: none is seen.

    Args:
        arguments: of one call.
    """
    tree = source_tree(answer)
    if tree is None:
        return None
    values = dict(zip(inspect.signature(answer).parameters, arguments, strict=False))
    return _thrown_away(tree, answer.__name__) or _keys_only(tree, values) or _identity(tree)


def structure(answer: Callable, wanted: Any) -> str | None:
    """What in the text of a function may make its answer another one than `wanted`."""
    tree = source_tree(answer)
    if tree is None:
        return None
    return (_unused(tree, list(inspect.signature(answer).parameters))
            or _whole_division(tree, wanted) or _rounded(tree) or _random(tree))


def _loops(tree: ast.AST) -> Iterator[ast.For | ast.While]:
    return (node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While)))


def early_return(answer: Callable) -> str | None:
    """A return that a loop reaches in its first round."""
    tree = source_tree(answer)
    for loop in _loops(tree) if tree else ():
        if isinstance(loop.body[-1], ast.Return) and not any(
                isinstance(node, ast.Continue) for node in ast.walk(loop)):
            return ("the `return` stands within the loop, so the loop ends after its first round. "
                    "Move it out: as far to the left as the line that begins the loop.")
    return None


def _thrown_away(tree: ast.FunctionDef, name: str) -> str | None:
    """A call whose result is not kept."""
    returns = any(isinstance(node, ast.Return) and node.value for node in ast.walk(tree))
    # What is defined within may well do its work in place.
    inner = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)} - {name}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            continue
        called, text = node.value.func, ast.unparse(node.value)
        if node is tree.body[-1] and not returns:
            # It is the result itself.
            if not (isinstance(called, ast.Name) and called.id in DOING | inner) and not (
                    isinstance(called, ast.Attribute) and called.attr not in PURE):
                return f"your function returns nothing (None): put `return` before `{text}`."
            continue
        if isinstance(called, ast.Name) and called.id not in DOING | inner:
            if called.id == name:
                return ("your function calls itself, and the result of that call is thrown away: "
                        f"`return {text}`.")
            return (f"the result of `{text}` is thrown away: nothing is changed "
                    "in place, so write its result into a variable.")
        if isinstance(called, ast.Attribute) and called.attr in PURE:
            return (f"the result of `{text}` is thrown away: `{called.attr}` "
                    "makes a new value, so write it into a variable.")
    return None


def _keys_only(tree: ast.FunctionDef, values: Mapping[str, Any]) -> str | None:
    """`for pair, new in merges`, where merges is a dictionary."""
    for loop in _loops(tree):
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Tuple) and isinstance(
                loop.iter, ast.Name) and isinstance(values.get(loop.iter.id), Mapping):
            name = loop.iter.id
            return (f"a loop over a dictionary goes through its keys alone, and takes each key "
                    f"apart here. For keys and values, write `{name}.items()`.")
    return None


def _unused(tree: ast.FunctionDef, names: list[str]) -> str | None:
    """An argument that the function never looks at."""
    read = {node.id for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    unused = [name for name in names if name not in read]
    if unused and not any(isinstance(node, ast.Name) and node.id in ("locals", "vars")
                          for node in ast.walk(tree)):
        return f"your function never uses `{unused[0]}`, and the answer depends on it."
    return None


def _whole_division(tree: ast.FunctionDef, wanted: Any) -> str | None:
    if isinstance(wanted, float) and any(isinstance(node, ast.FloorDiv) for node in ast.walk(tree)):
        return "`//` is division without the rest: it rounds down to a whole number. Use `/`."
    return None


def _rounded(tree: ast.FunctionDef) -> str | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and (
                node.func.id == "round"):
            return ("the result is rounded with `round`. Return it as it is, and round only where "
                    "it is shown.")
    return None


def _identity(tree: ast.FunctionDef) -> str | None:
    """`is` between values."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.Is, ast.IsNot))
                                                 for op in node.ops):
            sides = (node.left, *node.comparators)
            if not any(isinstance(side, ast.Constant) for side in sides):
                return (f"`{ast.unparse(node)}` asks whether both are the same object in memory, "
                        "which equal values need not be. Compare with `==`.")
    return None


def _random(tree: ast.FunctionDef) -> str | None:
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", ""))
        if name in ("randint", "randperm", "rand", "randn", "shuffle", "random", "sample"):
            return f"your function draws random numbers (`{name}`), and nothing here is random."
    return None
