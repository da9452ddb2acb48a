"""Wrong answers to the exercises of notebook 02, as learners write them: each is told its bug."""

from __future__ import annotations

import torch
from helpers import assert_told, each_wrong_answer

from picolm_lib.course.attention import checks


def rope_in_place(x, cos, sin):
    a, b = x.chunk(2, -1)
    old = a.clone()
    a.mul_(cos[:, None]).sub_(b * sin[:, None])
    b.mul_(cos[:, None]).add_(old * sin[:, None])
    return x


def rope_without_heads_axis(x, cos, sin):
    a, b = x.split(x.shape[-1] // 2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def rope_other_way(x, cos, sin):
    z = torch.complex(*(t.float() for t in x.chunk(2, -1))) * torch.complex(cos, -sin)[:, None]
    return torch.cat([z.real, z.imag], -1).to(x.dtype)


def rope_two_pluses(x, cos, sin):
    swapped = torch.cat(x.chunk(2, -1)[::-1], -1)
    c, s = (torch.cat([t, t], -1)[:, None].to(x.dtype) for t in (cos, sin))
    return x * c + swapped * s


def rope_neighbors(x, cos, sin):
    out = torch.empty_like(x)
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
    out[..., 1::2] = x[..., 1::2] * c + x[..., 0::2] * s
    return out


def rope_float32(x, cos, sin):
    a, b = x.chunk(2, -1)
    c, s = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def rope_swapped(x, cos, sin):
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([b * c + a * s, a * c - b * s], -1)


def rope_overwritten(x, cos, sin):
    c, s = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    x = x.clone()
    half = x.shape[-1] // 2
    x[..., :half] = x[..., :half] * c - x[..., half:] * s
    x[..., half:] = x[..., half:] * c + x[..., :half] * s
    return x


def rope_with(combine):
    """A learner's rotate that gets everything right but the way the parts are combined."""
    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        return combine(x[..., :half], x[..., half:], cos[:, None].to(x.dtype),
                       sin[:, None].to(x.dtype))

    return rotate


def rope_own_tables(x, cos, sin):
    positions = torch.arange(x.shape[1]).float()
    speeds = 1 / 10_000 ** (torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = torch.outer(positions, speeds)[None, :, None]
    z = torch.complex(*(t.float() for t in x.chunk(2, -1))) * torch.polar(torch.ones(()), angles)
    return torch.cat([z.real, z.imag], -1).to(x.dtype)


def rope_heads_first(x, cos, sin):
    a, b = x.transpose(1, 2).chunk(2, -1)
    c, s = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def rope_one_angle(x, cos, sin):
    a, b = x.chunk(2, -1)
    c, s = cos[0].to(x.dtype), sin[0].to(x.dtype)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def expand_by_filling(kv, n):
    out = torch.zeros(kv.shape[0], n, kv.shape[2], kv.shape[3])
    for head in range(kv.shape[1]):
        out[:, head] = kv[:, head]
    return out


def mask_new_only(t, s):
    mask = torch.zeros(t, s, dtype=torch.bool)
    mask[:, s - t:] = torch.ones(t, t, dtype=torch.bool).tril()
    return mask


def mask_cache_last(t, s):
    mask = torch.ones(t, s, dtype=torch.bool)
    mask[:, :t] = torch.ones(t, t, dtype=torch.bool).tril()
    return mask


def mask_loop(rule):
    def mask(length, total):
        return torch.tensor([[bool(rule(q, k, length, total)) for k in range(total)]
                             for q in range(length)])

    return mask


WRONG = {
    "rotate": [
        (rope_in_place, "in place"), (rope_without_heads_axis, "along the heads"),
        (rope_other_way, "other way around"), (rope_two_pluses, "minus is missing"),
        (rope_neighbors, "neighboring features"), (rope_float32, "dtype of x"),
        (rope_swapped, "wrong order"), (rope_overwritten, "overwrote the first half"),
        (rope_with(lambda a, b, c, s: torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2)),
         "alternately"),
        (rope_with(lambda a, b, c, s: torch.cat([a * s - b * c, b * s + a * c], -1)),
         "changed places"),
        (rope_with(lambda a, b, c, s: torch.cat([a * c - b * s, b], -1)), "only the first half"),
        (rope_with(lambda a, b, c, s: torch.cat([a, b], -1) * torch.cat([c + s, c + s], -1)),
         "never met its partner"),
        (rope_with(lambda a, b, c, s: torch.cat([a * c - b * s, a * c + b * s], -1)),
         "partners are mixed up"),
        (rope_with(lambda a, b, c, s: torch.cat([a * c - b * s, b * c - a * s], -1)),
         "needs a plus"),
        (rope_with(lambda a, b, c, s: torch.cat([a * c - b * s, b * c + a * s])),
         "along the batch"),
        (rope_with(lambda a, b, c, s: (a * c - b * s, b * c + a * s)), "Join them"),
        (rope_heads_first, "never moved them back"), (rope_one_angle, "first one"),
        (rope_own_tables, "tables of your own"), (lambda x, cos, sin: x.clone(), "came back"),
    ],
    "expand_kv": [
        (lambda kv, n: torch.cat([kv] * (n // kv.shape[1]), 1), "neighbors"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -2), "along the sequence"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], 0), "along the batch"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -1), "along the features"),
        (lambda kv, n: kv.repeat_interleave(n, 1), "n_heads copies"),
        (lambda kv, n: torch.cat([kv[:, :1]] * n, 1), "first KV head"),
        (lambda kv, n: kv[:, :, None].expand(-1, -1, n // kv.shape[1], -1, -1), "shape should be"),
        (lambda kv, n: kv[:, [-1] * n], "last KV head"),
        (lambda kv, n: torch.stack([kv.mean(1)] * n, 1), "averaged"),
        (lambda kv, n: kv.repeat_interleave(n // len(kv), 1), "by the batch"),
        (lambda kv, n: kv.repeat_interleave(kv.size(1), 1), "as many copies as there are"),
        (lambda kv, n: torch.stack([kv, kv], 2).flatten(1, 2), "two copies"),
        (lambda kv, n: kv.repeat_interleave(n // kv.size(1)), "flattens everything"),
        (lambda kv, n: kv.clone(), "nothing was copied"), (expand_by_filling, "are empty"),
        (lambda kv, n: kv[:, [(n - 1 - h) // (n // kv.size(1)) for h in range(n)]], "backwards"),
        (lambda kv, n: kv[:, [h % kv.size(1) for h in range(n)]], "repeat_interleave, not repeat"),
    ],
    "causal_mask": [
        (mask_loop(lambda q, k, t, s: k <= q), "forgot the cache"),
        (mask_loop(lambda q, k, t, s: k < q + s - t), "must see itself"),
        (mask_loop(lambda q, k, t, s: k <= q + s - t + 1), "one too high"),
        (mask_loop(lambda q, k, t, s: k > q + s - t), "upside down"),
        (mask_loop(lambda q, k, t, s: k >= q + s - t), "kept the future"),
        (lambda t, s: mask_loop(lambda q, k, t, s: k <= q + s - t)(t, s).mT, "swapped"),
        (lambda t, s: mask_loop(lambda q, k, t, s: k <= q + s - t)(t, s) * 1.0, "True and False"),
        (mask_loop(lambda q, k, t, s: k <= q + s), "everything is True"),
        (mask_loop(lambda q, k, t, s: k <= q + t), "shifted the diagonal by length"),
        (mask_loop(lambda q, k, t, s: k <= q + t - s), "the wrong way"),
        (mask_loop(lambda q, k, t, s: k <= q + 3), "fits the example alone"),
        (lambda t, s: torch.ones(s, s).tril().bool(), "row for every position"),
        (lambda t, s: torch.ones(t, t).tril().bool(), "cached keys are missing"),
        (mask_new_only, "hid the cached tokens"), (mask_cache_last, "first columns"),
        (mask_loop(lambda q, k, t, s: k == q + s - t), "alone"),
        (lambda t, s: torch.ones(t, s, dtype=torch.long).tril(s - t), "whole numbers"),
        (lambda t, s: torch.ones(1, 1, t, s).tril(s - t).bool(), "axes too many"),
        (lambda t, s: [[k <= q + s - t for k in range(s)] for q in range(t)], "a list"),
        (mask_loop(lambda q, k, t, s: k <= s - 1 - q), "backwards"),
    ],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)


def test_a_forgotten_return_is_named():
    def rotate(x, cos, sin):
        a, b = x.chunk(2, -1)
        torch.cat([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], -1)

    assert "needs a return" in checks.rotate(rotate).message


def test_the_bug_hunt():
    messages = {name: checks.bug_hunt(name) for name in ("rope", "mask", "qk_norm")}
    assert [name for name, verdict in messages.items() if verdict.passed] == ["rope"]
    assert "plot A" in messages["mask"].message and "plot C" in messages["qk_norm"].message
    assert "not among" in checks.bug_hunt("gate").message
    assert checks.bug_hunt(None).message.startswith("Not yet")
