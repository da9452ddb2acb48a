"""Pictures of attention: maps, gates, scores, the cost of the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle
from torch import Tensor

from picolm_lib.course.attention.cost import T4_GIB, Writing, kv_cache_bytes
from picolm_lib.course.plots import (
    BLUE,
    CYCLE,
    GREEN,
    INK,
    ORANGE,
    RED,
    Picture,
    canvas,
    finish,
    plain,
)

BLUES = mpl.colormaps["Blues"]
STORY_COLUMNS = 72  # characters per line
CONTROL = "#AAAAAA"


def draw_maps(maps: Tensor, pieces: Sequence[str], layer: int, title: str = "") -> Picture:
    """One block's attention maps, a panel per head.

    Args:
        maps: (L, H, T, T) attention weights.
        pieces: the T tokens as text.
        layer: which block.
    """
    heads, length = maps.shape[1], maps.shape[2]
    rows = -(-heads // 2)
    figure, axes = canvas(0.5 + 3.1 * rows, rows, 2, squeeze=False, sharex=True, sharey=True)
    names = [piece.replace("\n", "¶") for piece in pieces]
    size = 8.5 if length <= 18 else 7 if length <= 24 else 5
    for spare in axes.flat[heads:]:
        spare.remove()
    for head, cell in enumerate(axes.flat[:heads]):
        cell.imshow(maps[layer, head].numpy(), cmap="Blues", vmin=0, vmax=1, aspect="equal")
        cell.set_title(f"head {head}", fontsize=9.5)
        cell.grid(False)
        cell.spines[:].set_visible(True)
        cell.set_xticks(range(length), names, rotation=90, fontsize=size)
        cell.set_yticks(range(length), names, fontsize=size)
        cell.tick_params(length=0, pad=1)
    figure.supxlabel("the token that is looked at", fontsize=9.5)
    figure.supylabel("the token that looks", fontsize=9.5)
    figure.suptitle(title or f"block {layer}: each row spreads its attention over earlier tokens",
                    fontsize=10.5)
    share = maps[layer, :, 1:, 0].mean().item() if length > 1 else 1.0
    return finish(figure, f"Attention maps of block {layer}. The first token receives {share:.0%} "
                          "of the attention of the others.")


def draw_story(maps: Tensor, pieces: Sequence[str], layer: int, head: int, token: int) -> Picture:
    """A story in which a token is darker the more attention one chosen token pays to it.

    Args:
        maps: (L, H, T, T) attention weights.
        pieces: the T tokens as text.
        token: the one that looks; it has a frame, and what comes after it is gray.
    """
    weights = maps[layer, head, token]                               # (T,)
    places, row, column = [], 0, 0
    for piece in pieces:
        if column + len(piece) > STORY_COLUMNS:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if piece == "\n" else (row, column + len(piece))
    figure, axes = canvas(0.55 + 0.25 * (row + 1))
    plain(axes).set(xlim=(-0.3, STORY_COLUMNS + 0.3), ylim=(row + 1.1, -0.1))
    for number, ((r, c), piece) in enumerate(zip(places, pieces, strict=True)):
        share = (weights[number] / weights.max()).item()
        axes.add_patch(Rectangle((c, r + 0.06), len(piece), 0.88, facecolor=BLUES(0.85 * share),
                                 linewidth=1.8 if number == token else 0, edgecolor=RED,
                                 zorder=2 if number == token else 1))
        color = "#999999" if number > token else "white" if share > 0.6 else INK
        for offset, sign in enumerate(piece.replace("\n", "¶")):
            axes.text(c + offset + 0.5, r + 0.5, sign, family="monospace", fontsize=9.5,
                      color=color, horizontalalignment="center", verticalalignment="center")
    best = int(weights.argmax())
    axes.set_title(f"block {layer}, head {head}: token {token} {pieces[token]!r} looks most at "
                   f"token {best} {pieces[best]!r} ({weights[best]:.0%})", fontsize=9.5)
    return finish(figure, f"In block {layer}, head {head}, token {token} pays "
                          f"{weights[best]:.0%} of its attention to token {best}.")


def draw_wide_map(weights: Tensor, pieces: Sequence[str], title: str) -> Picture:
    """One map with its numbers written into it: (T, T) weights of a few tokens."""
    figure, axes = canvas(3.4)
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    axes.grid(False)
    for row in range(len(pieces)):
        for column in range(len(pieces)):
            axes.text(column, row, f"{weights[row, column]:.2f}", horizontalalignment="center",
                      verticalalignment="center", fontsize=9.5,
                      color=INK if weights[row, column] else "#BBBBBB")
    axes.set_xticks(range(len(pieces)), pieces)
    axes.set_yticks(range(len(pieces)), pieces)
    axes.set(xlabel="the token that is looked at", ylabel="the token that looks", title=title)
    return finish(figure, "Attention weights of a few tokens. Every row adds up to 1, and there is "
                          "nothing above the diagonal.")


def draw_cache(kv_heads: int = 5, heads: int = 10, layers: int = 32, head_dim: int = 128,
               context: int = 4096, batch: int = 16) -> Picture:
    """Bytes of the KV cache for every possible number of KV heads; the chosen one is marked."""
    choices = [k for k in range(1, heads + 1) if heads % k == 0]
    sizes = [kv_cache_bytes(layers, k, head_dim, context, batch) / 2**30 for k in choices]
    chosen = kv_cache_bytes(layers, kv_heads, head_dim, context, batch) / 2**30
    figure, axes = canvas(0.9 + 0.42 * len(choices))
    names = {k: f"{k} KV head{'s' * (k > 1)}" for k in choices}
    labels = [name + {1: " (MQA)", heads: " (MHA)"}.get(k, "") for k, name in names.items()]
    bars = axes.barh(labels, sizes, height=0.62,
                     color=[ORANGE if k == kv_heads else "#B9D6EA" for k in choices])
    axes.bar_label(bars, [f" {size:.3g} GiB" for size in sizes], fontsize=9)
    right = max(sizes)
    if 1.6 * right > T4_GIB:
        right = max(right, T4_GIB)
        axes.axvline(T4_GIB, color=RED, linestyle="--", linewidth=1.3)
        axes.text(T4_GIB, -0.75, " all memory of a T4 ", fontsize=9, color=RED,
                  horizontalalignment="right" if 0.6 * right < T4_GIB else "left")
    axes.set(xlim=(0, 1.18 * right),
             xlabel="KV cache (GiB, 2 bytes per number)", ylim=(len(choices) - 0.5, -1.1),
             title=f"{heads} query heads on {names[kv_heads]}: {chosen:.3g} GiB")
    axes.grid(False)
    return finish(figure, f"The KV cache takes {chosen:.3g} GiB with {names[kv_heads]} and "
                          f"{max(sizes):.3g} GiB with {heads}.")


def draw_scores(scales: Sequence[float], found: dict[str, tuple[list[float], list[float]]],
                ) -> Picture:
    """The largest score and the entropy of the attention weights, against the weights' scale."""
    figure, (left, right) = canvas(3.0, 1, 2)
    for (name, (largest, entropy)), color in zip(found.items(), (RED, GREEN), strict=True):
        left.plot(scales, largest, "o-", color=color, markersize=4, label=name)
        right.plot(scales, entropy, "o-", color=color, markersize=4, label=name)
    left.set(xscale="log", yscale="log", xlabel="weights multiplied by", ylabel="largest |score|")
    right.set(xscale="log", xlabel="weights multiplied by", ylim=(0, 6.3),
              ylabel="entropy of the attention (bits)")
    for cell in (left, right):
        cell.set_xticks(scales, [f"{scale:g}" for scale in scales])
        cell.minorticks_off()
    left.legend()
    without, with_norm = (found[name][0][-1] for name in found)
    return finish(figure, f"At {scales[-1]:g} times the weights, the largest score is "
                          f"{without:,.0f} without QK-norm and {with_norm:.1f} with it.")


def draw_gates(opened: Tensor) -> Picture:
    """How far the gates are open: a panel per block, a line per head.

    Args:
        opened: (L, T, H, E) gates.
    """
    layers, _, heads, _ = opened.shape
    figure, axes = canvas(2.6, 1, layers, sharey=True, squeeze=False)
    edges = np.linspace(0, 1, 21)
    for layer, cell in enumerate(axes[0]):
        for head in range(heads):
            values = opened[layer, :, head].flatten().numpy()
            share = np.histogram(values, edges)[0] / values.size
            cell.stairs(100 * share, edges, color=CYCLE[head], linewidth=1.5,
                        label=f"head {head}" if layer == 0 else None)
        cell.axvline(0.5, color="#888888", linestyle=":", linewidth=1.2)
        cell.set(title=f"block {layer}", xlabel="gate", xticks=(0, 0.5, 1))
    axes[0][0].set_ylabel("share of the gates (%)")
    axes[0][0].legend(fontsize=8, handlelength=1)
    closed = (opened < 0.1).float().mean().item()
    return finish(figure, f"Gates of the trained model by block and head: {closed:.0%} of them are "
                          "closed to less than a tenth.")


def draw_writing(with_cache: Writing, without: Writing) -> Picture:
    """FLOPs and measured time of each new token."""
    figure, (left, right) = canvas(2.9, 1, 2)
    for name, run, color in (("reading all again", without, RED), ("KV cache", with_cache, BLUE)):
        left.plot([f / 1e6 for f in run.flops], color=color, label=name)
        right.plot([1e3 * s for s in run.seconds], color=color, linewidth=1.2, label=name)
    left.set(xlabel="new token (number)", ylabel="MFLOP in the blocks", yscale="log")
    right.set(xlabel="new token (number)", ylabel="time (ms)", ylim=(0, None))
    left.legend()
    ratio = sum(without.flops) / sum(with_cache.flops)
    return finish(figure, f"Writing with a KV cache takes {ratio:.0f} times fewer FLOPs in all.")


def draw_symptoms(later: Sequence[float], by_distance: tuple[Tensor, Tensor],
                  largest: Sequence[Sequence[float]], scales: Sequence[float]) -> Picture:
    """The bug hunt's plots: the healthy model, the patient and, in A and C, a control.

    Args:
        later: change of a text's first outputs when only its last token changes; the control has
            no mask.
        by_distance: (length,) attention of the last of many equal tokens, by distance.
        largest: the largest |score| when q and k weights are multiplied by each of `scales`; the
            control has no QK-norm.
    """
    figure, axes = canvas(3.2, 1, 3)
    names, colors, styles = ("healthy", "patient"), (BLUE, ORANGE), ("-", "--")
    bars = axes[0].bar([*names, "no mask"], later, color=(*colors, CONTROL), width=0.6)
    axes[0].bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes[0].set(ylim=(0, 1.15 * max(later) or 1), ylabel="change of the logits",
                title="A. Change the last token:\nhow do earlier ones react?")
    for weights, name, color, style in zip(by_distance, names, colors, styles, strict=True):
        axes[1].plot(100 * weights, style, color=color, label=name)
    axes[1].set(xlabel="distance (tokens)", ylabel="attention (%)", ylim=(0, None),
                title="B. Forty equal tokens:\nwhere does the last look?")
    for values, name, color, style in zip(largest, (*names, "no QK-norm"), (*colors, CONTROL),
                                          (*styles, ":"), strict=True):
        axes[2].plot(scales, values, style, color=color, label=name, marker="o", markersize=4)
    axes[2].set(xlabel="weights multiplied by", ylabel="largest |score|", yscale="log",
                title="C. Let the weights grow:\nhow large are the scores?")
    axes[2].set_xticks(scales)
    for cell in axes:
        cell.title.set_fontsize(9)
        cell.tick_params(labelsize=8.5)
    axes[1].legend(fontsize=8.5)
    axes[2].legend(fontsize=8.5)
    return finish(figure, f"A: change {later[0]:.2f} and {later[1]:.2f}, {later[2]:.2f} without a "
                          f"mask. B: the patient's attention lies between "
                          f"{100 * by_distance[1].min():.2f} and {100 * by_distance[1].max():.2f} "
                          f"percent at every distance. C: scores up to {max(largest[0]):.1f} and "
                          f"{max(largest[1]):.1f}, {max(largest[2]):.0f} without QK-norm.")
