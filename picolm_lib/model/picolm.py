"""PicoLM: tokens in, logits out.

    x = embedding(tokens) * sqrt(D)
    for each block:
        x = x + attn_post_norm(attention(attn_norm(x)))
        x = x + mlp_post_norm(mlp(mlp_norm(x)))
    logits = output(final_norm(x))

A norm before *and* after each part ("sandwich"): the first keeps what goes in at one scale, the
second what comes out, so no part can flood the residual stream.

Sources: Ming Ding et al., "CogView: Mastering Text-to-Image Generation via Transformers", 2021, for
the sandwich. Ashish Vaswani et al., "Attention Is All You Need", 2017, for the embedding scaled by
sqrt(D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import Attention, Cache
from .config import PicoConfig
from .init import init_weights
from .loss import linear_cross_entropy
from .mlp import MLP, pyramid_widths
from .norm import RMSNorm
from .rope import rope_tables


class Block(nn.Module):
    """Attention, then the MLP, each between two norms and added to the residual stream."""

    def __init__(self, config: PicoConfig, layer_idx: int, mlp_width: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.attn = Attention(config, layer_idx)
        self.attn_post_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.mlp_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.mlp = MLP(config.d_model, mlp_width)
        self.mlp_post_norm = RMSNorm(config.d_model, eps=config.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None,
                mask: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.attn_post_norm(self.attn(self.attn_norm(x), cos, sin, cache, mask))
        return x + self.mlp_post_norm(self.mlp(self.mlp_norm(x)))


class PicoLM(nn.Module):
    """The language model.

    Args:
        config: its shape.
        seed: seed of the initial weights.
    """

    # A ModuleList does not say of what.
    blocks: Sequence[Block]

    def __init__(self, config: PicoConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # nn.Embedding would draw values that init.py replaces: half a second on the meta device.
        self.embedding = nn.Embedding.from_pretrained(
            torch.empty(config.vocab_size, config.d_model), freeze=False)
        self.blocks = nn.ModuleList(  # type: ignore[assignment]
            Block(config, layer, width) for layer, width in enumerate(pyramid_widths(config)))
        self.final_norm = RMSNorm(config.d_model, eps=config.norm_eps)
        self.output = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if not self.embedding.weight.is_meta:
            init_weights(self, config, seed)

    def hidden(self, tokens: Tensor, cache: Cache | None = None, positions: Tensor | None = None,
               mask: Tensor | None = None) -> Tensor:
        """The final, normalized state of every token.

        Args:
            tokens: (B, T) token ids.
            cache: keys and values of the tokens before these.
            positions: (T,) or (B, T). None continues from the end of the cache.
            mask: (B, 1, T, S) or (T, S), True where a token may see another. None is causal.

        Returns:
            (B, T, D).
        """
        if positions is None:
            start = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        cos, sin = rope_tables(positions, self.config.head_dim, self.config.rope_theta)
        x = self.embedding(tokens) * math.sqrt(self.config.d_model)  # (B, T, D)
        for block in self.blocks:
            x = block(x, cos, sin, cache, mask)
        return self.final_norm(x)

    def forward(self, tokens: Tensor, cache: Cache | None = None, positions: Tensor | None = None,
                mask: Tensor | None = None) -> Tensor:
        """(B, T) token ids to (B, T, V) float32 logits; the arguments are those of `hidden`."""
        return self.output(self.hidden(tokens, cache, positions, mask)).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of (B, T) targets; the logits never exist all at once."""
        x = self.hidden(tokens).flatten(0, 1)                        # (B * T, D)
        return linear_cross_entropy(x, self.output.weight, targets.flatten())


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def flops_per_token(config: PicoConfig) -> int:
    """FLOPs of one trained token, forward and backward.

    Six per weight that multiplies the token (two forward, four backward), and 12 * D * T / 2 per
    block for the causal scores and their weighted sum. Source: Jared Kaplan et al., "Scaling Laws
    for Neural Language Models", 2020, appendix B, with attention halved because it is causal.
    """
    with torch.device("meta"):
        model = PicoLM(config)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim >= 2)
    multiplied = matrices - model.embedding.weight.numel()
    return 6 * multiplied + 6 * config.n_layers * config.d_model * config.max_seq_len
