"""Pictures of tokens, merges and words, and the slider over merges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from picolm_lib.course.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    TINTS,
    YELLOW,
    Picture,
    canvas,
    finish,
    lines,
    token_boxes,
)
from picolm_lib.course.tokens.bpe import (
    first_merges,
    merges_of,
    pieces,
    token_bytes,
)
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_MERGES = 120


def draw_merges(tokenizer: PreTrainedTokenizerFast, text: str, merges: int) -> Picture:
    """A text encoded with only the first `merges` merges; the newest token is marked."""
    cut = pieces(tokenizer, text, merges)
    size = len(text.encode())
    title, newest = f"0 merges: {len(cut)} tokens, one per byte", None
    if merges:
        left, right = (token_bytes(tokenizer)[i].decode(errors="backslashreplace")
                       for i in merges_of(tokenizer)[merges - 1])
        newest = left + right
        title = (f"{merges} merges: {len(cut)} tokens, {size / len(cut):.2f} bytes per token; "
                 f"newest: {_shown(left)} + {_shown(right)}")
    colors = [YELLOW if piece == newest else TINTS[i % len(TINTS)] for i, piece in enumerate(cut)]
    return token_boxes(cut, title, f"The text in {len(cut)} tokens after {merges} merges.", colors)


def _shown(piece: str) -> str:
    return '"' + piece.replace("\n", "¶") + '"'


def merge_slider(text: str) -> Playground:
    """A slider over the merges of a BPE that learns from this text alone."""
    tokenizer = train_bpe([text], MIN_VOCAB_SIZE + MOST_MERGES)
    most = len(merges_of(tokenizer))
    return Playground(partial(draw_merges, tokenizer, text),
                      merges=slider("merges", min(20, most), 0, most))


def draw_tokens(tokenizer: PreTrainedTokenizerFast, text: str, name: str) -> Picture:
    """A text split into a tokenizer's tokens."""
    cut = pieces(tokenizer, text)
    title = (f"{name} ({len(tokenizer):,} tokens): {len(cut)} tokens, "
             f"{len(text.encode()) / len(cut):.2f} bytes per token")
    return token_boxes(cut, title, title + ".")


def words(text: str) -> list[str]:
    """The words of a text in lowercase."""
    return re.findall(r"[a-z']+", text.lower())


def draw_words(sources: dict[str, Sequence[str]]) -> Picture:
    """How often each word occurs, the most frequent first; both axes are logarithmic."""
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    seen = []
    for name, texts in sources.items():
        counts = sorted(Counter(w for text in texts for w in words(text)).values(), reverse=True)
        per_million = [1e6 * count / sum(counts) for count in counts]
        curves[name] = (range(1, len(counts) + 1), per_million)
        seen.append(f"{name} has {len(counts):,} different words in {len(texts):,} stories")
    return lines(curves, "word (most frequent first)", "times in a million words",
                 "A few words are everywhere, most are rare", "; ".join(seen) + ".",
                 height=2.8, log_x=True, log_y=True)


def new_words(texts: Sequence[str]) -> float:
    """The share of words in the second half of the texts that the first half does not have."""
    half = len(texts) // 2
    known = {word for text in texts[:half] for word in words(text)}
    later = [word for text in texts[half:] for word in words(text)]
    return sum(word not in known for word in later) / len(later)


def draw_compression(tokenizer: PreTrainedTokenizerFast, sources: dict[str, Sequence[str]],
                     ) -> Picture:
    """Bytes per token on some texts, by the number of merges."""
    most = len(merges_of(tokenizer))
    counts = sorted({0, most, *(2**power for power in range(3, 17) if 2**power < most)})
    backends = [first_merges(tokenizer, count) for count in counts]
    figure, axes = canvas(2.8)
    for (name, texts), color in zip(sources.items(), (BLUE, ORANGE, GREEN), strict=False):
        size = sum(len(text.encode()) for text in texts)
        ratios = [size / sum(len(e) for e in backend.encode_batch(list(texts),
                                                                  add_special_tokens=False))
                  for backend in backends]
        axes.plot(counts, ratios, marker="o", markersize=4, color=color, label=name)
        axes.text(counts[-1], ratios[-1], f" {ratios[-1]:.2f}", color=INK, fontsize=9)
    axes.set(xscale="symlog", xlabel="merges", ylabel="bytes per token", ylim=(0, None),
             xlim=(0, 1.6 * most), title="Each merge buys less than the one before")
    axes.legend()
    return finish(figure, f"Bytes per token rise from 1 to {ratios[-1]:.2f} ({name}) with {most:,} "
                          "merges, more and more slowly.")


def draw_stream(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], window: int) -> Picture:
    """The beginning of a token file: a color per window, the ends of text in yellow."""
    special = tokenizer.eos_token_id
    table = token_bytes(tokenizer)
    shown = ["<end>" if i == special else table[i].decode(errors="backslashreplace") for i in ids]
    colors = [YELLOW if i == special else TINTS[place // window % len(TINTS)]
              for place, i in enumerate(ids)]
    return token_boxes(shown, f"The file, cut into windows of {window} tokens",
                       f"Token ids {ids[0]}, {ids[1]}, {ids[2]}, ... in windows of {window}; "
                       f"{sum(i == special for i in ids)} of {len(ids)} are ends of text.", colors)
