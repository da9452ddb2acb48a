"""The patients of the bug hunt: five tokenizers in plain Python, four of them with one fault.

All have the bytes and merges of the bundled tokenizer. The healthy one gives the library's ids.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

from picolm_lib.course.tokens.bpe import byte_order, merges_of, token_bytes
from picolm_lib.course.tokens.kinds import sums
from picolm_lib.data.tokenizer import END_OF_TEXT, SPECIAL_TOKENS, load_tokenizer
from picolm_lib.storybook.story import stories

WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s+")
HEALTHY = "healthy"
FAULTS = {
    "broken letters": "decode turns each token into text on its own, so a letter whose bytes lie "
                      "in two tokens is lost",
    "merged digits": "several digits become one token, so the digits of a number have no fixed "
                     "place",
    "lost spaces": "encode makes one space of several, so the text does not come back as it was",
    "typed end": "the name of the end of text, typed within a document, becomes the special token",
    # These two nobody has.
    "no ends": "the stream has no end of text between two documents",
    "lowercase": "encode makes capital letters small",
}
END = 0


@cache
def _rules() -> tuple[list[bytes], dict[tuple[int, int], int]]:
    """The vocabulary and merges of the bundled tokenizer."""
    tokenizer = load_tokenizer()
    table = token_bytes(tokenizer)
    ids = {token: number for number, token in enumerate(table)}
    return table, {pair: ids[table[pair[0]] + table[pair[1]]] for pair in merges_of(tokenizer)}


class Patient:
    """A tokenizer that may have one of FAULTS."""

    def __init__(self, fault: str = HEALTHY) -> None:
        self._fault = fault
        table, merges = _rules()
        self.vocabulary, self._merges = list(table), dict(merges)
        self._byte_ids = {byte: len(SPECIAL_TOKENS) + i for i, byte in enumerate(byte_order())}
        if fault == "merged digits":
            pairs = Counter(pair for number in re.findall(r"\d+", sums(2_000))
                            for pair in zip(number, number[1:], strict=False))
            for left, right in sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:60]:
                self._merges[self._byte_ids[ord(left)], self._byte_ids[ord(right)]] = len(
                    self.vocabulary)
                self.vocabulary.append(f"{left}{right}".encode())

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        if self._fault == "typed end" and END_OF_TEXT in text:
            before, _, after = text.partition(END_OF_TEXT)
            return [*self.encode(before), END, *self.encode(after)]
        if self._fault == "lost spaces":
            text = re.sub(" +", " ", text)
        parts = [text] if self._fault == "merged digits" else re.split(r"(\d)", text)
        return [i for part in parts for word in WORDS.findall(part) for i in self._word(word)]

    def _word(self, word: str) -> list[int]:
        ids = [self._byte_ids[byte] for byte in word.encode()]
        while found := [pair for pair in zip(ids, ids[1:], strict=False) if pair in self._merges]:
            first = min(found, key=lambda pair: self._merges[pair])
            place = found_at = 0
            while place < len(ids):
                fits = tuple(ids[place:place + 2]) == first
                ids[found_at] = self._merges[first] if fits else ids[place]
                place, found_at = place + 1 + fits, found_at + 1
            del ids[found_at:]
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        if self._fault == "broken letters":
            return "".join(self.vocabulary[i].decode(errors="replace") for i in ids)
        return b"".join(self.vocabulary[i] for i in ids).decode(errors="replace")

    def stream(self, documents: list[str]) -> list[int]:
        """The ids of documents, with an end of text before, between and after them."""
        return [*(i for text in documents for i in (END, *self.encode(text))), END]

    def pieces(self, ids: list[int]) -> list[str]:
        """Each token as text; parts of a letter as \\xc3, the end of text as <end>."""
        return ["<end>" if i == END else self.vocabulary[i].decode(errors="backslashreplace")
                for i in ids]


def _there_and_back(text: str) -> Callable[[Patient], str]:
    return lambda p: f"decode(encode({text!r})) = {p.decode(p.encode(text))!r}"


def _cut(*texts: str) -> Callable[[Patient], str]:
    return lambda p: "\n".join(f"{text!r}: {p.pieces(p.encode(text))}" for text in texts)


def _compression(patient: Patient) -> str:
    text = next(stories(1, seed=999)).text
    return f"{len(text.encode()) / len(patient.encode(text)):.3f} bytes per token on one story"


# What can be asked of a patient; each returns what to print.
PROBES: dict[str, Callable[[Patient], str]] = {
    "accents": _there_and_back("café naïve"),
    "digits": _cut("1234", "5678", "2024"),
    "spaces": _there_and_back("two  spaces,   three"),
    "capitals": _there_and_back("Mia and BEN"),
    "two documents": lambda p: str(p.pieces(p.stream(["A cat.", "A dog."]))),
    "typed end": _cut(f"Type {END_OF_TEXT} here."),
    "compression": _compression,
    "empty": lambda p: f"encode('') = {p.encode('')}, decode([]) = {p.decode([])!r}",
}


def _shuffled() -> dict[str, str]:
    faults = [HEALTHY, *list(FAULTS)[:4]]
    random.Random(11).shuffle(faults)
    return dict(zip("ABCDE", faults, strict=True))


# Who has what: letter -> a name in FAULTS, or HEALTHY.
TRUTH = _shuffled()


@cache
def patients() -> dict[str, Patient]:
    """The five, by letter."""
    return {letter: Patient(fault) for letter, fault in TRUTH.items()}
