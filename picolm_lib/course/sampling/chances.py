"""The chance of every next token, before and after the filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from picolm_lib.model import PicoLM
from picolm_lib.sampling import SampleConfig, draw, filter_logits


def next_token_chances(logits: Tensor, seen: Tensor, config: SampleConfig) -> Tensor:
    """(B, V) chances with which `generate` would draw each token; at temperature 0 one has all.

    Args:
        logits: (B, V).
        seen: (B, S) token ids so far.
    """
    filtered = filter_logits(logits, seen, config)
    if config.temperature == 0:
        return torch.zeros_like(filtered).scatter(1, draw(filtered, config)[:, None], 1.0)
    return filtered.softmax(-1)


@dataclass(frozen=True)
class Choice:
    """One next token: what the model says, and what the settings make of it."""

    before: Tensor
    """(V,) the model's own probabilities."""
    after: Tensor
    """(V,) chances after all filters."""
    drawn: int
    """The token that the seed draws."""

    @property
    def survivors(self) -> int:
        """Tokens that can still be drawn."""
        return int((self.after > 0).sum())

    @property
    def mass(self) -> float:
        """How much of the model's own probability the survivors hold."""
        return self.before[self.after > 0].sum().item()


def choose(logits: Tensor, seen: Tensor, config: SampleConfig, seed: int) -> Choice:
    """Makes one choice from (1, V) logits, as the first step of `generate` does with this seed."""
    filtered = filter_logits(logits, seen, config)
    token = draw(filtered, config, torch.Generator().manual_seed(seed))
    return Choice(logits.softmax(-1)[0], next_token_chances(logits, seen, config)[0], token.item())


@torch.no_grad()
def next_logits(model: PicoLM, ids: list[int]) -> Tensor:
    """(1, V) float32 logits of the token after `ids`, on the CPU."""
    tokens = torch.tensor([ids], device=model.embedding.weight.device)
    return model.output(model.hidden(tokens)[:, -1]).float().cpu()


@torch.no_grad()
def chances_of(model: PicoLM, ids: list[int]) -> list[float]:
    """The model's own probability of every token of a text but the first."""
    tokens = torch.tensor(ids, device=model.embedding.weight.device)
    chances = model(tokens[None, :-1])[0].float().softmax(-1)                # (T - 1, V)
    return chances.gather(1, tokens[1:, None])[:, 0].tolist()
