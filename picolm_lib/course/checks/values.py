"""What a learner's function returned, beside what was expected: equal, another kind, where not."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

RTOL, ATOL = 1e-4, 1e-5
# For 16-bit results, which differ in their rounding.
RTOL_16, ATOL_16 = 3e-2, 3e-2
# Characters of a value that a message shows.
WIDTH = 76


def is_number(value: Any) -> bool:
    """Whether it is one Python number (or numpy's), and not a truth value."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def same(given: Any, wanted: Any) -> bool:
    """Whether a value is what was expected, but for rounding; a tuple may stand for a list."""
    if isinstance(given, Tensor) and isinstance(wanted, Tensor):
        if given.shape != wanted.shape or given.dtype != wanted.dtype:
            return False
        if not (wanted.is_floating_point() or wanted.is_complex()):
            return torch.equal(given, wanted)
        rough = wanted.dtype in (torch.float16, torch.bfloat16)
        rtol, atol = (RTOL_16, ATOL_16) if rough else (RTOL, ATOL)
        return torch.allclose(given, wanted, rtol, atol, equal_nan=True)
    if isinstance(given, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(given) == len(wanted) and all(map(same, given, wanted))
    if isinstance(given, Mapping) and isinstance(wanted, Mapping):
        return given.keys() == wanted.keys() and all(same(given[k], wanted[k]) for k in wanted)
    if isinstance(given, bool) or isinstance(wanted, bool):
        return type(given) is type(wanted) and given == wanted
    if is_number(given) and is_number(wanted):
        if isinstance(wanted, (int, np.integer)):
            # A count must be an integer.
            return isinstance(given, (int, np.integer)) and int(given) == int(wanted)
        return bool(abs(given - wanted) <= ATOL * 1e-3 + RTOL * abs(wanted)) or (
            given == wanted or (given != given and wanted != wanted))
    return type(given) is type(wanted) and bool(given == wanted)


def kind(value: Any) -> str:
    """What a value is, as a learner would say it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" if value.ndim else "a tensor of one number"
    if isinstance(value, np.ndarray):
        return f"a numpy array of shape {value.shape}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, (map, filter, zip, range, enumerate, types.GeneratorType, Iterator)):
        return f"a {type(value).__name__} object"
    if isinstance(value, np.generic):
        return "a whole number" if isinstance(value, np.integer) else "a number"
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a string",
             bytes: "bytes", bytearray: "a bytearray", list: "a list", dict: "a dictionary",
             set: "a set", type(None): "None"}
    for known, name in names.items():
        if isinstance(value, known):
            return name
    return "a function" if callable(value) else f"a {type(value).__name__}"


def kind_error(given: Any, wanted: Any) -> str | None:
    """What to say where the kind of value is wrong; None where it is right."""
    if given is None:
        return "your function returns nothing (None): its result needs a `return`."
    if isinstance(given, types.GeneratorType):
        return ("your function returns a generator: a `yield`, or a comprehension in round "
                f"brackets, has to be run first. Return {kind(wanted)}.")
    if isinstance(given, (map, filter, zip, range, enumerate)) and not isinstance(wanted, range):
        name = type(given).__name__
        return f"`{name}(...)` has to be run first, as in `list({name}(...))`."
    if callable(given):
        return (f"your function returns {kind(given)}, not its result: a pair of round brackets is "
                "missing where it is called.")
    if isinstance(wanted, Tensor):
        return _no_tensor(given, wanted)
    if isinstance(wanted, tuple):
        return _no_tuple(given, wanted)
    if isinstance(wanted, bool):
        return None if isinstance(given, bool) else _expected(wanted, given)
    if is_number(wanted):
        return _no_number(given, wanted)
    if isinstance(wanted, str):
        if isinstance(given, (bytes, bytearray)):
            return "a string is expected, yours is bytes: `.decode()` makes a string of bytes."
        if isinstance(given, (list, tuple)):
            return (f"one string is expected, yours is {kind(given)}: its parts have to be joined "
                    "first.")
    if isinstance(wanted, list):
        return _no_list(given, wanted)
    right = Mapping if isinstance(wanted, Mapping) else type(wanted)
    return None if isinstance(given, right) else _expected(wanted, given)


def _expected(wanted: Any, given: Any) -> str:
    return f"{kind(wanted)} is expected, yours is {kind(given)}."


def _no_tensor(given: Any, wanted: Tensor) -> str | None:
    if isinstance(given, Tensor):
        if given.shape != wanted.shape and wanted.ndim and given.ndim == 0:
            return (f"a tensor of shape {tuple(wanted.shape)} is expected, yours is one number: a "
                    "sum or mean runs over too much.")
        if given.shape == wanted.shape and given.dtype != wanted.dtype:
            return f"the numbers should be {wanted.dtype}, yours are {given.dtype}."
        return None
    if isinstance(given, np.ndarray):
        return "a tensor is expected, yours is a numpy array: `torch.from_numpy` makes one of it."
    if isinstance(given, (list, tuple)):
        inner = "`torch.stack`" if any(isinstance(g, Tensor) for g in given) else "`torch.tensor`"
        return f"one tensor is expected, yours is {kind(given)}: {inner} makes one of it."
    if is_number(given):
        return f"{kind(wanted)} is expected, yours is one Python number."
    return _expected(wanted, given)


def _no_number(given: Any, wanted: Any) -> str | None:
    if isinstance(given, (Tensor, np.ndarray)):
        size = given.numel() if isinstance(given, Tensor) else given.size
        if size == 1:
            return (f"one Python number is expected, yours is {kind(given)}: `.item()` takes the "
                    "number out.")
        return (f"one number is expected, yours is {kind(given)}: {size} numbers have not been put "
                "together, perhaps by a `.sum()`.")
    if isinstance(given, (list, tuple)):
        return f"one number is expected, yours is {kind(given)} with {len(given)} entries."
    if isinstance(wanted, (int, np.integer)) and isinstance(given, (float, np.floating)):
        return f"a whole number is expected, yours is {given!r}: use // or int()."
    return None if is_number(given) else _expected(wanted, given)


def _no_tuple(given: Any, wanted: tuple) -> str | None:
    count = len(wanted)
    if isinstance(given, (tuple, list)):
        if len(given) == count:
            for number, (one, right) in enumerate(zip(given, wanted, strict=True), start=1):
                if error := kind_error(one, right):
                    return f"of the {count} values that you return, number {number}: {error}"
            return None
        if not given or kind(given[0]) != kind(wanted[0]):
            return f"{count} values are expected (`return a, b`), yours is {kind(given)}."
        return f"{count} values are expected, yours are {len(given)}."
    if isinstance(given, Tensor) and given.ndim and len(given) == count:
        return (f"{count} separate tensors are expected (`return a, b`), yours is one stacked "
                f"tensor of shape {tuple(given.shape)}.")
    return f"{count} values are expected (`return a, b`), yours is only one: {kind(given)}."


def _no_list(given: Any, wanted: list) -> str | None:
    if isinstance(given, (Tensor, np.ndarray)):
        return f"a list is expected, yours is {kind(given)}: `.tolist()` makes one of it."
    if isinstance(given, (set, frozenset)):
        return "a list is expected, yours is a set, which keeps neither order nor repetitions."
    if isinstance(given, tuple):
        return "a list is expected, yours is a tuple: `list(...)` makes one of it."
    if not isinstance(given, list):
        return _expected(wanted, given)
    if given and wanted:
        for one in given[:1_000]:
            plain = isinstance(wanted[0], (int, float, str, bytes, tuple, list))
            if plain and kind(one).split(" of ")[0] != kind(wanted[0]).split(" of ")[0]:
                return (f"each entry of the list should be {kind(wanted[0])}, one of yours is "
                        f"{kind(one)}.")
    return None


def shown(value: Any, width: int = WIDTH) -> str:
    """A value in a message: whole where it is short, else its kind or its beginning."""
    if isinstance(value, Tensor):
        if value.numel() > 12:
            return kind(value)
        numbers = str(_rounded(value.detach().cpu().tolist()))
        return f"tensor({numbers})"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
        ends = "()" if isinstance(value, tuple) else "[]"
        text = ends[0] + ", ".join(shown(part, width) for part in value) + ends[1]
    elif isinstance(value, Mapping):
        text = repr(dict(islice(value.items(), width)))
    else:
        text = repr(value[:width] if isinstance(value, (list, tuple, str, bytes)) else value)
        text += " ..." if isinstance(value, (list, tuple)) and len(value) > width else ""
    return text if len(text) <= width else text[:width - 4] + " ..."


def _rounded(numbers: Any) -> Any:
    if isinstance(numbers, list):
        return [_rounded(number) for number in numbers]
    return float(f"{numbers:.5g}") if isinstance(numbers, float) else numbers


def difference(given: Any, wanted: Any) -> str:
    """Where two values of one kind first differ; empty where the values themselves say it."""
    if isinstance(given, Tensor) and isinstance(wanted, Tensor):
        return _tensors_differ(given, wanted)
    if isinstance(given, Mapping) and isinstance(wanted, Mapping):
        return _mappings_differ(given, wanted)
    if isinstance(wanted, str) and isinstance(given, str):
        place = next((i for i, (a, b) in enumerate(zip(given, wanted)) if a != b),  # noqa: B905
                     min(len(given), len(wanted)))
        return (f"at character {place}: {_here(wanted, place)} is expected, yours has "
                f"{_here(given, place)}")
    if not isinstance(given, (list, tuple)) or not isinstance(wanted, (list, tuple)):
        return ""
    for place, (one, right) in enumerate(zip(given, wanted)):  # noqa: B905
        if not same(one, right):
            inner = difference(one, right)
            if isinstance(wanted, tuple):
                return f"in value number {place + 1}: {inner or f'{shown(right)} is expected'}"
            return f"at [{place}]: {shown(right, 40)} is expected, yours is {shown(one, 40)}"
    return f"{len(wanted)} entries are expected, yours has {len(given)}"


def _here(text: str, place: int) -> str:
    return repr(text[place:place + 12]) if place < len(text) else "nothing more"


def _mappings_differ(given: Mapping, wanted: Mapping) -> str:
    for key, right in wanted.items():
        if key not in given:
            return f"{shown(key, 30)}: {shown(right, 30)} is expected, yours has no such entry"
        if not same(given[key], right):
            return (f"{shown(key, 30)}: {shown(right, 30)} is expected, yours is "
                    f"{shown(given[key], 30)}")
    extra = next(key for key in given if key not in wanted)
    return f"your entry {shown(extra, 30)}: {shown(given[extra], 30)} is one too many"


def _tensors_differ(given: Tensor, wanted: Tensor) -> str:
    if given.shape != wanted.shape:
        return (f"the shape {tuple(wanted.shape)} is expected, yours is {tuple(given.shape)}")
    if given.dtype != wanted.dtype:
        return f"{wanted.dtype} is expected, yours is {given.dtype}"
    far = ~torch.isclose(given.double(), wanted.double(), RTOL, ATOL, equal_nan=True)
    if wanted.ndim == 0 or not far.any():
        return ""
    place = tuple(far.nonzero()[0].tolist())
    return (f"{far.sum().item()} of {far.numel()} numbers differ, the first one at {list(place)}: "
            f"{wanted[place].item():.5g} is expected, yours is {given[place].item():.5g}")
