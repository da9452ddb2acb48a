"""What notebook 06 measures and draws, against references; every slider moves its picture."""

from __future__ import annotations

import math
import time

import pytest
import torch
from matplotlib.text import Text
from transformers.generation import logits_process as theirs

from picolm_lib.checkpoint import load_run
from picolm_lib.course.plots import stack
from picolm_lib.course.sampling import chances, cockpit, curves, meter, pictures, speed, stories
from picolm_lib.course.widgets import Playground, slider
from picolm_lib.doctor import numerics
from picolm_lib.evaluate import hallucination_meter
from picolm_lib.sampling import SampleConfig, apply_top_k, generate
from picolm_lib.storybook import questions

PROMPT = "Once upon a time, there was a girl named Lily. She loved to run. She loved to"
CPU = numerics("cpu", "float32")


@pytest.fixture(scope="module")
def bundled():
    return load_run("bundled")[:2]


@pytest.fixture(scope="module")
def pilot(bundled) -> cockpit.Cockpit:
    return cockpit.Cockpit(*bundled, PROMPT)


@pytest.fixture(scope="module")
def asked(bundled) -> list[meter.Asked]:
    return meter.ask(*bundled, questions(18, 5), CPU)


def test_a_choice_is_what_transformers_filters_leave(pilot):
    choice = pilot.choice(temperature=1.4, top_p=0.8, repetition_penalty=1.5, min_p=0.0, seed=3)
    ids = torch.tensor([pilot.ids])
    expected = theirs.RepetitionPenaltyLogitsProcessor(1.5)(ids, pilot.logits.clone())
    for warper in (theirs.TemperatureLogitsWarper(1.4), theirs.TopPLogitsWarper(0.8)):
        expected = warper(ids, expected)
    expected = expected.softmax(-1)[0]
    torch.testing.assert_close(choice.after, expected)
    assert choice.survivors == int((expected > 0).sum()) > 1
    assert choice.mass == pytest.approx(pilot.logits.softmax(-1)[0][expected > 0].sum().item())
    assert choice.after[choice.drawn] > 0


def test_the_models_logits_are_those_of_a_whole_pass(bundled, pilot):
    model, _ = bundled
    with torch.no_grad():
        logits = model(torch.tensor([pilot.ids]))[0].float()
    torch.testing.assert_close(pilot.logits[0], logits[-1], rtol=1e-4, atol=1e-4)
    expected = [row.softmax(-1)[token].item()
                for row, token in zip(logits[:-1], pilot.ids[1:], strict=True)]
    assert chances.chances_of(model, pilot.ids) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.3, "min_p": 0.0},
                                      {"top_k": 5, "repetition_penalty": 1.4}])
def test_the_drawn_token_is_the_first_of_the_text(pilot, bundled, settings):
    for seed in (0, 1, 2):
        assert pilot.choice(seed, **settings).drawn == pilot.write(seed, **settings)[0]
    drawn = {pilot.choice(seed, **settings).drawn for seed in range(8)}
    assert (len(drawn) == 1) == (settings.get("temperature") == 0)


def test_greedy_leaves_one_token(pilot):
    choice = pilot.choice(temperature=0.0)
    assert choice.survivors == 1 and choice.after.argmax() == choice.before.argmax()


def test_one_survivor_is_told_in_the_singular(pilot, bundled):
    text = pictures.draw_choice(pilot.choice(temperature=0.0), bundled[1].decode).text
    assert text.startswith("1 token survives with ")


@pytest.mark.parametrize("settings", [{"temperature": 2.7, "min_p": 0.05}, {"min_p": 0.0},
                                      {"repetition_penalty": 2.0}, {"temperature": 0.0}])
def test_no_text_of_the_bars_stands_on_another_one(pilot, bundled, settings, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "finish", lambda figure, text: figures.append(figure))
    pictures.draw_choice(pilot.choice(**settings), bundled[1].decode)
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


def test_the_text_is_that_of_generate(bundled, pilot):
    model, tokenizer = bundled
    config = SampleConfig(temperature=0.7, max_new_tokens=cockpit.TEXT_TOKENS)
    expected = generate(model, torch.tensor([pilot.ids]), config, tokenizer.eos_token_id, 4)
    assert pilot.write(4, temperature=0.7) == [token.item() for token in expected]


def test_every_slider_of_the_cockpit_moves_the_picture(bundled):
    playground = cockpit.sampling_cockpit(*bundled, PROMPT)
    moved = {"seed": 1, "temperature": 2.0, "repetition_penalty": 1.3, "min_p": 0.0,
             "top_k": 20, "top_p": 0.5}
    assert moved.keys() == playground.sliders.keys()
    for name, value in moved.items():
        before = [image.value for image in playground.images]
        playground.sliders[name].value = value
        after = [image.value for image in playground.images]
        assert before[1] != after[1] if name == "seed" else before[0] != after[0], name
        assert all(len(image) < 80_000 for image in after)
    assert len(playground.picture.png) < 80_000


def test_the_bars_are_sent_before_the_text_is_begun():
    seen = []

    def draw(x):
        return pictures.draw_story(["a" * x], [0.5], "first")

    def later(x):
        seen.append((x, playground.image.value) if seen else (x, None))
        return pictures.draw_story(["b" * x], [0.5], "second")

    playground = Playground(draw, later=later, x=slider("x", 1, 1, 9))
    playground.sliders["x"].value = 4
    assert [x for x, _ in seen] == [1, 4]
    assert seen[1][1] == draw(4).png and len(playground.images) == 2
    assert playground.picture.text == stack(draw(4), later(4)).text


def test_lines_break_before_words_and_at_line_breaks():
    cells = pictures.layout(["One", " wo", "rd", ".", "\n", "\n", "Next"], columns=7)
    assert [(row, column, text) for row, column, _, text in cells] == [
        (0, 0, "One"), (1, 0, " wo"), (1, 3, "rd"), (1, 5, "."), (1, 6, "¶"), (2, 0, "¶"),
        (3, 0, "Next")]
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
    told = stories.tell_many(model, [stop], config, stop, count=3, seed=2)
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
    assert meter.picked(asked, 0) == pytest.approx({k: r.kept for k, r in readings.items()})
    assert meter.guessing(asked) == pytest.approx({k: r.chance for k, r in readings.items()})
    assert meter.picked(asked, 1e6) == pytest.approx(meter.guessing(asked), abs=1e-3)


def test_candidates_by_hand(asked):
    one = asked[0]
    weights = [math.exp(score / 2) for score in one.candidates.tolist()]
    assert meter.picked([one], 2.0)["all"] == pytest.approx(weights[0] / sum(weights))


def test_writing_the_truth_is_a_product_over_tokens(bundled, asked):
    one = asked[0]
    assert meter.written([one], SampleConfig(temperature=1, min_p=0))["all"] == pytest.approx(
        math.exp(one.candidates[0].item()), rel=1e-3)
    model, _ = bundled
    ids = one.prompt + one.answer * 2                                # as if of several tokens
    with torch.no_grad():
        rows = model(torch.tensor([ids]))[0, len(one.prompt) - 1:-1].float()
    longer = meter.Asked("x", one.candidates, one.prompt, one.answer * 2, rows)
    expected, seen = 1.0, list(one.prompt)
    for row, token in zip(rows, longer.answer, strict=True):
        row = theirs.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen]), row[None].clone())
        row = theirs.TopKLogitsWarper(50)(None, row / 1.3)
        expected *= row.softmax(-1)[0, token].item()
        seen.append(token)
    config = SampleConfig(temperature=1.3, top_k=50, min_p=0, repetition_penalty=1.7)
    assert meter.written([longer], config)["all"] == pytest.approx(expected, rel=1e-4)


def test_the_chance_of_writing_is_that_of_drawing(bundled, asked):
    model, _ = bundled
    one = min(asked, key=lambda a: abs(meter.written([a], SampleConfig(2.0, min_p=0))["all"] - 0.5))
    config = SampleConfig(temperature=2.0, min_p=0.0, max_new_tokens=1)
    prompts = torch.tensor([one.prompt]).expand(400, -1)
    hits = (next(generate(model, prompts, config, seed=1)) == one.answer[0]).float().mean().item()
    chance = meter.written([one], config)["all"]
    assert abs(hits - chance) < 4 * math.sqrt(0.25 / 400)


def test_rates_are_counts_over_seconds():
    rates = speed.tokens_per_second(lambda count: time.sleep(count / 1000), [20, 40], "x", each=2)
    assert all(1000 < rate <= 2000 for rate in rates)


def test_pictures_are_small(pilot, asked):
    temperatures = [0, 1, 2]
    among = [meter.picked(asked, t) for t in temperatures]
    counted = {"a\nb": [0.5, 0.6], "c": [0.0, 0.1], "d": [1.0, 1.0]}
    drawn = [
        pictures.draw_temperatures(pilot.logits, (0.5, 1, 2), pilot.tokenizer.decode),
        pictures.draw_cuts({"a": pilot.logits, "b": 5 * pilot.logits},
                           {"top-k": lambda x: apply_top_k(x, 3)}),
        curves.draw_meter(temperatures, among, among, meter.guessing(asked)),
        curves.draw_meter(temperatures, *2 * [[{"all": 1, "place": 1}] * 3], {"place": 0.25}),
        curves.draw_trade([0, 1], {"x": [[0.1, 0.2], [0.3, 0.4]], "y": [[0, 0], [0, 0]]}),
        curves.draw_settings({"greedy": counted, "warm": counted}),
        curves.draw_speed([10, 20], {"a": [1, 2], "b": [2, 3]}, [1, 2], [5, 9])]
    for picture in drawn:
        assert picture.png.startswith(b"\x89PNG") and len(picture.png) < 80_000
    first = (pilot.logits / 0.5).softmax(-1).max().item()
    assert f"{first:.0%} at T = 0.5" in drawn[0].text
    assert "top-k keeps 3 at 'a'" in drawn[1].text
