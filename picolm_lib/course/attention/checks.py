"""The exercises of notebook 02 and the mistakes that people make in them."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.rope import apply_rope, rope_tables


def _rope_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 4, 6, generator=generator)                 # (B, T, H, E), all different
    square = torch.randn(1, 4, 4, 8, generator=generator)            # T = H: a swap does not crash
    return [(x, *rope_tables(torch.arange(3, 8), 6)),
            (square, *rope_tables(torch.arange(4), 8)),
            (square.bfloat16(), *rope_tables(torch.arange(4), 8))]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.chunk(2, dim=-1)


def _along_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)                      # lines up with (H, E/2)
    first, second = _halves(x)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def _backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope(x, cos, -sin)


def _no_minus(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = _halves(x)
    return torch.cat((first * cos + second * sin, second * cos + first * sin), -1)


def _interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def _even_odd_joined(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1)


def _halves_swapped(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = _halves(apply_rope(x, cos, sin))
    return torch.cat((second, first), -1)


def _overwritten(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    first, second = _halves(x)
    first = first * cos - second * sin
    return torch.cat((first, second * cos + first * sin), -1)


def _promoted(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return apply_rope(x.float(), cos, sin)


rotate = Exercise(
    reference=apply_rope,
    cases=_rope_cases,
    praise="Right: every pair turned by its position's angle, heads alike, the input untouched.",
    mistakes={
        "you rotated along the heads, not along the sequence: cos and sin have shape (T, E/2), and "
        "without a new axis for the heads PyTorch lines T up with H. Use cos[:, None].":
            _along_heads,
        "you turned the hands the other way around: the minus belongs to first * cos - second * "
        "sin, the plus to second * cos + first * sin.": _backwards,
        "the minus is missing: a rotation is (first * cos - second * sin, second * cos + first * "
        "sin). With two pluses the hand changes its length.": _no_minus,
        "you paired neighboring features, 2i with 2i + 1, as in the paper. Here feature i goes "
        "with feature i + E/2: split x in two halves.": _interleaved,
        "you split x into even and odd features. Here the pairs are the two halves of x: feature "
        "i goes with feature i + E/2.": _even_odd_joined,
        "the two halves came out in the wrong order: the first coordinates belong in front.":
            _halves_swapped,
        "you overwrote the first half before the second one was computed: both need the old "
        "values. Give the results new names.": _overwritten,
        "the result should have the dtype of x. cos and sin are float32, and they pulled x up to "
        "float32: convert them with .to(x.dtype).": _promoted,
    })


def _expand(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)


def _expand_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 3, 5, 4, generator=generator), 6),
            (torch.randn(1, 2, 2, 2, generator=generator), 8),
            (torch.randn(2, 4, 3, 2, generator=generator), 4)]


expand_kv = Exercise(
    reference=_expand,
    cases=_expand_cases,
    praise="Right: neighboring query heads share a KV head, as in the library.",
    mistakes={
        "you repeated the whole row of KV heads (0, 1, 0, 1). Query heads that share a KV head are "
        "neighbors, so it must be 0, 0, 1, 1: repeat_interleave, not repeat.":
            lambda kv, n: kv.repeat(1, n // kv.shape[1], 1, 1),
        "you repeated along the sequence (axis 2). The heads are axis 1.":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[1], dim=2),
        "you repeated along the batch (axis 0). The heads are axis 1.":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[1], dim=0),
        "you repeated along the features (axis 3). The heads are axis 1.":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[1], dim=3),
        "you made n_heads copies of every KV head. Each is needed n_heads / n_kv_heads times.":
            lambda kv, n: kv.repeat_interleave(n, dim=1),
        "you made one copy too few or too many: each KV head is needed n_heads / n_kv_heads times, "
        "the original included.":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[1] + 1, dim=1),
        "every query head got the first KV head. That is right for one KV head only.":
            lambda kv, n: kv[:, :1].expand(-1, n, -1, -1),
    })


def _mask(length: int, total: int) -> Tensor:
    return torch.ones(length, total, dtype=torch.bool).tril(total - length)


causal_mask = Exercise(
    reference=_mask,
    cases=lambda: [(3, 3), (2, 5), (1, 4), (4, 7)],
    praise="Right: the last row sees everything, and each row above it one token less.",
    mistakes={
        "you forgot the cache: row 0 is not position 0 but position total - length. With 2 new "
        "tokens after 3 cached ones, the first new token sees 4 keys. Shift the diagonal.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(),
        "the diagonal is one too low: a token must see itself.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t - 1),
        "the diagonal is one too high: a token sees the next one, which it has to guess.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t + 1),
        "it is upside down: True means that the query may see the key. Yours hides the past.":
            lambda t, s: ~_mask(t, s),
        "you kept the future (triu). Keys up to and with the query's own position are seen: tril.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t),
        "rows and columns are swapped: the mask is (length, total), queries down, keys across.":
            lambda t, s: _mask(t, s).T,
        "the mask should hold True and False, not numbers: scaled_dot_product_attention *adds* a "
        "mask of numbers to the scores. Use dtype=torch.bool.":
            lambda t, s: _mask(t, s).float(),
        "you returned scores to add (0 and minus infinity). Here True and False are asked for.":
            lambda t, s: torch.zeros(t, s).masked_fill(~_mask(t, s), float("-inf")),
    })


bug_hunt = BugHunt(
    culprit="rope",
    alibis={
        "mask": "plot A acquits the mask. If a token saw later ones, the logits of earlier tokens "
                "would change with the last token. They do not move at all.",
        "qk_norm": "plot C acquits QK-norm. Without it the largest score would grow with the "
                   "square of the weights. Both curves stay flat.",
    },
    praise="Right: it is RoPE. Equal tokens get exactly equal attention at every distance, so the "
           "patient does not know where they stand. It turned its hands along the *heads*: token 3 "
           "and token 30 get the same angle. Nothing crashes, and the loss still falls, only less.")
