"""Does the vocabulary matter? The same small model with several vocabularies, at equal bytes read.

A fair race gives every model the same text, and not the same number of tokens: a token of a large
vocabulary holds more text. So a window has as many tokens as WINDOW bytes of text need, and every
batch has the same number of windows. Then all models see the same bytes in a step, make the same
number of steps, and can look back over the same bytes. What differs is the vocabulary, and what
follows from it: the number of tokens, and with it the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from IPython.display import Markdown

from picolm_lib.course import race
from picolm_lib.course.plots import BLUE, CYCLE, ORANGE, Picture, canvas, finish
from picolm_lib.course.tokens import measured
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import MIN_VOCAB_SIZE, encode, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIZES = (MIN_VOCAB_SIZE, 512, 2_048)
# Bytes of text in a window, windows per batch, and steps: 246 kB, about 360 stories.
WINDOW, BATCH, STEPS = 384, 8, 80
# One in ten is for validation. No run reads a story twice.
STORIES = 500


@dataclass(frozen=True)
class Run:
    """One vocabulary with one seed."""

    vocab_size: int
    seed: int
    bytes_per_token: float
    curve: race.Curve

    @property
    def bytes_read(self) -> list[float]:
        """Bytes of text that were read until each evaluation."""
        return [tokens * self.bytes_per_token for tokens in self.curve.tokens]


def name_of(vocab_size: int) -> str:
    """How a vocabulary is called in tables and pictures."""
    return "262 (bytes)" if vocab_size == MIN_VOCAB_SIZE else f"{vocab_size:,}"


def bytes_per_token(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Of all texts together, without the ends of text."""
    ids = encode(tokenizer, list(texts))
    return sum(len(text.encode()) for text in texts) / sum(map(len, ids))


def window_tokens(ratio: float, window: int = WINDOW) -> int:
    """Tokens that hold `window` bytes of text, at `ratio` bytes per token."""
    return max(round(window / ratio), 8)


def compare(seed: int = 0, sizes: Sequence[int] = SIZES, steps: int = STEPS) -> list[Run]:
    """Trains the small model of race.py once per vocabulary, on the same bytes of the Storybook.

    Every vocabulary is a BPE that learned from the same stories that the model is trained on.
    """
    texts = list(load_corpus("storybook", STORIES).split("train"))
    runs = []
    for size in sizes:
        tokenizer = train_bpe(texts, size)
        ratio = bytes_per_token(tokenizer, texts)
        length = window_tokens(ratio)
        curve = race.run(f"vocabulary of {name_of(size)}, seed {seed}", seed=seed,
                         tokens=steps * BATCH * length, tokenizer=tokenizer, max_seq_len=length,
                         batch_size=BATCH, storybook_stories=STORIES, evals=4)
        runs.append(Run(size, seed, ratio, curve))
    return runs


def table(runs: Sequence[Run]) -> Markdown:
    """One row per vocabulary: means over the seeds, how far these are apart, and the time.

    The seconds are those of the faster run, which the machine's other work disturbed less.
    """
    slowest = max(min(r.curve.seconds for r in group) for group in _groups(runs).values())
    rows = ["| vocabulary | tokens read | nats per token | bits per byte | between the seeds | "
            "training seconds | text read in the time of the slowest |",
            "|---|---|---|---|---|---|---|"]
    for size, group in _groups(runs).items():
        bits = [run.curve.last for run in group]
        seconds = min(run.curve.seconds for run in group)
        read = fmean(run.bytes_read[-1] for run in group)
        apart = f"{max(bits) - min(bits):.3f}" if len(bits) > 1 else ""
        rows.append(f"| {name_of(size)} | {group[0].curve.tokens[-1]:,} | "
                    f"{fmean(run.curve.loss for run in group):.2f} | {fmean(bits):.3f} | {apart} | "
                    f"{seconds:.0f} | {read * slowest / seconds / 1e3:,.0f} kB |")
    return Markdown("\n".join(rows) + "\n")


def draw(runs: Sequence[Run]) -> Picture:
    """Bits per byte on unseen stories against the text read, a line per run."""
    figure, axes = canvas(3.5)
    said = []
    for (size, group), color in zip(_groups(runs).items(), CYCLE, strict=False):
        for run in group:
            axes.plot([read / 1e3 for read in run.bytes_read], run.curve.bits_per_byte, marker="o",
                      markersize=4, color=color,
                      label=name_of(size) if run is group[0] else None)
        said.append(f"{name_of(size)}: " + " and ".join(f"{r.curve.last:.3f}" for r in group))
    axes.set(xlabel="text read (kB)", ylabel="bits per byte", ylim=(0, None), xlim=(0, None),
             title="The same text, cut into larger or smaller tokens (lower is better)")
    axes.legend(title="vocabulary (a line per seed)", loc="lower center", ncols=3)
    return finish(figure, "Bits per byte on stories that no model has seen, after the same text; "
                          f"at the end, per seed: {'; '.join(said)}.")


def draw_vocabularies() -> Picture:
    """The larger, stored measurement: three seeds at equal bytes and at equal time."""
    rows = measured.read("vocabularies")["rows"]
    figure, axes = canvas(3.6)
    said = []
    for regime, color, shift, marker in (("equal bytes", BLUE, -0.09, "o"),
                                         ("equal time", ORANGE, 0.09, "s")):
        found = [row for row in rows if row["regime"] == regime]
        # What the picture is there to show: each doubling helps, and by more than the noise.
        assert all(less["bits_per_byte"] - less["half_width"] > more["bits_per_byte"]
                   + more["half_width"] for less, more in zip(found, found[1:], strict=False))
        axes.errorbar([place + shift for place in range(len(found))],
                      [row["bits_per_byte"] for row in found],
                      yerr=[row["half_width"] for row in found], fmt=marker, color=color,
                      capsize=4, markersize=6, linewidth=1.6,
                      label=f"{regime}: each "
                            + (f"read {found[-1]['kilobytes']} kB" if regime == "equal bytes" else
                               f"trained for about {found[-1]['seconds']:.0f} s"))
        said.append(f"at {regime} " + ", ".join(
            f"{name_of(row['vocab_size'])}: {row['bits_per_byte']:.3f} ± {row['half_width']:.3f}"
            for row in found))
    names = [name_of(row["vocab_size"]) for row in found]
    axes.set(xticks=range(len(names)), xticklabels=names, xlabel="vocabulary (tokens)",
             ylabel="bits per byte", ylim=(0, None), xlim=(-0.5, len(names) - 0.5),
             title=f"Bits per byte on unseen stories, {rows[0]['seeds']} seeds (lower is better)")
    axes.legend(loc="lower left")
    return finish(figure, f"Bits per byte with 95% intervals, {'; '.join(said)} (the same runs as "
                          "at equal bytes). Looked for with a model of 4 layers and width 96 on "
                          "the little world of the Storybook; it says little about larger models "
                          "and texts.")


def _groups(runs: Sequence[Run]) -> dict[int, list[Run]]:
    groups: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.vocab_size, run.seed)):
        groups.setdefault(run.vocab_size, []).append(run)
    return groups
