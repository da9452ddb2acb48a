"""Answers to the exercises as learners write them, wrong ones and right ones.

Of the wrong ones a few for each exercise, written otherwise than its own `mistakes`, and all that
are told something that is not among these.
"""

from __future__ import annotations

import math

import torch
from torch import nn

# 01: tokens

def merged(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i:i + 2]) == pair:
            out, i = [*out, new], i + 2
        else:
            out, i = [*out, ids[i]], i + 1
    return out


def latest(ids, merges):
    ids = list(ids)
    while known := [p for p in zip(ids, ids[1:], strict=False) if p in merges]:
        pair = max(known, key=merges.get)
        ids = merged(ids, pair, merges[pair])
    return ids


def in_place(ids, merges):
    while known := [p for p in zip(ids, ids[1:], strict=False) if p in merges]:
        pair = min(known, key=merges.get)
        ids[:] = merged(ids, pair, merges[pair])
    return ids


def rows(stream, length, shift):
    n = (len(stream) - 1) // length
    cut = [stream[i * length + shift:i * length + shift + length] for i in range(n)]
    return torch.stack(cut)


def total(losses):
    return float(torch.cat(losses).sum())


def size(texts):
    return sum(len(text.encode("utf-8")) for text in texts)


# 02: attention

def rope_in_place(x, cos, sin):
    a, b = x.chunk(2, -1)
    old = a.clone()
    a.mul_(cos[:, None]).sub_(b * sin[:, None])
    b.mul_(cos[:, None]).add_(old * sin[:, None])
    return x


def rope_with(combine):
    """A learner's rotate that gets everything right but the way the parts are combined."""
    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        return combine(x[..., :half], x[..., half:], cos[:, None].to(x.dtype),
                       sin[:, None].to(x.dtype))

    return rotate


def mask_loop(rule):
    def mask(length, total):
        return torch.tensor([[bool(rule(q, k, length, total)) for k in range(total)]
                             for q in range(length)])

    return mask


# 03: pyramid

def widths_by(ratio, to_multiple=round):
    """A pyramid from a rule for the ratio's place between 0 and 1."""
    def widths(d, layers, first, last, m):
        return [m * to_multiple(d * (first + ratio(i, layers) * (last - first)) / m)
                for i in range(layers)]

    return widths


def place(i, layers):
    return i / (layers - 1) if layers > 1 else 0.0


def norm_in_place(x, gain, eps):
    kept = x.float()
    scale = torch.rsqrt(kept.square().mean(-1, keepdim=True) + eps)
    x.mul_(scale)
    return kept * scale * gain


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def silu(x):
    return x / (1 + torch.exp(-x))


# 04: muon

A, B, C = 3.4445, -4.7750, 2.0315


def jordan(x, steps, a=A, b=B, c=C):
    for _ in range(steps):
        square = torch.matmul(x, x.transpose(0, 1))
        x = a * x + b * (square @ x) + c * (square @ (square @ x))
    return x


def frobenius(m):
    return m.float() / torch.linalg.norm(m.float())


def spoiled(m, steps):
    x = frobenius(m)
    m /= m.float().norm()
    return jordan(x, steps)


def momentum_in_place(m, g, keep):
    m.lerp_(g, 1 - keep)
    return m, m.lerp(g, 1 - keep)


def by_size(condition):
    def sort(shapes):
        groups = {"muon": [], "adamw": []}
        for name, shape in shapes.items():
            groups["muon" if condition(name, shape) else "adamw"].append(name)
        return groups

    return sort


# 05: training

def global_norm(gradients):
    return torch.cat([g.reshape(-1) for g in gradients]).norm()


def clip_in_place(gradients, limit):
    scale = (limit / global_norm(gradients)).clamp(max=1)
    for g in gradients:
        g.mul_(scale)
    return gradients


def chunks(x, targets, chunk):
    return [(x[i:i + chunk], targets[i:i + chunk]) for i in range(0, len(x), chunk)]


def by_hand(x, weight, targets, chunk, rows=None, count=None, skip=True):
    """log-sum-exp minus the target's logit, added up row by row."""
    total = torch.zeros(())
    for a, b in chunks(x, targets, chunk):
        logits = (a @ weight.T).float()
        nats = logits.logsumexp(-1) - logits.gather(1, b.clamp(min=0)[:, None])[:, 0]
        total = total + (nats * (b != -100) if skip else nats).sum()
    return total / (count if count is not None else (targets != -100).sum())


def slopes(fall):
    """A schedule that rises rightly; `fall` is told how far the run is, and the decay."""
    def factor(done, warmup, decay):
        up = 1.0 if warmup == 0 or done > warmup else done / warmup
        return min(up, 1.0, fall(done, decay)) if decay > 0 else up

    return factor


# 06: sampling

NEVER = -math.inf


def nucleus(keep):
    """Top-p written as a loop; `keep(place, sums, p)` decides in sorted order."""
    def top_p(logits, p):
        answer = torch.full_like(logits, NEVER)
        for row, chances in enumerate(torch.softmax(logits, dim=1)):
            order = sorted(range(len(chances)), key=lambda i: -chances[i].item())
            sums, total = [], 0.0
            for i in order:
                total += chances[i].item()
                sums.append(total)
            for place, i in enumerate(order):
                if keep(place, sums, p):
                    answer[row, i] = logits[row, i]
        return answer

    return top_p


def right_top_p(logits, p):
    return nucleus(lambda place, sums, p: place == 0 or sums[place - 1] < p)(logits, p)


def with_zeros(right):
    def answer(logits, p):
        kept = right(logits, p)
        return torch.where(torch.isinf(kept), torch.zeros_like(kept), kept)

    return answer


def right_min_p(logits, p):
    log_chances = logits.log_softmax(1)
    floor = log_chances.max(1).values[:, None] + math.log(p)
    return torch.where(log_chances < floor, torch.tensor(NEVER), logits)


def penalize_in_place(logits, p):
    logits[logits.softmax(1) < p * logits.softmax(1).max(1, keepdim=True).values] = NEVER
    return logits


def penalty_loop(change, rows=None, once=True):
    """A penalty written as a loop over rows and seen tokens."""
    def answer(logits, seen, penalty):
        new = logits.clone()
        for row in range(len(logits)):
            tokens = seen[row].tolist() if rows is None else rows(seen, row)
            for token in set(tokens) if once else tokens:
                new[row, token] = change(new[row, token], penalty)
        return new

    return answer


def right_change(score, penalty):
    return score / penalty if score > 0 else score * penalty


def penalty_in_place(logits, seen, penalty):
    score = logits.gather(1, seen)
    score[score < 0] *= penalty
    score[score > 0] /= penalty
    return logits.scatter_(1, seen, score)


# (folder of picolm_lib.course, exercise) -> (answer, a phrase of what it is told)
WRONG = {
    ("tokens", "encode_word"): [
        (in_place, "in place"),
        (lambda ids, merges: [t for t in latest(ids, merges) if t > 9], "answer is"),
        (lambda ids, merges: set(ids), "a list is expected"),
    ],
    ("tokens", "windows"): [
        (lambda s, n: (rows(s, n, 0), rows(s, n, 0)), "targets are the inputs themselves"),
        (lambda s, n: (rows(s, n, 1), rows(s, n, 0)), "swapped the two"),
        (lambda s, n: (rows(s, n, 0)[:-1], rows(s, n, 1)[:-1]), "last window"),
        (lambda s, n: (rows(s, n, 0).mT, rows(s, n, 1).mT), "rows and columns"),
    ],
    ("tokens", "bits_per_byte"): [
        (lambda x, t: total(x) / math.log(2) / sum(map(len, x)), "bits per token"),
        (lambda x, t: total(x) / size(t), "nats per byte"),
        (lambda x, t: total(x) * math.log(2) / size(t), "multiplied by ln 2"),
        (lambda x, t: total(x) / math.log(2) / len("".join(t)), "counted characters"),
    ],
    ("attention", "rotate"): [
        (rope_in_place, "in place"),
        (rope_with(lambda a, b, c, s: torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2)),
         "interleaved"),
        (rope_with(lambda a, b, c, s: torch.cat([a * s - b * c, b * s + a * c], -1)),
         "are swapped"),
        (rope_with(lambda a, b, c, s: torch.cat([a * c - b * s, b], -1)), "only the first half"),
        (rope_with(lambda a, b, c, s: torch.cat([a, b], -1) * torch.cat([c + s, c + s], -1)),
         "never combined with its partner"),
    ],
    ("attention", "expand_kv"): [
        (lambda kv, n: torch.cat([kv] * (n // kv.shape[1]), 1), "neighbors"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -2), "along the sequence"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], 0), "along the batch"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -1), "along the features"),
        (lambda kv, n: kv[:, :, None].expand(-1, -1, n // kv.shape[1], -1, -1),
         "the shape is another one"),
    ],
    ("attention", "causal_mask"): [
        (mask_loop(lambda q, k, t, s: k <= q), "forgot the cache"),
        (mask_loop(lambda q, k, t, s: k < q + s - t), "must see itself"),
        (mask_loop(lambda q, k, t, s: k <= q + s - t + 1), "one too high"),
        (mask_loop(lambda q, k, t, s: k > q + s - t), "upside down"),
    ],
    ("pyramid", "pyramid"): [
        (widths_by(lambda i, n: (i - 1) / max(1, n - 1)), "index minus 1"),
        (widths_by(lambda i, n: (i + 1) / max(1, n - 1)), "counted layers from 1"),
        (widths_by(lambda i, n: i / n), "divided by n_layers"),
        (widths_by(place, int), "truncated"),
    ],
    ("pyramid", "rms_norm"): [
        (lambda x, g, e: x.float() * (x.float().square().mean(-2, True) + e).rsqrt() * g,
         "wrong axis"),
        (lambda x, g, e: x.float() * (x.float().square().sum(-1, True) + e).rsqrt() * g, "the sum"),
        (lambda x, g, e: x.float() / (x.float().square().mean(-1, True).sqrt() + e) * g, "inside"),
        (lambda x, g, e: x.float() / x.float().square().mean(-1, True).sqrt() * g,
         "eps is missing"),
        (norm_in_place, "in place"),
    ],
    ("pyramid", "swiglu"): [
        (lambda x, g, u, d: linear(d)(linear(g)(x) * silu(linear(u)(x))).detach(), "wrong branch"),
        (lambda x, g, u, d: linear(d)(linear(g)(x).sigmoid() * linear(u)(x)).detach(), "sigmoid"),
        (lambda x, g, u, d: linear(d)(linear(g)(x).clamp(min=0) * linear(u)(x)).detach(), "ReLU"),
        (lambda x, g, u, d: linear(d)(nn.GELU()(linear(g)(x)) * linear(u)(x)).detach(), "GELU"),
    ],
    ("muon", "newton_schulz"): [
        (lambda m, n: jordan(m.float(), n), "did not normalize"),
        (lambda m, n: jordan(m.float() / m.float().abs().max(), n), "largest entry"),
        (lambda m, n: jordan(m.float() / (m.float() ** 2).sum(), n), "square root"),
        (lambda m, n: jordan(m.float() / (m.float() ** 2).mean() ** 0.5, n), "root of the mean"),
        (spoiled, "in place"),
    ],
    ("muon", "nesterov"): [
        (lambda m, g, k: (m * k + g, (m * k + g) * k + g), "added in full"),
        (lambda m, g, k: (m * k + g, (m * k + g) * k + g * (1 - k)), "adds the whole gradient"),
        (lambda m, g, k: (m.lerp(g, 1 - k), m.lerp(g, 1 - k)), "plain momentum"),
        (lambda m, g, k: (m.lerp(g, 1 - k), g + k * m.lerp(g, 1 - k)), "counts in full"),
        (momentum_in_place, "in place"),
    ],
    ("muon", "sort_parameters"): [
        (by_size(lambda n, s: len(s) > 1), "embedding and output layer"),
        (by_size(lambda n, s: "blocks" in n and len(s) == 2), "forgot the gate"),
        (by_size(lambda n, s: "blocks" in n), "norms and biases of the blocks"),
        (by_size(lambda n, s: len(s) > 1 and n != "embedding.weight"), "The output layer"),
    ],
    ("training", "schedule"): [
        (slopes(lambda done, decay: 1 - done), "over the whole run"),
        (slopes(lambda done, decay: (1 - done) / (1 - decay)), "1 - decay"),
        (slopes(lambda done, decay: 1.0), "fall is missing"),
        (slopes(lambda done, decay: float(done <= 1 - decay)), "jumps to 0"),
    ],
    ("training", "clip"): [
        (clip_in_place, "in place"), (lambda gradients, limit: list(gradients), "nothing"),
    ],
    ("training", "chunked_loss"): [
        (lambda x, w, t, c: by_hand(x, w, t, c, count=len(t)), "divided by all rows"),
        (lambda x, w, t, c: by_hand(x, w, t, c, count=1), "did not divide"),
        (lambda x, w, t, c: by_hand(x, w, t, c, count=len(t), skip=False), "target 0"),
        (lambda x, w, t, c: by_hand(x[:c], w, t[:c], c), "first chunk"),
    ],
    ("sampling", "top_p"): [
        (nucleus(lambda place, sums, p: sums[place] <= p), "crosses p. It must stay"),
        (nucleus(lambda place, sums, p: place == 0 or sums[place] <= p), "only the first one"),
        (nucleus(lambda place, sums, p: place < 2 or sums[place - 2] < p), "one token too many"),
        (lambda logits, p: right_top_p(logits.T, p).T, "axis 0"),
    ],
    ("sampling", "min_p"): [
        (lambda logits, p: torch.where(logits < logits.max(1)[0][:, None] - p, NEVER, logits),
         "subtracted p"),
        (lambda logits, p: torch.where(right_min_p(logits, p).isinf(), logits, NEVER),
         "upside down"),
        (lambda logits, p: right_min_p(logits, 1 - p), "1 - p"),
        (with_zeros(right_min_p), "minus infinity"), (penalize_in_place, "in place"),
    ],
    ("sampling", "repetition_penalty"): [
        (penalty_loop(lambda score, r: score / r), "classic bug"),
        (penalty_loop(lambda score, r: score * r), "multiplied positive"),
        (penalty_loop(lambda score, r: score * r if score > 0 else score / r), "swapped"),
        (penalty_loop(lambda score, r: score / r if score > 0 else score), "left unchanged"),
        (penalty_in_place, "in place"),
    ],
}
# Right ones, written otherwise than the references.
RIGHT = {
    ("training", "chunked_loss"): by_hand,
    ("training", "clip"): lambda gradients, limit: [
        g * min(1.0, limit / global_norm(gradients).item()) for g in gradients],
    ("training", "schedule"): slopes(lambda done, decay: (1 - done) / decay),
    ("sampling", "top_p"): right_top_p,
    ("sampling", "min_p"): right_min_p,
    ("sampling", "repetition_penalty"): penalty_loop(right_change),
}
