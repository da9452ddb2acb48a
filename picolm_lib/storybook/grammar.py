"""How a plot is written down, how it is rendered, and the sentences that many plots share.

A plot is text with choices: of a tuple one part is rendered, of a list every part, a string as it
is. `{hero}`, `{color}`, `{he}` are fields for the facts of the story; `{He}` begins with a
capital, `{a color}` brings its article. An exclamation mark, `{color!}`, says that a reader of the
text so far knows this word for certain, so that it can be asked for. Choices that have to agree
with each other later in the story are drawn together at the start (`Plot.choices`).
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from picolm_lib.storybook.world import PLACES, TRAITS, Place, Thing

T = TypeVar("T")
Part = str | tuple["Part", ...] | list["Part"]


@dataclass(frozen=True)
class Plot:
    """What can happen, and the parts of the world that it can happen to."""

    name: str
    text: Part
    things: tuple[Thing, ...]
    """What `{object}` is drawn from."""
    places: tuple[Place, ...] = PLACES
    heroes: str = "either"
    """"child", or "either" a child or an animal."""
    traits: tuple[str, ...] = TRAITS
    choices: tuple[tuple[dict[str, str], ...], ...] = ()
    """More fields: of each tuple one dictionary is drawn."""


@dataclass(frozen=True)
class Mark:
    """A field that may be asked for: where it stands, and what the reader has read by then."""

    field: str
    start: int
    end: int
    known: frozenset[str]


class Renderer:
    """Writes a plot with the given facts, and keeps the text, its marks, and the facts in it."""

    def __init__(self, rng: random.Random, facts: dict[str, str]) -> None:
        self.rng = rng
        self.facts = facts
        self.text = ""
        self.marks: list[Mark] = []
        self.known: set[str] = set()

    def render(self, part: Part) -> None:
        """Adds a part of a plot to the text, choosing where it offers a choice."""
        if isinstance(part, tuple):
            self.render(pick(self.rng, part))
        elif isinstance(part, list):
            for each in part:
                self.render(each)
        elif part:
            if self.text and part != P and not self.text.endswith(P):
                self.text += " "
            self._write(part)

    def _write(self, template: str) -> None:
        for before, article, field, mark in _parse(template):
            self.text += before
            if field:
                self._write_field(article, field, mark)

    def _write_field(self, article: str, field: str, mark: str) -> None:
        key = field[0].lower() + field[1:]
        if key in ("he", "him", "his", "himself", "species"):
            key = f"hero.{key}"
        value = self.facts[key]
        if "{" in value:  # one of the plot's choices, with fields of its own
            self._write(value)
            return
        if article:
            value = with_article(value)
        if field[0].isupper() or article == "A ":
            value = value[0].upper() + value[1:]
        start = len(self.text)
        self.text += value
        if mark:
            self.marks.append(Mark(key, start, len(self.text), frozenset(self.known)))
        self.known.add(key)


@functools.cache
def _parse(template: str) -> list[tuple[str, str, str, str]]:
    """Splits "the {color!} {object}" into pieces of (text before, article, field, mark).

    Plots write “ and ” around what is said, so that their strings need no backslashes.
    """
    straight = template.replace("“", '"').replace("”", '"')
    return re.findall(r"([^{]*)(?:\{([aA] )?([\w.]+)(!?)\}|$)", straight)


def with_article(phrase: str) -> str:
    """"a ball", "an orange ball". No other code chooses between "a" and "an"."""
    silent_h = phrase.startswith(("honest", "hour"))
    spoken_like_y_or_w = phrase.startswith(("use", "uni", "one"))
    vowel = phrase[0] in "aeiou" and not spoken_like_y_or_w
    return ("an " if vowel or silent_h else "a ") + phrase


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, each as likely as the others."""
    # random() alone is promised to give the same numbers in every version of Python.
    return options[int(rng.random() * len(options))]


def deal(rng: random.Random, options: Sequence[T], count: int) -> list[T]:
    """`count` different options, or all of them if there are fewer."""
    left = list(options)
    return [left.pop(int(rng.random() * len(left))) for _ in range(min(count, len(left)))]


P = "\n\n"  # a new paragraph

OPENING: Part = (
    "Once upon a time, there was {a trait} little {species} named {hero}.",
    "Once upon a time, there was {a trait} little {species} named {hero}.",
    "Once upon a time, there was a little {species} named {hero}.",
    "Once upon a time, there was a little {species} named {hero} who was very {trait}.",
    "Once upon a time, there lived {a trait} {species} named {hero}.",
    "Once upon a time, there was {a species} named {hero}. {He!} was very {trait}.",
    "Once upon a time, in a small town, there lived a little {species} named {hero}.",
    "There once was {a trait} {species} named {hero}.",
    "{hero} was {a trait} little {species}.",
    "In a cozy little house, there lived {a trait} {species} named {hero}.",
)

HOBBY: Part = (
    "",
    "",
    "",
    "",
    "{He!} loved to {hobby}.",
    "{He!} liked to {hobby}.",
    "Every day, {he!} liked to {hobby}.",
    "More than anything, {he!} loved to {hobby}.",
)

# What a friend wears has a color, too: a reader has to remember which color belongs to what.
FRIEND_WEARS: Part = (
    "",
    "",
    "{friend} was wearing {a color2} {clothes}.",
    "{friend} had on {a color2} {clothes} that day.",
    "{friend} wore {a color2} {clothes} with big buttons.",
)

PLAYING: Part = (
    "They ran and jumped and laughed.",
    "They played tag until they were out of breath.",
    "They made up a funny game.",
    "They chased each other around and around.",
    "They laughed and played for a long time.",
    "They pretended to be brave explorers.",
)
