"""Records what happens inside a model: attention weights, gates, and the loss by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.model import attention
from picolm_lib.model.attention import Attention
from picolm_lib.model.picolm import PicoLM
from picolm_lib.model.rope import rope_tables

JUST_BEFORE, FIRST, AFTER_THE_SAME = (
    "the token just before", "the first token", "what followed the same token earlier")


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """q.k / sqrt(E) of (B, H, T, E) queries and (B, K, T, E) keys: (B, H, T, T)."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)         # (B, H, T, E)
    return q.float() @ k.float().mT / q.shape[-1] ** 0.5


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """The same scores with the causal mask, after softmax."""
    scores = attention_scores(q, k)                                  # (B, H, T, T)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1)


@contextmanager
def recorded(what: Callable[[Tensor, Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Inside the block, every call of `attend` also appends what(q, k) to the list."""
    records: list[Tensor] = []
    attend = attention.attend

    def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        records.append(what(q, k)[0].cpu())
        return attend(q, k, v, mask)

    with patch.object(attention, "attend", spy), torch.no_grad():
        yield records


def attention_maps(model: PicoLM, tokens: Tensor) -> Tensor:
    """The attention weights of all blocks.

    Args:
        tokens: (T,) token ids.

    Returns:
        (L, H, T, T): row t of a map shows how token t spreads its attention over tokens 0 to t.
    """
    with recorded(attention_weights) as maps:
        model(_on_its_device(model, tokens)[None])
    return torch.stack(maps)                                         # (L, H, T, T)


def habits(maps: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Where heads like to look: name of the habit -> the mean share of attention, (L, H).

    The third habit is known as induction: after "Lily found ... Lily" such a head looks at "found".
    It is measured on tokens that have occurred before, and is omitted if there are none.
    Source: Catherine Olsson et al., "In-context Learning and Induction Heads", 2022.

    Args:
        maps: (L, H, T, T) from `attention_maps`, T at least 3.
        tokens: (T,), the tokens that were read.
    """
    # Where the same token occurred earlier, and the position after it.
    same = (tokens[:, None] == tokens).tril(-1)                      # (T, T)
    follows = same.roll(1, dims=1).tril(-1)                          # (T, T)
    found = {JUST_BEFORE: maps.diagonal(-1, -2, -1)[..., 1:].mean(-1),
             FIRST: maps[..., 2:, 0].mean(-1)}
    if follows.any():
        found[AFTER_THE_SAME] = (maps * follows).sum(-1)[..., follows.any(1)].mean(-1)
    return found


def _on_its_device(model: PicoLM, tokens: Tensor) -> Tensor:
    """The tokens on the model's device, which is a GPU if the model was trained on one."""
    return tokens.to(model.embedding.weight.device)


def record_scores(model: PicoLM, tokens: Tensor) -> Tensor:
    """The scores of all blocks before mask and softmax, for (T,) tokens: (L, H, T, T)."""
    with recorded(attention_scores) as scores:
        model(_on_its_device(model, tokens)[None])
    return torch.stack(scores)                                       # (L, H, T, T)


@torch.no_grad()
def gates(model: PicoLM, tokens: Tensor) -> Tensor:
    """The output gates of all blocks for (T,) tokens: (L, T, H, E), between 0 and 1."""
    opened = []
    gate = Attention._gate

    def spy(self: Attention, q: Tensor) -> Tensor:
        opened.append(gate(self, q)[0].float().cpu())
        return gate(self, q)

    with patch.object(Attention, "_gate", spy):
        model(_on_its_device(model, tokens)[None])
    return torch.stack(opened)                                       # (L, T, H, E)


@torch.no_grad()
def loss_by_position(model: PicoLM, tokens: Tensor, squeeze: float = 1.0) -> Tensor:
    """The loss in nats at every position.

    Args:
        tokens: (B, T + 1) token ids.
        squeeze: positions are multiplied by it; with 0.25 every pair rotates at a quarter of its
            speed.

    Returns:
        (T,), the mean over the B rows.
    """
    tokens = _on_its_device(model, tokens)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]                  # (B, T)
    positions = squeeze * torch.arange(inputs.shape[1], device=tokens.device)
    logits = model(inputs, positions=positions)                      # (B, T, V)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(0).cpu()


def head_weights_by_distance(layer: Attention, theta: float, length: int) -> Tensor:
    """How each head's attention depends on distance alone: (H, length).

    All tokens are the same here, so they differ only in position. Entry d is the weight that the
    last token gives to the token d positions before it.
    """
    x = layer.qkv.weight.new_ones(1, length, layer.qkv.in_features)  # (B, T, D)
    with recorded(attention_weights) as maps:
        layer(x, *rope_tables(torch.arange(length, device=x.device), layer.q_norm.weight.numel(),
                              theta))
    return maps[0][:, -1].flip(-1)                                   # (H, length)
