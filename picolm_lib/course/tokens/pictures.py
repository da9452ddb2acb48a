"""Pictures of tokens, merges and words, and the slider over merges."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import NullFormatter

from picolm_lib.course.boxes import Boxes, token_boxes
from picolm_lib.course.plots import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    TINTS,
    YELLOW,
    Drawing,
    Picture,
    canvas,
    finish,
    stack,
)
from picolm_lib.course.tokens import measured
from picolm_lib.course.tokens.bpe import (
    first_merges,
    merges_of,
    pieces,
    token_bytes,
)
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, load_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_MERGES = 120
TINY = "TinyStories"


def draw_merges(tokenizer: PreTrainedTokenizerFast, text: str, merges: int) -> Boxes:
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


def draw_tokens(tokenizer: PreTrainedTokenizerFast, text: str, name: str) -> Boxes:
    """A text split into a tokenizer's tokens."""
    cut = pieces(tokenizer, text)
    title = (f"{name} ({len(tokenizer):,} tokens): {len(cut)} tokens, "
             f"{len(text.encode()) / len(cut):.2f} bytes per token")
    return token_boxes(cut, title, title + ".")


def words(text: str) -> list[str]:
    """The words of a text in lowercase."""
    return re.findall(r"[a-z']+", text.lower())


def new_words(texts: Sequence[str]) -> float:
    """The share of words in the second half of the texts that the first half does not have."""
    half = len(texts) // 2
    known = {word for text in texts[:half] for word in words(text)}
    later = [word for text in texts[half:] for word in words(text)]
    return sum(word not in known for word in later) / len(later)


def say_new_words(sources: dict[str, Sequence[str]]) -> str:
    """A line per source; where TinyStories is not given, its line is the stored measurement."""
    found = {name: (len(texts), new_words(texts), "") for name, texts in sources.items()}
    if TINY not in sources:
        stored = measured.read("words")
        found[TINY] = (stored["stories"], stored["new_words"], " (stored measurement)")
    return "\n".join(f"{name}, {number} stories: {share:.2%} of the words in the second half are "
                     f"new{note}" for name, (number, share, note) in found.items())


def condense_words(texts: Sequence[str], points: int = 40) -> dict[str, Any]:
    """How often each word occurs: the numbers of `draw_words`, at a few ranks."""
    counts = sorted(Counter(w for text in texts for w in words(text)).values(), reverse=True)
    ranks = sorted({round(len(counts) ** (i / (points - 1))) for i in range(points)})
    return {"different": len(counts), "new_words": round(new_words(texts), 5),
            "top_50": round(sum(counts[:50]) / sum(counts), 4),
            "rare": round(sum(count <= 2 for count in counts) / len(counts), 4),
            "ranks": ranks,
            "per_million": [round(1e6 * counts[rank - 1] / sum(counts), 1) for rank in ranks]}


def draw_words(sources: dict[str, Sequence[str]]) -> Picture:
    """How often each word occurs, the most frequent first; both axes are logarithmic.

    Where TinyStories is not given, its curve is the stored measurement, and the legend says so.
    """
    found = {name: {"stories": len(texts), **condense_words(texts)}
             for name, texts in sources.items()}
    if TINY not in sources:
        found[f"{TINY} (stored measurement)"] = measured.read("words")
    seen = [f"{name} has {f['different']:,} different words in {f['stories']:,} stories; the 50 "
            f"most frequent ones are {f['top_50']:.0%} of its text, and {f['rare']:.0%} of the "
            "different words appear only once or twice" for name, f in found.items()]
    figure, axes = canvas(3.4)
    for name, f in found.items():
        axes.plot(f["ranks"], f["per_million"], label=name)
    axes.set(xscale="log", yscale="log", xlabel="word (number 1 is the most frequent)",
             ylabel="times in a million words", title="A few words are everywhere, most are rare")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(loc="lower left")
    return finish(figure, ". ".join(seen) + ".")


def merge_counts(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The numbers of merges at which compression is shown: close together at first."""
    most = len(merges_of(tokenizer))
    return sorted({0, *(min(count, most) for count in (25, 50, 100, 200, 300, 450)),
                   *range(600, most, 300), most})


def ratios(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], counts: Sequence[int],
           ) -> list[float]:
    """Bytes per token of all texts together, with only the first merges."""
    size = sum(len(text.encode()) for text in texts)
    return [size / sum(len(e) for e in first_merges(tokenizer, count).encode_batch(
        list(texts), add_special_tokens=False)) for count in counts]


def draw_compression(tokenizer: PreTrainedTokenizerFast, sources: dict[str, Sequence[str]],
                     ) -> Picture:
    """Bytes per token on some texts, by the number of merges.

    For the bundled tokenizer, TinyStories is the stored measurement where it is not given.
    """
    counts = merge_counts(tokenizer)
    curves = {name: ratios(tokenizer, texts, counts) for name, texts in sources.items()}
    if TINY not in sources and token_bytes(tokenizer) == token_bytes(load_tokenizer()):
        curves[f"{TINY} (stored measurement)"] = measured.read("compression")["bytes_per_token"]
    figure, axes = canvas(3.2)
    said = []
    for (name, found), color in zip(curves.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.plot(counts, found, marker="o", markersize=4, color=color, label=name)
        axes.text(counts[-1], found[-1], f" {found[-1]:.2f}", color=INK, va="center")
        half = next(count for count, ratio in zip(counts, found, strict=True)
                    if ratio - 1 >= (found[-1] - 1) / 2)
        said.append(f"from 1 to {found[-1]:.2f} ({name}) with {counts[-1]:,} merges, half of it "
                    f"after at most {half}")
    axes.set(xlabel="merges", ylabel="bytes per token", ylim=(0, None),
             xlim=(-0.02 * counts[-1], 1.1 * counts[-1]),
             title="The first merges compress most")
    axes.legend(loc="lower right")
    return finish(figure, f"Bytes per token rise {'; '.join(said)}.")


def draw_stream(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], window: int,
                margin: int = 12) -> Boxes:
    """A piece of a token file: a color per window, the ends of text in yellow.

    Args:
        ids: a few thousand tokens from the beginning of the file. Of these, the shortest story is
            shown with both of its ends and at least `margin` tokens around it, in whole windows.
    """
    special, table = tokenizer.eos_token_id, token_bytes(tokenizer)
    ends = [place for place, i in enumerate(ids) if i == special]
    _, start, stop = min(((b - a, a, b) for a, b in zip(ends[1:], ends[2:], strict=False)),
                         default=(0, 0, len(ids)))
    first = max(start - margin, 0) // window
    last = min(-(-(stop + margin) // window), len(ids) // window)
    shown = range(first * window, last * window)
    colors = [YELLOW if ids[place] == special else TINTS[place // window % 5] for place in shown]
    pieces = ["<end>" if ids[place] == special
              else table[ids[place]].decode(errors="backslashreplace") for place in shown]
    found = colors.count(YELLOW)
    assert found >= 2 or len(ends) < 3, "both ends of the story are shown"
    return token_boxes(pieces, f"Windows {first + 1} to {last} of the file, {window} tokens each",
                       f"{last - first} windows of {window} tokens, each in its own color; {found} "
                       f"of the {len(shown)} tokens are ends of text, in yellow.", colors,
                       [(YELLOW, "end of text")], most=10_000)


def strip(tokenizer: PreTrainedTokenizerFast, sentence: str,
          counts: Sequence[int | None] = (0, 5, 20, 100, None)) -> Drawing:
    """One sentence after more and more merges, a row each; None uses all merges."""
    rows = []
    for count in counts:
        cut = pieces(tokenizer, sentence, count)
        merges = (f"all {len(merges_of(tokenizer)):,} merges" if count is None else
                  "no merge" if count == 0 else f"{count} merges")
        title = f"{merges}: {len(cut)} tokens"
        rows.append(token_boxes(cut, title, f"{title}: {'|'.join(cut)}"))
    return stack(*rows)
