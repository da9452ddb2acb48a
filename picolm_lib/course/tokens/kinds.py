"""Five kinds of text under three tokenizers: a large vocabulary pays on texts that use it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from IPython.display import Markdown

from picolm_lib.course.boxes import Boxes, token_boxes
from picolm_lib.course.tokens import measured
from picolm_lib.course.tokens.bpe import pieces
from picolm_lib.course.tokens.comparison import bytes_per_token
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.storybook.story import stories

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TINY, BUNDLED, BUNDLED_8K, SMOLLM = "TinyStories", "bundled", "bundled8k", "SmolLM"
COLUMNS = {BUNDLED: "bundled (2,048)", BUNDLED_8K: "bundled8k (8,192)", SMOLLM: "SmolLM (49,152)"}

PYTHON = '''\
"""Counts the words of a text file and prints the most frequent ones."""

import argparse
from collections import Counter
from pathlib import Path


def read_words(path: Path) -> list[str]:
    """All words of a file in lowercase, without punctuation."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        for word in line.lower().split():
            word = word.strip(".,;:!?\\"'()")
            if word:
                words.append(word)
    return words


class Table:
    """Words with their counts."""

    def __init__(self, words: list[str]) -> None:
        self.counts = Counter(words)
        self.total = sum(self.counts.values())

    def share(self, word: str) -> float:
        """How much of the text is this word?"""
        if self.total == 0:
            return 0.0
        return self.counts[word] / self.total

    def top(self, number: int = 10) -> list[tuple[str, float]]:
        return [(word, self.share(word)) for word, _ in self.counts.most_common(number)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--number", type=int, default=10)
    options = parser.parse_args()
    table = Table(read_words(options.file))
    for rank, (word, share) in enumerate(table.top(options.number), start=1):
        print(f"{rank:>3}. {word:<20} {100 * share:6.2f} %")


if __name__ == "__main__":
    main()
'''
FRENCH = """\
Il était une fois, au bord d'une rivière très calme, une petite maison aux volets bleus. Une
vieille dame y vivait avec son chat, qui s'appelait Noisette. Chaque matin, la dame préparait du
café, ouvrait la fenêtre et regardait les bateaux qui descendaient lentement vers la mer.
Un jour d'été, Noisette disparut. La dame le chercha dans le jardin, derrière l'église et jusque
dans la forêt, mais elle ne trouva que des traces de pattes dans la boue. Les voisins l'aidèrent
: le boulanger ferma sa boutique, et même le maire, d'habitude si sévère, enleva ses chaussures
pour traverser le ruisseau.
Le soir, fatigués et mouillés, ils rentrèrent tous chez la dame pour manger une soupe à
l'oignon. C'est alors qu'ils entendirent un léger bruit au-dessus de leurs têtes. Noisette
dormait dans l'armoire, entre deux draps, et n'avait pas bougé de la journée. « Quel paresseux !
» s'écria le boulanger, et tout le monde éclata de rire.
"""


def sums(count: int = 200, seed: int = 0) -> str:
    """Additions of numbers with one to four digits, one a line."""
    choose = random.Random(seed)
    lines = []
    for _ in range(count):
        left, right = (choose.randrange(10 ** choose.randint(1, 4)) for _ in range(2))
        lines.append(f"{left} + {right} = {left + right}")
    return "\n".join(lines)


@cache
def texts() -> dict[str, list[str]]:
    """The four kinds that come with the package; they never change."""
    return {"Storybook": [story.text for story in stories(40, seed=999)], "Python code": [PYTHON],
            "French": [FRENCH], "sums": [sums()]}


def measure(tokenizer: PreTrainedTokenizerFast, tiny: Sequence[str] = ()) -> dict[str, float]:
    """Bytes per token on every kind; on TinyStories only where its stories are given."""
    kinds = {**texts(), **({TINY: tiny} if tiny else {})}
    return {kind: round(bytes_per_token(tokenizer, some), 4) for kind, some in kinds.items()}


@cache
def _ours() -> dict[str, dict[str, float]]:
    """The bundled tokenizers, measured now."""
    return {name: measure(load_tokenizer(name)) for name in (BUNDLED, BUNDLED_8K)}


def kinds_table(smollm: PreTrainedTokenizerFast | None = None) -> Markdown:
    """Bytes per token of three tokenizers on five kinds of text.

    Args:
        smollm: the real tokenizer. Without it, its column is the stored measurement, and the table
            says so. The row of TinyStories always is.
    """
    stored = measured.read("kinds")
    rows = {kind: dict(row) for kind, row in stored["bytes_per_token"].items()}
    now = {**_ours(), **({SMOLLM: measure(smollm)} if smollm is not None else {})}
    for name, found in now.items():
        for kind, ratio in found.items():
            rows[kind][name] = ratio
    heads = dict(COLUMNS)
    said = f"*{TINY}: stored measurement on {stored['stories']:,} validation stories."
    if smollm is None:
        heads[SMOLLM] += ", stored measurement"
        said = f"*SmolLM and {TINY}: stored measurement, {stored['stories']:,} validation stories."
    lines = ["| bytes per token | " + " | ".join(heads.values()) + " |",
             "|---|" + "---|" * len(heads)]
    lines += [f"| {kind} | " + " | ".join(f"{rows[kind][name]:.2f}" for name in heads) + " |"
              for kind in rows]
    return Markdown("\n".join(lines) + f"\n\n{said} Measured {stored['date']}.*\n")


def compare_with_stored(smollm: PreTrainedTokenizerFast | None) -> str:
    """One sentence: whether the real tokenizer gives the stored numbers."""
    if smollm is None:
        return "SmolLM could not be fetched: what is shown of it is the stored measurement."
    stored = measured.read("kinds")["bytes_per_token"]
    found = measure(smollm)
    wrong = [kind for kind, ratio in found.items() if abs(ratio - stored[kind][SMOLLM]) > 1e-3]
    if wrong:
        return ("SmolLM was fetched, and measures otherwise than the stored numbers on "
                f"{', '.join(wrong)}: the tokenizer on the Hub may have changed.")
    return f"SmolLM was fetched, and measures the stored numbers on all {len(found)} texts."


def draw_pieces(cut: Sequence[str], name: str, size: int, note: str = "") -> Boxes:
    """A text that a tokenizer has cut already.

    Args:
        name, size: of the tokenizer.
        note: what else the title says, such as "stored measurement".
    """
    number = len("".join(cut).encode())
    title = (f"{name} ({size:,} tokens): {len(cut)} tokens, {number / len(cut):.2f} bytes per "
             f"token{note and f' ({note})'}")
    return token_boxes(cut, title, title + ".")


def draw_smollm(smollm: PreTrainedTokenizerFast | None = None) -> Boxes:
    """The first unseen story, `stories(1, seed=999)`, in the real SmolLM's tokens.

    Args:
        smollm: the real tokenizer; without it, the stored pieces are drawn, and the title says so.
    """
    stored = measured.read("smollm")
    if smollm is None:
        return draw_pieces(stored["pieces"], SMOLLM, stored["size"], "stored measurement")
    return draw_pieces(pieces(smollm, "".join(stored["pieces"])), SMOLLM, len(smollm))
