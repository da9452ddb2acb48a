"""Where a model expects a story to end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from picolm_lib.course.plots import BLUE, RED, Picture, canvas, finish
from picolm_lib.model import PicoLM
from picolm_lib.tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@torch.no_grad()
def end_chances(model: PicoLM, tokenizer: PreTrainedTokenizerFast, text: str) -> list[float]:
    """The probability of the end of text after each token of a story.

    Returns:
        One number per token of the text, or of as much of it as the model's context holds. The
        last one is the chance that a story which is told to its end does end.
    """
    ids = [tokenizer.eos_token_id, *encode(tokenizer, [text])[0]][:model.config.max_seq_len]
    logits = model(torch.tensor([ids]))                              # (1, T, V)
    return logits[0, 1:].softmax(-1)[:, tokenizer.eos_token_id].tolist()


def ends_apart(model: PicoLM, tokenizer: PreTrainedTokenizerFast, texts: Iterable[str],
               ) -> tuple[float, float]:
    """The mean probability of the end of text at the true ends, and everywhere else.

    Stories longer than the model's context are left out: their end is not reached.
    """
    last, earlier = [], []
    for text in texts:
        if len(encode(tokenizer, [text])[0]) < model.config.max_seq_len:
            *before, end = end_chances(model, tokenizer, text)
            last.append(end)
            earlier += before
    return sum(last) / len(last), sum(earlier) / len(earlier)


def draw_ends(chances: list[float]) -> Picture:
    """The chance of an end after each token of one story."""
    figure, axes = canvas(2.5)
    places = range(1, len(chances) + 1)
    axes.fill_between(places, [100 * chance for chance in chances], step="mid", color=BLUE,
                      alpha=0.35, linewidth=0)
    axes.plot(places, [100 * chance for chance in chances], color=BLUE, linewidth=1.2,
              drawstyle="steps-mid")
    axes.plot([len(chances)], [100 * chances[-1]], "o", color=RED, markersize=7,
              label="after the last token")
    axes.set(xlabel="token of the story (number)", ylabel="chance of an end (%)", ylim=(-2, 106),
             title="How sure is the model that the story is over?")
    axes.legend(loc="upper left")
    return finish(figure, f"The chance of an end is {chances[-1]:.0%} after the last token, and at "
                          f"most {max(chances[:-1]):.0%} before it.")
