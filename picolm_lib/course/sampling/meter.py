"""The hallucination meter turned by the settings of sampling.

Two questions, both answered exactly, without any draw:

- Among the candidates: softmax of their log-probabilities / T is the chance that sampling at
  temperature T picks the true one *if* it picks one of them. At T = 0 this is the meter itself.
- Among all tokens: the chance that sampling with some settings writes the true continuation, token
  by token, where it could write anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from picolm_lib.course.race import Line
from picolm_lib.course.sampling.chances import next_token_chances
from picolm_lib.doctor import Numerics
from picolm_lib.evaluate import continuation_logprobs
from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig
from picolm_lib.storybook import Question
from picolm_lib.tokenizer import encode


@dataclass(frozen=True)
class Asked:
    """A question, and what the model says at the place of the answer."""

    kind: str
    candidates: Tensor
    """(C,) log-probabilities of the candidates, the true one first."""
    prompt: list[int]
    answer: list[int]
    logits: Tensor
    """(len(answer), V): after the prompt, and after each token of the answer but the last."""

    @property
    def chance(self) -> float:
        """What guessing scores."""
        return 1 / len(self.candidates)


@torch.no_grad()
def ask(model: PicoLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question],
        numerics: Numerics) -> list[Asked]:
    """Puts the questions to a model, those that are longer than its context left out."""
    asked, line = [], Line()
    for number, question in enumerate(questions, start=1):
        options = (question.answer, *question.others)
        scores = continuation_logprobs(model, tokenizer, question.prompt, options, numerics)
        if scores:
            start, answer = encode(tokenizer, [question.prompt, question.answer])
            prompt = [tokenizer.eos_token_id, *start]
            text = torch.tensor([prompt + answer[:-1]], device=numerics.device)
            states = model.hidden(text)[0, len(prompt) - 1:]         # (len(answer), D)
            asked.append(Asked(question.kind, torch.tensor(scores), prompt, answer,
                               model.output(states).float().cpu()))
        if number % 20 == 0 or number == len(questions):
            line.say(f"{number} of {len(questions)} questions")
    return asked


def _means(asked: Sequence[Asked], values: Sequence[float]) -> dict[str, float]:
    """The mean value of each kind, and that of "all"."""
    groups = defaultdict(list)
    for one, value in zip(asked, values, strict=True):
        groups[one.kind].append(value)
        groups["all"].append(value)
    return {kind: sum(group) / len(group) for kind, group in sorted(groups.items())}


def picked(asked: Sequence[Asked], temperature: float) -> dict[str, float]:
    """The chance to pick the truth among the candidates, by kind of fact."""
    if temperature == 0:
        return _means(asked, [float(a.candidates[0] > a.candidates[1:].max()) for a in asked])
    return _means(asked, [(a.candidates / temperature).softmax(0)[0].item() for a in asked])


def written(asked: Sequence[Asked], config: SampleConfig) -> dict[str, float]:
    """The chance to write the truth when every token may come, by kind of fact."""
    values = []
    for one in asked:
        chance, seen = 1.0, list(one.prompt)
        for row, token in zip(one.logits, one.answer, strict=True):
            chance *= next_token_chances(row[None], torch.tensor([seen]), config)[0, token].item()
            seen.append(token)
        values.append(chance)
    return _means(asked, values)


def guessing(asked: Sequence[Asked]) -> dict[str, float]:
    """The chance level of each kind."""
    return _means(asked, [one.chance for one in asked])
