"""From a function of a notebook to statements that run without the notebook."""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from picolm_lib.course.my_picolm import given, reference
from picolm_lib.course.my_picolm.parts import FUNCTIONS
from picolm_lib.course.my_picolm.source import (
    Refused,
    annotation_names,
    global_names,
    source_of,
)

LIBRARIES = {"torch", "tokenizers", "safetensors", *sys.stdlib_module_names}
# Where to look for what does not say which module it is from, such as torch.softmax.
OFTEN = ("math", "torch", "torch.nn.functional")
ONLY_IN_NOTEBOOKS = ("display", "get_ipython")
LONGEST = 2000  # characters of a constant


NEEDS_OTHERS = ("it {what}, and the file needs only torch, tokenizers, safetensors and Python's "
                "own modules; write it with those")


@dataclass(frozen=True)
class Written:
    """A function, and the statements that must come before it.

    Args:
        source: its definition.
        uses: name -> the import, the constant, or the definition of that name.
    """

    source: str
    uses: dict[str, str]


class Collector:
    """Gathers what a function needs.

    Args:
        name: what it is called in the file.
        answer: the function, or a class.
        own: functions that the file has, with their names there.
    """

    def __init__(self, name: str, answer: Any, own: list[tuple[Any, str]]) -> None:
        self.source = source_of(answer, name)
        home = sys.modules.get(answer.__module__)
        # A cell's functions share the notebook's names; of a class one must ask its module.
        self.names: dict[str, Any] = getattr(answer, "__globals__", None) or vars(home)
        self.home = answer.__module__
        self.own = own + [(getattr(reference, name), name) for name in FUNCTIONS] + [
            (given.words, "words"), (given.encode, "encode"),
            (reference.sample_next_token, "sample_next_token")]
        self.called = {answer.__name__: name}
        self.uses: dict[str, str] = {}
        self._open = {answer.__name__}
        self._gather(self.source)

    def written(self) -> Written:
        """The function and what it uses, each by its name in the file."""
        return Written(renamed(self.source, self.called),
                       {name: renamed(text, self.called) for name, text in self.uses.items()})

    def _gather(self, source: str) -> None:
        for root in imported_within(source):
            if root not in LIBRARIES:
                raise Refused(NEEDS_OTHERS.format(what=f"imports {root}"))
        needed = global_names(source)
        for name in sorted(needed - self._open):
            if name in self.names:
                self._open.add(name)
                self._add(name, self.names[name])
            elif name in ONLY_IN_NOTEBOOKS:
                raise Refused(f"it uses {name}, which only a notebook has; take that line out")
            elif not hasattr(builtins, name):
                raise Refused(f"it uses {name}, which is not defined; define it, or take it out")
        for name in sorted(annotation_names(source) - needed - self._open):
            known = hasattr(given, name) or hasattr(reference, name)
            if not known and (statement := import_of(name, self.names.get(name))):
                self.uses.setdefault(name, statement)

    def _add(self, name: str, value: Any) -> None:
        there = next((known for thing, known in self.own if thing is value), None)
        at_home = getattr(value, "__module__", None) == self.home and callable(value)
        if there is None and name in FUNCTIONS and at_home:
            # The learner's own function of another part, or only one of that name.
            there = name if _takes(value) == _takes(getattr(reference, name)) else None
        if there is None and name in FUNCTIONS and at_home:
            raise Refused(f"it uses {name}, and the file has another function of that name; give "
                          "yours another name, or run its check first")
        if there is not None:
            self.called |= {name: there} if there != name else {}
            return
        root = str(value.__name__ if isinstance(value, ModuleType)
                   else getattr(value, "__module__", "")).split(".")[0]
        if root == "picolm_lib":
            raise Refused(f"it uses {name} of picolm_lib, and the file must run without "
                          "picolm_lib; write that part yourself")
        if at_home:
            source = source_of(value, name)
            if value.__name__ != name:
                raise Refused(f"it uses {name}, another name of {value.__name__}; call "
                              f"{value.__name__} itself")
            self._gather(source)
            self.uses[name] = source
        elif statement := import_of(name, value) or constant(name, value):
            self.uses[name] = statement
        elif isinstance(value, ModuleType) or (callable(value) and root not in LIBRARIES
                                               and hasattr(value, "__name__")):
            raise Refused(NEEDS_OTHERS.format(what=f"uses {root}"))
        else:
            raise Refused(f"it uses {name}, a value of the notebook ({type(value).__name__}) that "
                          "cannot be written down; make it a parameter, or compute it in the "
                          "function")


def _takes(function: Any) -> list[str]:
    """The names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def imported_within(source: str) -> set[str]:
    """The packages that a definition imports by itself, "picolm_lib" of picolm_lib.files."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or ".").split(".")[0])
    return found


def import_of(name: str, value: Any) -> str:
    """The statement that imports a module, function or class under this name, or ""."""
    if isinstance(value, ModuleType):
        found = value.__name__
        statement = f"import {found}" + (f" as {name}" if found != name else "")
        return statement if found.split(".")[0] in LIBRARIES else ""
    if isinstance(value, (int, float, str, bytes, tuple, list, dict, set, torch.Tensor)):
        return ""
    real = getattr(value, "__name__", name)
    for module in (getattr(value, "__module__", None), *OFTEN):
        if (isinstance(module, str) and module.split(".")[0] in LIBRARIES
                and getattr(sys.modules.get(module), real, OFTEN) is value):
            return f"from {module} import {real}" + (f" as {name}" if real != name else "")
    return ""


def constant(name: str, value: Any) -> str:
    """The assignment of a plain value, or "".

    Raises:
        Refused: it is too long.
    """
    if hasattr(builtins, name):
        raise Refused(f"it uses {name}, which is a name of Python's own; give it another name")
    if isinstance(value, float) and not math.isfinite(value):
        return f'{name} = float("{value!r}")'
    text = ""
    try:
        text = repr(value)
        plain = type(value).__module__ == "builtins" and ast.literal_eval(text) == value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        plain = False
    if plain and len(text) > LONGEST:
        raise Refused(f"it uses {name}, a value of {len(text):,} characters; make it a parameter")
    return f"{name} = {text}" if plain else ""


def renamed(source: str, called: dict[str, str]) -> str:
    """A definition with other names for functions that are called something else in the file.

    Raises:
        Refused: a new name already means something else in it.
    """
    tree = ast.parse(source)
    top, nodes = tree.body[0], list(ast.walk(tree))
    if not isinstance(top, (ast.FunctionDef, ast.ClassDef)):
        return source
    names = [node for node in nodes if isinstance(node, ast.Name)]
    inside = {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        node.name for node in nodes if node is not top
        and isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    used = {node.id for node in names} | {top.name}
    called = {old: new for old, new in called.items() if old != new and old in used}
    for old, new in called.items():
        if new in used | inside or old in inside:
            raise Refused(f"in the file {old} is called {new}, which means something else in "
                          f"{top.name}; call the function {new} in the notebook, too")
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    places = [(node.lineno - 1, node.col_offset, node.id) for node in names if node.id in called]
    if top.name in called:
        found = re.search(rb"(def|class)\s+", lines[top.lineno - 1])
        assert found
        places.append((top.lineno - 1, found.end(), top.name))
    # From the end, since every replacement moves what is behind it.
    for line, start, old in sorted(places, reverse=True):
        text = lines[line]
        lines[line] = text[:start] + called[old].encode() + text[start + len(old.encode()):]
    for node in names:
        node.id = called.get(node.id, node.id)
    top.name = called.get(top.name, top.name)
    result = b"".join(lines).decode(errors="replace")
    # Older versions of Python do not know where a name stands within an f-string.
    try:
        right = ast.dump(ast.parse(result)) == ast.dump(tree)
    except SyntaxError:
        right = False
    if not right:
        old, new = next(iter(called.items()))
        raise Refused(f"in the file {old} is called {new}; call it {new} in the notebook, too")
    return result
