"""The trailing-space experiment: a prompt that ends in a space, and its repair.

In the stories, the space before a word belongs to the word's token. So a lone space before a word
is a token that the model has hardly ever read there, and what follows begins with a space again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from picolm_lib.course.plots import BLUE, INK, ORANGE, Picture, canvas, finish
from picolm_lib.course.tokens.bpe import token_bytes
from picolm_lib.data.tokenizer import decode
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT = "Once upon a time, there was a little"
# (ids, the bytes of every token) -> the ids to go on with, and the ids that may come next.
Heal = Callable[[list[int], list[bytes]], tuple[list[int], list[int]]]
NEW_TOKENS, SHOWN = 10, 4


@torch.no_grad()
def next_probabilities(model: PicoLM, ids: Sequence[int],
                       allowed: Sequence[int] | None = None) -> Tensor:
    """(V,) probabilities of the next token; None allows all tokens."""
    logits = model(torch.tensor([list(ids)], device=model.embedding.weight.device))[0, -1]
    if allowed is not None:
        kept = torch.full_like(logits, float("-inf"))
        kept[list(allowed)] = logits[list(allowed)]
        logits = kept
    return logits.softmax(-1)


def greedy(model: PicoLM, ids: Sequence[int], count: int = NEW_TOKENS,
           allowed: Sequence[int] | None = None) -> list[int]:
    """The likeliest tokens, one after the other; `allowed` holds for the first of them only."""
    out: list[int] = []
    for _ in range(count):
        out.append(int(next_probabilities(model, [*ids, *out], allowed).argmax()))
        allowed = None
    return out


def _top(probabilities: Tensor, table: list[bytes], count: int = SHOWN) -> list[tuple[str, float]]:
    found = probabilities.topk(count)
    return [(_shown(table[i]), probability) for i, probability in
            zip(found.indices.tolist(), found.values.tolist(), strict=True)]


def _shown(token: bytes) -> str:
    return '"' + token.decode(errors="backslashreplace").replace("\n", "¶") + '"'


def _draw(panels: Sequence[tuple[str, Tensor, str]], table: list[bytes], right: int,
          prompt: str, text: str) -> Picture:
    """Next-token probabilities side by side: (title, probabilities, how the text goes on)."""
    figure, cells = canvas(3.3, 1, len(panels), sharex=True)
    figure.suptitle(f'What comes after "{prompt}"')
    for cell, (title, probabilities, continuation) in zip(cells, panels, strict=True):
        top = _top(probabilities, table)
        names, values = [name for name, _ in top], [100 * p for _, p in top]
        places = range(len(top))
        cell.barh(places, values, height=0.62, color=[
            BLUE if name == _shown(table[right]) else ORANGE for name in names])
        for place, value in zip(places, values, strict=True):
            cell.text(value + 1.5, place, f"{value:.0f}%" if value >= 1 else "< 1%", va="center",
                      color=INK)
        cell.set(yticks=places, yticklabels=names, title=title, xlim=(0, 118),
                 xticks=(0, 50, 100), xlabel=f"probability (%)\n\nit goes on:\n{continuation}")
        cell.tick_params(axis="y", length=0, labelcolor=INK)
        cell.invert_yaxis()
        cell.grid(False)
    return finish(figure, text)


def draw_trailing_space(model: PicoLM, tokenizer: PreTrainedTokenizerFast,
                        prompt: str = PROMPT) -> Picture:
    """The next token after a prompt, and after the same prompt with a final space."""
    assert not prompt.endswith(" "), "the space is added here"
    table = token_bytes(tokenizer)
    plain_ids, spaced_ids = (prompt_ids(model.config, tokenizer, text)
                             for text in (prompt, prompt + " "))
    without, spaced = (next_probabilities(model, ids) for ids in (plain_ids, spaced_ids))
    right = int(without.argmax())
    on, astray = (_wrapped(decode(tokenizer, greedy(model, ids)))
                  for ids in (plain_ids, spaced_ids))
    return _draw([("no space at the end", without, on), ("a space at the end", spaced, astray)],
                 table, right, prompt,
                 f"The probability of {_shown(table[right])}, the likeliest token after "
                 f"{prompt!r}, is {without[right]:.1%}, and {spaced[right]:.1%} with a final "
                 f"space. Then the text goes on with {_shown(table[int(spaced.argmax())])}.")


def _wrapped(text: str) -> str:
    """A continuation in at most two short lines, its spaces visible at the beginning."""
    words = text.replace("\n", "¶").split(" ")
    half = next((n for n in range(1, len(words)) if len(" ".join(words[:n])) > 18), len(words))
    first, second = " ".join(words[:half]), " ".join(words[half:])
    return f'"{first}\n{second} ..."'


def heal_and_continue(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                      heal: Heal) -> Picture:
    """A prompt that ends in the middle of a token, as it is and healed.

    Args:
        prompt: such as PROMPT + " ".
        heal: takes the ids and the bytes of every token, removes the last id, and returns the rest
            and the list of tokens that may come next: those that begin with the removed bytes.
    """
    table = token_bytes(tokenizer)
    ids = prompt_ids(model.config, tokenizer, prompt)
    rest, allowed = heal(list(ids), list(table))
    as_it_is, healed = next_probabilities(model, ids), next_probabilities(model, rest, allowed)
    right = int(healed.argmax())
    first = greedy(model, rest, allowed=allowed)
    return _draw([("as it is", as_it_is, _wrapped(decode(tokenizer, greedy(model, ids)))),
                  ("healed", healed, _wrapped(decode(tokenizer, first)))], table, right, prompt,
                 f"Healed, {len(allowed):,} of {len(table):,} tokens may come next, and "
                 f"{_shown(table[right])} has a probability of {healed[right]:.1%}; as the prompt "
                 f"is, it has {as_it_is[right]:.1%}.")
