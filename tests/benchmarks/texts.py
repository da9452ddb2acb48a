"""What can be counted in stories without asking anybody's opinion, and how sure a count is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from picolm_lib.storybook.world import COLORS, ELDERS, NAMES, PLACES

SURE = 1.959964  # standard deviations to each side of a 95% interval
WORLD = {"name": {name for name, _ in NAMES}, "color": set(COLORS),
         "place": {place.name for place in PLACES}, "elder": {elder for elder, _ in ELDERS}}
MOST = {"name": 2, "color": 2, "place": 1, "elder": 1}
"""How many of each a story has: two names, two colors, one place, and mom or dad or a grandparent.
"""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; "didn't" is one word."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """The sentences of a text, each as its words; what is cut off at the end counts, too."""
    parts = (" ".join(words(part)) for part in re.split(r"[.!?]+", text))
    return [part for part in parts if part]


def ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n neighbors, in order."""
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int, length: int) -> float:
    """Distinct-n: different n-grams over all n-grams, in the first `length` words of each text.

    It falls with the number of words, so it compares only at equal numbers of texts and of words.
    No n-gram reaches from one text into the next. Source: Jiwei Li et al., "A Diversity-Promoting
    Objective Function for Neural Conversation Models", 2016.
    """
    found = [gram for text in texts for gram in _grams(text, n, length)]
    return len(set(found)) / len(found) if found else 0.0


@lru_cache(maxsize=10_000)  # the jackknife asks for the same ones again and again
def _grams(text: str, n: int, length: int) -> list[tuple[str, ...]]:
    return ngrams(words(text)[:length], n)


def repeated(sequence: Sequence[Any]) -> float:
    """Share of elements that stood in the sequence before."""
    return 1 - len(set(sequence)) / len(sequence) if sequence else 0.0


def repeated_ngrams(text: str, n: int, length: int | None = None) -> float:
    """Share of a text's n-grams that were in it before, in its first `length` words or in all."""
    return repeated(ngrams(words(text)[:length], n))


def repeated_sentences(text: str) -> float:
    """Share of a text's sentences that were in it before, word for word."""
    return repeated(sentences(text))


def is_whole(text: str) -> bool:
    """Whether a text ends where a sentence does."""
    return bool(re.search(r"[.!?][\"'”’]?\s*$", text))


def facts(text: str, length: int | None = None) -> dict[str, set[str]]:
    """Facts of the Storybook's world in the first `length` words of a text, by kind."""
    said = {re.sub(r"['’]s$", "", word) for word in _WORD.findall(text)[:length]}
    said |= {word.lower() for word in said}
    return {kind: said & world for kind, world in WORLD.items()}


def contradictions(text: str, length: int | None = None) -> list[str]:
    """Kinds of fact of which a text has more than any story of the Storybook can have."""
    return [kind for kind, said in facts(text, length).items() if len(said) > MOST[kind]]


def wilson(hits: int, number: int) -> tuple[float, float]:
    """The 95% interval of a share.

    Source: Edwin B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    1927.
    """
    share, z = hits / number, SURE**2 / number
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(z * share * (1 - share) + z**2 / 4) / (1 + z)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def jackknife(items: Sequence[Any], statistic: Callable[[Sequence[Any]], float],
              ) -> tuple[float, float]:
    """A statistic, and half of its 95% interval: each item is left out once.

    A bootstrap would draw the same story twice, and distinct-n would count that as repetition.
    Source: John W. Tukey, "Bias and Confidence in Not-Quite Large Samples", 1958.
    """
    number = len(items)
    left = [statistic([*items[:i], *items[i + 1:]]) for i in range(number)]
    mean = sum(left) / number
    spread = sum((value - mean) ** 2 for value in left)
    return statistic(items), SURE * math.sqrt(spread * (number - 1) / number)
