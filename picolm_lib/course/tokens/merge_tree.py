"""The merge tree of a word: which merges made its token, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from picolm_lib.course.plots import INK, YELLOW, Picture, canvas, finish, plain
from picolm_lib.course.tokens.bpe import merges_of, pieces, token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORD = " butterflies"
# Of the levels from the bytes up; the finished token is yellow.
SHADES = ("#ECECE8", "#E6F1F9", "#D2E6F4", "#BAD9EE", "#A0CBE7", "#86BDE0")


@dataclass(frozen=True)
class Node:
    """A byte, or two nodes that a merge has joined."""

    piece: bytes
    merge: int
    """The number of the merge, from 1; 0 for a byte."""
    children: tuple[Node, ...]
    place: float
    """From left to right, in bytes."""
    level: int
    """Bytes are on level 0, a node is one above its higher child."""


def merge_tree(tokenizer: PreTrainedTokenizerFast, word: str) -> list[Node]:
    """The tokens of a word, each with the tree of merges that made it."""
    table = token_bytes(tokenizer)
    numbers = {(table[left], table[right]): number
               for number, (left, right) in enumerate(merges_of(tokenizer), start=1)}
    row = [Node(bytes([byte]), 0, (), place, 0) for place, byte in enumerate(word.encode())]
    while found := [(numbers[a.piece, b.piece], i) for i, (a, b) in
                    enumerate(zip(row, row[1:], strict=False)) if (a.piece, b.piece) in numbers]:
        number, i = min(found)
        left, right = row[i:i + 2]
        row[i:i + 2] = [Node(left.piece + right.piece, number, (left, right),
                             (left.place + right.place) / 2, max(left.level, right.level) + 1)]
    return row


def draw_merge_tree(tokenizer: PreTrainedTokenizerFast, word: str = WORD) -> Picture:
    """The merge tree of one word: bytes below, the finished token at the top."""
    roots = merge_tree(tokenizer, word)
    assert [_text(root) for root in roots] == [
        piece.replace(" ", "␣") for piece in pieces(tokenizer, word)], "the library's own tokens"
    top = max(root.level for root in roots)
    figure, axes = canvas(1.1 + 0.72 * (top + 1))
    plain(axes)
    axes.set(xlim=(-0.7, len(word.encode()) - 0.3), ylim=(-0.45, top + 0.5))
    for root in roots:
        _draw(axes, root, is_root=True)
    merges = [node.merge for root in roots for node in _nodes(root) if node.merge]
    cut = ", ".join(_text(root) for root in roots)
    axes.set_title(f"{len(word.encode())} bytes and {len(merges)} merges make "
                   f"{'one token' if len(roots) == 1 else f'{len(roots)} tokens'}"
                   "\n(the number in a box is that of the merge that made it)")
    said = (f"; the first is number {min(merges):,}, the last number {max(merges):,} of "
            f"{len(merges_of(tokenizer)):,}" if merges else "")
    return finish(figure, f"The bytes of {cut} at the bottom, joined by {len(merges)} "
                          f"merges{said}.")


def _nodes(node: Node) -> list[Node]:
    return [node, *(below for child in node.children for below in _nodes(child))]


def _draw(axes: Axes, node: Node, is_root: bool = False) -> None:
    for child in node.children:
        middle = (node.level + child.level) / 2
        curve = Path([(node.place, node.level), (node.place, middle), (child.place, middle),
                      (child.place, child.level)],
                     [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        axes.add_patch(PathPatch(curve, facecolor="none", edgecolor="#8A8A85", linewidth=1.6,
                                 zorder=1))
        _draw(axes, child)
    color = YELLOW if is_root else SHADES[min(node.level, len(SHADES) - 1)]
    axes.text(node.place, node.level, _text(node) + (f"\n{node.merge:,}" if node.merge else ""),
              ha="center", va="center", color=INK, fontsize=14 if is_root else 12,
              fontweight="bold" if is_root else "normal", linespacing=1.25, zorder=2,
              bbox={"boxstyle": "round,pad=0.3,rounding_size=0.3", "facecolor": color,
                    "edgecolor": "#8A8A85", "linewidth": 0.8})


def _text(node: Node) -> str:
    return node.piece.decode(errors="backslashreplace").replace(" ", "␣")
