"""Mistakes that can be seen in any exercise: how what came is related to what was expected.

Each relation looks at one wrong answer and says its sentence or None. It is believed if it says the
same of every wrong call, so that a coincidence in one of them names nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from picolm_lib.course.checks.calls import Outcome
from picolm_lib.course.checks.values import is_number, same

FACTORS = [(-1.0, "its sign is wrong"), (2.0, "it is twice as large"), (0.5, "it is half as large"),
           (math.log(2), "it is multiplied by ln 2, and should not be"),
           (1 / math.log(2), "it is divided by ln 2, and should not be"),
           (8.0, "it is multiplied by 8, and should not be"),
           (1 / 8, "it is divided by 8, and should not be")]


def relation(outcomes: list[Outcome], wanted: list, fits: list[bool]) -> str | None:
    """What holds between all wrong answers and what was expected.

    Args:
        fits: whether each answer is right.
    """
    values = [out.value for out in outcomes]
    if all(same(value, values[0]) for value in values) and not all(
            same(right, wanted[0]) for right in wanted):
        return "your function answers the same, whatever it is given."
    said = [list(_relations(out.value, right, out.arguments))
            for out, right, fit in zip(outcomes, wanted, fits, strict=True) if not fit]
    return next((sentence for sentence in said[0]
                 if all(sentence in others for others in said)), None)


def _relations(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    """All that hold between one wrong answer and the right one, the most telling ones first."""
    for check in (_input, _sequence, _text, _number, _mapping, _tensor):
        yield from check(given, wanted, arguments)
    yield from _parts(given, wanted, arguments)


def _input(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if any(same(given, argument) for argument in arguments[:1]) and not _is_empty(given):
        yield "your function returns its input as it was."


def _is_empty(value: Any) -> bool:
    return isinstance(value, (list, tuple, str, Mapping)) and not value


def _sequence(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if not isinstance(given, (list, tuple)) or not isinstance(wanted, list):
        return
    given, wanted = list(given), list(wanted)
    if same(given, wanted[::-1]):
        yield "your list is in reverse order."
    if same(given, wanted[:-1]):
        yield "the last entry is missing."
    if same(given, wanted[1:]):
        yield "the first entry is missing."
    if same(given[:-1], wanted):
        yield "there is one entry too many at the end."
    if same(given[1:], wanted):
        yield "there is one entry too many at the beginning."
    if len(given) == 1 and same(given[0], wanted):
        yield "your list is wrapped into another list."
    if len(given) < len(wanted) and same(given, wanted[:len(given)]):
        yield "your list stops too early: its beginning is right, and then it ends."
    if len(given) > len(wanted) and same(given[:len(wanted)], wanted):
        yield "your list goes on too long: its beginning is right, and then comes too much."
    try:
        if len(given) == len(wanted) and sorted(given) == sorted(wanted):
            yield "your list has the right entries in another order."
        if len(given) < len(wanted) and sorted(set(given)) == sorted(set(wanted)):
            yield "your list has each entry only once: repetitions got lost."
    except TypeError:
        # Entries that have no order.
        pass
    if not given:
        yield "your list is empty."


def _text(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if not isinstance(given, str) or not isinstance(wanted, str):
        return
    if given.split() == wanted.split() or "".join(given.split()) == "".join(wanted.split()):
        yield ("your text differs in its spaces: they belong to the tokens, so none is added or "
                "lost.")
    if given == wanted[::-1]:
        yield "your text is in reverse order."
    if given.lower() == wanted.lower():
        yield "your text differs in capital and small letters."
    if given in (repr(wanted), ascii(wanted), str(wanted.encode()), repr(wanted)[1:-1]):
        yield "your text is how Python writes the value down, with quotes or escapes."
    if wanted.startswith(given):
        yield "your text stops too early." if given else "your string is empty."
    if "\ufffd" in wanted and given == wanted.replace("\ufffd", ""):
        yield ("bytes that are no character vanish without a trace. Show the replacement sign in "
                "their place: errors=\"replace\", not \"ignore\".")


def _number(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if not is_number(given) or not is_number(wanted):
        return
    given, wanted = float(given), float(wanted)
    if math.isnan(given):
        yield "your answer is not a number (nan): somewhere 0 is divided by 0, or infinity is."
    if math.isinf(given):
        yield "your answer is infinite."
    if wanted and given:
        for factor, sentence in FACTORS:
            if same(given / wanted, factor):
                yield f"{sentence}: your answer is {factor:.4g} times the right one."
        if same(given * wanted, 1.0) and not same(given, 1.0):
            yield "it is upside down: your answer is 1 divided by the right one."
    if same(given + wanted, 1.0):
        yield "your answer is 1 minus the right one."
    if abs(given - wanted) == 1 and wanted == int(wanted):
        yield f"your answer is one too {'large' if given > wanted else 'small'}."


def _mapping(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if not isinstance(given, Mapping) or not isinstance(wanted, Mapping):
        return
    if not given:
        yield "your dictionary is empty."
    if same(dict(given), _swapped(wanted)):
        yield "keys and values are swapped."
    if list(given) == list(wanted)[:len(given)] and len(given) < len(wanted):
        yield "your dictionary ends too early: its beginning is right."
    if given.keys() == wanted.keys():
        numbers = all(is_number(value) for value in (*given.values(), *wanted.values()))
        gaps = {given[key] - wanted[key] for key in wanted} if numbers else set()
        if len(gaps) == 1:
            gap = gaps.pop()
            yield (f"the keys are right, and each value is {abs(gap)} too "
                   f"{'large' if gap > 0 else 'small'}.")
        yield "the keys are right, but not their values."


def _swapped(mapping: Mapping) -> dict:
    try:
        return {value: key for key, value in mapping.items()}
    except TypeError:
        return {}


def _tensor(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    if not isinstance(given, Tensor) or not isinstance(wanted, Tensor):
        return
    if given.shape != wanted.shape:
        yield from _shapes(given, wanted)
        return
    if given.dtype != wanted.dtype or not given.numel():
        return
    if given.is_floating_point():
        if given.isnan().any() and not wanted.isnan().any():
            yield "some of your numbers are not numbers (nan)."
        if not given.any() and wanted.any():
            yield "all of your numbers are 0."
        if same(given, -wanted):
            yield "the sign is wrong: yours is minus the right answer."
        size = wanted.abs().amax()
        if size > 0 and size.isfinite():
            factor = (given.abs().amax() / size).item()
            if same(given, wanted * factor):
                yield f"your numbers are {factor:.4g} times too large." if factor > 1 else (
                    f"your numbers are only {factor:.4g} times the right ones.")
    if given.dtype == torch.bool and same(given, ~wanted):
        yield "True and False are swapped."
    for axis in range(given.ndim):
        if given.shape[axis] < 2:
            continue
        where = f" along axis {axis}" if given.ndim > 1 else ""
        if same(given, wanted.flip(axis)):
            yield f"your numbers are in reverse order{where}."
        for step in (1, -1):
            if same(given, wanted.roll(step, axis)):
                yield f"your numbers are shifted by one place{where}."
        fits = [same(given.select(axis, i), wanted.select(axis, i)) for i in range(len(given))
                ] if axis == 0 and given.ndim > 1 else []
        if fits and fits[0] and not any(fits[1:]):
            yield f"only the first entry along axis {axis} is right."
    if given.ndim >= 2 and given.shape[-1] == given.shape[-2] and same(given, wanted.mT):
        yield "the last two axes are swapped (transposed)."
    if given.numel() > 2 and same(given.flatten().sort()[0], wanted.flatten().sort()[0]):
        yield "the right numbers stand in other places."


def _shapes(given: Tensor, wanted: Tensor) -> Iterator[str]:
    if given.squeeze().shape == wanted.squeeze().shape and same(given.squeeze(), wanted.squeeze()):
        more = "too many" if given.ndim > wanted.ndim else "too few"
        yield f"the numbers are right, but there are {more} axes of length 1."
    if given.ndim == wanted.ndim >= 2 and same(given, wanted.mT):
        yield "the last two axes are swapped (transposed)."
    if given.ndim == 1 and same(given, wanted.flatten()):
        yield "the numbers are right, but in one long row."
    if given.ndim == wanted.ndim:
        for axis in range(given.ndim):
            shorter = min(given.shape[axis], wanted.shape[axis])
            less, right = given.narrow(axis, 0, shorter), wanted.narrow(axis, 0, shorter)
            if given.shape[axis] != wanted.shape[axis] and same(less, right):
                gap = given.shape[axis] - wanted.shape[axis]
                yield (f"along axis {axis}, the end is missing." if gap < 0 else
                        f"along axis {axis}, there is too much at the end.")
    yield "the shape is another one: look at the two below."


def _parts(given: Any, wanted: Any, arguments: tuple) -> Iterator[str]:
    """Of several values returned together: swapped, or one of them wrong."""
    if not isinstance(wanted, tuple) or not isinstance(given, (tuple, list)):
        return
    if len(given) != len(wanted):
        return
    if len(wanted) == 2 and same(given[0], wanted[1]) and same(given[1], wanted[0]):
        yield "your two values are in the wrong order."
    wrong = [i for i in range(len(wanted)) if not same(given[i], wanted[i])]
    if len(wrong) == 1:
        number = wrong[0]
        for check in (_input, _sequence, _text, _number, _mapping, _tensor):
            for said in check(given[number], wanted[number], arguments):
                yield f"of the {len(wanted)} values, number {number + 1} is wrong: {said}"
        yield f"of the {len(wanted)} values that you return, only number {number + 1} is wrong."
    elif len(wrong) == len(wanted):
        first, *others = (list(_tensor(given[i], wanted[i], arguments)) for i in wrong)
        for said in first:
            if all(said in other for other in others):
                yield f"in each of your values: {said}"
