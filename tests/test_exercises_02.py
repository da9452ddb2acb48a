"""Wrong answers to the exercises of notebook 02, as learners write them: each is told its bug."""

from __future__ import annotations

import pytest
import torch

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
    ],
    "expand_kv": [
        (lambda kv, n: torch.cat([kv] * (n // kv.shape[1]), 1), "neighbors"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -2), "along the sequence"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], 0), "along the batch"),
        (lambda kv, n: kv.repeat_interleave(n // kv.shape[1], -1), "along the features"),
        (lambda kv, n: kv.repeat_interleave(n, 1), "n_heads copies"),
        (lambda kv, n: torch.cat([kv[:, :1]] * n, 1), "first KV head"),
        (lambda kv, n: kv[:, :, None].expand(-1, -1, n // kv.shape[1], -1, -1), "shape should be"),
    ],
    "causal_mask": [
        (mask_loop(lambda q, k, t, s: k <= q), "forgot the cache"),
        (mask_loop(lambda q, k, t, s: k < q + s - t), "must see itself"),
        (mask_loop(lambda q, k, t, s: k <= q + s - t + 1), "one too high"),
        (mask_loop(lambda q, k, t, s: k > q + s - t), "upside down"),
        (mask_loop(lambda q, k, t, s: k >= q + s - t), "kept the future"),
        (lambda t, s: mask_loop(lambda q, k, t, s: k <= q + s - t)(t, s).mT, "swapped"),
        (lambda t, s: mask_loop(lambda q, k, t, s: k <= q + s - t)(t, s) * 1.0, "True and False"),
    ],
}


@pytest.mark.parametrize("exercise, answer, phrase", [
    pytest.param(name, answer, phrase, id=f"{name}-{phrase}")
    for name, answers in WRONG.items() for answer, phrase in answers])
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    verdict = getattr(checks, exercise)(answer)
    assert not verdict.passed and phrase in verdict.message, verdict.message


def test_the_bug_hunt():
    messages = {name: checks.bug_hunt(name) for name in ("rope", "mask", "qk_norm")}
    assert [name for name, verdict in messages.items() if verdict.passed] == ["rope"]
    assert "plot A" in messages["mask"].message and "plot C" in messages["qk_norm"].message
    assert "not among" in checks.bug_hunt("gate").message
    assert checks.bug_hunt(None).message.startswith("Not yet")
