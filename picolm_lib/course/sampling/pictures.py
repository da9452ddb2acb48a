"""Pictures of sampling: bars of the next token, stories in color, what settings do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from picolm_lib.course.boxes import Boxes, token_boxes
from picolm_lib.course.plots import BLUE, CARD, GREEN, INK, ORANGE, RED, Picture, canvas, finish
from picolm_lib.course.sampling.probabilities import Choice

GRAY = "#C4C4C4"
SHOWN = 10  # tokens that have their own bar
# From sure to surprised: (least probability, color behind dark text, what the legend says).
SURPRISE = ((0.9, "#FFFFFF", "over 90%"), (0.5, "#FDF0D5", "50 to 90%"),
            (0.2, "#FBD892", "20 to 50%"), (0.05, "#F2AD49", "5 to 20%"),
            (0.0, "#E57E3D", "under 5%"))
CUT_COLORS = (BLUE, RED, GREEN)
GIVEN = "#E4E4E4"  # behind the prompt


def label(piece: str) -> str:
    """A token as a readable name in which spaces and line breaks are visible."""
    return "'" + piece.replace("\n", "¶") + "'" if piece else "' '"


def draw_choice(choice: Choice, decode: Callable[[list[int]], str]) -> Picture:
    """The likeliest tokens' probabilities before and after the filters, and the drawn token."""
    top = choice.before.topk(SHOWN).indices
    before, after = choice.before[top].tolist(), choice.after[top].tolist()
    names = [label(decode([i])) for i in top.tolist()]
    others = len(choice.before) - SHOWN
    before, after = [*before, max(0.0, 1 - sum(before))], [*after, max(0.0, 1 - sum(after))]
    # Sums leave a little by rounding.
    after = [value if value > 1e-6 else 0.0 for value in after]
    names.append(f"{others:,} others")
    figure, axes = canvas(4.2)
    # Fixed margins: faster than computing a layout, and nothing jumps when a slider moves.
    figure.set_layout_engine("none")
    axes.set_position((0.2, 0.2, 0.78, 0.73))
    rows = torch.arange(SHOWN + 1, device="cpu").float()
    place = (top == choice.drawn).nonzero().flatten().tolist() or [SHOWN]
    colors = [ORANGE if row == place[0] else BLUE for row in range(SHOWN + 1)]
    axes.barh(rows - 0.2, before, height=0.36, color=GRAY)
    axes.barh(rows + 0.2, after, height=0.36, color=colors)
    most = max(before + after)
    right = next((limit for limit in (0.25, 0.5) if most < 0.9 * limit), 1.0)
    for row, (value, kept) in enumerate(zip(before, after, strict=True)):
        text = f"{value:.1%} → {kept:.1%}" if kept else f"{value:.1%} → out"
        axes.text(max(value, kept) + 0.01 * right, row, text, verticalalignment="center",
                  color=INK if kept else "#777777")
    axes.set_yticks(rows.tolist(), names, family="monospace")
    live = "survives" if choice.survivors == 1 else "survive"
    axes.set(xlim=(0, 1.3 * right), ylim=(SHOWN + 0.6, -0.6))
    axes.set_title(f"{choice.survivors:,} of {len(choice.before):,} tokens {live}, with "
                   f"{choice.mass:.1%} of the probability")
    shown = [right * i / 5 for i in range(6)]
    axes.set_xticks(shown, [f"{tick:.0%}" for tick in shown])
    axes.grid(False)
    # Below the plot, since bars can reach any place in it.
    axes.set_xlabel("next-token probability")
    for left, color, text in ((0.1, "#777777", "■ the model's own"),
                              (0.4, BLUE, "■ after the filters"),
                              (0.7, ORANGE, "■ drawn by the seed")):
        figure.text(left, 0.02, text, color=color)
    tokens = "token" if choice.survivors == 1 else "tokens"
    return finish(figure, f"{choice.survivors} {tokens} {live} with {choice.mass:.1%} of the "
                          f"probability; the seed draws {label(decode([choice.drawn]))}.")


def color_of(probability: float | None) -> str:
    """The background of a token that the model gave this probability; None is the prompt's."""
    if probability is None:
        return GIVEN
    return next(color for least, color, _ in SURPRISE if probability >= least)


def draw_story(pieces: Sequence[str], probs: Sequence[float | None], title: str,
               lines: int = 0) -> Boxes:
    """A text in which every token's color shows how likely the model considered it.

    Args:
        probs: the model's probability of every token, None for the prompt's tokens.
        lines: see `token_boxes`.
    """
    legend = [(GIVEN, "prompt")] if None in probs else []
    legend += [(color, text) for _, color, text in SURPRISE]
    known = [prob for prob in probs if prob is not None]
    rare = sum(prob < 0.2 for prob in known)
    return token_boxes(
        pieces, title, f"A story of {len(known)} new tokens; the model gave {rare} of them less "
                       f"than 20%: {''.join(pieces)[:60]!r} and so on.",
        [color_of(prob) for prob in probs], legend, lines=lines)


def draw_temperatures(logits: Tensor, temperatures: Sequence[float], decode: Callable,
                      ) -> Picture:
    """The likeliest tokens' probabilities at several temperatures.

    Args:
        logits: (1, V).
    """
    top = logits[0].topk(10).indices
    figure, axes = canvas(2.9, 1, len(temperatures), sharey=True)
    for cell, temperature in zip(axes, temperatures, strict=True):
        probs = (logits[0] / temperature).softmax(-1)
        shown = 100 * probs[top]
        rest = 100 - shown.sum().item()
        cell.barh(range(10), shown.tolist(), color=BLUE, height=0.7)
        cell.barh([10], [rest], color=GRAY, height=0.7)
        cell.text(min(rest, 74) + 2, 10, f"{rest:.1f}%", verticalalignment="center")
        cell.set(title=f"T = {temperature:g}", xlabel="probability (%)", xlim=(0, 100))
        cell.grid(False)
    names = [label(decode([i])) for i in top.tolist()] + ["all others"]
    axes[0].set_yticks(range(11), names, family="monospace")
    axes[0].set_ylim(10.6, -0.6)
    first = [(logits[0] / t).softmax(-1).max().item() for t in temperatures]
    return finish(figure, "The likeliest token's probability is " + ", ".join(
        f"{prob:.0%} at T = {t:g}" for prob, t in zip(first, temperatures, strict=True)) + ".")


def draw_cuts(rows: dict[str, Tensor], cuts: dict[str, Callable[[Tensor], Tensor]],
              most: int = 40) -> Picture:
    """Where each filter cuts two distributions: tokens from likely to unlikely.

    Args:
        rows: name of a place in a text -> (1, V) logits there.
        cuts: name of a filter -> the filter.
    """
    figure, axes = canvas(3.3, 1, len(rows), sharey=True)
    said = []
    for cell, (name, logits) in zip(axes, rows.items(), strict=True):
        probs = logits.softmax(-1)[0].sort(descending=True).values[:most]
        cell.bar(range(1, most + 1), (100 * probs).tolist(), width=1.0, color=GRAY)
        for number, (color, (filter_name, keep)) in enumerate(zip(CUT_COLORS, cuts.items(),
                                                                  strict=False)):
            count = int(keep(logits).isfinite().sum())
            said.append(f"{filter_name} keeps {count} at {name!r}")
            end, height = min(count, most) + 0.5 + 0.2 * number, 60 / 2.6 ** number
            cell.axvline(end, color=color, linewidth=1.5)
            cell.text(0.98 * most, height, f"{filter_name} keeps {count:,}", color=color,
                      verticalalignment="center", horizontalalignment="right",
                      bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1})
        cell.set(yscale="log", ylim=(1e-3, 150), xlim=(0.5, most + 0.5), title=name,
                 xlabel="token, from likely to unlikely (rank)")
    axes[0].set_ylabel("probability (%)")
    return finish(figure, "; ".join(said) + ".")
