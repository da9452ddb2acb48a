"""Wrong ways to compute a pyramid of widths, so that the check of the exercise can name them."""

from __future__ import annotations

from collections.abc import Callable

from picolm_lib.config import PicoConfig
from picolm_lib.model.mlp import pyramid_widths


def library_widths(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    """The library's widths: the correct way."""
    return pyramid_widths(PicoConfig(d_model=d_model, n_layers=n_layers, mlp_ratio_first=first,
                                     mlp_ratio_last=last, multiple_of=step, n_heads=4))


def widths_with(rounding: Callable = round, shift: int = 0, by_layers: bool = False,
                backwards: bool = False) -> Callable:
    """The pyramid, with a mistake chosen by the arguments."""
    def widths(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
        found = []
        for layer in range(n_layers):
            along = (layer + shift) / max(n_layers if by_layers else n_layers - 1, 1)
            along = 1 - along if backwards else along
            found.append(step * rounding(d_model * (first + along * (last - first)) / step))
        return found

    return widths


def crashing(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    """Divides by zero with a single layer."""
    return [step * round(d_model * (first + i / (n_layers - 1) * (last - first)) / step)
            for i in range(n_layers)]


def not_rounded(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    """Rounds to integers, not to multiples."""
    return [round(d_model * (first + i / max(n_layers - 1, 1) * (last - first)))
            for i in range(n_layers)]


def by_ratio(ratio: Callable[[float, float, float], float], alone: float = 0.0,
             per: Callable[[int, int], float] = lambda d_model, step: d_model,
             unit: Callable[[int], int] = lambda step: step,
             layers: Callable[[int], range] = range) -> Callable:
    """Widths from a rule for the ratio, given both ends and the layer's place from 0 to 1."""
    def widths(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
        places = [i / (n_layers - 1) if n_layers > 1 else alone for i in layers(n_layers)]
        m = unit(step)
        return [m * round(per(d_model, step) * ratio(first, last, p) / m) for p in places]

    return widths


def line(first: float, last: float, place: float) -> float:
    """The ratio at a place between 0 and 1, on a straight line: the correct way."""
    return first + place * (last - first)
