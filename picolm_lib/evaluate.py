"""How good is a model? Loss, perplexity, accuracy, bits per byte, and the hallucination meter.

Loss and perplexity count per token, so they change with the tokenizer: a larger vocabulary makes
fewer, harder guesses. Bits per byte divides by what does not change, the bytes of the text. It is
the only number here that compares across tokenizers.

    picolm evaluate --run runs/nano
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from picolm_lib.data.batches import sequential_batches
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import encode
from picolm_lib.device import Precision
from picolm_lib.model.fast import rows_of_logits
from picolm_lib.model.loss import IGNORE
from picolm_lib.model.picolm import PicoLM
from picolm_lib.storybook.story import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Scores:
    """What a model scores on a text."""

    loss: float
    """Mean cross-entropy in nats per token."""
    accuracy: float
    """Share of tokens that were the model's first guess."""
    bits_per_byte: float
    """loss / (ln 2 * bytes per token)."""
    predicted: int
    """Tokens that were predicted."""

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as uncertain."""
        # float64 overflows at exp(710).
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def evaluate(model: PicoLM, text: TokenFile, precision: Precision, limit: int | None = None,
             batch_size: int = 16) -> Scores:
    """Scores every token of a text once, in windows of the model's context length.

    Args:
        text: the token file, made with the model's tokenizer.
        limit: stop after this many tokens.
        batch_size: windows per forward pass.
    """
    # Of every chunk, and read only at the end, so that a GPU never waits.
    nats, hits, number = [], [], 0
    rows = rows_of_logits(model.config.vocab_size, precision.device)
    windows = sequential_batches(text.tokens, model.config.max_seq_len, batch_size, limit)
    for inputs, targets in windows:
        number += int((targets != IGNORE).sum())
        inputs, targets = precision.to_device(inputs, targets.flatten())
        with precision.autocast():
            states = model.hidden(inputs).flatten(0, 1)                          # (B * T, D)
            for x, t in zip(states.split(rows), targets.split(rows), strict=True):
                logits = model.output(x).float()                                 # (R, V)
                nats.append(F.cross_entropy(logits, t, ignore_index=IGNORE, reduction="sum"))
                hits.append((logits.argmax(-1) == t).sum())
    loss = sum(torch.stack(nats).tolist()) / number
    accuracy = sum(torch.stack(hits).tolist()) / number
    return Scores(loss, accuracy, loss / (math.log(2) * text.bytes_per_token), number)


@dataclass(frozen=True)
class Meter:
    """The hallucination meter's reading for one kind of fact, or for all of them."""

    kept: float
    """Share of questions where the true continuation is the most likely one."""
    chance: float
    """What guessing scores."""
    ceiling: float
    """What the stories themselves score: the share that really continue with the answer."""
    questions: int


def hallucination_meter(model: PicoLM, tokenizer: PreTrainedTokenizerFast,
                        questions: Sequence[Question], precision: Precision) -> dict[str, Meter]:
    """The share of a story's facts that a model keeps.

    Each question is the beginning of a story and a few continuations, one of them true: whose
    ball, which color, he or she. The model answers by its log-probabilities, so it may have any
    tokenizer. Questions longer than the model's context are left out.

    Returns:
        A reading for every kind of question, and one for "all".
    """
    answers = defaultdict(list)                                      # kind -> (kept, chance, true)
    for question in questions:
        options = (question.answer, *question.others)
        scores = continuation_logprobs(model, tokenizer, question.prompt, options, precision)
        if scores:
            answer = (scores[0] > max(scores[1:]), 1 / len(options),
                      question.story.startswith(question.prompt + question.answer))
            answers[question.kind].append(answer)
            answers["all"].append(answer)
    meters = {}
    for kind, rows in sorted(answers.items()):
        kept, chance, ceiling = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        meters[kind] = Meter(kept, chance, ceiling, len(rows))
    return meters


@torch.no_grad()
def continuation_logprobs(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                          options: Sequence[str], precision: Precision) -> list[float]:
    """Log-probability in nats of each continuation of a prompt.

    Returns:
        One number per option; an empty list if the text is longer than the model's context.
    """
    start, *tails = encode(tokenizer, [prompt, *options])
    start = [tokenizer.eos_token_id, *start]
    longest = len(start) + max(map(len, tails))
    if longest - 1 > model.config.max_seq_len:
        return []
    # The model is causal, so padding on the right changes nothing before it.
    rows = torch.zeros(len(tails), longest, dtype=torch.long, device="cpu")
    for row, tail in zip(rows, tails, strict=True):
        row[:len(start) + len(tail)] = torch.tensor(start + tail, device="cpu")
    rows = rows.to(precision.device)
    with precision.autocast():
        logprobs = model(rows[:, :-1]).log_softmax(-1)               # (options, longest - 1, V)
    picked = logprobs.gather(2, rows[:, 1:, None])[..., 0]           # (options, longest - 1)
    sums = [picked[i, len(start) - 1:len(start) - 1 + len(tail)].sum()
            for i, tail in enumerate(tails)]
    return torch.stack(sums).tolist()
