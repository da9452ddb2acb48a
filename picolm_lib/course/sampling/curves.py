"""Plots of measurements: speed, the meter against temperature, settings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from picolm_lib.course.plots import BLUE, CYCLE, GREEN, INK, ORANGE, Picture, canvas, finish

LABELS = {"name": "whose (name)", "friend": "the friend's name", "pronoun": "she or he",
         "object": "which object", "color": "which color", "place": "which place"}
GRAY = "#888888"


def draw_speed(lengths: Sequence[int], by_length: Mapping[str, Sequence[float]],
               batches: Sequence[int], by_batch: Sequence[float]) -> Picture:
    """Tokens per second by length, and by the number of stories at once."""
    figure, (left, right) = canvas(2.9, 1, 2)
    for (name, rates), color in zip(by_length.items(), (BLUE, ORANGE), strict=True):
        left.plot(lengths, rates, "o-", color=color, markersize=4, label=name)
    left.set(xlabel="new tokens (number)", ylabel="tokens per second", ylim=(0, None),
             title="One story")
    left.legend()
    right.plot(batches, by_batch, "o-", color=GREEN, markersize=4)
    right.set(xlabel="stories at once (number)", ylabel="tokens per second", xscale="log",
              ylim=(0, None), title="Many stories in one batch")
    right.set_xticks(batches, [str(batch) for batch in batches])
    right.minorticks_off()
    said = ", ".join(f"{name}: {rates[-1]:,.0f}" for name, rates in by_length.items())
    return finish(figure, f"Tokens per second at {lengths[-1]} new tokens: {said}. With "
                          f"{batches[-1]} stories at once: {by_batch[-1]:,.0f}.")


def draw_meter(temperatures: Sequence[float], among: Sequence[Mapping[str, float]],
               anything: Sequence[Mapping[str, float]], chance: Mapping[str, float]) -> Picture:
    """The hallucination meter by temperature, one panel for each kind of fact.

    Args:
        among: for each temperature, the probability of the truth among the candidates, by kind.
        anything: the same among all tokens.
        chance: the chance level, which guessing scores, by kind.
    """
    kinds = [kind for kind in LABELS if kind in chance]
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure, axes = canvas(0.5 + 1.9 * rows, rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, cell in enumerate(axes.flat):
        if number >= len(kinds):
            cell.remove()
            continue
        kind = kinds[number]
        cell.axhline(100, color=GREEN, linestyle=":", linewidth=1.2, label="ceiling")
        cell.axhline(100 * chance[kind], color=GRAY, linestyle="--", linewidth=1.2,
                     label="guessing")
        cell.plot(temperatures, [100 * row[kind] for row in among], "o-", color=BLUE, markersize=3,
                  label="among the candidates")
        cell.plot(temperatures, [100 * row[kind] for row in anything], "s-", color=ORANGE,
                  markersize=3, label="among all tokens")
        cell.set(title=LABELS[kind], ylim=(0, 106))
    for cell in axes[-1]:
        cell.set_xlabel("temperature")
    figure.supylabel("probability of the truth (%)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    first, last = among[0]["all"], among[-1]["all"]
    return finish(figure, f"The truth has {first:.0%} among the candidates at temperature "
                          f"{temperatures[0]:g} and {last:.0%} at {temperatures[-1]:g}; among all "
                          f"tokens {anything[0]['all']:.0%} and {anything[-1]['all']:.0%}.")


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Smallest, mean and largest, in percent."""
    return 100 * min(values), 100 * sum(values) / len(values), 100 * max(values)


def draw_trade(temperatures: Sequence[float],
               measures: Mapping[str, Sequence[Sequence[float]]]) -> Picture:
    """What temperature does to stories: one panel per measure, with the mean and range of seeds.

    Args:
        measures: name -> for each temperature, one share per seed.
    """
    figure, axes = canvas(2.6, 1, len(measures), squeeze=False)
    said = []
    for cell, (name, rows), color in zip(axes[0], measures.items(), CYCLE, strict=False):
        low, mean, high = zip(*map(_spread, rows), strict=True)
        cell.fill_between(temperatures, low, high, color=color, alpha=0.25, linewidth=0)
        cell.plot(temperatures, mean, "o-", color=color, markersize=4)
        cell.set(title=name, xlabel="temperature", ylim=(0, 1.1 * max(max(high), 4)))
        said.append(f"{name.replace(chr(10), ' ')}: {mean[0]:.0f}% to {mean[-1]:.0f}%")
    axes[0][0].set_ylabel("share (%)")
    return finish(figure, f"From temperature {temperatures[0]:g} to {temperatures[-1]:g}, "
                          + "; ".join(said) + ".")


def draw_settings(results: Mapping[str, Mapping[str, Sequence[float]]]) -> Picture:
    """Settings side by side: one row each, one column per measure; a line spans the seeds.

    Args:
        results: setting -> measure -> one share per seed.
    """
    names, measures = list(results), list(next(iter(results.values())))
    figure, axes = canvas(1.0 + 0.34 * len(names), 1, len(measures), sharey=True)
    for cell, measure, color in zip(axes, measures, CYCLE, strict=False):
        spreads = [_spread(results[name][measure]) for name in names]
        for row, (low, mean, high) in enumerate(spreads):
            cell.plot([low, high], [row, row], color=color, linewidth=5, alpha=0.35,
                      solid_capstyle="butt")
            cell.plot([mean], [row], "o", color=color, markersize=5)
        left, right = min(s[0] for s in spreads), max(s[2] for s in spreads)
        # At least four points wide, so that small differences do not look large.
        if right - left < 4:
            left = max(0.0, right - 4)
            right = left + 4
        room = 0.1 * (right - left)
        cell.set(title=measure, xlabel="%", xlim=(left - room, right + room))
    axes[0].set_yticks(range(len(names)), names, color=INK)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    best = {measure: max((_spread(results[name][measure])[1], name) for name in names)
            for measure in measures}
    return finish(figure, "Largest means: " + "; ".join(
        f"{measure.replace(chr(10), ' ')}: {name} ({mean:.0f}%)"
        for measure, (mean, name) in best.items()) + ".")
