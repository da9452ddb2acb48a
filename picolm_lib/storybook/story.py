"""The Storybook: an embedded corpus of little stories, generated, so that it needs no data file.

First the facts of a story are drawn from a small world (world.py): who the hero is, which
thing, which color, which place. Then a plot (plots_*.py) is rendered: its sentences are chosen one
by one, and the facts are written into them (grammar.py). The manner is that of TinyStories (Ronen
Eldan and Yuanzhi Li, "TinyStories: How Small Can Language Models Be and Still Speak Coherent
English?", 2023): few words, short sentences, and an ending that follows from what happened.

The world knows the facts of each story, so it can also ask about them. Plots mark the places where
a careful reader knows the next word, and each mark becomes a `Question`: a prompt, the right next
word, and wrong ones of the same form.

    python -m picolm_lib.storybook --count 3 --seed 1 --questions
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from picolm_lib.storybook import plots_alone, plots_helping, plots_making, plots_playing
from picolm_lib.storybook.grammar import Mark, Plot, Renderer, deal, pick
from picolm_lib.storybook.world import (
    ANIMALS,
    CHILD,
    CLOTHES,
    COLORS,
    DAYS,
    ELDERS,
    HELPERS,
    HOBBIES,
    NAMES,
    PRONOUNS,
)

PLOTS: tuple[Plot, ...] = (plots_helping.PLOTS + plots_playing.PLOTS
                           + plots_making.PLOTS + plots_alone.PLOTS)
KINDS = ("name", "friend", "color", "object", "place", "pronoun")
PERSONS = ("hero", "friend", "elder", "helper")
MAX_QUESTIONS = 6


@dataclass(frozen=True)
class Question:
    """A prompt whose right next word is known."""

    kind: str
    """One of `KINDS`: "name" asks for the hero, "friend" for the friend."""
    prompt: str
    """The beginning of a story. It ends without a space."""
    answer: str
    """How the story continues, with the space before it: " Lily"."""
    others: tuple[str, ...]
    """Wrong continuations of the same form: (" Tom",)."""
    story: str
    """The whole story that the prompt begins."""


@dataclass(frozen=True)
class Story:
    """A story, the facts it was made from, and what can be asked about it."""

    text: str
    plot: str
    facts: dict[str, str]
    """What the text says: hero, hero_pronoun, trait, friend, color, object, place, ... `persons`
    lists everybody in it: "Lily:she,Tom:he,mom:she"."""
    questions: tuple[Question, ...]


def story(seed: int, index: int) -> Story:
    """The index-th story of a seed. It depends on no other story, so any one can be had at once.

    A string seeds `random.Random` through SHA-512, the same in every process and on every machine.
    """
    rng = random.Random(f"{seed}/{index}")
    plot = pick(rng, PLOTS)
    facts = _draw_facts(rng, plot)
    renderer = Renderer(rng, facts)
    renderer.render(plot.text)
    possible = [_question(rng, plot, facts, renderer.text, mark) for mark in renderer.marks]
    asked = _choose_questions(rng, [question for question in possible if question])
    return Story(renderer.text, plot.name, _told_facts(facts, renderer.known), tuple(asked))


def stories(count: int, seed: int = 0) -> Iterator[Story]:
    """`count` stories with different texts, in the order of their index."""
    return itertools.islice(_different_stories(seed), count)


def questions(count: int, seed: int, kinds: Sequence[str] | None = None) -> list[Question]:
    """`count` questions, as many of one kind as of another, and one of a kind per story at most."""
    kinds = KINDS if kinds is None else tuple(dict.fromkeys(kinds))
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(f"kinds must be among {KINDS}, not {kinds}")
    missing = {kind: count // len(kinds) + (i < count % len(kinds)) for i, kind in enumerate(kinds)}
    found: list[Question] = []
    told = _different_stories(seed)
    while len(found) < count:
        asked = next(told).questions
        for kind in kinds:
            candidates = [question for question in asked if question.kind == kind]
            if candidates and missing[kind]:
                # The middle one: the first would always be about a beginning.
                found.append(candidates[len(candidates) // 2])
                missing[kind] -= 1
    return found


def _different_stories(seed: int) -> Iterator[Story]:
    texts: set[str] = set()
    for index in itertools.count():
        new = story(seed, index)
        if new.text not in texts:
            texts.add(new.text)
            yield new


def _draw_facts(rng: random.Random, plot: Plot) -> dict[str, str]:
    """Everything that the plot's fields may ask for, drawn before the text is rendered."""
    (hero, hero_pronoun), (friend, friend_pronoun) = deal(rng, NAMES, 2)
    elder, elder_pronoun = pick(rng, ELDERS)
    helper, helper_pronoun = pick(rng, HELPERS)
    color, color2 = deal(rng, COLORS, 2)
    thing = pick(rng, plot.things)
    place = pick(rng, plot.places)
    if plot.heroes == "child" or rng.random() < 0.6:
        species = [CHILD[hero_pronoun], CHILD[friend_pronoun]]
    else:
        species = deal(rng, ANIMALS, 2)
    facts = {
        "hero": hero, "hero.species": species[0], "trait": pick(rng, plot.traits),
        "friend": friend, "friend.species": species[1], "helper": helper,
        "elder": f"{PRONOUNS[hero_pronoun]['his']} {elder}", "elder.call": elder.capitalize(),
        "object": thing.name, "use": thing.use, "using": thing.using,
        "color": color, "color2": color2, "clothes": pick(rng, CLOTHES).name,
        "place": place.name, "prep": place.prep, "spot": pick(rng, place.spots),
        "day": pick(rng, DAYS), "hobby": pick(rng, HOBBIES),
    }
    pronouns = (hero_pronoun, friend_pronoun, elder_pronoun, helper_pronoun)
    for person, pronoun in zip(PERSONS, pronouns, strict=True):
        facts |= {f"{person}.{form}": word for form, word in PRONOUNS[pronoun].items()}
    for choices in plot.choices:
        facts |= pick(rng, choices)
    return facts


TOLD = ("hero", "hero.species", "trait", "hobby", "friend", "friend.species", "helper", "object",
        "color", "clothes", "color2", "place", "spot")


def _told_facts(facts: dict[str, str], known: set[str]) -> dict[str, str]:
    """Only what the text says: a friend who was drawn but never came is no fact of the story."""
    told = {key.replace(".", "_"): facts[key] for key in TOLD if key in known}
    persons = _persons(known)
    if "elder" in persons:
        told["elder"] = facts["elder"].split()[-1]
    for person in persons:
        told[f"{person}_pronoun"] = facts[f"{person}.he"]
    told["persons"] = ",".join(f"{told[p]}:{facts[f'{p}.he']}" for p in persons)
    return told


def _persons(known: set[str] | frozenset[str]) -> list[str]:
    met = {key.split(".")[0] for key in known}
    return [person for person in PERSONS if person in met]


def _question(rng: random.Random, plot: Plot, facts: dict[str, str], text: str, mark: Mark,
              ) -> Question | None:
    """The question at a mark, or None if what stands before it does not determine the answer."""
    who, _, form = mark.field.partition(".")
    if form:
        kind = "pronoun"
        known = _is_pronoun_known(facts, mark.known, who)
        # As soon as there are two, "she" may be either. "Her" is marked where only one fits.
        known = known and (form != "he" or _persons(mark.known) == [who])
        others = [PRONOUNS["she" if facts[f"{who}.he"] == "he" else "he"][form]]
    elif who in ("hero", "friend"):
        kind = "name" if who == "hero" else "friend"
        known = {"hero", "friend"} <= mark.known
        others = [facts["friend" if who == "hero" else "hero"]]
    else:
        kind = who
        known = who in mark.known
        others = _others(rng, plot, facts, mark)
    # A prompt ends where a word does, so what begins a line or a quotation cannot be asked for.
    if not known or text[mark.start - 1] != " ":
        return None
    answer = text[mark.start:mark.end]
    if answer[0].isupper():
        others = [other.capitalize() for other in others]
    return Question(kind, text[:mark.start - 1], f" {answer}",
                    tuple(f" {word}" for word in others), text)


def _is_pronoun_known(facts: dict[str, str], known: frozenset[str], who: str) -> bool:
    """Names alone do not count: "a girl", "her mom" or an earlier "she" must have said it."""
    by_word = any(f"{who}.{form}" in known for form in PRONOUNS["he"])
    by_species = f"{who}.species" in known and facts[f"{who}.species"] in CHILD.values()
    return by_word or by_species or (who == "hero" and "elder" in known)


def _others(rng: random.Random, plot: Plot, facts: dict[str, str], mark: Mark) -> list[str]:
    """Three wrong colors, things or places that would fit here, or two if there are no more."""
    if mark.field == "color":
        # The color of another thing in the same story is the hardest to tell from the right one.
        near = [facts["color2"]] if "color2" in mark.known else []
        rest = [color for color in COLORS if color not in (facts["color"], facts["color2"])]
        return near + deal(rng, rest, 3 - len(near))
    if mark.field == "object":
        return deal(rng, [t.name for t in plot.things if t.name != facts["object"]], 3)
    same_preposition = [place.name for place in plot.places if place.prep == facts["prep"]]
    return deal(rng, [name for name in same_preposition if name != facts["place"]], 3)


def _choose_questions(rng: random.Random, asked: list[Question]) -> list[Question]:
    """At most `MAX_QUESTIONS`, in their order, and none of a kind twice before each kind once."""
    turns: Counter[str] = Counter()
    ranked = []
    for i in deal(rng, range(len(asked)), len(asked)):
        turns[asked[i].kind] += 1
        ranked.append((turns[asked[i].kind], i))
    chosen = sorted(i for _, i in sorted(ranked)[:MAX_QUESTIONS])
    return [asked[i] for i in chosen]
