"""The probability of every next token, before and after the filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import SampleConfig, filter_logits, sample_next_token


def next_token_probabilities(logits: Tensor, seen: Tensor, config: SampleConfig) -> Tensor:
    """(B, V) probabilities with which `generate` draws each token; at temperature 0 one has all.

    Args:
        logits: (B, V).
        seen: (B, S) token ids so far.
    """
    filtered = filter_logits(logits, seen, config)
    if config.temperature == 0:
        token = sample_next_token(filtered, config)[:, None]         # (B, 1)
        return torch.zeros_like(filtered).scatter(1, token, 1.0)
    return filtered.softmax(-1)


@dataclass(frozen=True)
class Choice:
    """One next token: what the model predicts, and what the settings make of it."""

    before: Tensor
    """(V,) the model's own probabilities."""
    after: Tensor
    """(V,) probabilities after all filters."""
    drawn: int
    """The token that the seed draws."""

    @property
    def survivors(self) -> int:
        """How many tokens can still be drawn."""
        return int((self.after > 0).sum())

    @property
    def mass(self) -> float:
        """How much of the model's own probability the survivors have."""
        return self.before[self.after > 0].sum().item()


def choose(logits: Tensor, seen: Tensor, config: SampleConfig, seed: int) -> Choice:
    """Makes one choice from (1, V) logits, as the first step of `generate` does with this seed."""
    filtered = filter_logits(logits, seen, config)
    token = sample_next_token(filtered, config, torch.Generator().manual_seed(seed))
    after = next_token_probabilities(logits, seen, config)
    return Choice(logits.softmax(-1)[0], after[0], int(token))


@torch.no_grad()
def next_logits(model: PicoLM, ids: list[int]) -> Tensor:
    """(1, V) float32 logits of the token after `ids`, on the CPU."""
    tokens = torch.tensor([ids], device=model.embedding.weight.device)
    return model.output(model.hidden(tokens)[:, -1]).float().cpu()


@torch.no_grad()
def token_probabilities(model: PicoLM, ids: list[int]) -> list[float]:
    """The model's own probability of every token of a text except the first."""
    tokens = torch.tensor(ids, device=model.embedding.weight.device)
    probs = model(tokens[None, :-1])[0].float().softmax(-1)          # (T - 1, V)
    return probs.gather(1, tokens[1:, None])[:, 0].tolist()
