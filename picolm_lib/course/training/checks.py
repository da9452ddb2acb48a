"""The exercises of notebook 05 and the mistakes that people make in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.model.loss import IGNORE, linear_cross_entropy


def _factor(done: float, warmup: float, decay: float) -> float:
    rising = done / warmup if warmup else 1.0
    falling = (1 - done) / decay if decay else 1.0
    return min(1.0, rising, falling)


def _factor_cases() -> list[tuple]:
    places = (0.0, 0.03, 0.1, 0.4, 0.6, 0.75, 0.9, 1.0)
    return [(done, *shape) for shape in ((0.1, 0.5), (0.2, 0.8), (0.0, 0.25), (0.1, 0.0))
            for done in places]


schedule = Exercise(
    reference=_factor,
    cases=_factor_cases,
    praise="Right: it rises, stays at 1, and falls to 0 exactly at the end.",
    mistakes={
        "it falls over the whole run: divide 1 - done by `decay`, and cap it at 1, so that it "
        "falls only when `decay` of the run is left.":
            lambda x, w, d: min(1.0, x / w if w else 1.0, 1 - x if d else 1.0),
        "you divided by 1 - decay. The fall takes the share `decay` of the run.":
            lambda x, w, d: min(1.0, x / w if w else 1.0, (1 - x) / (1 - d) if d else 1.0),
        "it exceeds 1 in the middle: both slopes are capped at 1.":
            lambda x, w, d: min(x / w if w else math.inf, (1 - x) / d if d else math.inf),
        "the warm-up goes the wrong way: it should start at 0 and rise.":
            lambda x, w, d: min(1.0, 1 - x / w if w and x < w else 1.0, (1 - x) / d if d else 1.0),
        "the warm-up is missing: over the first `warmup` of the run the factor rises from 0.":
            lambda x, w, d: min(1.0, (1 - x) / d if d else 1.0),
        "the fall is missing: over the last `decay` of the run the factor goes to 0.":
            lambda x, w, d: min(1.0, x / w if w else 1.0),
        "it jumps to 0 where the decay begins. It should fall in a straight line.":
            lambda x, w, d: min(1.0, x / w if w else 1.0, 0.0 if d and x > 1 - d else 1.0),
        "that is a cosine. Here the fall is a straight line.":
            lambda x, w, d: min(1.0, x / w if w else 1.0) * (
                (1 + math.cos(math.pi * max(0.0, x - 1 + d) / d)) / 2 if d else 1.0),
        "with no warm-up you divided by zero. A warm-up of 0 means full speed from the start.":
            lambda x, w, d: min(1.0, x / w, (1 - x) / d if d else 1.0),
        "with no decay you divided by zero. A decay of 0 means that the factor stays at 1.":
            lambda x, w, d: min(1.0, x / w if w else 1.0, (1 - x) / d),
        "with no warm-up or no decay you divided by zero. A share of 0 means that there is no "
        "such slope.": lambda x, w, d: min(1.0, x / w, (1 - x) / d),
        "you multiplied the rise by the fall before capping them at 1. Take the smallest of the "
        "two slopes and 1.":
            lambda x, w, d: min(1.0, (x / w if w else 1.0) * ((1 - x) / d if d else 1.0)),
    })


def _norm(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.square().sum() for g in gradients]).sum().sqrt()


def _clip(gradients: list[Tensor], limit: float) -> list[Tensor]:
    return [g * (limit / _norm(gradients)).clamp(max=1.0) for g in gradients]


def _clip_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    some = [torch.randn(3, 4, generator=generator), torch.randn(5, generator=generator),
            10 * torch.randn(2, 2, generator=generator)]
    return [(some, 1.0), ([g / 1_000 for g in some], 1.0), (some, 5.0)]


def _clip_with(scale: Callable[[list[Tensor], float], Tensor]) -> Callable:
    return lambda gradients, limit: [g * scale(gradients, limit) for g in gradients]


clip = Exercise(
    reference=_clip,
    cases=_clip_cases,
    praise="Right: one norm and one factor for all of them, and the factor is never above 1.",
    mistakes={
        "you took the norm of each tensor separately, which changes the direction of the whole "
        "step. Use one norm over all of them.": lambda gradients, limit: [
            g * (limit / g.norm()).clamp(max=1.0) for g in gradients],
        "you scaled small gradients up to the limit. The factor is never above 1.":
            _clip_with(lambda gs, limit: limit / _norm(gs)),
        "the factor is 1 / norm, whatever the limit: it should be limit / norm.":
            _clip_with(lambda gs, limit: (1 / _norm(gs)).clamp(max=1.0)),
        "you clamped every number to the limit. That is clipping by value, and it changes "
        "the direction.": lambda gradients, limit: [g.clamp(-limit, limit) for g in gradients],
        "the square root is missing: the norm is the root of the sum of squares.":
            _clip_with(lambda gs, limit: (limit / _norm(gs) ** 2).clamp(max=1.0)),
        "you added up the norms of the tensors. Add up their squares, then take the root.":
            _clip_with(lambda gs, limit: (limit / sum(g.norm() for g in gs)).clamp(max=1.0)),
        "you took the largest norm of any tensor. The global norm includes all of them.":
            _clip_with(lambda gs, limit: (limit / max(g.norm() for g in gs)).clamp(max=1.0)),
        "you took the mean of the squares, not their sum: with many weights the norm is far "
        "too small.": _clip_with(lambda gs, limit: (limit / torch.cat(
            [g.flatten() for g in gs]).square().mean().sqrt()).clamp(max=1.0)),
        "you returned zeros where the limit was exceeded. A large gradient is shortened, not "
        "discarded.": _clip_with(lambda gs, limit: (_norm(gs) <= limit).float()),
        "nothing was clipped: gradients above the limit were returned unchanged.":
            lambda gradients, limit: gradients,
    })


def _loss_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 6, generator=generator)
    square, wide = (torch.randn(v, 6, generator=generator) for v in (6, 9))
    targets = torch.randint(6, (10,), generator=generator)
    some = targets.clone()
    some[[0, 1, 5]] = IGNORE
    return [(x, square, targets, 5), (x, wide, targets, 4), (x, wide, some, 4),
            (x.bfloat16(), wide.bfloat16(), some, 5)]


def _sums(x: Tensor, weight: Tensor, targets: Tensor, chunk: int, **options: Any,
          ) -> list[Tensor]:
    """Each chunk's loss."""
    return [F.cross_entropy(F.linear(rows, weight).float(), wanted, **options)
            for rows, wanted in zip(x.split(chunk), targets.split(chunk), strict=True)]


def _total(*given: Any, **options: Any) -> Tensor:
    return torch.stack(_sums(*given, reduction="sum", **options)).sum()


def _counted(targets: Tensor) -> int:
    return int((targets != IGNORE).sum())


def _right(x: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    return _total(x, weight, targets, chunk) / _counted(targets)


def _reference(x: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    return linear_cross_entropy(x, weight, targets, chunk)


chunked_loss = Exercise(
    reference=_reference,
    cases=_loss_cases,
    praise="Right: sums over chunks, one division at the end by the rows that count, in float32.",
    mistakes={
        "you took the mean of the chunks' means. The last chunk is shorter, and some have ignored "
        "rows, so their means should not count equally: add up sums, divide once.":
            lambda x, w, t, c: torch.stack(_sums(x, w, t, c)).mean(),
        "you divided twice: the chunks' means are already divided by their rows. Use "
        "reduction=\"sum\" in each chunk.":
            lambda x, w, t, c: torch.stack(_sums(x, w, t, c)).sum() / _counted(t),
        "you added up means. Use reduction=\"sum\" in each chunk, and divide once at the end.":
            lambda x, w, t, c: torch.stack(_sums(x, w, t, c)).sum(),
        "you divided by all rows. Those whose target is -100 do not count, so divide by the number "
        "of the others.": lambda x, w, t, c: _total(x, w, t, c) / len(t),
        "you did not divide: this is the sum over all rows, not their mean.": _total,
        "the rows with the target -100 were counted as if they had the target 0. They must be "
        "ignored.": lambda x, w, t, c: _total(x, w, t.clamp(min=0), c) / len(t),
        "the last, shorter chunk is missing. `x.split(chunk)` keeps it.":
            lambda x, w, t, c: _right(x[:len(x) // c * c], w, t[:len(x) // c * c], c),
        "a transpose is missing: weight is (V, D), so the logits are x @ weight.T. With a square "
        "weight nothing crashes.": lambda x, w, t, c: _right(x, w.T.contiguous(), t, c),
        "your loss is in 16 bits. Convert each chunk's logits with .float() before the loss.":
            lambda x, w, t, c: torch.stack([F.cross_entropy(F.linear(r, w), y, reduction="sum")
                                            for r, y in zip(x.split(c), t.split(c), strict=True)
                                            ]).sum() / _counted(t),
        "you read only the first chunk: add up all of them.":
            lambda x, w, t, c: _right(x[:c], w, t[:c], c),
    })


bug_hunt = BugHunt(
    culprit="leak",
    alibis={
        "endless": "the left plot below clears the end of text. If it were not in the data, its "
                   "probability would stay near zero even where stories end, and stories would "
                   "never stop.",
        "clip": "the right plot below clears the clipping. If gradients were clipped before they "
                "are unscaled, the optimizer would get a norm of 1 divided by the loss scale, "
                "far below the dotted line.",
    },
    praise="Right: the patient validates on a piece of its own training stream. Its model "
           "memorizes 30 stories, and its validation loss rewards it for that. The gap in the "
           "healthy report is the truth. Split the documents before you make the stream, as "
           "data/corpus.py does.")
