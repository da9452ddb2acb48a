"""Evaluation on the GPU: the bundled model's scores, and the facts that it keeps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gpu.policies import CPU, POLICIES, compared, distance

from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.data.tokenizer import encode
from picolm_lib.evaluate import continuation_logprobs, evaluate, hallucination_meter
from picolm_lib.storybook.story import questions, stories
from picolm_lib.train.checkpoint import load_run

SEED = 10**6  # of stories that the model has not seen


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Loss, accuracy and the hallucination meter, in float32, bfloat16 and the T4's policy."""
    model, tokenizer, _ = load_run("bundled")
    text = _tokens(tokenizer, 1 if options.small else 60)
    asked = questions(4 if options.small else 80, SEED)
    wanted, kept = evaluate(model, text, CPU), hallucination_meter(model, tokenizer, asked, CPU)
    facts = _logprobs(model, tokenizer, asked[:16], CPU)
    model, _, _ = load_run("bundled", "cuda")
    for policy in POLICIES:
        started = time.monotonic()
        with policy.kernels():
            found = evaluate(model, text, policy.precision())
            meter = hallucination_meter(model, tokenizer, asked, policy.precision())
            logprobs = _logprobs(model, tokenizer, asked[:16], policy.precision())
        seconds = round(time.monotonic() - started, 2)
        # A trained model is surer than a random one: an error in a logit is larger beside a loss
        # that is nearly zero.
        yield compared("loss", policy, abs(found.loss / wanted.loss - 1), policy.output,
                       loss=found.loss, tokens=found.predicted, seconds=seconds)
        exact = policy.dtype == torch.float32
        yield compared("accuracy", policy, abs(found.accuracy - wanted.accuracy),
                       1e-3 if exact else max(1e-2, 3 / found.predicted), accuracy=found.accuracy)
        yield compared("log-probabilities", policy, distance(logprobs, facts), policy.output)
        yield compared("facts kept", policy, abs(meter["all"].kept - kept["all"].kept),
                       0 if exact else 0.05, kept=meter["all"].kept, questions=len(asked))


def _tokens(tokenizer: Any, number: int) -> TokenFile:
    texts = [story.text for story in stories(number, SEED)]
    ids = [tokenizer.eos_token_id]
    for text in encode(tokenizer, texts):
        ids += [*text, tokenizer.eos_token_id]
    size = sum(len(text.encode()) for text in texts)
    return TokenFile(np.array(ids, dtype=np.uint16), TokenCounts(number, size, len(ids)))


def _logprobs(model: Any, tokenizer: Any, asked: list, precision: Any) -> torch.Tensor:
    return torch.tensor([value for question in asked for value in continuation_logprobs(
        model, tokenizer, question.prompt, (question.answer, *question.others), precision)])
