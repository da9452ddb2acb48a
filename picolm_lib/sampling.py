"""From logits to text: filters, the choice of a token, and a loop over the model with a KV cache.

Each filter is a pure function on (B, V) logits that sets what it rejects to minus infinity. They
run in this order: repetition penalty, temperature, top-k, top-p, min-p.

Sources: Ari Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, for top-p.
Nguyen Nhat Minh et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM
Outputs", 2024. Nitish Shirish Keskar et al., "CTRL: A Conditional Transformer Language Model for
Controllable Generation", 2019, for the repetition penalty.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from picolm_lib.config import PicoConfig, PicoError, SampleConfig
from picolm_lib.data.tokenizer import decode, encode
from picolm_lib.model.attention import KVCache
from picolm_lib.model.picolm import PicoLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REJECTED = float("-inf")


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Makes the (B, S) tokens `seen` less likely.

    A positive logit is divided, a negative one multiplied: dividing a negative logit would make
    the token *more* likely.
    """
    score = logits.gather(1, seen)
    score = torch.where(score > 0, score / penalty, score * penalty)
    return logits.scatter(1, seen, score)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature."""
    return logits / temperature


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k largest logits of every row, and those equal to the k-th."""
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, REJECTED)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose probabilities reach p."""
    ascending, order = logits.sort(dim=-1)
    below = ascending.softmax(dim=-1).cumsum(dim=-1)                 # mass up to and with a token
    rejected = below <= 1 - p
    rejected[:, -1] = False                                          # the likeliest always stays
    return logits.masked_fill(rejected.scatter(1, order, rejected), REJECTED)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Keeps tokens whose probability is at least p times that of the likeliest."""
    probabilities = logits.softmax(dim=-1)
    rejected = probabilities < p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(rejected, REJECTED)


def filter_logits(logits: Tensor, seen: Tensor, config: SampleConfig) -> Tensor:
    """All filters that are switched on, in order.

    Args:
        logits: (B, V).
        seen: (B, S) token ids so far.
    """
    if config.repetition_penalty != 1:
        logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
    if config.temperature not in (0, 1):
        logits = apply_temperature(logits, config.temperature)
    if config.top_k:
        logits = apply_top_k(logits, config.top_k)
    if config.top_p < 1:
        logits = apply_top_p(logits, config.top_p)
    if config.min_p:
        logits = apply_min_p(logits, config.min_p)
    return logits


def sample_next_token(logits: Tensor, config: SampleConfig,
                      generator: torch.Generator | None = None) -> Tensor:
    """(B,) token ids from (B, V) filtered logits; the likeliest ones at temperature 0."""
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    # The probabilities are laid end to end on a line from 0 to 1, and a point falls on it. On the
    # CPU, so that one seed gives one text on every device.
    ends = logits.softmax(-1).cpu().cumsum(-1, dtype=torch.float64)  # (B, V)
    point = torch.rand(len(ends), 1, generator=generator, dtype=torch.float64, device=ends.device)
    return torch.searchsorted(ends / ends[:, -1:], point, right=True)[:, 0].to(logits.device)


@torch.inference_mode()
def generate(model: PicoLM, prompt: Tensor, config: SampleConfig, stop: int | None = None,
             seed: int | None = None) -> Generator[Tensor, None, str]:
    """Continues prompts of equal length, one token at a time, with the model as it is.

    Every token is a call of `model(tokens, cache)`, so whatever was changed in the model is heard.
    Where each block keeps its own keys and values, a call reads only what is new; else it reads the
    whole text again. Parts other than attention must treat each token alone.

    Args:
        prompt: (B, T) token ids.
        stop: id of the end of text. A sequence that has reached it is filled with this id; the loop
            ends when all have.
        seed: of the random choices; None makes other choices every time.

    Yields:
        (B,) token ids.

    Returns:
        Why it ended: "end of text", "max_new_tokens", or "context" where that is full.

    Raises:
        PicoError: the prompt is empty or leaves no room in the context, or the model's logits are
            not finite.
    """
    context, length = model.config.max_seq_len, prompt.shape[1]
    _check_length(length, context)
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    new_tokens = min(config.max_new_tokens, context - length)
    seen = prompt.to(model.embedding.weight.device)                  # (B, S)
    ended = torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
    cache = KVCache(length + new_tokens) if _keeps_all_keys(model, seen) else None
    for _ in range(new_tokens):
        unread = seen if cache is None else seen[:, cache.get_seq_length():]
        logits = model(unread, cache)[:, -1]                         # (B, V)
        if not logits.sum().isfinite():
            raise PicoError("the model's logits are not finite: its weights have grown too large; "
                            "take an earlier checkpoint or another run.")
        token = sample_next_token(filter_logits(logits, seen, config), config, generator)
        if stop is not None:
            token = token.where(~ended, stop)
            ended = ended | (token == stop)
        yield token
        if ended.all():
            return "end of text"
        seen = torch.cat((seen, token[:, None]), dim=1)
    return "context" if new_tokens < config.max_new_tokens else "max_new_tokens"


def _keeps_all_keys(model: PicoLM, tokens: Tensor) -> bool:
    """Whether a pass over two tokens leaves the keys and values of both in the cache, per block.

    Not so where an attention layer ignores the cache, or two layers share one place in it.
    """
    n_layers = len(model.blocks)
    cache = KVCache(max_len=8 * n_layers)
    model(tokens[:, :1].repeat(1, 2), cache)
    return cache.lengths == dict.fromkeys(range(n_layers), 2)


def prompt_ids(config: PicoConfig, tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Token ids of an end of text and the prompt: the model has learned that a text follows one.

    Raises:
        PicoError: they leave no room in the model's context.
    """
    ids = [tokenizer.eos_token_id, *encode(tokenizer, [prompt])[0]]
    _check_length(len(ids), config.max_seq_len)
    return ids


def _check_length(length: int, context: int) -> None:
    if not 0 < length < context:
        raise PicoError(f"the prompt has {length} tokens with the end of text before it, and this "
                        f"model's context holds {context}; shorten the prompt.")


def stream_text(model: PicoLM, tokenizer: PreTrainedTokenizerFast, prompt: str,
                config: SampleConfig, seed: int | None = None) -> Generator[str, None, str]:
    """A text that begins with `prompt`, piece by piece as it is generated; the prompt comes first.

    A character of several bytes can be spread over several tokens, so a piece waits until its last
    character is whole.

    Returns:
        Why it ended, as `generate` does.

    Raises:
        PicoError: as `generate` does.
    """
    ids = prompt_ids(model.config, tokenizer, prompt)
    shown = decode(tokenizer, ids)
    prompt_tokens = torch.tensor([ids], device="cpu")
    tokens = generate(model, prompt_tokens, config, tokenizer.eos_token_id, seed)
    yield prompt
    while True:
        try:
            ids.append(int(next(tokens)))
        except StopIteration as end:
            yield decode(tokenizer, ids)[len(shown):]
            return end.value
        text = decode(tokenizer, ids)
        if not text.endswith("\ufffd"):
            yield text[len(shown):]
            shown = text
