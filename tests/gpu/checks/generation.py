"""Generation on the GPU: greedy and sampled, with a KV cache and without, in batches and alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from gpu.policies import POLICIES, Policy, Row, compared, distance
from torch import Tensor

from picolm_lib.config import SampleConfig
from picolm_lib.data.tokenizer import encode
from picolm_lib.model.attention import KVCache
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import generate, stream_text
from picolm_lib.storybook.story import stories
from picolm_lib.train.checkpoint import load_run

PROMPT = 12  # tokens
GREEDY = SampleConfig(temperature=0, min_p=0)
SAMPLED = SampleConfig(top_k=50, top_p=0.95, repetition_penalty=1.1)


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The bundled model with weights in three dtypes, as `picolm generate` has them."""
    reference, tokenizer, _ = load_run("bundled")
    length, number = (8, 2) if options.small else (60, 8)
    texts = [story.text for story in stories(number, 10**6)]
    prompts = torch.tensor([[tokenizer.eos_token_id, *ids[:PROMPT - 1]]
                            for ids in encode(tokenizer, texts)])
    wanted = continued(reference, prompts, length)
    logits = reference(wanted).detach()
    sampled = written(reference, tokenizer, length, seed=1)
    for policy in POLICIES:
        model, _, _ = load_run("bundled", "cuda")
        model.to(policy.dtype)
        with policy.kernels():
            # Kernels are chosen, and some of them built, for each length of the cache.
            continued(model, prompts, length)
            started = time.monotonic()
            found = continued(model, prompts, length)
            seconds = time.monotonic() - started
            yield greedy(policy, found, wanted, logits, seconds)
            alone = torch.cat([continued(model, prompt[None], length) for prompt in prompts])
            own = at_once(model, found).cpu()
            yield {**greedy(policy, alone, found, own), "check": "one by one as in a batch"}
            full, stepwise = (read(model, wanted) for read in (at_once, one_by_one))
            # Weights and residual stream are in 16 bits, too, where autocast leaves them alone.
            yield compared("logits without a cache", policy, distance(full, logits),
                           policy.gradient)
            yield compared("logits with a cache", policy, distance(stepwise, logits),
                           policy.gradient)
            yield seeds(policy, sampled, *(written(model, tokenizer, length, seed)
                                           for seed in (1, 1, 2)))


def continued(model: PicoLM, prompts: Tensor, length: int) -> Tensor:
    """(B, S) ids of the prompts and the likeliest tokens that follow, on the CPU."""
    tokens = generate(model, prompts, replace(GREEDY, max_new_tokens=length))
    return torch.cat([prompts, *(token.cpu()[:, None] for token in tokens)], dim=1)


def at_once(model: PicoLM, tokens: Tensor) -> Tensor:
    """(B, S, V) logits without a cache."""
    with torch.no_grad():
        return model(tokens.to("cuda"))


def one_by_one(model: PicoLM, tokens: Tensor) -> Tensor:
    """(B, S, V) logits with a cache: the prompt first, then token after token."""
    tokens, cache = tokens.to("cuda"), KVCache(tokens.shape[1])
    parts = [tokens[:, :PROMPT], *tokens[:, PROMPT:].split(1, dim=1)]
    with torch.no_grad():
        return torch.cat([model(part, cache) for part in parts], dim=1)


def greedy(policy: Policy, found: Tensor, wanted: Tensor, logits: Tensor,
           seconds: float = 0) -> Row:
    """Whether the likeliest tokens are the same.

    Rounding decides where two are equally likely, and from there on the texts differ. So the first
    difference of a text is excused where the two best logits are as near as `tolerance` allows,
    relative to the largest.

    Args:
        logits: (B, S, V) of `wanted`.
    """
    margins = []
    for row, other, scores in zip(found, wanted, logits, strict=True):
        if different := (row != other).nonzero().flatten().tolist():
            best, second = scores[different[0] - 1].topk(2).values.tolist()
            margins.append((best - second) / scores[different[0] - 1].abs().max().item())
    more = {"texts": len(found), "different": len(margins)}
    if seconds:
        more["tokens_per_second"] = round((wanted.shape[1] - PROMPT) * len(wanted) / seconds)
    return compared("greedy tokens", policy, max(margins, default=0.0), policy.gradient, **more)


def written(model: PicoLM, tokenizer: Any, length: int, seed: int) -> str:
    """A text that is sampled."""
    return "".join(stream_text(model, tokenizer, "Once upon a time, there was a little",
                               replace(SAMPLED, max_new_tokens=length), seed))


def seeds(policy: Policy, sampled: str, once: str, again: str, other: str) -> Row:
    """One seed, one text; in float32 that of the CPU. Another seed, another text."""
    same_as_cpu = once == sampled
    exact = same_as_cpu or policy.dtype != torch.float32
    return {"check": "one seed, one text", "policy": policy.name,
            "passed": once == again != other and exact, "as_on_the_cpu": same_as_cpu,
            "text": once}
