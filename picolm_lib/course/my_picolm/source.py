"""The source of what a notebook defines, and the names that it takes from the notebook."""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import linecache
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

ANNOTATIONS = __future__.annotations.compiler_flag
AGAIN = "run the cell that defines it again, then its check"


class Refused(Exception):
    """Why a function cannot be kept, as the end of a sentence."""


def source_of(thing: Any, name: str) -> str:
    """The definition of a function or class, as it was run.

    Raises:
        Refused: it has none that could stand alone.
    """
    if inspect.ismethod(thing) or not isinstance(thing, (FunctionType, type)):
        kind = "decorated" if hasattr(thing, "__wrapped__") else f"a {type(thing).__name__}"
        raise Refused(f"{name} is {kind}; write it as a plain function, with def and without a "
                      "decorator")
    if thing.__name__ == "<lambda>":
        raise Refused(f"{name} is a lambda; write it with def")
    if thing.__qualname__ != thing.__name__:
        raise Refused(f"{name} is defined within {thing.__qualname__.split('.')[0]}; define it by "
                      "itself, at the left edge of a cell")
    if isinstance(thing, type):
        return _source_of_class(thing, name)
    if hasattr(thing, "__wrapped__"):
        raise Refused(f"{name} is decorated; write it without the decorator")
    try:
        source = textwrap.dedent(inspect.getsource(thing))
        # IPython compiles each statement by itself, others a whole file, and the code of a call
        # differs where its compiler has seen an import.
        cell = "".join(linecache.getlines(thing.__code__.co_filename))
        codes = [code for text in (source, cell) for code in _inner(compile(
            text, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | (
                thing.__code__.co_flags & ANNOTATIONS), dont_inherit=True))]
    except (OSError, TypeError, SyntaxError):
        raise Refused(f"the source of {name} cannot be found; {AGAIN}") from None
    if source.lstrip().startswith("@"):
        raise Refused(f"{name} is decorated; write it without the decorator")
    if not any(_same_code(thing.__code__, code) for code in codes):
        raise Refused(f"the source of {name} has changed since it was run; {AGAIN}")
    return source.rstrip() + "\n"


def _source_of_class(thing: type, name: str) -> str:
    """The cell is searched for it, because inspect looks for classes in files alone."""
    methods = [getattr(value, "__func__", value) for value in vars(thing).values()]
    for code in (method.__code__ for method in methods if isinstance(method, FunctionType)):
        lines = linecache.getlines(code.co_filename)
        try:
            nodes = ast.parse("".join(lines)).body
        except SyntaxError:
            continue
        for node in nodes:
            if (isinstance(node, ast.ClassDef) and node.name == thing.__name__ and node.end_lineno
                    and node.lineno <= code.co_firstlineno <= node.end_lineno):
                first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
                return "".join(lines[first - 1:node.end_lineno]).rstrip() + "\n"
    raise Refused(f"the source of {name} cannot be found; {AGAIN}")


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (value for value in code.co_consts if isinstance(value, CodeType))


def _same_code(one: CodeType, two: CodeType) -> bool:
    def plain(code: CodeType) -> tuple:
        values = [value for value in code.co_consts if not isinstance(value, CodeType)]
        return code.co_name, code.co_code, code.co_names, code.co_varnames, repr(values)

    inner, others = list(_inner(one)), list(_inner(two))
    return (plain(one) == plain(two) and len(inner) == len(others)
            and all(map(_same_code, inner, others)))


def global_names(source: str) -> set[str]:
    """Names that a definition takes from the module around it when it is made or run."""
    def walk(code: CodeType) -> Iterator[str]:
        steps = list(dis.get_instructions(code))
        for step in steps:
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                raise Refused(f"it changes the global name {step.argval}; give the value to the "
                              "function, and return the new one")
        own = {step.argval for step in steps if step.opname == "STORE_NAME"}
        yield from (step.argval for step in steps if step.opname == "LOAD_GLOBAL" or (
            step.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and step.argval not in own))
        for inner in _inner(code):
            yield from walk(inner)

    code = compile(source, "cell", "exec", ANNOTATIONS, dont_inherit=True)
    return set(walk(code)) - {"__name__", "__module__", "__qualname__"}


def annotation_names(source: str) -> set[str]:
    """Names that occur in type hints alone; nothing needs them when the file runs."""
    hints = [hint for node in ast.walk(ast.parse(source))
             for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
             if isinstance(hint, ast.AST)]
    return {node.id for hint in hints for node in ast.walk(hint) if isinstance(node, ast.Name)}
