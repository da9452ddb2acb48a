"""Scores equal sums over single tokens, and the meter reads what a known model must score."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import STORIES, bpe, tiny_model_config, token_file

from picolm_lib.device import choose_precision
from picolm_lib.evaluate import Scores, continuation_logprobs, evaluate, hallucination_meter
from picolm_lib.model.picolm import PicoLM
from picolm_lib.storybook.story import Question

CPU = choose_precision("cpu", "float32")
BYTES = 262  # a tokenizer without merges: " A" is two tokens, whatever stands around it


def random_model(**changes) -> PicoLM:
    """A model whose every weight matters."""
    model = PicoLM(tiny_model_config(**changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def biased_model(biases: dict[str, float]) -> PicoLM:
    """A model that likes some tokens and does not look at what came before."""
    model = PicoLM(tiny_model_config(vocab_size=BYTES, max_seq_len=64)).eval()
    vocabulary = bpe(BYTES).get_vocab()
    with torch.no_grad():
        # All tokens look the same, and untrained blocks are the identity, so that the final state
        # is a vector of ones. The logit of a token is then the sum of its output row.
        model.embedding.weight.fill_(1.0)
        for token, bias in biases.items():
            model.output.weight[vocabulary[token]] = bias / model.config.d_model
    return model


def naive_scores(model: PicoLM, ids: list[int]) -> tuple[list[float], list[bool]]:
    """Nats and hits of every token but the first, one window after the other, without batches."""
    nats, hits, context = [], [], model.config.max_seq_len
    for start in range(0, len(ids) - 1, context):
        window = ids[start:start + context + 1]
        logits = model(torch.tensor([window[:-1]]))[0].tolist()
        for row, target in zip(logits, window[1:], strict=True):
            nats.append(math.log(sum(math.exp(logit) for logit in row)) - row[target])
            hits.append(row.index(max(row)) == target)
    return nats, hits


@pytest.mark.parametrize("limit", [None, 1, 15, 16, 17, 100])
def test_scores_are_sums_over_single_tokens(limit):
    model, text = random_model(), token_file(STORIES[:7])
    ids = text.tokens.tolist()
    nats, hits = (column[:limit] for column in naive_scores(model, ids))
    loss = sum(nats) / len(nats)
    scores = evaluate(model, text, CPU, limit, batch_size=3)
    assert scores.predicted == len(nats) == min(limit or len(ids) - 1, len(ids) - 1)
    assert scores.loss == pytest.approx(loss, rel=1e-5)
    assert scores.accuracy == pytest.approx(sum(hits) / len(hits))
    assert scores.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    letters = sum(len(story.encode()) for story in STORIES[:7])
    assert scores.bits_per_byte == pytest.approx(loss / math.log(2) * len(ids) / letters, rel=1e-5)


def test_bits_per_byte_of_a_guess_among_all_tokens_by_hand():
    model = PicoLM(tiny_model_config(vocab_size=BYTES))  # untrained: all logits are zero
    text = token_file(["abcd"], BYTES)                   # six tokens with the ends, four bytes
    scores = evaluate(model, text, CPU)
    assert scores.predicted == 5
    assert scores.loss == pytest.approx(math.log(BYTES), rel=1e-6)
    assert scores.perplexity == pytest.approx(BYTES, rel=1e-5)
    assert scores.bits_per_byte == pytest.approx(math.log2(BYTES) * 6 / 4, rel=1e-6)


def test_accuracy_counts_the_first_guess():
    scores = evaluate(biased_model({"a": 5.0}), token_file(["aab", "a"], BYTES), CPU)
    assert scores.accuracy == pytest.approx(3 / 6)  # a a b <end> a <end>


def test_the_batch_size_changes_nothing():
    model, text = random_model(), token_file(STORIES[:5])
    losses = [evaluate(model, text, CPU, batch_size=size).loss for size in (1, 4, 100)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


OPTIONS = (" cat", " kite", " a hat", " xylophone")


def test_continuations_score_as_they_do_one_by_one():
    model, tokenizer = random_model(max_seq_len=64), bpe()
    prompt = "The fox saw a"
    lengths, expected = set(), []
    for option in OPTIONS:
        start = tokenizer(prompt)["input_ids"]
        tail = tokenizer(option)["input_ids"]
        ids = [tokenizer.eos_token_id, *start, *tail]
        logits = model(torch.tensor([ids]))[0].double().log_softmax(-1)
        expected.append(sum(logits[position - 1, ids[position]].item()
                            for position in range(len(start) + 1, len(ids))))
        lengths.add(len(tail))
    assert len(lengths) > 1  # so that there is padding
    scores = continuation_logprobs(model, tokenizer, prompt, OPTIONS, CPU)
    assert scores == pytest.approx(expected, rel=1e-5)


def test_continuations_by_hand():
    model = biased_model({"A": 2.0, "B": 1.0})
    scores = continuation_logprobs(model, bpe(BYTES), "x", (" A", " B", " BA"), CPU)
    partition = math.log(BYTES - 2 + math.exp(2) + math.exp(1))
    assert scores == pytest.approx([2 - 2 * partition, 1 - 2 * partition, 3 - 3 * partition],
                                   rel=1e-5)


def question(kind: str, answer: str, *others: str, goes_on: bool = True,
             prompt: str = "Once") -> Question:
    return Question(kind, prompt, answer, others, prompt + (answer if goes_on else " not.") + " !")


ASKED = [question("name", " A", " B"), question("name", " A", " C", goes_on=False),
         question("color", " A", " B", " C", " D")]


@pytest.mark.parametrize(("bias", "kept"), [(3.0, 1.0), (-3.0, 0.0)])
def test_the_meter_reads_one_for_a_perfect_model_and_zero_for_its_opposite(bias, kept):
    readings = hallucination_meter(biased_model({"A": bias}), bpe(BYTES), ASKED, CPU)
    assert {kind: reading.kept for kind, reading in readings.items()} == {
        "all": kept, "color": kept, "name": kept}


def test_a_model_that_cannot_decide_keeps_nothing():
    assert hallucination_meter(biased_model({}), bpe(BYTES), ASKED, CPU)["all"].kept == 0.0


def test_chance_and_ceiling_by_hand():
    readings = hallucination_meter(biased_model({}), bpe(BYTES), ASKED, CPU)
    assert (readings["name"].chance, readings["color"].chance) == (1 / 2, 1 / 4)
    assert readings["all"].chance == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert (readings["name"].ceiling, readings["color"].ceiling) == (1 / 2, 1.0)
    assert [readings[kind].questions for kind in ("name", "color", "all")] == [2, 1, 3]


def test_the_meter_counts_each_question_for_itself():
    asked = [question("name", " A", " B"), question("name", " B", " A"),
             question("name", " A", " C"), question("color", " C", " A")]
    readings = hallucination_meter(biased_model({"A": 2.0, "B": 1.0}), bpe(BYTES), asked, CPU)
    assert (readings["name"].kept, readings["color"].kept) == (2 / 3, 0.0)
    assert readings["all"].kept == 2 / 4


def test_questions_that_do_not_fit_are_left_out():
    model = biased_model({"A": 2.0})
    fitting = 64 - 1  # the end of text, 61 letters and the space predict the last letter
    for length, number in ((fitting - 1, 2), (fitting, 1)):
        asked = [question("name", " A", " B"), question("name", " A", " B", prompt="x" * length)]
        readings = hallucination_meter(model, bpe(BYTES), asked, CPU)
        assert readings["all"].questions == number
    assert hallucination_meter(model, bpe(BYTES), asked[1:], CPU) == {}


def test_a_hopeless_loss_has_a_perplexity():
    assert Scores(loss=1e4, accuracy=0, bits_per_byte=1, predicted=1).perplexity == math.inf
    assert Scores(loss=3.0, accuracy=0, bits_per_byte=1, predicted=1).perplexity == (
        pytest.approx(20.0855, rel=1e-5))
