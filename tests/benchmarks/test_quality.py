"""The benchmark of quality: its counts against counts by hand, its sampling against `generate`."""

from __future__ import annotations

import math
import statistics

import pytest
import quality_models
import texts
import torch
from helpers import STORIES, bpe, token_file

from picolm_lib.model.picolm import PicoLM
from picolm_lib.storybook.story import stories

SHORT = "The cat sat. The cat ran!"
END = 0


def test_words_are_lower_case_and_without_punctuation():
    assert texts.words('"I didn\'t!" said Sam\'s dad, twice.') == [
        "i", "didn't", "said", "sam's", "dad", "twice"]
    assert texts.words(" ... 12 ") == []


def test_distinct_n_counts_as_by_hand():
    # the cat sat the cat ran: 4 different words of 6; of the pairs, "the cat" comes twice
    assert texts.distinct([SHORT], 1, 80) == 4 / 6
    assert texts.distinct([SHORT], 2, 80) == 4 / 5
    assert texts.distinct([SHORT], 3, 80) == 1.0
    assert texts.distinct([SHORT, SHORT], 3, 80) == 0.5
    assert texts.distinct([SHORT], 1, 3) == 1.0, "only the first three words"
    assert texts.distinct(["one two", "three four"], 2, 80) == 1.0
    assert texts.distinct(["one two three", "three four one two"], 2, 80) == 4 / 5, (
        "no pair reaches from one story into the next")
    assert texts.distinct([""], 2, 80) == 0.0


def test_repetition_counts_as_by_hand():
    again = "We go home now and we go home now."
    # we-go-home-now, go-home-now-and, home-now-and-we, now-and-we-go, and-we-go-home, and the first
    assert texts.repeated_ngrams(again, 4) == pytest.approx(1 / 6)
    assert texts.repeated_ngrams(again, 4, 8) == 0.0
    assert texts.repeated_ngrams("one two", 4) == 0.0
    assert texts.repeated_sentences('"Yes." She ran. "Yes!" She ran. She') == pytest.approx(0.4)
    assert texts.repeated_sentences("") == 0.0


@pytest.mark.parametrize(("text", "whole"), [
    ("They ran.", True), ('"Yes!"', True), ("Did he?\n", True), ("He said ”Go.”", True),
    ("They ran", False), ("They ran,", False), ('He said, "', False), ("", False), ("A. B", False)])
def test_a_text_is_whole_at_the_end_of_a_sentence(text, whole):
    assert texts.is_whole(text) == whole


def test_facts_are_those_of_the_storybooks_world():
    text = 'Tom saw Lily\'s red hat at the park. "Max!" said the red fox. Mom ran to the lake. max'
    assert texts.facts(text) == {
        "name": {"Tom", "Lily", "Max"}, "color": {"red"}, "place": {"park", "lake"},
        "elder": {"mom"}}
    assert texts.facts(text, 5) == {"name": {"Tom", "Lily"}, "color": {"red"},
                                     "place": set(), "elder": set()}
    assert texts.contradictions(text) == ["name", "place"]
    assert texts.contradictions(text, 8) == []
    assert texts.contradictions("Red, blue and pink") == ["color"]
    assert texts.contradictions("His mom ran. \"Grandpa!\" he said.") == ["elder"]


def test_no_story_of_the_storybook_contradicts_itself_or_has_an_open_end():
    for story in stories(300, seed=8):
        said = texts.facts(story.text)
        assert said["name"] == {story.facts[who] for who in ("hero", "friend")
                                if who in story.facts}, story.text
        assert {story.facts[key] for key in ("color", "color2") if key in story.facts} == (
            said["color"]), story.text
        assert {story.facts[key] for key in ("place",) if key in story.facts} == said["place"]
        assert said["elder"] == ({story.facts["elder"]} if "elder" in story.facts else set())
        assert not texts.contradictions(story.text)
        assert texts.is_whole(story.text)


def test_wilson_holds_the_shares_that_a_score_test_would_not_refuse():
    for hits, number in ((0, 20), (7, 20), (20, 20), (131, 200)):
        low, high = texts.wilson(hits, number)
        assert 0 <= low <= hits / number <= high <= 1
        for bound in (low, high):
            if 1e-12 < bound < 1 - 1e-12:   # there the observed share is 1.96 deviations away
                deviation = math.sqrt(bound * (1 - bound) / number)
                assert abs(hits / number - bound) / deviation == pytest.approx(texts.SURE)
    assert texts.wilson(0, 20)[1] > 0.1


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    value, half = texts.jackknife(values, statistics.fmean)
    assert value == statistics.fmean(values)
    assert half == pytest.approx(1.959964 * statistics.stdev(values) / math.sqrt(len(values)))


def test_without_ends_the_stories_run_into_each_other():
    text = token_file(STORIES[:5])
    joined = quality_models.without_ends(text, END)
    assert bpe().decode(joined.tokens.tolist()) == "".join(STORIES[:5])
    assert joined.bytes_per_token == pytest.approx(
        len("".join(STORIES[:5]).encode()) / len(joined.tokens))


@pytest.fixture
def model(tiny_config, randomize):
    return randomize(PicoLM(tiny_config)).eval()


def test_a_model_that_is_blind_to_the_first_token_reads_the_rest(model):
    tokens = torch.randint(1, 97, (2, 9))
    with torch.no_grad():
        expected = model(tokens[:, 1:])
        quality_models.blind_to_first(model)
        torch.testing.assert_close(model(tokens)[:, 1:], expected)
        tokens[:, 0] = 3
        torch.testing.assert_close(model(tokens)[:, 1:], expected)
