"""The hallucination meter under different sampling settings.

Two probabilities, both computed exactly, without drawing:

- Among the candidates: softmax of their log-probabilities / T is the probability that sampling at
  temperature T picks the true one *if* it picks one of them. At T = 0 this is the meter itself.
- Among all tokens: the probability that sampling with some settings writes the true continuation,
  token by token, where it could write anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from picolm_lib.course.race import StatusLine
from picolm_lib.course.sampling.probabilities import next_token_probabilities
from picolm_lib.data.tokenizer import encode
from picolm_lib.device import Precision
from picolm_lib.evaluate import continuation_logprobs
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig
from picolm_lib.storybook.story import Question


@dataclass(frozen=True)
class AskedQuestion:
    """A question, and the model's predictions for its answer."""

    kind: str
    candidates: Tensor
    """(C,) log-probabilities of the candidates, the true one first."""
    prompt: list[int]
    answer: list[int]
    logits: Tensor
    """(len(answer), V): after the prompt, and after each token of the answer but the last."""

    @property
    def chance(self) -> float:
        """The chance level: what guessing scores."""
        return 1 / len(self.candidates)


@torch.no_grad()
def ask(model: PicoLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question],
        precision: Precision) -> list[AskedQuestion]:
    """Asks a model the questions, except those that are longer than its context."""
    asked, line = [], StatusLine()
    for number, question in enumerate(questions, start=1):
        options = (question.answer, *question.others)
        scores = continuation_logprobs(model, tokenizer, question.prompt, options, precision)
        if scores:
            start, answer = encode(tokenizer, [question.prompt, question.answer])
            prompt = [tokenizer.eos_token_id, *start]
            text = torch.tensor([prompt + answer[:-1]], device=precision.device)
            states = model.hidden(text)[0, len(prompt) - 1:]         # (len(answer), D)
            asked.append(AskedQuestion(
                question.kind, torch.tensor(scores, device="cpu"), prompt, answer,
                model.output(states).float().cpu()))
        if number % 20 == 0 or number == len(questions):
            line.update(f"{number} of {len(questions)} questions")
    return asked


def _means(asked: Sequence[AskedQuestion], values: Sequence[float]) -> dict[str, float]:
    """The mean value of each kind, and of "all"."""
    groups = defaultdict(list)
    for one, value in zip(asked, values, strict=True):
        groups[one.kind].append(value)
        groups["all"].append(value)
    return {kind: sum(group) / len(group) for kind, group in sorted(groups.items())}


def among_candidates(asked: Sequence[AskedQuestion], temperature: float) -> dict[str, float]:
    """The probability of picking the truth among the candidates, by kind of fact."""
    if temperature == 0:
        return _means(asked, [float(a.candidates[0] > a.candidates[1:].max()) for a in asked])
    return _means(asked, [(a.candidates / temperature).softmax(0)[0].item() for a in asked])


def among_all_tokens(asked: Sequence[AskedQuestion], config: SampleConfig) -> dict[str, float]:
    """The probability of writing the truth when any token is possible, by kind of fact."""
    values = []
    for one in asked:
        probability, seen = 1.0, list(one.prompt)
        for row, token in zip(one.logits, one.answer, strict=True):
            before = torch.tensor([seen], device=row.device)
            rows = next_token_probabilities(row[None], before, config)
            probability *= rows[0, token].item()
            seen.append(token)
        values.append(probability)
    return _means(asked, values)


def chance_level(asked: Sequence[AskedQuestion]) -> dict[str, float]:
    """The chance level of each kind."""
    return _means(asked, [one.chance for one in asked])
