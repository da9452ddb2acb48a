"""Wrong answers to the exercises of notebook 06, as learners write them: each is told its bug."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import assert_told, each_wrong_answer

from picolm_lib.course.sampling import checks

NEVER = -math.inf


def nucleus(keep):
    """Top-p written as a loop; `keep(place, sums, p)` decides in sorted order."""
    def top_p(logits, p):
        answer = torch.full_like(logits, NEVER)
        for row, chances in enumerate(torch.softmax(logits, dim=1)):
            order = sorted(range(len(chances)), key=lambda i: -chances[i].item())
            sums, total = [], 0.0
            for i in order:
                total += chances[i].item()
                sums.append(total)
            for place, i in enumerate(order):
                if keep(place, sums, p):
                    answer[row, i] = logits[row, i]
        return answer

    return top_p


def right_top_p(logits, p):
    return nucleus(lambda place, sums, p: place == 0 or sums[place - 1] < p)(logits, p)


def mask_of_the_sorted_row(logits, p):
    values, _ = torch.sort(logits, descending=True)
    before = torch.cumsum(values.softmax(1), 1) - values.softmax(1)
    return torch.where(before < p, logits, torch.tensor(NEVER))


def from_the_small_end(logits, p):
    values, order = torch.sort(logits)
    sums = torch.cumsum(values.softmax(1), 1)
    values = torch.where(sums - values.softmax(1) < p, values, torch.tensor(NEVER))
    return torch.empty_like(logits).scatter_(1, order, values)


def sums_of_logits(logits, p):
    values, order = torch.sort(logits, descending=True)
    sums = torch.cumsum(values, 1)
    values = torch.where(sums - values < p, values, torch.tensor(NEVER))
    return torch.empty_like(logits).scatter_(1, order, values)


def in_vocabulary_order(logits, p):
    chances = logits.softmax(1)
    return torch.where(chances.cumsum(1) - chances < p, logits, torch.tensor(NEVER))


def with_zeros(right):
    def answer(logits, p):
        kept = right(logits, p)
        return torch.where(torch.isinf(kept), torch.zeros_like(kept), kept)

    return answer


def right_min_p(logits, p):
    log_chances = logits.log_softmax(1)
    floor = log_chances.max(1).values[:, None] + math.log(p)
    return torch.where(log_chances < floor, torch.tensor(NEVER), logits)


def absolute(logits, p):
    kept = logits.clone()
    kept[logits.softmax(1) < p] = NEVER
    return kept


def of_the_whole_batch(logits, p):
    chances = logits.softmax(1)
    return logits.masked_fill(chances < chances.max() * p, NEVER)


def of_logits(logits, p):
    return logits.masked_fill(logits < logits.max(1, keepdim=True).values * p, NEVER)


def of_a_column(logits, p):
    chances = logits.softmax(1)
    return logits.masked_fill(chances < chances.max(0).values * p, NEVER)


def in_place(logits, p):
    logits[logits.softmax(1) < p * logits.softmax(1).max(1, keepdim=True).values] = NEVER
    return logits


def penalty_loop(change, rows=None, once=True):
    """A penalty written as a loop over rows and seen tokens."""
    def answer(logits, seen, penalty):
        new = logits.clone()
        for row in range(len(logits)):
            tokens = seen[row].tolist() if rows is None else rows(seen, row)
            for token in set(tokens) if once else tokens:
                new[row, token] = change(new[row, token], penalty)
        return new

    return answer


def right_change(score, penalty):
    return score / penalty if score > 0 else score * penalty


def penalty_in_place(logits, seen, penalty):
    score = logits.gather(1, seen)
    score[score < 0] *= penalty
    score[score > 0] /= penalty
    return logits.scatter_(1, seen, score)


WRONG = {
    "top_p": [
        (nucleus(lambda place, sums, p: sums[place] <= p), "crosses p. It must stay"),
        (nucleus(lambda place, sums, p: place == 0 or sums[place] <= p), "only the first one"),
        (nucleus(lambda place, sums, p: place < 2 or sums[place - 2] < p), "one token too many"),
        (mask_of_the_sorted_row, "scatter"),
        (from_the_small_end, "ascending"),
        (sums_of_logits, "added up logits"),
        (in_vocabulary_order, "order of the vocabulary"),
        (absolute, "own probability is at least p"),
        (lambda logits, p: right_top_p(logits.T, p).T, "axis 0"),
        (lambda logits, p: right_top_p(logits, p).sort(1, True).values, "answer is sorted"),
        (lambda logits, p: right_top_p(logits, p).exp() / right_top_p(logits, p).exp().sum(
            1, keepdim=True), "returned probabilities"),
        (with_zeros(right_top_p), "minus infinity"),
        (lambda logits, p: right_top_p(logits, p) > NEVER, "returned the mask"),
    ],
    "min_p": [
        (absolute, "absolute"),
        (of_the_whole_batch, "whole batch"),
        (of_logits, "compared logits"),
        (of_a_column, "axis 0"),
        (lambda logits, p: torch.where(logits < logits.max(1)[0][:, None] - p, NEVER, logits),
         "subtracted p"),
        (lambda logits, p: torch.where(right_min_p(logits, p).isinf(), logits, NEVER),
         "upside down"),
        (lambda logits, p: right_min_p(logits, 1 - p), "1 - p"),
        (with_zeros(right_min_p), "minus infinity"),
        (lambda logits, p: right_min_p(logits, p).softmax(1), "returned probabilities"),
        (lambda logits, p: right_min_p(logits.log_softmax(1), p), "log_softmax"),
        (in_place, "in place"),
    ],
    "repetition_penalty": [
        (penalty_loop(lambda score, r: score / r), "classic fault"),
        (penalty_loop(lambda score, r: score * r), "multiplied positive"),
        (penalty_loop(lambda score, r: score * r if score > 0 else score / r), "swapped"),
        (penalty_loop(lambda score, r: score / r if score > 0 else score), "stayed as they were"),
        (penalty_loop(right_change, once=False), "every time it was there"),
        (lambda logits, seen, r: torch.where(logits < 0, logits * r, logits / r), "every token"),
        (penalty_loop(right_change, rows=lambda seen, row: seen.flatten().tolist()), "any* row"),
        (penalty_loop(right_change, rows=lambda seen, row: [seen[row, -1].item()]), "last token"),
        (penalty_loop(lambda score, r: score - r), "subtracted"),
        (penalty_loop(lambda score, r: NEVER), "forbade"),
        (penalty_in_place, "in place"),
    ],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)


@pytest.mark.parametrize("exercise, right", [
    ("top_p", right_top_p), ("min_p", right_min_p),
    ("repetition_penalty", penalty_loop(right_change))])
def test_another_right_answer_passes(exercise, right):
    verdict = getattr(checks, exercise)(right)
    assert verdict.passed, verdict.message
