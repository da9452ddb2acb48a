"""The exercises of notebook 02 and the mistakes that people make in them."""

from __future__ import annotations

import torch
from torch import Tensor

from picolm_lib.course.attention import rope_mistakes
from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.model.rope import apply_rope, rope_tables


def _rope_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    # (B, T, H, E), all different.
    x = torch.randn(2, 5, 4, 6, generator=generator)
    # T = H, so that swapping the two does not crash.
    square = torch.randn(1, 4, 4, 8, generator=generator)
    return [(x, *rope_tables(torch.arange(3, 8), 6)),
            (square, *rope_tables(torch.arange(4), 8)),
            (square.bfloat16(), *rope_tables(torch.arange(4), 8))]


rotate = Exercise(
    reference=apply_rope,
    cases=_rope_cases,
    praise="Right: every pair is rotated by its position's angle, and the input is unchanged.",
    mistakes={
        "you rotated along the heads, not along the sequence: cos and sin have shape (T, E/2), and "
        "without a new axis for the heads PyTorch lines T up with H. Use cos[:, None].":
            rope_mistakes.along_heads,
        "you rotated in the opposite direction: the minus belongs in first * cos - second * sin, "
        "the plus in second * cos + first * sin.": rope_mistakes.backwards,
        "the minus is missing: a rotation is (first * cos - second * sin, second * cos + first * "
        "sin). With two pluses the length changes.": rope_mistakes.no_minus,
        "you paired neighboring features, 2i with 2i + 1, as in the paper. Here feature i goes "
        "with feature i + E/2: split x in two halves.": rope_mistakes.interleaved,
        "you split x into even and odd features. Here the pairs are the two halves of x: feature "
        "i goes with feature i + E/2.": rope_mistakes.even_odd_joined,
        "the two halves came out in the wrong order: the first coordinates belong in front.":
            rope_mistakes.halves_swapped,
        "you overwrote the first half before the second one was computed: both need the old "
        "values. Give the results new names.": rope_mistakes.overwritten,
        "the result should have the dtype of x. cos and sin are float32, and they promoted x to "
        "float32: convert them with .to(x.dtype).": rope_mistakes.promoted,
        "the right numbers in the wrong places: you interleaved the two halves. They belong one "
        "after the other: torch.cat, not torch.stack.": rope_mistakes.alternating,
        "cos and sin are swapped.": lambda x, cos, sin: apply_rope(x, sin, cos),
        "only the first half was rotated. A rotation changes both coordinates of a pair.":
            rope_mistakes.half_turned,
        "each feature was multiplied by cos and sin, but never combined with its partner: the new "
        "first half needs the second half too, and vice versa.": rope_mistakes.without_partner,
        "in the second line the partners are mixed up: it is second * cos + first * sin.":
            rope_mistakes.same_factors,
        "the second line needs a plus: second * cos + first * sin. With two minuses the "
        "length changes.": rope_mistakes.two_minuses,
        "you joined the halves along the batch: torch.cat uses axis 0 unless you pass dim=-1.":
            lambda x, cos, sin: torch.cat(rope_mistakes.halves(apply_rope(x, cos, sin))),
        "you returned the two halves separately. Join them: torch.cat(..., dim=-1).":
            lambda x, cos, sin: rope_mistakes.halves(apply_rope(x, cos, sin)),
        "you moved the heads before the sequence and never moved them back. The result is "
        "(B, T, H, E), like x.": lambda x, cos, sin: apply_rope(x, cos, sin).transpose(1, 2),
        "all tokens were rotated by the angle of the first one: every position has its own row "
        "of cos and sin.": lambda x, cos, sin: apply_rope(x, cos[:1], sin[:1]),
        "you made your own tables, which count from 0. Use the cos and sin that are given: a text "
        "does not have to start at position 0.": rope_mistakes.from_zero,
        "nothing was rotated: x was returned unchanged.": lambda x, cos, sin: x,
    })


def _expand(kv: Tensor, n_heads: int) -> Tensor:
    return kv.repeat_interleave(n_heads // kv.shape[1], dim=1)


def _padded(kv: Tensor, n_heads: int) -> Tensor:
    return torch.cat((kv, kv.new_zeros(kv.shape[0], n_heads - kv.shape[1], *kv.shape[2:])), dim=1)


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
        "every query head got the last KV head. That is right for one KV head only.":
            lambda kv, n: kv[:, -1:].expand(-1, n, -1, -1),
        "you averaged the KV heads. Each keeps its own keys and values, and is copied.":
            lambda kv, n: kv.mean(1, keepdim=True).expand(-1, n, -1, -1),
        "you divided n_heads by the batch, kv.shape[0]. The number of KV heads is kv.shape[1].":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[0], dim=1),
        "you made as many copies as there are KV heads. It takes n_heads / n_kv_heads copies.":
            lambda kv, n: kv.repeat_interleave(kv.shape[1], dim=1),
        "you made two copies of each head, whatever n_heads is. It takes n_heads / n_kv_heads.":
            lambda kv, n: kv.repeat_interleave(2, dim=1),
        "repeat_interleave without dim flattens everything. Give it the axis of the heads: dim=1.":
            lambda kv, n: kv.repeat_interleave(n // kv.shape[1]),
        "nothing was copied: there must be n_heads heads on axis 1.": lambda kv, n: kv,
        "the heads beyond the first n_kv_heads are empty. Fill them with copies.": _padded,
        "neighbors share a KV head, but in reverse order: the first query heads read the first KV "
        "head.": lambda kv, n: _expand(kv, n).flip(1),
    })


def _mask(length: int, total: int) -> Tensor:
    return torch.ones(length, total, dtype=torch.bool).tril(total - length)


causal_mask = Exercise(
    reference=_mask,
    cases=lambda: [(3, 3), (2, 5), (1, 4), (4, 9)],
    praise="Right: the last row sees everything, and each row above it one token less.",
    mistakes={
        "you forgot the cache: row 0 is not position 0 but position total - length. With 2 new "
        "tokens after 3 cached ones, the first new token sees 4 keys. Shift the diagonal.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(),
        "the diagonal is one too low: a token must see itself.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t - 1),
        "the diagonal is one too high: a token sees the next one, which it has to predict.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t + 1),
        "it is upside down: True means that the query may see the key. Yours hides the past.":
            lambda t, s: ~_mask(t, s),
        "you kept the future (triu). A query sees keys up to its own position: tril.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t),
        "rows and columns are swapped: the mask is (length, total), queries down, keys across.":
            lambda t, s: _mask(t, s).T,
        "the mask should contain True and False, not numbers: scaled_dot_product_attention *adds* "
        "a mask of numbers to the scores. Use dtype=torch.bool.":
            lambda t, s: _mask(t, s).float(),
        "you returned scores to add (0 and minus infinity). The exercise asks for True and False.":
            lambda t, s: torch.zeros(t, s).masked_fill(~_mask(t, s), float("-inf")),
        "everything is True, so every token sees the future. The diagonal is at total - length.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool),
        "you shifted the diagonal by length, the number of new tokens. It is shifted by the number "
        "of cached ones, total - length.": lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(t),
        "you shifted the diagonal the wrong way: a positive number lets the queries see more.":
            lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(t - s),
        "you shifted the diagonal by 3, which fits only the example. The cache contains "
        "total - length tokens.": lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(3),
        "there is a row for every position. Only the last `length` of them are queries: the mask "
        "is (length, total).": lambda t, s: _mask(s, s),
        "the cached keys are missing: there are `total` keys, not only the new ones.":
            lambda t, s: _mask(t, t),
        "you hid the cached tokens. New tokens see all of them: that is what a cache is for.":
            lambda t, s: torch.cat((torch.zeros(t, s - t, dtype=torch.bool), _mask(t, t)), 1),
        "the cached tokens are the first columns, not the last: new tokens are at the end.":
            lambda t, s: torch.cat((_mask(t, t), torch.ones(t, s - t, dtype=torch.bool)), 1),
        "every query sees only its own position. It must also see all earlier ones.":
            lambda t, s: _mask(t, s).triu(s - t),
        "the mask should contain True and False, not integers. Use dtype=torch.bool.":
            lambda t, s: _mask(t, s).long(),
        "there are too many axes: the mask is (length, total), without batch and heads.":
            lambda t, s: _mask(t, s)[None, None],
        "you returned a list. Make a tensor of it: torch.tensor(...).":
            lambda t, s: _mask(t, s).tolist(),
        "the rows are in reverse order: the last query has the last position and sees everything.":
            lambda t, s: _mask(t, s).flip(0),
    })


bug_hunt = BugHunt(
    culprit="rope",
    alibis={
        "mask": "plot A clears the mask. If a token saw later ones, the logits of earlier tokens "
                "would change with the last token. They do not move at all.",
        "qk_norm": "plot C clears QK-norm. Without it the largest score would grow with the "
                   "square of the weights. Both curves stay flat.",
    },
    praise="Right: it is RoPE. Equal tokens get exactly equal attention at every distance, so the "
           "patient does not know where they are. It rotates along the *heads*: tokens 3 and 30 "
           "get the same angle. Nothing crashes, and the loss still falls, just less.")
