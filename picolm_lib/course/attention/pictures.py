"""Pictures of attention: maps, gates, scores, the cost of the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from torch import Tensor

from picolm_lib.course.attention.cost import T4_GIB, Writing, kv_cache_bytes
from picolm_lib.course.boxes import Boxes, token_boxes
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
)

BLUES = mpl.colormaps["Blues"]
MOST_LABELS = 19  # of the tokens beside a map
DARKEST = 0.6  # of BLUES, behind dark letters
LATER = "#DDDDDA"  # behind tokens that cannot be seen yet
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
    figure, axes = canvas(0.7 + 3.3 * rows, rows, 2, squeeze=False, sharex=True, sharey=True)
    names = [piece.replace("\n", "¶") for piece in pieces]
    # More labels would overlap.
    labeled = range(0, length, -(-length // MOST_LABELS))
    for spare in axes.flat[heads:]:
        spare.remove()
    for head, cell in enumerate(axes.flat[:heads]):
        cell.imshow(maps[layer, head].numpy(), cmap="Blues", vmin=0, vmax=1, aspect="equal")
        cell.set_title(f"head {head}")
        cell.grid(False)
        cell.spines[:].set_visible(True)
        cell.set_xticks(labeled, [names[i] for i in labeled], rotation=90)
        cell.set_yticks(labeled, [names[i] for i in labeled])
        cell.tick_params(length=0, pad=1)
    figure.supxlabel("the token that is looked at")
    figure.supylabel("the token that looks")
    figure.suptitle(title or f"block {layer}: each row spreads its attention over earlier tokens")
    share = maps[layer, :, 1:, 0].mean().item() if length > 1 else 1.0
    return finish(figure, f"Attention maps of block {layer}. The first token receives {share:.0%} "
                          "of the attention of the others.")


def draw_story(maps: Tensor, pieces: Sequence[str], layer: int, head: int, token: int) -> Boxes:
    """A story in which a token is darker the more attention one chosen token pays to it.

    Args:
        maps: (L, H, T, T) attention weights.
        pieces: the T tokens as text.
        token: the one that looks; it has a frame, and what comes after it is gray.
    """
    weights = maps[layer, head, token]                               # (T,)
    colors = [LATER if number > token else mpl.colors.to_hex(BLUES(DARKEST * share))
              for number, share in enumerate((weights / weights.max()).tolist())]
    best = int(weights.argmax())
    return token_boxes(
        pieces, f"block {layer}, head {head}: token {token} {pieces[token]!r} looks most at "
                f"token {best} {pieces[best]!r} ({weights[best]:.0%})",
        f"In block {layer}, head {head}, token {token} pays {weights[best]:.0%} of its attention "
        f"to token {best}.", colors, frame=token,
        legend=[(mpl.colors.to_hex(BLUES(0.0)), "no attention"),
                (mpl.colors.to_hex(BLUES(DARKEST)), f"{weights[best]:.0%}"),
                (LATER, "comes later")])


def draw_wide_map(weights: Tensor, pieces: Sequence[str], title: str) -> Picture:
    """One map with its numbers written into it: (T, T) weights of a few tokens."""
    figure, axes = canvas(3.4)
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    axes.grid(False)
    for row in range(len(pieces)):
        for column in range(len(pieces)):
            axes.text(column, row, f"{weights[row, column]:.2f}", horizontalalignment="center",
                      verticalalignment="center",
                      color=INK if weights[row, column] else "#888888")
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
    axes.bar_label(bars, [f" {size:.3g} GiB" for size in sizes])
    right = max(sizes)
    if 1.6 * right > T4_GIB:
        right = max(right, T4_GIB)
        axes.axvline(T4_GIB, color=RED, linestyle="--", linewidth=1.3)
        axes.text(T4_GIB, -0.75, " all memory of a T4 ", color=RED,
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
    figure, axes = canvas(2.9, 1, layers, sharey=True, squeeze=False)
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
    figure.legend(loc="outside upper center", ncols=heads, handlelength=1)
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
    figure, axes = canvas(3.6, 1, 3)
    names, colors, styles = ("healthy", "patient"), (BLUE, ORANGE), ("-", "--")
    bars = axes[0].bar([*names, "no mask"], later, color=(*colors, CONTROL), width=0.6)
    axes[0].bar_label(bars, fmt="%.2f", padding=3)
    axes[0].set(ylim=(0, 1.15 * max(later) or 1), ylabel="change of earlier logits",
                title="A. Change the\nlast token")
    axes[0].tick_params(axis="x", rotation=60)
    for weights, name, color, style in zip(by_distance, names, colors, styles, strict=True):
        axes[1].plot(100 * weights, style, color=color, label=name)
    axes[1].set(xlabel="distance (tokens)", ylabel="attention of the last (%)",
                ylim=(0, None), title="B. Forty\nequal tokens")
    for values, name, color, style in zip(largest, (*names, "no QK-norm"), (*colors, CONTROL),
                                          (*styles, ":"), strict=True):
        axes[2].plot(scales, values, style, color=color, label=name, marker="o", markersize=4)
    axes[2].set(xlabel="weights times", ylabel="largest |score|", yscale="log",
                title="C. Let the\nweights grow")
    # Room for the legend.
    axes[2].set_ylim(top=300 * max(map(max, largest)))
    axes[2].set_xticks(scales)
    for cell in axes[1:]:
        cell.legend(loc="upper right", handlelength=1.2)
    return finish(figure, f"A: change {later[0]:.2f} and {later[1]:.2f}, {later[2]:.2f} without a "
                          f"mask. B: the patient's attention lies between "
                          f"{100 * by_distance[1].min():.2f} and {100 * by_distance[1].max():.2f} "
                          f"percent at every distance. C: scores up to {max(largest[0]):.1f} and "
                          f"{max(largest[1]):.1f}, {max(largest[2]):.0f} without QK-norm.")
