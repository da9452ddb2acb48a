"""The results of the ablations: what each idea of the model is worth, with its uncertainty.

The runs are lines in tests/benchmarks/results/ablations-*.jsonl. effects.py condenses them into
the asset that is read here, so that a notebook shows in a second what took hours to measure.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any

from IPython.display import Markdown

from picolm_lib.course.plots import Picture, intervals
from picolm_lib.files import ASSETS

FILE = ASSETS / "ablations.json"


@dataclass(frozen=True)
class Effect:
    """What a single change of the default does."""

    name: str
    notebook: str
    """The notebook that explains what was changed, such as "03"."""
    difference: float
    """Bits per byte against the default with the same seed, the mean over seeds. Above zero: the
    default is better."""
    half_width: float
    """Half of the 95% confidence interval of the difference."""
    bits_per_byte: float
    seeds: int
    parameters: int
    seconds: float
    """Processor time of training, over the default's."""

    @property
    def verdict(self) -> str:
        """Whether the interval excludes zero."""
        if abs(self.difference) <= self.half_width:
            return "no difference seen"
        return "worse" if self.difference > 0 else "better"


@cache
def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def about(regime: str = "cpu") -> str:
    """How a regime was measured: model, tokens, data, machine, date."""
    return textwrap.fill(_read()[regime]["about"], 100)


def effects(regime: str = "cpu", *notebooks: str) -> list[Effect]:
    """What was measured, the most harmful change first.

    Args:
        regime: "cpu", where every story is seen at most once; or "repeated", where each is seen
            four times.
        notebooks: only what these notebooks explain; omit them for all.
    """
    found = [Effect(**effect) for effect in _read()[regime]["effects"]]
    return sorted((e for e in found if not notebooks or e.notebook in notebooks),
                  key=lambda e: -e.difference)


def draw(regime: str = "cpu", *notebooks: str, title: str = "One thing changed at a time",
         ) -> Picture:
    """The effects as points with their confidence intervals, sorted."""
    found = effects(regime, *notebooks)
    text = "; ".join(f"{e.name}: {e.difference:+.4f} ± {e.half_width:.4f}" for e in found)
    return intervals({e.name: (e.difference, e.half_width) for e in found},
                     "bits per byte against the default (right: the default is better)", title,
                     f"Differences from the default in bits per byte, with 95% intervals. {text}.")


def draw_regimes() -> Picture:
    """The changes that were measured in both regimes, one below the other."""
    once, often = effects("cpu"), effects("repeated")
    points = {}
    for after in often:
        name = after.name.partition(",")[0]
        before = next(e for e in once if e.name.partition(",")[0] == name)
        points[f"{name}: seen once"] = (before.difference, before.half_width)
        points[f"{name}: seen four times"] = (after.difference, after.half_width)
    text = "; ".join(f"{name}: {middle:+.4f} ± {half:.4f}"
                     for name, (middle, half) in points.items())
    return intervals(points, "bits per byte against the default",
                     "The same change twice (right: the default is better)",
                     f"Differences from the default in bits per byte, with 95% intervals. {text}.")


def table(regime: str = "cpu", *notebooks: str) -> Markdown:
    """The effects as a table."""
    return Markdown(markdown(effects(regime, *notebooks)))


def markdown(found: list[Effect]) -> str:
    """Effects as the text of a Markdown table."""
    rows = ["| changed | bits per byte | against the default | 95% interval | verdict | parameters "
            "| processor time |", "|---|---|---|---|---|---|---|"]
    rows += [f"| {e.name} | {e.bits_per_byte:.4f} | {e.difference:+.4f} | ± {e.half_width:.4f} | "
             f"{e.verdict} | {e.parameters / 1e6:.2f} M | x {e.seconds:.2f} |" for e in found]
    return "\n".join(rows) + "\n"
