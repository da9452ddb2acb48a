"""The Storybook's stories are well-formed English, true to their facts, and can be asked about.

Every check reads the finished text and knows its own rules: none asks the engine that wrote it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from picolm_lib import storybook
from picolm_lib.storybook import KINDS, PLOTS, questions, stories, story
from picolm_lib.storyplots import Plot, Teller, pick, with_article
from picolm_lib.storyworld import CLOTHES, COLORS, HE_NAMES, NAMES, PLACES, SHE_NAMES, TOYS

STORIES = list(stories(4000, seed=123))
QUESTIONS = [(told, question) for told in STORIES for question in told.questions]
PRONOUN_WORDS = {"he": {"he", "him", "his", "himself"}, "she": {"she", "her", "hers", "herself"}}
# What may stand between a question or an exclamation in quotes and its speaker.
SAID = {"said", "asked", "cried", "shouted", "called", "he", "she", "thought"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


def mentions(word: str, text: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def sentences(text: str) -> list[str]:
    return re.split(r'(?<=[.!?])"? (?=["A-Z])|(?<=[.!?])"?\n\n', text)


def persons(told: storybook.Story) -> dict[str, str]:
    return dict(person.split(":") for person in told.facts["persons"].split(","))


def adjacent(noun: str, text: str) -> list[str]:
    """The words that stand right before a noun."""
    return re.findall(rf"(\w+) {noun}\b", text)


# --- the language --------------------------------------------------------------------------------


def test_a_and_an_agree_with_the_next_word() -> None:
    seen = Counter()
    for told in STORIES:
        for article, word in re.findall(r"\b([Aa]n?) (\w+)", told.text):
            vowel = word[0] in "aeiouAEIOU" and not re.match("use|uni|one|eu|once", word)
            vowel = vowel or word.startswith(("hour", "honest", "heir"))
            assert article.lower() == ("an" if vowel else "a"), (article, word)
            seen[article] += 1
    assert min(seen["a"], seen["an"], seen["A"]) > 50


@pytest.mark.parametrize(("phrase", "right"), [
    ("ball", "a ball"), ("orange ball", "an orange ball"), ("honest boy", "an honest boy"),
    ("hour", "an hour"), ("house", "a house"), ("useful rope", "a useful rope"),
    ("unicorn", "a unicorn"), ("umbrella", "an umbrella"), ("one-eyed bear", "a one-eyed bear"),
])
def test_with_article(phrase: str, right: str) -> None:
    assert with_article(phrase) == right


def test_quotation_marks_are_balanced_in_every_paragraph() -> None:
    spoken = 0
    for told in STORIES:
        for paragraph in told.text.split("\n\n"):
            pieces = paragraph.split('"')
            assert len(pieces) % 2 == 1, paragraph
            for said in pieces[1::2]:
                assert said[0].isupper() and said[-1] in ",.!?", said
                spoken += 1
            for between in pieces[2:-1:2]:
                assert between.strip(), f"two speeches touch: {paragraph}"
    assert spoken > 2 * len(STORIES)


def test_sentences_begin_with_a_capital_and_end_with_a_mark() -> None:
    for told in STORIES:
        for paragraph in told.text.split("\n\n"):
            assert re.match(r'"?[A-Z]', paragraph), paragraph
            assert re.search(r'[.!?]"?$', paragraph), paragraph
        for end, following in re.findall(r'([.!?]"?) ("?\w+)', told.text):
            if end in ('!"', '?"') and following in SAID:
                continue
            if end in ('!"', '?"') and following in ("her", "his"):  # "...!" her mom said
                continue
            assert following.strip('"')[0].isupper(), (end, following, told.text)
        for following in re.findall(r',"(.{2})', told.text):
            assert re.match(r" [a-z]", following), told.text


def test_no_leftovers() -> None:
    for told in STORIES:
        assert told.text.isascii()
        assert not re.search(r"[{}_<>|]|  | \n|\n |\n\n\n", told.text), told.text
        assert not re.search(r"\s[.,!?;:]|[.,;:!?]{2}|[.,!?][A-Za-z]", told.text), told.text
        assert not re.search(r"\b(\w+) \1\b", told.text), told.text
        assert told.text == told.text.strip()


def test_lengths_and_paragraphs() -> None:
    lengths = [len(words(told.text)) for told in STORIES]
    assert min(lengths) >= 60 and max(lengths) <= 200
    assert 100 <= sum(lengths) / len(lengths) <= 145
    assert all(2 <= told.text.count("\n\n") + 1 <= 5 for told in STORIES)


def test_vocabulary_is_small_but_not_tiny() -> None:
    vocabulary = {re.sub("'s$", "", word) for told in STORIES for word in words(told.text)}
    assert 800 <= len(vocabulary) <= 1300


def test_most_stories_begin_like_tiny_stories() -> None:
    share = sum(told.text.startswith("Once upon a time,") for told in STORIES) / len(STORIES)
    assert 0.5 < share < 0.9


# --- the facts -----------------------------------------------------------------------------------


def test_names_are_told_apart() -> None:
    names = [name for name, _ in NAMES]
    assert len(names) >= 40 and len(set(names)) == len(names)
    assert not set(HE_NAMES) & set(SHE_NAMES)
    capitalized = {word for told in STORIES for word in re.findall(r"[A-Z][a-z]+", told.text)}
    for name in names:
        longer = {word for word in capitalized | set(names) if word.startswith(name)} - {name}
        assert not longer, f"{name} begins {longer}"


def test_nobody_else_is_named_and_no_two_share_a_name() -> None:
    names = {name for name, _ in NAMES}
    for told in STORIES:
        listed = told.facts["persons"].split(",")
        assert len({person.split(":")[0] for person in listed}) == len(listed)
        assert set(re.findall(r"[A-Z][a-z]+", told.text)) & names == set(persons(told)) & names
        assert told.facts["hero"] in names and told.facts["hero"] != told.facts.get("friend")


def test_a_name_has_one_pronoun() -> None:
    she = set(SHE_NAMES)
    for told in STORIES:
        for name, pronoun in persons(told).items():
            if name[0].isupper():
                assert pronoun == ("she" if name in she else "he")
            if name in ("mom", "grandma", "old woman"):
                assert pronoun == "she"
            if name in ("dad", "grandpa", "old man", "fisherman"):
                assert pronoun == "he"


def test_pronouns_agree_where_all_persons_share_one() -> None:
    checked = Counter()
    for told in STORIES:
        pronouns = set(persons(told).values())
        if len(pronouns) == 1:
            wrong = "he" if pronouns == {"she"} else "she"
            assert not PRONOUN_WORDS[wrong] & set(words(told.text)), told.text
            checked[wrong] += 1
    assert min(checked.values()) > 200


def test_pronouns_are_the_heros_while_the_hero_is_alone() -> None:
    checked = Counter()
    for told in STORIES:
        kinds = {told.facts[key] for key in ("hero_species", "friend_species") if key in told.facts}
        others = {name for name in persons(told) if name != told.facts["hero"]}
        others |= {name.capitalize() for name in others}
        ends = [match.start() for name in others
                for match in re.finditer(rf"\b{name}\b", told.text)]
        # An opening says that the hero is a girl; a later girl is somebody else.
        ends += [match.start() for kind in kinds
                 for match in re.finditer(rf"\b{kind}\b", told.text) if match.start() > 110]
        alone = set(words(told.text[:min(ends, default=len(told.text))]))
        right = told.facts["hero_pronoun"]
        wrong = "he" if right == "she" else "she"
        assert not PRONOUN_WORDS[wrong] & alone, told.text
        checked[right] += bool(PRONOUN_WORDS[right] & alone)
    assert min(checked.values()) > 1000


def test_children_are_called_what_they_are() -> None:
    for told in STORIES:
        for role in ("hero", "friend"):
            species = told.facts.get(f"{role}_species")
            if species in ("girl", "boy"):
                assert (species == "girl") == (told.facts[f"{role}_pronoun"] == "she")


def test_the_text_states_its_facts() -> None:
    for told in STORIES:
        for key in ("hero", "friend", "trait", "place", "object", "color", "color2", "elder",
                    "helper", "hobby", "spot"):
            if key in told.facts:
                assert mentions(told.facts[key], told.text), (key, told)
        facts = told.facts
        assert f"{facts['color']} {facts['object']}" in told.text
        assert facts["color"] != facts.get("color2")


def test_a_thing_keeps_its_color_to_the_end() -> None:
    restated = 0
    for told in STORIES:
        facts = told.facts
        colors = [word for word in adjacent(facts["object"], told.text) if word in COLORS]
        assert set(colors) == {facts["color"]}, told.text
        restated += len(colors) >= 2
        if "clothes" in facts:
            colors = [word for word in adjacent(facts["clothes"], told.text) if word in COLORS]
            assert set(colors) == {facts["color2"]}, told.text
            assert facts["clothes"] != facts["object"]
        stated = {facts["color"], facts.get("color2")}
        assert {color for color in COLORS if mentions(color, told.text)} <= stated
        things = {thing.name for thing in CLOTHES if mentions(thing.name, told.text)}
        assert things <= {facts.get("clothes"), facts["object"]}
    assert restated > 0.95 * len(STORIES)


def test_a_story_stays_in_its_place() -> None:
    for told in STORIES:
        mentioned = {place.name for place in PLACES if mentions(f"the {place.name}", told.text)}
        assert mentioned == {told.facts["place"]} if "place" in told.facts else not mentioned
        for place in PLACES:
            for prep in re.findall(rf"\b(at|in) the {place.name}\b", told.text):
                assert prep == place.prep


def test_the_hero_is_there_at_the_end() -> None:
    for told in STORIES:
        last_two = " ".join(sentences(told.text)[-2:])
        assert mentions(told.facts["hero"], last_two), told.text


# --- the draw ------------------------------------------------------------------------------------


def test_every_plot_is_told_about_as_often() -> None:
    count = Counter(told.plot for told in STORIES)
    assert len(PLOTS) >= 14 and set(count) == {plot.name for plot in PLOTS}
    assert min(count.values()) > 0.7 * len(STORIES) / len(PLOTS)


def test_facts_are_drawn_independently() -> None:
    colors: dict[str, Counter[str]] = {}
    pronouns: dict[str, Counter[str]] = {}
    for told in STORIES:
        for group in (told.facts["object"], told.facts.get("place", "nowhere"), told.plot):
            colors.setdefault(group, Counter())[told.facts["color"]] += 1
        pronouns.setdefault(told.plot, Counter())[told.facts["hero_pronoun"]] += 1
    for group, count in colors.items():
        if count.total() >= 100:
            assert max(count.values()) < 0.25 * count.total(), (group, count)
    for plot, count in pronouns.items():
        assert 0.3 < count["she"] / count.total() < 0.7, (plot, count)
    heroes = Counter(told.facts["hero"] for told in STORIES)
    assert len(heroes) == len(NAMES) and max(heroes.values()) < 0.05 * len(STORIES)


def leaves(part: object) -> list[str]:
    return [part] if isinstance(part, str) else [leaf for each in part for leaf in leaves(each)]


def test_every_sentence_of_every_plot_can_be_told() -> None:
    for plot in PLOTS:
        for leaf in filter(str.strip, leaves(plot.text)):
            rng = random.Random(0)
            teller = Teller(rng, storybook._draw_facts(rng, plot))
            teller.tell(leaf)
            assert teller.text and "{" not in teller.text
            assert leaf.count("“") == leaf.count("”") == teller.text.count('"') / 2


def test_no_story_is_told_twice() -> None:
    assert len({told.text for told in STORIES}) == len(STORIES)


def test_duplicates_are_skipped_and_the_order_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [story(5, index) for index in range(30)]
    monkeypatch.setattr(storybook, "story", lambda seed, index: story(seed, index // 3))
    assert list(stories(30, seed=5)) == expected


def test_stories_are_random_access() -> None:
    assert [told.text for told in stories(50, seed=9)] == [story(9, i).text for i in range(50)]


def test_another_seed_tells_other_stories() -> None:
    here, there = ({told.text for told in stories(500, seed)} for seed in (1, 2))
    assert not here & there


def test_the_same_in_a_fresh_process() -> None:
    code = ("from picolm_lib.storybook import questions, stories\n"
            "print(*stories(200, seed=77), questions(60, seed=77))")
    here = " ".join(map(str, [*stories(200, seed=77), questions(60, seed=77)])) + "\n"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                             text=True, check=True)
        assert run.stdout == here


def test_draws_are_those_of_every_python() -> None:
    rng = random.Random("0/0")
    assert [pick(rng, range(1000)) for _ in range(6)] == [342, 692, 830, 396, 568, 800]


# --- the questions -------------------------------------------------------------------------------


def test_stories_have_two_to_six_questions() -> None:
    assert {len(told.questions) for told in STORIES} <= set(range(2, 7))
    assert {question.kind for _, question in QUESTIONS} == set(KINDS)


def test_the_text_goes_on_with_the_answer() -> None:
    for told, question in QUESTIONS:
        assert told.text.startswith(question.prompt + question.answer)
        after = told.text[len(question.prompt + question.answer)]
        assert not after.isalpha(), (question.answer, after)
        assert question.prompt == question.prompt.rstrip()
        for candidate in (question.answer, *question.others):
            assert re.fullmatch(r" [A-Za-z]+", candidate)


def test_wrong_answers_are_wrong_and_of_the_same_form() -> None:
    for _, question in QUESTIONS:
        candidates = [question.answer, *question.others]
        assert len(set(candidates)) == len(candidates)
        assert len({candidate[1].isupper() for candidate in candidates}) == 1
        expected = (2,) if question.kind in ("name", "friend", "pronoun") else (3, 4)
        assert len(candidates) in expected, question


def test_answers_are_facts_that_were_stated_before() -> None:
    for told, question in QUESTIONS:
        if question.kind == "pronoun":
            continue
        key = "hero" if question.kind == "name" else question.kind
        assert question.answer == " " + told.facts[key]
        assert mentions(told.facts[key], question.prompt), question
        assert not re.search(r"\b[Aa]n?$", question.prompt), "an article gives the answer away"


def test_a_name_is_asked_against_the_other_name_in_the_prompt() -> None:
    for told, question in QUESTIONS:
        if question.kind in ("name", "friend"):
            other = told.facts["friend" if question.kind == "name" else "hero"]
            assert question.others == (" " + other,) and mentions(other, question.prompt)


def test_a_color_is_asked_against_the_other_color_in_the_prompt() -> None:
    near = 0
    for told, question in QUESTIONS:
        if question.kind == "color":
            other = told.facts.get("color2")
            if other and mentions(other, question.prompt):
                assert question.others[0] == " " + other
                near += 1
            assert {candidate[1:] for candidate in question.others} <= set(COLORS)
    assert near > 300


def test_a_place_and_a_thing_are_asked_against_their_like() -> None:
    places = {place.name: place.prep for place in PLACES}
    things = {plot.name: {thing.name for thing in plot.things} for plot in PLOTS}
    for told, question in QUESTIONS:
        if question.kind == "place":
            preps = {places[place[1:]] for place in (question.answer, *question.others)}
            assert len(preps) == 1 and re.search(r" the$", question.prompt)
        if question.kind == "object":
            assert {thing[1:] for thing in question.others} <= things[told.plot]


def test_a_pronoun_is_asked_where_it_is_known() -> None:
    opposite = {"he": "she", "she": "he", "him": "her", "his": "her"}
    seen = Counter()
    for told, question in QUESTIONS:
        if question.kind != "pronoun":
            continue
        answer, (other,) = question.answer[1:].lower(), [o[1:].lower() for o in question.others]
        assert opposite.get(answer) == other or opposite.get(other) == answer
        gendered = PRONOUN_WORDS["he"] | PRONOUN_WORDS["she"] | {"girl", "boy", "her", "his"}
        assert gendered & set(words(question.prompt)), question.prompt
        if answer in ("he", "she"):
            assert answer == told.facts["hero_pronoun"]
            for name in set(persons(told)) - {told.facts["hero"]}:
                assert not mentions(name, question.prompt), question.prompt
        seen[answer] += 1
    assert min(seen[pronoun] for pronoun in ("he", "she", "his", "her")) > 100


@pytest.mark.parametrize(("text", "kinds"), [
    (["A {color!} {object!} lay there."], []),
    (["There was {a color} {object}.", "The {color!} {object!} shone."], ["color", "object"]),
    (["{hero} sat {prep} the {place!}."], []),
    (["{hero} went to the {place}.", "It was quiet {prep} the {place!}."], ["place"]),
    (["{hero} sang.", "Then {hero!} danced."], []),
    (["{hero} and {friend} sang.", "Then {hero!} and {friend!} danced."], ["name", "friend"]),
    (["There was a {species} named {hero}.", "{He!} sang."], ["pronoun"]),
    (["{hero} sang.", "{He!} danced."], []),
    (["There was a {species} named {hero}.", "{friend} came.", "{He!} sang."], []),
    (["There was a {species} named {hero}.", "{friend} came.", "{hero} shut {his!} eyes."],
     ["pronoun"]),
    (["{hero} and {friend} sang.", "“{hero!}!” called {friend}.", "\n\n", "{friend!} danced."], []),
])
def test_nothing_is_asked_that_the_prompt_does_not_say(
    monkeypatch: pytest.MonkeyPatch, text: list[str], kinds: list[str],
) -> None:
    plot = Plot("a test", text, things=TOYS, heroes="child")
    monkeypatch.setattr(storybook, "PLOTS", (plot,))
    for index in range(20):
        told = story(0, index)
        assert [question.kind for question in told.questions] == kinds, told.text


def test_questions_are_balanced_and_from_different_stories() -> None:
    asked = questions(100, seed=3)
    assert len(asked) == 100
    count = Counter(question.kind for question in asked)
    assert set(count) == set(KINDS) and max(count.values()) - min(count.values()) <= 1
    for kind in KINDS:
        prompts = sorted(question.prompt for question in asked if question.kind == kind)
        for one, next_one in zip(prompts, prompts[1:], strict=False):
            assert not next_one.startswith(one)
    assert asked == questions(100, seed=3) != questions(100, seed=4)


def test_questions_of_some_kinds() -> None:
    asked = questions(21, seed=3, kinds=["color", "place"])
    assert Counter(question.kind for question in asked) == {"color": 11, "place": 10}
    assert questions(0, seed=3) == []
    for wrong in (["weather"], []):
        with pytest.raises(ValueError, match="color"):
            questions(5, seed=3, kinds=wrong)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_stories_and_questions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = ["storybook", "--count", "2", "--seed", "8"]
    told = list(stories(2, seed=8))
    monkeypatch.setattr(sys, "argv", command)
    storybook.main()
    plain = capsys.readouterr().out
    assert all(each.text in plain for each in told) and " ->" not in plain
    monkeypatch.setattr(sys, "argv", [*command, "--questions"])
    storybook.main()
    asked = capsys.readouterr().out
    assert all(each.text in asked for each in told)
    assert asked.count(" -> ") == sum(len(each.questions) for each in told)
