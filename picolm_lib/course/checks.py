"""Checks that say what went wrong, not only that it did.

An `Exercise` knows the correct function and the mistakes that people make. It runs the learner's
function, and if the answer is wrong, it finds the mistake that gives the same wrong answer. So the
message names the likely bug. A `BugHunt` does the same for a choice among suspects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-5
# For 16-bit results, which differ in their rounding.
RTOL_16, ATOL_16 = 3e-2, 3e-2
# Stands in for an answer where there was an error.
STOPPED = "stopped"


@dataclass(frozen=True)
class Verdict:
    """What a check found. A notebook shows its text."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    Args:
        reference: a correct one.
        cases: makes the inputs, a list of argument tuples, the same at every call. They must be
            rich enough that each mistake differs from the reference in at least one of them.
        mistakes: message -> a function that makes this mistake.
        praise: the message for a correct answer.
    """

    reference: Callable
    cases: Callable[[], list[tuple]]
    mistakes: Mapping[str, Callable]
    praise: str = "Right."

    def __call__(self, answer: Callable) -> Verdict:
        """Checks the learner's function, on the CPU."""
        with torch.device("cpu"):
            return self._check(answer)

    def _check(self, answer: Callable) -> Verdict:
        cases = self.cases()
        given, error = [], None
        for arguments in cases:
            used = copy.deepcopy(arguments)
            try:
                value = answer(*used)
            except NotImplementedError:
                value = ...
            except Exception as raised:
                given.append(STOPPED)
                error = error or raised
                continue
            if value is None:
                return Verdict(False, "Not yet: your function returns nothing; it needs a return.")
            if value is ...:
                return Verdict(False, "Not yet: write your answer in this cell, then run it again. "
                                      "There are two hints below.")
            if not _same(used, arguments):
                return _no("whatever it returns, your function changed its input in place, and the "
                           "caller still needs it. Make a new value instead.")
            given.append(value)
        if error is not None and all(value is STOPPED for value in given):
            return _no(f"your function stopped with {type(error).__name__}: {error}")
        wanted = [self.reference(*arguments) for arguments in self.cases()]
        if all(map(_same, given, wanted)):
            return Verdict(True, self.praise)
        for message, mistake in self.mistakes.items():
            if all(map(_same, given, _answers(mistake, self.cases()))):
                return _no(message)
        if error is not None:
            return _no(f"your function stopped with {type(error).__name__}: {error}")
        return _no(_difference(given, wanted))


@dataclass(frozen=True)
class BugHunt:
    """A bug to find.

    Args:
        culprit: the right suspect.
        alibis: the other suspects -> what the plots would show if one of them were the bug.
        praise: the message for the right answer.
    """

    culprit: str
    alibis: Mapping[str, str]
    praise: str

    def __call__(self, suspect: str | None) -> Verdict:
        """Checks the name of a suspect."""
        if suspect is None or suspect is ... or suspect == "":
            return Verdict(False, "Not yet: name your suspect in this cell, then run it again.")
        name = str(suspect).strip().lower()
        if name == self.culprit:
            return Verdict(True, self.praise)
        if name in self.alibis:
            return _no(self.alibis[name])
        names = ", ".join(sorted([self.culprit, *self.alibis]))
        return _no(f"{suspect!r} is not one of the suspects: {names}.")


def _no(message: str) -> Verdict:
    return Verdict(False, f"Not right yet: {message}")


def _answers(mistake: Callable, cases: list[tuple]) -> list[Any]:
    """What a mistake answers in each case, or STOPPED where it raises an error."""
    answers = []
    for arguments in cases:
        try:
            answers.append(mistake(*arguments))
        except Exception:  # a shape that does not fit, an index that is not there
            answers.append(STOPPED)
    return answers


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        if not (left.is_floating_point() or left.is_complex()):
            return torch.equal(left, right)
        rough = left.dtype in (torch.float16, torch.bfloat16)
        rtol, atol = (RTOL_16, ATOL_16) if rough else (RTOL, ATOL)
        return torch.allclose(left, right, rtol, atol, equal_nan=True)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(right, int) and isinstance(left, float):
        # A count must be an integer.
        return False
    if isinstance(left, float) or isinstance(right, float):
        try:
            return abs(left - right) <= ATOL * 1e-3 + RTOL * abs(right)
        except TypeError:
            return False
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return False
    return type(left) is type(right) and bool(left == right)


def _difference(given: list, wanted: list) -> str:
    """The first difference, for a mistake that is not in the list."""
    mine, right = next((a, b) for a, b in zip(given, wanted, strict=True) if not _same(a, b))
    if not isinstance(mine, Tensor) or not isinstance(right, Tensor):
        if type(mine) is not type(right):
            return (f"the answer should be a {type(right).__name__}, yours is a "
                    f"{type(mine).__name__}.")
        return f"for one of the inputs the answer is {_short(right)}, yours is {_short(mine)}."
    if mine.shape != right.shape:
        return f"the shape should be {tuple(right.shape)}, yours is {tuple(mine.shape)}."
    if mine.dtype != right.dtype:
        return f"the dtype should be {right.dtype}, yours is {mine.dtype}."
    far = ~torch.isclose(mine.double(), right.double(), RTOL, ATOL)
    place = tuple(far.nonzero()[0].tolist())
    return (f"{far.sum().item()} of {far.numel()} numbers differ; the first one is at "
            f"{list(place)}: {mine[place].item():.5g} instead of {right[place].item():.5g}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 90 else text[:87] + "..."
