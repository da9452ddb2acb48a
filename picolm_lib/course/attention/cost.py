"""What attention costs: bytes of the KV cache, FLOPs of writing with and without it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from picolm_lib.config import PicoConfig
from picolm_lib.device import wait_for
from picolm_lib.model.attention import KVCache
from picolm_lib.model.picolm import PicoLM

# Usable memory of a T4.
T4_GIB = 14.7


def kv_cache_bytes(layers: int, kv_heads: int, head_dim: int, tokens: int, batch: int = 1,
                   bytes_per_number: int = 2) -> int:
    """Bytes of the keys and values of `batch` sequences of `tokens` tokens."""
    return 2 * layers * kv_heads * head_dim * tokens * batch * bytes_per_number


def forward_flops(config: PicoConfig, read: int, seen: int) -> int:
    """FLOPs of reading `read` new tokens after `seen` earlier ones, without the output layer.

    Two per weight and token, and 4 * D per block for each pair of a new token and a token that it
    sees: two for the score, two for the weighted sum.
    """
    with torch.device("meta"):
        blocks = PicoLM(config).blocks
    weights = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim > 1)
    pairs = sum(seen + token + 1 for token in range(read))
    return 2 * weights * read + 4 * config.n_layers * config.d_model * pairs


@dataclass(frozen=True)
class Writing:
    """The cost of writing some tokens, one after the other."""

    flops: list[int]
    """For each new token."""
    seconds: list[float]
    """The same, measured."""


@torch.inference_mode()
def write_tokens(model: PicoLM, prompt: torch.Tensor, count: int, cached: bool) -> Writing:
    """Lets a model write greedily, and measures the time of each token.

    Args:
        prompt: (1, T) token ids.
        count: tokens to write.
        cached: whether to use a KV cache, or to read the whole text again for every token.
    """
    cache = KVCache(prompt.shape[1] + count) if cached else None
    text, flops, seconds = prompt, [], []
    for number in range(count):
        started = time.perf_counter()
        new = text[:, -1:] if cached and number else text
        state = model.hidden(new, cache)[:, -1]
        token = model.output(state).argmax(-1)
        wait_for(token.device)
        seconds.append(time.perf_counter() - started)
        flops.append(forward_flops(model.config, new.shape[1], text.shape[1] - new.shape[1]))
        text = torch.cat((text, token[:, None]), dim=1)
    return Writing(flops, seconds)
