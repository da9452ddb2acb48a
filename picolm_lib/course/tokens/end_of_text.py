"""Where a model expects a story to end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from picolm_lib.course.plots import BLUE, RED, Picture, canvas, finish
from picolm_lib.data.tokenizer import encode
from picolm_lib.model.picolm import PicoLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@torch.no_grad()
def end_probabilities(model: PicoLM, tokenizer: PreTrainedTokenizerFast, text: str) -> list[float]:
    """The probability of the end of text after each token of a story.

    Returns:
        One number per token of the text, or of as much of it as fits into the model's context. The
        last one is the probability that the finished story ends.
    """
    ids = [tokenizer.eos_token_id, *encode(tokenizer, [text])[0]][:model.config.max_seq_len]
    tokens = torch.tensor([ids], device=model.embedding.weight.device)
    logits = model(tokens)                                           # (1, T, V)
    return logits[0, 1:].softmax(-1)[:, tokenizer.eos_token_id].tolist()


def mean_end_probabilities(model: PicoLM, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str],
               ) -> tuple[float, float]:
    """The mean probability of the end of text at the true ends, and everywhere else.

    Stories longer than the model's context are skipped: their end is not reached.
    """
    last, earlier = [], []
    for text in texts:
        if len(encode(tokenizer, [text])[0]) < model.config.max_seq_len:
            *before, end = end_probabilities(model, tokenizer, text)
            last.append(end)
            earlier += before
    return sum(last) / len(last), sum(earlier) / len(earlier)


def draw_ends(probabilities: list[float]) -> Picture:
    """The probability of an end after each token of one story."""
    figure, axes = canvas(2.5)
    places = range(1, len(probabilities) + 1)
    percent = [100 * probability for probability in probabilities]
    axes.fill_between(places, percent, step="mid", color=BLUE, alpha=0.35, linewidth=0)
    axes.plot(places, percent, color=BLUE, linewidth=1.2, drawstyle="steps-mid")
    axes.plot([len(percent)], [percent[-1]], "o", color=RED, markersize=7,
              label="after the last token")
    axes.set(xlabel="token of the story (number)", ylabel="probability of an end (%)",
             ylim=(-2, 106),
             title="How sure is the model that the story is over?")
    axes.legend(loc="upper left")
    return finish(figure, f"The probability of an end is {probabilities[-1]:.0%} after the last "
                          f"token, and at most {max(probabilities[:-1]):.0%} before it.")
