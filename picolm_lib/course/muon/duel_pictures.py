"""Pictures of the race between AdamW and Muon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from picolm_lib.course.muon.duel import STEP
from picolm_lib.course.plots import BLUE, ORANGE, Picture, canvas, finish
from picolm_lib.course.race import Curve

NAMES = {"adamw": "AdamW alone", "muon": "Muon + AdamW"}
COLORS = {"adamw": ORANGE, "muon": BLUE}


def draw_sweep(swept: Mapping[str, Mapping[float, float]]) -> Picture:
    """Bits per byte by learning rate, one curve per optimizer, with the best rate marked."""
    figure, axes = canvas(3.0)
    for rule, found in swept.items():
        rates = sorted(found)
        axes.plot(rates, [found[rate] for rate in rates], "o-", color=COLORS[rule],
                  label=NAMES[rule])
        best = min(found, key=found.__getitem__)
        axes.plot(best, found[best], "o", color=COLORS[rule], markersize=11, fillstyle="none")
    axes.set(xscale="log", xlabel="learning rate of the hidden matrices",
             ylabel="bits per byte at the end", title="A small sweep of both (lower is better)")
    axes.legend()
    return finish(figure, "Best: " + "; ".join(
        f"{NAMES[rule]} {min(found.values()):.3f} at {min(found, key=found.__getitem__):g}"
        for rule, found in swept.items()) + ".")


def band(runs: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, mean and highest bits per byte over the seeds, at every evaluation."""
    bits = np.array([run.bits_per_byte for run in runs])
    return bits.min(0), bits.mean(0), bits.max(0)


def _curve(axes: Axes, runs: Sequence[Curve], rule: str, unit: float) -> None:
    low, mean, high = band(runs)
    at = np.array(runs[0].tokens) * unit
    axes.fill_between(at, low, high, color=COLORS[rule], alpha=0.3, linewidth=0)
    axes.plot(at, mean, "o-", color=COLORS[rule], markersize=3.5, label=NAMES[rule])


def draw_race(equal_tokens: Mapping[str, Sequence[Curve]],
              equal_seconds: Mapping[str, Sequence[Curve]],
              step_seconds: Mapping[str, float]) -> Picture:
    """The race over tokens and over seconds; bands reach from the best to the worst seed.

    Args:
        equal_tokens: rule -> runs of one length, a run per seed.
        equal_seconds: the same, where the faster optimizer reads more tokens.
        step_seconds: rule -> seconds of a step, which scale the second axis.
    """
    figure, (left, right) = canvas(3.3, 1, 2, sharey=True)
    for rule, runs in equal_tokens.items():
        _curve(left, runs, rule, 1e-3)
    for rule, runs in equal_seconds.items():
        _curve(right, runs, rule, step_seconds[rule] / STEP)
    left.set(xlabel="tokens (thousands)", ylabel="bits per byte", title="equal tokens")
    right.set(xlabel="seconds of training on this machine", title="equal seconds")
    left.legend(title=f"{len(next(iter(equal_tokens.values())))} seeds each")
    ends = [", ".join(f"{NAMES[rule]} {band(runs)[1][-1]:.3f}" for rule, runs in group.items())
            for group in (equal_tokens, equal_seconds)]
    return finish(figure, f"Bits per byte at the end: at equal tokens {ends[0]}; at equal seconds "
                          f"{ends[1]}.")


def race_table(equal_tokens: Mapping[str, Sequence[Curve]],
               equal_seconds: Mapping[str, Sequence[Curve]]) -> str:
    """The final scores of all runs, as text."""
    rows = [f"{'':<16}{'':<15}{'tokens':>8}{'mean':>9}{'best':>9}{'worst':>9}  (bits per byte)"]
    for title, group in (("equal tokens", equal_tokens), ("equal seconds", equal_seconds)):
        for rule, runs in group.items():
            low, mean, high = (values[-1] for values in band(runs))
            rows.append(f"{title:<16}{NAMES[rule]:<15}{runs[0].tokens[-1]:>8,}{mean:>9.3f}"
                        f"{low:>9.3f}{high:>9.3f}")
    return "\n".join(rows)
