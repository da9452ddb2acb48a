"""The exercises of notebook 06 and the mistakes that people make in them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.course.checks import Exercise
from picolm_lib.sampling import REJECTED, apply_min_p, apply_repetition_penalty, apply_top_p


def _logits(seed: int, rows: int = 3, size: int = 9, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def _keep(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, REJECTED)


def _top_p(shift: int = 0, always_first: bool = False, back: bool = True) -> Callable:
    """Top-p with a mistake chosen by the arguments.

    Args:
        shift: 1 includes a token's own probability in the sum before it, -1 excludes the
            probability of the token before it.
    """
    def top_p(logits: Tensor, p: float) -> Tensor:
        ordered, order = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(-1)
        before = probs.cumsum(-1) - probs
        if shift == 1:
            before = before + probs
        elif shift == -1:
            before = before - F.pad(probs, (1, 0))[:, :-1]
        kept = before < p
        if always_first:
            kept[:, 0] = True
        return _keep(logits, kept.scatter(1, order, kept) if back else kept)

    return top_p


def _unsorted(logits: Tensor, p: float) -> Tensor:
    probs = logits.softmax(-1)
    return _keep(logits, probs.cumsum(-1) - probs < p)


def _ascending(logits: Tensor, p: float) -> Tensor:
    order = logits.argsort(dim=-1)
    probs = logits.gather(1, order).softmax(-1)
    kept = probs.cumsum(-1) - probs < p
    return _keep(logits, kept.scatter(1, order, kept))


def _of_logits(logits: Tensor, p: float) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < p
    return _keep(logits, kept.scatter(1, order, kept))


def _left_sorted(logits: Tensor, p: float) -> Tensor:
    return apply_top_p(logits, p).sort(dim=-1, descending=True).values


def _over_batch(logits: Tensor, p: float) -> Tensor:
    return apply_top_p(logits.T, p).T


top_p = Exercise(
    reference=apply_top_p,
    cases=lambda: [(_logits(0), 0.8), (_logits(1), 0.3), (_logits(2, 4, 4), 0.6),
                   (_logits(3, 2, 30, 0.5), 0.95), (_logits(4) - 20, 0.7)],
    praise="Right: the smallest set of likeliest tokens that reaches p, each in its own place.",
    mistakes={
        "you dropped the token that crosses p. It must stay, so that the kept ones reach p: keep a "
        "token if the sum *before* it is below p. With one token above p, yours keeps nothing.":
            _top_p(shift=1),
        "you dropped the token that crosses p (only the first one is saved). Keep a token if the "
        "sum *before* it, its own probability not included, is below p.":
            _top_p(shift=1, always_first=True),
        "you kept one token too many: the one that crosses p is the last to stay.":
            _top_p(shift=-1),
        "you did not put the mask back into the tokens' own order: it was made for the sorted "
        "row, and column 0 there is the likeliest token, not token 0. Use scatter.":
            _top_p(back=False),
        "you added up the probabilities in vocabulary order. Sort them first, likeliest "
        "first.": _unsorted,
        "you sorted ascending, so you kept the *least* likely tokens. Use descending=True.":
            _ascending,
        "you added up logits. p is about probabilities: take the softmax first.": _of_logits,
        "you kept tokens whose own probability is at least p. It is the running sum that counts.":
            lambda logits, p: _keep(logits, logits.softmax(-1) >= p),
        "you kept tokens whose own probability is at least 1 - p. It is the running sum that "
        "counts.": lambda logits, p: _keep(logits, logits.softmax(-1) >= 1 - p),
        "the right tokens stay, but your answer is sorted: every logit must stay in its own place.":
            _left_sorted,
        "you worked along the batch (axis 0). Each row is a separate distribution: dim=-1.":
            _over_batch,
        "the right tokens stay, but you returned probabilities. Return logits: the next filter "
        "needs them.": lambda logits, p: apply_top_p(logits, p).softmax(-1),
        "rejected logits should be minus infinity. 0 is a logit like any other, and here even a "
        "high one.": lambda logits, p: apply_top_p(logits, p).nan_to_num(neginf=0.0),
        "you returned the mask. Return the logits, minus infinity where they are rejected.":
            lambda logits, p: apply_top_p(logits, p).isfinite(),
    })


def _relative(dim: int | None = -1, upside_down: bool = False) -> Callable:
    def min_p(logits: Tensor, p: float) -> Tensor:
        probs = logits.softmax(-1)
        most = probs.amax() if dim is None else probs.amax(dim, keepdim=True)
        kept = probs >= p * most
        return _keep(logits, ~kept if upside_down else kept)

    return min_p


min_p = Exercise(
    reference=apply_min_p,
    cases=lambda: [(_logits(5), 0.1), (_logits(6), 0.4), (_logits(7, 4, 4), 0.25),
                   (_logits(8, 2, 30, 0.5), 0.5), (_logits(9) - 20, 0.05)],
    praise="Right: the threshold follows the likeliest token, row by row.",
    mistakes={
        "your threshold is absolute: p itself. It must be relative, p times the probability of "
        "the likeliest token. In a row without a clear favorite, yours rejects almost everything.":
            lambda logits, p: _keep(logits, logits.softmax(-1) >= p),
        "you took the largest probability of the whole batch. Each row has its own: amax(-1, "
        "keepdim=True).": _relative(dim=None),
        "you took the maximum along the batch (axis 0). Each row is a separate distribution.":
            _relative(dim=0),
        "you compared logits. A tenth of a logit is not a tenth of the probability: take the "
        "softmax first.":
            lambda logits, p: _keep(logits, logits >= p * logits.amax(-1, keepdim=True)),
        "you subtracted p from the largest logit. A factor between probabilities is a "
        "*difference* of log(p) between logits; or take the softmax and multiply.":
            lambda logits, p: _keep(logits, logits >= logits.amax(-1, keepdim=True) - p),
        "it is upside down: you rejected the likely tokens.": _relative(upside_down=True),
        "you compared with the mean probability. The largest one sets the threshold.":
            lambda logits, p: _keep(logits, logits.softmax(-1) >= p * logits.softmax(-1).mean(
                -1, keepdim=True)),
        "you kept tokens at least 1 - p times as likely as the likeliest. Keep those at least p "
        "times as likely.": lambda logits, p: apply_min_p(logits, 1 - p),
        "the right tokens stay, but you returned probabilities. Return logits.":
            lambda logits, p: apply_min_p(logits, p).softmax(-1),
        "the right tokens stay, but you changed their logits (log_softmax). A filter leaves what "
        "it keeps as it is.": lambda logits, p: _keep(
            logits.log_softmax(-1), apply_min_p(logits, p).isfinite()),
        "rejected logits should be minus infinity. 0 is a logit like any other.":
            lambda logits, p: apply_min_p(logits, p).nan_to_num(neginf=0.0),
        "you returned the mask. Return the logits, minus infinity where they are rejected.":
            lambda logits, p: apply_min_p(logits, p).isfinite(),
    })


def _penalty_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(10)

    def case(rows: int, size: int, length: int, penalty: float) -> tuple:
        seen = torch.randint(size, (rows, length), generator=generator)
        # One token was seen twice.
        seen[:, -1] = seen[:, 0]
        return 2 * torch.randn(rows, size, generator=generator), seen, penalty

    return [case(2, 12, 5, 2.0), case(3, 10, 4, 1.5), case(1, 8, 3, 3.0)]


def _penalize(logits: Tensor, seen: Tensor, change: Callable) -> Tensor:
    return logits.scatter(1, seen, change(logits.gather(1, seen)))


def _again_and_again(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    for column in range(seen.shape[1]):
        logits = apply_repetition_penalty(logits, seen[:, column:column + 1], penalty)
    return logits


def _pooled(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return apply_repetition_penalty(logits, seen.flatten().expand(len(logits), -1), penalty)


def _everywhere(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _on_probabilities(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return _penalize(logits.softmax(-1), seen, lambda probs: probs / penalty)


def _only_positive(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    return _penalize(logits, seen, lambda s: torch.where(s > 0, s / penalty, s))


repetition_penalty = Exercise(
    reference=apply_repetition_penalty,
    cases=_penalty_cases,
    praise="Right: less likely on both sides of zero, once per token, and the input is unchanged.",
    mistakes={
        "you divided negative logits, too. -4 / 2 is -2, which is *larger*: the token became more "
        "likely. Multiply where the logit is negative. (This is the classic bug.)":
            lambda logits, seen, r: _penalize(logits, seen, lambda s: s / r),
        "you multiplied positive logits, too: that makes them larger, so more likely. Divide where "
        "the logit is positive.": lambda logits, seen, r: _penalize(logits, seen, lambda s: s * r),
        "the two cases are swapped: your penalty is a reward. Divide positive logits, multiply "
        "negative ones.": lambda logits, seen, r: _penalize(
            logits, seen, lambda s: torch.where(s > 0, s * r, s / r)),
        "negative logits were left unchanged. Those tokens have been seen too: multiply them.":
            _only_positive,
        "you penalized a token once for every time it was seen. Once is enough: gather all "
        "scores first, change them, and scatter them back.": _again_and_again,
        "you penalized every token of the vocabulary. Penalize only those in `seen`.":
            _everywhere,
        "you penalized what was seen in *any* row. Each row has its own story.": _pooled,
        "you penalized only the last token. All of `seen` count.":
            lambda logits, seen, r: apply_repetition_penalty(logits, seen[:, -1:], r),
        "you subtracted the penalty. That is another method (a presence penalty); here logits are "
        "divided or multiplied.": lambda logits, seen, r: _penalize(logits, seen, lambda s: s - r),
        "you forbade seen tokens (minus infinity). They should only become less likely.":
            lambda logits, seen, r: logits.scatter(1, seen, REJECTED),
        "you worked on probabilities. The penalty is defined on logits.": _on_probabilities,
    })
