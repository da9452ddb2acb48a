"""The text of my_picolm.py: whose its functions are, and how one is replaced by another.

The file is its own record: a line before every function says whose it is. So it can be edited by
hand, moved to another machine, and taken up again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from picolm_lib.course.my_picolm.parts import (
    FIRST_PART,
    FUNCTIONS,
    LEARNERS,
    OURS,
    USED,
    marker,
    whole_parts,
)
from picolm_lib.course.my_picolm.source import Refused
from picolm_lib.course.my_picolm.uses import Written

Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Unreadable(Exception):
    """Why a file is not a my_picolm.py, as the end of a sentence."""


@dataclass
class Statement:
    """One of the statements that the learner's functions use, with the comments before it."""

    names: set[str]
    code: str
    text: str

    @property
    def order(self) -> int:
        """Imports first, then constants, then definitions."""
        node = ast.parse(self.code).body[0]
        return 0 if isinstance(node, (ast.Import, ast.ImportFrom)) else (
            2 if isinstance(node, Definition) else 1)


class Text:
    """What stands in a my_picolm.py.

    Raises:
        Unreadable: it cannot be understood.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # As Python counts lines: a form feed, say, ends none.
        self.lines = [line for line in re.split(r"(?<=\n)", text) if line]
        try:
            self.body = ast.parse(text).body
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            raise Unreadable("it is not Python" + (f" (line {line})" if line else "")) from None
        self.spans: dict[str, tuple[int, int]] = {}
        self.yours: list[str] = []
        for name in FUNCTIONS:
            self._find(name)
        bare = [line.rstrip() for line in self.lines]
        if bare.count(USED) != 1 or bare.count(FIRST_PART) != 1:
            raise Unreadable("the lines that separate its parts are gone")
        self.section = bare.index(USED) + 1, bare.index(FIRST_PART)
        found = [node for node in self.body if "YOURS" in _names(node)]
        if len(found) != 1:
            raise Unreadable("its list YOURS is gone")
        self.list_span = found[0].lineno - 1, found[0].end_lineno or 0

    def _find(self, name: str) -> None:
        """Where a function is, with the line before it that says whose it is."""
        nodes = [node for node in self.body if isinstance(node, Definition) and node.name == name]
        if len(nodes) != 1:
            raise Unreadable(f"it has {len(nodes)} functions {name}")
        start = _first_line(nodes[0])
        while start and (line := self.lines[start - 1].strip()) != marker(name, OURS):
            if line == marker(name, LEARNERS):
                self.yours.append(name)
                break
            if line and not line.startswith("#"):
                start = 0
                break
            start -= 1
        if not start:
            raise Unreadable(f"the line before {name} that says whose it is is gone")
        self.spans[name] = start - 1, nodes[0].end_lineno or 0

    def source(self, name: str) -> str:
        """The definition of a function, with what stands between it and its marker."""
        start, end = self.spans[name]
        return "".join(self.lines[start + 1:end])

    def used(self) -> list[Statement]:
        """The statements that the learner's functions use."""
        start, end = self.section
        found, at = [], start
        for node in self.body:
            if start < node.lineno <= end:
                last = node.end_lineno or node.lineno
                code = "".join(self.lines[_first_line(node):last]).strip()
                text = "".join(self.lines[at:last]).strip()
                found.append(Statement(_names(node), code, text))
                at = last
        return found

    def others(self) -> dict[str, str]:
        """What is defined and imported outside of that section: name -> its statement."""
        found: dict[str, str] = {}
        for node in self.body:
            if self.section[0] < node.lineno <= self.section[1]:
                continue
            if isinstance(node, ast.Import):
                found |= {_bound(alias): f"import {ast.unparse(alias)}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {_bound(alias): f"from {node.module} import {ast.unparse(alias)}"
                          for alias in node.names}
            else:
                code = "".join(self.lines[_first_line(node):node.end_lineno]).strip()
                found |= dict.fromkeys(_names(node), code)
        return found

    def reached(self, without: str = "", only: str = "") -> set[str]:
        """Names in the section that are needed: by all functions, all but one, or one only."""
        if only:
            start = self.source(only)
        else:
            skipped = [self.section, *([self.spans[without]] if without else [])]
            start = "".join(line for number, line in enumerate(self.lines)
                            if not any(first <= number < last for first, last in skipped))
        used, found, todo = self.used(), set[str](), _mentioned(start)
        while todo:
            name = todo.pop()
            for item in used:
                if name in item.names and name not in found:
                    found.add(name)
                    todo |= _mentioned(item.code) - found
        return found

    def put(self, name: str, written: Written, fresh: Collection[str] = ()) -> str:
        """The text with the learner's function in the place of the one that is there.

        Args:
            fresh: functions that this notebook has put there; with them it shares its names.

        Raises:
            Refused: something that it uses is called like something else in the file.
        """
        others, used = self.others(), self.used()
        mine, needed_by_others = self.reached(only=name), self.reached(without=name)
        for use, code in written.uses.items():
            there = next((item for item in used if use in item.names), None)
            shared = use in needed_by_others and not all(
                user in fresh for user in FUNCTIONS if user != name and user in self.yours
                and use in self.reached(only=user))
            known = others.get(use) or (there.code if there and shared else code)
            if not _same(known, code) or use in FUNCTIONS:
                raise Refused(f"the file already has another {use}; give yours another name")
            if use not in others and not shared:
                used = [item for item in used if item is not there]
                used.append(Statement({use}, code.strip(), code.strip()))
        before = Text(self._with(name, written.source, used))
        gone = mine - before.reached()
        kept = [item for item in used if not item.names or not item.names <= gone]
        return before._with(name, written.source, kept)

    def _with(self, name: str, source: str, used: list[Statement]) -> str:
        """The text with one function and the section replaced."""
        pieces: dict[tuple[int, int], list[str]] = {
            self.spans[name]: [f"{marker(name, LEARNERS)}\n", source.rstrip() + "\n"],
            self.section: [_section(used)],
            self.list_span: [_list({*self.yours, name})]}
        lines = list(self.lines)
        for (start, end), piece in sorted(pieces.items(), reverse=True):
            lines[start:end] = piece
        return "".join(lines)


def _first_line(node: ast.stmt) -> int:
    """The number of lines before a statement, its decorators included."""
    return min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))]) - 1


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of the module gives a meaning."""
    if isinstance(node, Definition):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {_bound(alias) for alias in node.names}
    return {item.id for item in ast.walk(node)
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)}


def _same(one: str, two: str) -> bool:
    """Whether two statements differ in their comments and spaces alone."""
    return ast.dump(ast.parse(one)) == ast.dump(ast.parse(two))


def _mentioned(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def _section(used: list[Statement]) -> str:
    """The section's text, from the line after its heading to the one before part 1."""
    imports, constants, definitions = (
        [item.text for item in used if item.order == order] for order in range(3))
    imports.sort(key=lambda text: (text.startswith("from"), text))
    groups = ["\n".join(group) for group in (imports, constants) if group]
    text = "\n" + "\n\n".join(groups) + ("\n" if groups else "")
    if definitions:
        text += ("\n\n" if groups else "") + "\n\n\n".join(definitions) + "\n"
    return text + ("\n\n" if used else "")


def _list(yours: Iterable[str]) -> str:
    parts = whole_parts(yours)
    inside = "".join(f'    "{part}",\n' for part in parts)
    return f"YOURS: list[str] = [{chr(10) + inside if parts else ''}]\n"


def own_functions(text: Text) -> dict[str, Written]:
    """The learner's functions of a file, each with all that it uses from the section."""
    found = {}
    for name in text.yours:
        needed = text.reached(only=name)
        uses = {sorted(item.names)[0]: item.code for item in text.used() if item.names & needed}
        found[name] = Written(re.sub(r"\A\s+", "", text.source(name)), uses)
    return found
