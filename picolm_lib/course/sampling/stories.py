"""Many stories at once, and what can be counted in them."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from transformers import PreTrainedTokenizerFast

from picolm_lib.course.race import StatusLine, is_smoke
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, generate, prompt_ids
from picolm_lib.storybook.story import stories

# Of a story with the preset "smoke": enough to see that everything works.
SMOKE_NEW_TOKENS = 24
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


@dataclass(frozen=True)
class Generated:
    """A batch of stories that a model wrote."""

    tokens: list[list[int]]
    """New tokens of each story, without the end of text."""
    ended: list[bool]
    """Whether each story reached its end of text."""


def generate_many(model: PicoLM, ids: list[int], config: SampleConfig, stop: int, count: int,
              seed: int = 0) -> Generated:
    """`count` stories from one prompt, all in one batch.

    Args:
        ids: the prompt's token ids.
        stop: id of the end of text.
    """
    steps = generate(model, torch.tensor([ids] * count, device="cpu"), config, stop, seed)
    rows = torch.stack(list(steps), dim=1).tolist()                  # (count, N)
    return Generated([row[:row.index(stop)] if stop in row else row for row in rows],
                [stop in row for row in rows])


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]


def repeated(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a story's n-grams that occurred in it before: 0 is none, a loop is near 1."""
    grams = _grams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Sequence[Sequence[int]], n: int = 4) -> float:
    """Distinct n-grams of all texts together, as a share of all their n-grams.

    Source: Jiwei Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
    Models", 2016.
    """
    grams = [gram for tokens in texts for gram in _grams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def words(text: str) -> list[str]:
    """The words of a text in lowercase."""
    return WORD.findall(text.lower())


def pairs(text: str) -> list[tuple[str, str]]:
    """Neighboring words of a text."""
    return list(itertools.pairwise(words(text)))


@cache
def known_pairs(count: int = 3_000, seed: int = 0) -> frozenset[tuple[str, str]]:
    """Word pairs of this many Storybook stories; models are trained on seed 0."""
    return frozenset(pair for story in stories(count, seed) for pair in pairs(story.text))


def unknown(texts: Sequence[str], known: Collection[tuple[str, str]]) -> float:
    """Share of neighboring words that are not in `known`: a rough measure of nonsense."""
    found = [pair for text in texts for pair in pairs(text)]
    return sum(pair not in known for pair in found) / max(len(found), 1)


def measure(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
            settings: Mapping[str, SampleConfig], seeds: Sequence[int], count: int,
            ) -> dict[str, dict[str, list[float]]]:
    """Lets a model write `count` stories with every setting and seed, and measures them.

    Returns:
        setting -> measure -> one share per seed.
    """
    ids, line = prompt_ids(model.config, tokenizer, prompt), StatusLine()
    results: dict[str, dict[str, list[float]]] = {}
    known = known_pairs()
    for number, (name, config) in enumerate(settings.items(), start=1):
        if is_smoke():
            config = replace(config, max_new_tokens=SMOKE_NEW_TOKENS)
        rows = results[name] = defaultdict(list)
        for seed in seeds:
            batch = generate_many(model, ids, config, tokenizer.eos_token_id, count, seed)
            texts = tokenizer.batch_decode(batch.tokens)
            rows["stories\nthat end"].append(sum(batch.ended) / count)
            rows["repeated\n4-grams"].append(sum(map(repeated, batch.tokens)) / count)
            rows["distinct\n4-grams"].append(distinct(batch.tokens))
            rows["unknown\nword pairs"].append(unknown(texts, known))
        line.update(f"{number} of {len(settings)} settings, {len(seeds)} x {count} stories each")
    return {name: dict(rows) for name, rows in results.items()}
