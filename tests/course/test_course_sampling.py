"""What notebook 06 measures and draws, against references."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.text import Text
from transformers.generation import logits_process as theirs

from picolm_lib.course.sampling import (
    meter,
    pictures,
    playgrounds,
    probabilities,
    stories,
)
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import hallucination_meter
from picolm_lib.sampling import SampleConfig, generate
from picolm_lib.storybook.story import questions
from picolm_lib.train.checkpoint import load_run

PROMPT = "Once upon a time, there was a girl named Lily. She loved to run. She loved to"
CPU = choose_precision("cpu", "float32")


@pytest.fixture(scope="module")
def bundled():
    return load_run("bundled")[:2]


@pytest.fixture(scope="module")
def sampler(bundled) -> playgrounds.Sampler:
    return playgrounds.Sampler(*bundled, PROMPT)


@pytest.fixture(scope="module")
def asked(bundled) -> list[meter.AskedQuestion]:
    return meter.ask(*bundled, questions(18, 5), CPU)


def test_a_choice_is_what_transformers_filters_leave(sampler):
    choice = sampler.choice(temperature=1.4, top_p=0.8, repetition_penalty=1.5, min_p=0.0, seed=3)
    ids = torch.tensor([sampler.ids])
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.5)(ids, sampler.logits.clone())
    for warper in (theirs.TemperatureLogitsWarper(1.4), theirs.TopPLogitsWarper(0.8)):
        expected = warper(ids, expected)
    expected = expected.softmax(-1)[0]
    torch.testing.assert_close(choice.after, expected)
    assert choice.survivors == int((expected > 0).sum()) > 1
    assert choice.mass == pytest.approx(sampler.logits.softmax(-1)[0][expected > 0].sum().item())
    assert choice.after[choice.drawn] > 0


def test_the_models_logits_are_those_of_a_whole_pass(bundled, sampler):
    model, _ = bundled
    with torch.no_grad():
        logits = model(torch.tensor([sampler.ids]))[0].float()
    torch.testing.assert_close(sampler.logits[0], logits[-1], rtol=1e-4, atol=1e-4)
    expected = [row.softmax(-1)[token].item()
                for row, token in zip(logits[:-1], sampler.ids[1:], strict=True)]
    assert probabilities.token_probabilities(model, sampler.ids) == pytest.approx(
        expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.3, "min_p": 0.0},
                                      {"top_k": 5, "repetition_penalty": 1.4}])
def test_the_drawn_token_is_the_first_of_the_text(sampler, bundled, settings):
    for seed in (0, 1, 2):
        assert sampler.choice(seed, **settings).drawn == sampler.write(seed, **settings)[0]
    drawn = {sampler.choice(seed, **settings).drawn for seed in range(8)}
    assert (len(drawn) == 1) == (settings.get("temperature") == 0)


def test_greedy_leaves_one_token(sampler):
    choice = sampler.choice(temperature=0.0)
    assert choice.survivors == 1 and choice.after.argmax() == choice.before.argmax()


def test_one_survivor_is_told_in_the_singular(sampler, bundled):
    text = pictures.draw_choice(sampler.choice(temperature=0.0), bundled[1].decode).text
    assert text.startswith("1 token survives with ")


@pytest.mark.parametrize("settings", [{"temperature": 2.7, "min_p": 0.05}, {"min_p": 0.0},
                                      {"repetition_penalty": 2.0}, {"temperature": 0.0}])
def test_no_text_of_the_bars_stands_on_another_one(sampler, bundled, settings, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "finish", lambda figure, text: figures.append(figure))
    pictures.draw_choice(sampler.choice(**settings), bundled[1].decode)
    figures[0].draw_without_rendering()
    texts = [text for text in figures[0].findobj(Text)
             if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) > 20
    for number, box in enumerate(boxes):
        assert figures[0].bbox.containsx(box.x0) and figures[0].bbox.containsx(box.x1)
        assert figures[0].bbox.containsy(box.y0) and figures[0].bbox.containsy(box.y1)
        for other, text in zip(boxes[:number], texts, strict=False):
            assert not box.overlaps(other), f"{texts[number]} and {text}"


def test_the_text_is_that_of_generate(bundled, sampler):
    model, tokenizer = bundled
    config = SampleConfig(temperature=0.7, max_new_tokens=playgrounds.TEXT_TOKENS)
    expected = generate(model, torch.tensor([sampler.ids]), config, tokenizer.eos_token_id, 4)
    assert sampler.write(4, temperature=0.7) == [token.item() for token in expected]


def test_a_story_has_the_colors_of_its_probabilities():
    shown = pictures.draw_story(["Once", " upon", " a"], [None, 0.95, 0.01], "a title")
    places = [shown.html.index(f"background:{pictures.color_of(prob)}")
              for prob in (None, 0.95, 0.01)]
    assert places == sorted(places)
    assert all(meaning.replace(" ", "\xa0") in shown.html for _, _, meaning in pictures.SURPRISE)
    assert "2 new tokens; the model gave 1 of them less than 20%" in shown.text
    assert pictures.color_of(0.95) != pictures.color_of(0.3) != pictures.color_of(0.01)
    assert pictures.color_of(None) == pictures.GIVEN


def test_counting_in_stories_by_hand():
    assert stories.repeated([1, 2, 3, 4, 5]) == 0
    assert stories.repeated([1, 2] * 4, n=2) == pytest.approx(1 - 2 / 7)
    assert stories.repeated([1]) == 0
    assert stories.distinct([[1, 2, 3], [1, 2, 4]], n=2) == pytest.approx(3 / 4)
    known = {("the", "cat"), ("cat", "sat")}
    assert stories.unknown(["The cat sat.", "The catsat sat!"], known) == pytest.approx(2 / 4)
    assert stories.unknown(["", "One"], known) == 0
    few = stories.known_pairs(100)
    assert ("once", "upon") in few and len(few) < len(stories.known_pairs(200))


def test_many_stories_are_those_of_the_batch(bundled):
    model, tokenizer = bundled
    stop, config = tokenizer.eos_token_id, SampleConfig(max_new_tokens=220)
    told = stories.generate_many(model, [stop], config, stop, count=3, seed=2)
    rows = torch.stack(list(generate(model, torch.full((3, 1), stop), config, stop, 2)), 1)
    for tokens, ended, row in zip(told.tokens, told.ended, rows.tolist(), strict=True):
        assert row[:len(tokens)] == tokens and stop not in tokens
        assert ended == (stop in row)
    assert any(told.ended)


def test_measures_are_shares_and_greedy_has_one_story(bundled):
    settings = {"greedy": SampleConfig(temperature=0, max_new_tokens=20),
                "hot": SampleConfig(temperature=3, min_p=0, max_new_tokens=20)}
    found = stories.measure(*bundled, "Once upon a time", settings, (0, 1), 3)
    for counted in found.values():
        assert len(counted) == 4
        assert all(len(shares) == 2 and 0 <= min(shares) <= max(shares) <= 1
                   for shares in counted.values())
    greedy, hot = (found[name] for name in settings)
    assert greedy["distinct\n4-grams"] == pytest.approx([1 / 3, 1 / 3], rel=0.2)
    assert hot["distinct\n4-grams"][0] > 0.9
    assert sum(hot["unknown\nword pairs"]) > sum(greedy["unknown\nword pairs"])


def test_at_temperature_zero_it_is_the_meter(bundled, asked):
    readings = hallucination_meter(*bundled, questions(18, 5), CPU)
    assert meter.among_candidates(asked, 0) == pytest.approx(
        {k: r.kept for k, r in readings.items()})
    assert meter.chance_level(asked) == pytest.approx({k: r.chance for k, r in readings.items()})
    assert meter.among_candidates(asked, 1e6) == pytest.approx(meter.chance_level(asked), abs=1e-3)


def test_candidates_by_hand(asked):
    one = asked[0]
    weights = [math.exp(score / 2) for score in one.candidates.tolist()]
    assert meter.among_candidates([one], 2.0)["all"] == pytest.approx(weights[0] / sum(weights))


def test_writing_the_truth_is_a_product_over_tokens(bundled, asked):
    one = asked[0]
    found = meter.among_all_tokens([one], SampleConfig(temperature=1, min_p=0))["all"]
    assert found == pytest.approx(math.exp(one.candidates[0].item()), rel=1e-3)
    model, _ = bundled
    ids = one.prompt + one.answer * 2                                # as if of several tokens
    with torch.no_grad():
        rows = model(torch.tensor([ids]))[0, len(one.prompt) - 1:-1].float()
    longer = meter.AskedQuestion("x", one.candidates, one.prompt, one.answer * 2, rows)
    expected, seen = 1.0, list(one.prompt)
    for row, token in zip(rows, longer.answer, strict=True):
        row = theirs.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen]), row[None].clone())
        row = theirs.TopKLogitsWarper(50)(None, row / 1.3)
        expected *= row.softmax(-1)[0, token].item()
        seen.append(token)
    config = SampleConfig(temperature=1.3, top_k=50, min_p=0, repetition_penalty=1.7)
    assert meter.among_all_tokens([longer], config)["all"] == pytest.approx(expected, rel=1e-4)
