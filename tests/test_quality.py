"""The benchmark of quality: its counts against counts by hand, its sampling against `generate`."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, STORIES, bpe, isolate, token_file
from hypothesis import given
from hypothesis import strategies as st

from picolm_lib.checkpoint import load_tensors
from picolm_lib.config import PRESETS
from picolm_lib.course.attention import variants as attention
from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig, generate
from picolm_lib.storybook import stories

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))  # benchmarks are scripts, not a package

import quality_measures  # noqa: E402
import quality_models  # noqa: E402
import quality_tables  # noqa: E402
import texts  # noqa: E402

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


@given(st.lists(st.sampled_from("abc")))
def test_what_is_not_repeated_is_new(letters):
    new = sum(letter not in letters[:i] for i, letter in enumerate(letters))
    assert texts.repeated(letters) == pytest.approx(1 - new / len(letters) if letters else 0.0)


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


def test_the_jackknife_covers_distinct_n():
    """About 95 of 100 samples have the expectation within their interval."""
    rng = np.random.default_rng(0)

    def sample(number: int) -> list[str]:
        return [" ".join(chr(97 + k) for k in rng.geometric(0.25, 12).clip(max=26) - 1)
                for _ in range(number)]

    def count(part):
        return texts.distinct(part, 2, 12)

    expected = statistics.fmean(count(sample(40)) for _ in range(400))
    hits = 0
    for _ in range(100):
        value, half = texts.jackknife(sample(40), count)
        hits += abs(value - expected) <= half
    assert 88 <= hits <= 100


def test_a_row_holds_all_counts():
    told = [{"text": "Tom ran. Tom ran.", "ended": True}, {"text": "Lily sat", "ended": True},
            {"text": "Tom saw Lily and Max.", "ended": False}]
    row = quality_measures.story_row("x", told)
    assert row["ends properly"]["value"] == round(1 / 3, 4)
    assert row["a third name, first 80 words"]["value"] == round(1 / 3, 4)
    assert row["any of these, whole text"]["value"] == round(1 / 3, 4)
    assert row["words"]["value"] == round(11 / 3, 4)
    assert row["repeated sentences"]["value"] == round(0.5 / 3, 4)
    nothing = quality_measures.difference_row("x", told, told)
    assert all(value == {"value": 0.0, "95%": [0.0, 0.0]}
               for head, value in nothing.items() if head != "model")


def test_without_ends_the_stories_run_into_each_other():
    text = token_file(STORIES[:5])
    joined = quality_models.without_ends(text, END)
    assert bpe().decode(joined.tokens.tolist()) == "".join(STORIES[:5])
    assert joined.bytes_per_token == pytest.approx(
        len("".join(STORIES[:5]).encode()) / len(joined.tokens))


@pytest.fixture
def model(tiny_config, randomize):
    return randomize(PicoLM(tiny_config)).eval()


@pytest.mark.parametrize("config", [
    SampleConfig(temperature=0), SampleConfig(temperature=0.8, min_p=0.0),
    SampleConfig(temperature=1.5, top_k=20, repetition_penalty=1.3, max_new_tokens=9)])
def test_plain_draws_are_those_of_generate(model, config):
    for seed in range(5):
        ids = [END, 5 + seed, 40]
        expected = [t.item() for t in generate(model, torch.tensor([ids]), config, END, seed)]
        assert list(quality_models.plain_draws(model, ids, config, END, seed)) == expected
        assert len(expected) > 2


def test_plain_draws_take_a_changed_model(model, randomize):
    """`generate` would not: its arithmetic is that of the sound model."""
    randomize(model, seed=1, std=0.6)
    config, ids = SampleConfig(temperature=0), [END, 5, 40, 7]
    attention.sick(model)
    drawn = list(quality_models.plain_draws(model, ids, config, 96, seed=0))
    for end in range(4, 12):
        with torch.no_grad():
            assert drawn[end - 4] == model(torch.tensor([[*ids, *drawn][:end]]))[0, -1].argmax()
    assert len(set(drawn)) > 5


def test_a_model_that_is_blind_to_the_first_token_reads_the_rest(model):
    tokens = torch.randint(1, 97, (2, 9))
    with torch.no_grad():
        expected = model(tokens[:, 1:])
        quality_models.blind_to_first(model)
        torch.testing.assert_close(model(tokens)[:, 1:], expected)
        tokens[:, 0] = 3
        torch.testing.assert_close(model(tokens)[:, 1:], expected)


@pytest.fixture
def smoke(tmp_path, monkeypatch):
    """Runs of a few steps, in a folder that is returned."""
    isolate(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    nano = replace(PRESETS["smoke"], model=replace(PRESETS["smoke"].model, n_layers=3))
    monkeypatch.setattr(quality_models, "NANO", nano)
    monkeypatch.setattr(quality_models, "BUDGET", 6 * 8 * 64)
    monkeypatch.setattr(quality_models, "SWEPT", 2 * 8 * 64)
    monkeypatch.setattr(quality_models, "SHARES", (0.3, 0.6, 1.0))
    for cached in (quality_models.files, quality_models.swept):
        cached.cache_clear()
    yield tmp_path
    for cached in (quality_models.files, quality_models.swept):
        cached.cache_clear()


def outputs(folder: Path) -> dict[str, bytes]:
    """The output layer in each of a folder's files of weights."""
    return {path.name: load_tensors(path)["output.weight"].numpy().tobytes()
            for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("recipe", quality_models.RECIPES, ids=lambda recipe: recipe.name)
def test_an_interrupted_run_goes_on_where_it_was(smoke, monkeypatch, recipe):
    quality_models.train(recipe)
    whole = outputs(smoke / quality_models.RUNS / recipe.name)
    assert len(whole) == 4 and len(set(whole.values())) == 3   # three moments, and the last again
    name = quality_models.chosen(recipe)
    monkeypatch.setattr(quality_models, "chosen", lambda recipe: name)
    monkeypatch.setattr(quality_models, "RUNS", smoke / "again")
    step, steps = quality_models.VariantTrainer.step, []

    def break_off(trainer):
        steps.append(trainer.progress.tokens)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(quality_models.VariantTrainer, "step", break_off)
    with pytest.raises(KeyboardInterrupt):
        quality_models.train(recipe)
    quality_models.train(recipe)
    assert steps == [512 * number for number in (0, 1, 2, 3, 2, 3, 4, 5)], "on from the last moment"
    assert outputs(smoke / "again" / recipe.name) == whole
    loaded = quality_models.load(recipe, quality_models.BUDGET)
    with torch.no_grad():
        told = loaded(torch.tensor([[END, 5, 6, 7]])), loaded(torch.tensor([[9, 5, 6, 7]]))
    assert torch.equal(told[0][:, 1:], told[1][:, 1:]) != recipe.ends, "blind where it must be"


def test_the_rates_with_the_fewest_bits_are_chosen_and_remembered(smoke, monkeypatch):
    names = quality_models.FAULTY.variants
    assert len(names) == 3 and all("original recipe" in name for name in names)
    bits = {name: quality_models.swept(name, False) for name in names}
    assert quality_models.chosen(quality_models.FAULTY) == min(bits, key=bits.get)
    assert len(set(bits.values())) == 3
    quality_models.swept.cache_clear()
    monkeypatch.setattr(quality_models, "make_trainer", None)   # nothing is trained again
    assert {name: quality_models.swept(name, False) for name in names} == bits


def test_a_table_has_a_column_per_model_and_shares_in_percent():
    rows = [{"model": "ours", "words": {"value": 110.0, "95%": [100.0, 120.04]},
             "ends properly": {"value": 0.5, "95%": [0.4, 0.6]}, "stories": 1_000},
            {"model": "original", "words": 7.25, "distinct-1": 0.25, "repeated": -0.0001}]
    assert quality_tables.turned(rows, "model").splitlines() == [
        "| model | ours | original |",
        "| --- | --- | --- |",
        "| words | 110.0 (100.0 to 120.0) | 7.2 |",
        "| ends properly | 50.0% (40.0% to 60.0%) |  |",
        "| stories | 1,000 |  |",
        "| distinct-1 |  | 0.250 |",
        "| repeated |  | 0.0% |"]


def test_a_crossed_table_has_a_row_per_model_and_a_column_per_temperature():
    rows = [{"m": "a", "t": 0.0, "all": 0.5}, {"m": "a", "t": 1.0, "all": 0.25},
            {"m": "b", "t": 1.0, "all": 1.0}]
    assert quality_tables.crossed(rows, "t", "m", "all") == [
        {"t": "a", "0.0": "50.0%", "1.0": "25.0%"}, {"t": "b", "1.0": "100.0%"}]
