"""RoPE as pictures: clocks, the score by distance, wavelengths, and longer contexts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from picolm_lib.course.plots import BLUE, CARD, INK, ORANGE, Picture, canvas, finish, plain
from picolm_lib.model.rope import apply_rope, rope_tables

CLOCKS = 8
FARTHEST = 256


def hands(position: int, head_dim: int, theta: float) -> Tensor:
    """Where RoPE moves hands that point to the right: (E/2, 2) coordinates."""
    pairs = head_dim // 2
    x = torch.tensor([1.0] * pairs + [0.0] * pairs, device="cpu")
    tables = rope_tables(torch.tensor([position], device="cpu"), head_dim, theta)
    turned = apply_rope(x.view(1, 1, 1, -1), *tables)                # (1, 1, 1, E)
    return torch.stack(turned.flatten().chunk(2), dim=-1)            # (E/2, 2)


def score(query_position: int, key_position: int, head_dim: int, theta: float) -> float:
    """q.k / sqrt(E) of a query and a key whose hands all pointed to the right before RoPE."""
    q, k = (hands(p, head_dim, theta) for p in (query_position, key_position))
    return (q * k).sum().item() / math.sqrt(head_dim)


def draw_clocks(query_position: int = 20, key_position: int = 14, both: int = 0,
                theta: float = 10_000.0, head_dim: int = 32) -> Picture:
    """The clocks of a query and a key, and the score as a function of their distance.

    Args:
        query_position, key_position: positions of the two tokens.
        both: how far both are shifted together.
    """
    m, n = query_position + both, key_position + both
    q, k = hands(m, head_dim, theta), hands(n, head_dim, theta)
    figure, axes = canvas(3.9, 2, 5, width_ratios=(1, 1, 1, 1, 2.6))
    count = min(CLOCKS, head_dim // 2)
    pairs = torch.linspace(0, head_dim // 2 - 1, count, device="cpu").round().long().tolist()
    for place in range(CLOCKS):
        clock = plain(axes[place // 4][place % 4])
        clock.set(xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
        if place < len(pairs):
            _clock(clock, q[pairs[place]], k[pairs[place]])
            clock.set_title(f"pair {pairs[place]}")
    for cell in axes[:, 4]:
        cell.remove()
    plot = figure.add_subplot(axes[0][4].get_gridspec()[:, 4], facecolor=CARD)
    distances = range(FARTHEST + 1)
    plot.plot(distances, [score(d, 0, head_dim, theta) for d in distances], color="#999999",
              linewidth=1.3)
    now = score(m, n, head_dim, theta)
    plot.plot([abs(m - n)], [now], "o", color=INK, markersize=8)
    plot.set(xlabel="distance in tokens", ylabel="score", ylim=(-1.6, math.sqrt(96) / 2 + 0.4),
             title=f"distance {abs(m - n)}: score {now:.3f}")
    plot.grid(True, color="#E8E8E8")
    plot.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"query at position {m} (blue), key at position {n} (orange): "
                    f"{len(pairs)} of {head_dim // 2} pairs")
    return finish(figure, f"Clocks of a query at position {m} and a key at {n}. Their distance is "
                          f"{abs(m - n)}, their score {now:.3f}.")


def _clock(axes: Axes, q: Tensor, k: Tensor) -> None:
    turn = [2 * math.pi * i / 60 for i in range(61)]
    axes.fill([math.cos(a) for a in turn], [math.sin(a) for a in turn], facecolor="#F5F5F5",
              edgecolor="#BBBBBB", linewidth=1)
    for (x, y), color, width in ((k.tolist(), ORANGE, 4.5), (q.tolist(), BLUE, 2.2)):
        axes.plot([0, x], [0, y], color=color, linewidth=width, solid_capstyle="round")


def wavelengths(head_dim: int, theta: float) -> list[float]:
    """Tokens per full turn of each pair."""
    return [2 * math.pi * theta ** (2 * pair / head_dim) for pair in range(head_dim // 2)]


def draw_wavelengths(head_dim: int, thetas: Sequence[float], context: int) -> Picture:
    """Tokens per full turn, by pair, for several theta."""
    figure, axes = canvas(2.9)
    for theta in thetas:
        axes.plot(wavelengths(head_dim, theta), marker="o", markersize=4,
                  label=f"theta = {theta:,.0f}")
    axes.axhline(context, color="#888888", linestyle="--", linewidth=1.2)
    axes.text(0, context * 1.25, f"context: {context} tokens", color="#555555")
    axes.set(yscale="log", xlabel="pair of features (number)", ylabel="tokens per full turn",
             title=f"How fast the hands turn (head_dim {head_dim})")
    axes.legend()
    slow = sum(w > context for w in wavelengths(head_dim, thetas[0]))
    return finish(figure, f"Tokens per full turn of each pair. With theta {thetas[0]:,.0f}, {slow} "
                          f"of {head_dim // 2} pairs never finish a turn within {context} tokens.")


def draw_long_contexts(curves: dict[str, Tensor], trained: int, chunk: int = 64) -> Picture:
    """The loss by position, averaged over `chunk` neighboring positions."""
    figure, axes = canvas(3.2)
    last = {}
    for (name, losses), style in zip(curves.items(), ("o-", "s--", "^:"), strict=False):
        means = losses.unflatten(0, (-1, chunk)).mean(-1).tolist()
        axes.plot([chunk * i + chunk // 2 for i in range(len(means))], means, style, markersize=4,
                  label=name)
        last[name] = means[-1]
    axes.axvline(trained, color="#888888", linestyle=":", linewidth=1.4)
    axes.set(xlabel="position in the text (tokens)", ylabel="loss (nats per token)",
             ylim=(0, 1.25 * axes.get_ylim()[1]),
             title=f"Reading beyond the {trained} tokens of training")
    axes.text(trained, axes.get_ylim()[1], " trained up to here", color="#555555",
              verticalalignment="top")
    axes.legend(loc="upper left")
    return finish(figure, "The loss at the end: "
                          + ", ".join(f"{n} {v:.2f}" for n, v in last.items()) + ".")
