"""Wrong answers to the exercises of notebook 05, as learners write them: each is told its bug."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from helpers import assert_told, each_wrong_answer

from picolm_lib.course.training import checks


def global_norm(gradients):
    return torch.cat([g.reshape(-1) for g in gradients]).norm()


def each_alone(gradients, limit):
    return [g * min(1.0, limit / g.norm().item()) for g in gradients]


def up_too(gradients, limit):
    norm = global_norm(gradients)
    return [g / norm * limit for g in gradients]


def by_value(gradients, limit):
    return [torch.minimum(torch.maximum(g, torch.tensor(-limit)), torch.tensor(limit))
            for g in gradients]


def to_one(gradients, limit):
    norm = global_norm(gradients)
    return [g / norm if norm > 1 else g for g in gradients]


def no_root(gradients, limit):
    squared = sum((g * g).sum() for g in gradients)
    return [g * limit / squared if squared > limit else g for g in gradients]


def sum_of_norms(gradients, limit):
    norm = sum(torch.linalg.vector_norm(g) for g in gradients)
    return [g * limit / norm if norm > limit else g for g in gradients]


def largest_norm(gradients, limit):
    norm = torch.stack([g.norm() for g in gradients]).max()
    return [g * limit / norm if norm > limit else g for g in gradients]


def root_mean_square(gradients, limit):
    norm = torch.cat([g.reshape(-1) for g in gradients]).pow(2).mean() ** 0.5
    return [g * limit / norm if norm > limit else g for g in gradients]


def zeroed(gradients, limit):
    norm = global_norm(gradients)
    return [torch.zeros_like(g) if norm > limit else g for g in gradients]


def clip_in_place(gradients, limit):
    scale = (limit / global_norm(gradients)).clamp(max=1)
    for g in gradients:
        g.mul_(scale)
    return gradients


def chunks(x, targets, chunk):
    return [(x[i:i + chunk], targets[i:i + chunk]) for i in range(0, len(x), chunk)]


def mean_of_means(x, weight, targets, chunk):
    losses = [F.cross_entropy((a @ weight.T).float(), b) for a, b in chunks(x, targets, chunk)]
    return sum(losses) / len(losses)


def divided_twice(x, weight, targets, chunk):
    total = sum(F.cross_entropy((a @ weight.T).float(), b) for a, b in chunks(x, targets, chunk))
    return total / targets.ne(-100).sum()


def summed_means(x, weight, targets, chunk):
    return sum(F.cross_entropy((a @ weight.T).float(), b) for a, b in chunks(x, targets, chunk))


def by_hand(x, weight, targets, chunk, rows=None, count=None, skip=True):
    """log-sum-exp minus the target's logit, added up row by row."""
    total = torch.zeros(())
    for a, b in chunks(x, targets, chunk):
        logits = (a @ weight.T).float()
        nats = logits.logsumexp(-1) - logits.gather(1, b.clamp(min=0)[:, None])[:, 0]
        total = total + (nats * (b != -100) if skip else nats).sum()
    return total / (count if count is not None else (targets != -100).sum())


def whole_chunks(x, weight, targets, chunk):
    whole = len(x) // chunk * chunk
    return by_hand(x[:whole], weight, targets[:whole], chunk)


def not_transposed(x, weight, targets, chunk):
    total = sum(F.cross_entropy((a @ weight).float(), b, reduction="sum")
                for a, b in chunks(x, targets, chunk))
    return total / (targets != -100).sum()


def in_16_bits(x, weight, targets, chunk):
    total = torch.zeros((), dtype=x.dtype)
    for a, b in chunks(x, targets, chunk):
        total = total + F.cross_entropy(a @ weight.T, b, reduction="sum")
    return total / (targets != -100).sum()


def slopes(fall):
    """A schedule that rises rightly; `fall` is told how far the run is, and the decay."""
    def factor(done, warmup, decay):
        up = 1.0 if warmup == 0 or done > warmup else done / warmup
        return min(up, 1.0, fall(done, decay)) if decay > 0 else up

    return factor


def uncut(done, warmup, decay):
    slopes_ = [done / warmup] if warmup else []
    slopes_ += [(1 - done) / decay] if decay else []
    return min(slopes_)


def downwards(done, warmup, decay):
    if done < warmup:
        return 1 - done / warmup
    return min((1 - done) / decay, 1.0) if decay else 1.0


def no_warm_up(done, warmup, decay):
    return 1.0 if decay == 0 or done < 1 - decay else (1 - done) / decay


def product(done, warmup, decay):
    up = done / warmup if warmup else 1.0
    down = (1 - done) / decay if decay else 1.0
    return min(up * down, 1.0)


WRONG = {
    "schedule": [
        (slopes(lambda done, decay: 1 - done), "over the whole run"),
        (slopes(lambda done, decay: (1 - done) / (1 - decay)), "1 - decay"),
        (uncut, "without end"), (downwards, "wrong way"), (no_warm_up, "warm-up is missing"),
        (slopes(lambda done, decay: 1.0), "fall is missing"),
        (slopes(lambda done, decay: float(done <= 1 - decay)), "jumps to 0"),
        (slopes(lambda done, decay: 0.5 + 0.5 * math.cos(
            math.pi * max((done - (1 - decay)) / decay, 0))), "cosine"),
        (lambda done, warmup, decay: min(1.0, done / warmup, (1 - done) / decay), "of 0 means"),
        (product, "smallest of the two"),
    ],
    "clip": [(each_alone, "each tensor alone"), (up_too, "small gradients up"),
             (by_value, "by value"), (to_one, "1 / norm"), (no_root, "square root"),
             (sum_of_norms, "added up the norms"), (largest_norm, "largest norm"),
             (root_mean_square, "mean of the squares"), (zeroed, "zeros"),
             (clip_in_place, "in place"), (lambda gradients, limit: list(gradients), "nothing")],
    "chunked_loss": [
        (mean_of_means, "chunks' means"), (divided_twice, "divided twice"),
        (summed_means, "added up means"),
        (lambda x, w, t, c: by_hand(x, w, t, c, count=len(t)), "divided by all rows"),
        (lambda x, w, t, c: by_hand(x, w, t, c, count=1), "did not divide"),
        (lambda x, w, t, c: by_hand(x, w, t, c, count=len(t), skip=False), "target 0"),
        (whole_chunks, "shorter chunk"), (not_transposed, "transpose"), (in_16_bits, "16 bits"),
        (lambda x, w, t, c: by_hand(x[:c], w, t[:c], c), "first chunk")],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)


def test_other_right_answers_pass():
    assert checks.chunked_loss(by_hand).passed
    assert checks.clip(lambda gradients, limit: [
        g * min(1.0, limit / global_norm(gradients).item()) for g in gradients]).passed
    assert checks.schedule(slopes(lambda done, decay: (1 - done) / decay)).passed


def test_the_bug_hunt():
    verdicts = {name: checks.bug_hunt(name) for name in ("leak", "endless", "clip")}
    assert [name for name, verdict in verdicts.items() if verdict.passed] == ["leak"]
    assert "left plot" in verdicts["endless"].message and "dotted" in verdicts["clip"].message
    assert checks.bug_hunt(None).message.startswith("Not yet")
