"""Wrong answers to the exercises of notebook 03, as learners write them: each is told its bug."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from picolm_lib.course.pyramid import checks


def widths_by(ratio, to_multiple=round):
    """A pyramid from a rule for the ratio's place between 0 and 1."""
    def widths(d, layers, first, last, m):
        return [m * to_multiple(d * (first + ratio(i, layers) * (last - first)) / m)
                for i in range(layers)]

    return widths


def place(i, layers):
    return i / (layers - 1) if layers > 1 else 0.0


def without_multiple(d, layers, first, last, m):
    return [int(d * (first + place(i, layers) * (last - first)) + 0.5) for i in range(layers)]


def as_floats(d, layers, first, last, m):
    return [float(w) for w in widths_by(place)(d, layers, first, last, m)]


def layer_norm(x, gain, eps):
    return torch.nn.functional.layer_norm(x.float(), gain.shape, gain, eps=eps)


def norm_in_place(x, gain, eps):
    kept = x.float()
    scale = torch.rsqrt(kept.square().mean(-1, keepdim=True) + eps)
    x.mul_(scale)
    return kept * scale * gain


def norm_in_16_bits(x, gain, eps):
    return gain * (x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps))


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def silu(x):
    return x / (1 + torch.exp(-x))


WRONG = {
    "pyramid": [
        (widths_by(lambda i, n: (i - 1) / max(1, n - 1)), "index minus 1"),
        (widths_by(lambda i, n: (i + 1) / max(1, n - 1)), "counted layers from 1"),
        (widths_by(lambda i, n: i / n), "divided by n_layers"),
        (widths_by(place, int), "cut off"),
        (widths_by(place, lambda v: -int(-v // 1)), "rounded up"),
        (without_multiple, "not multiples"),
        (widths_by(lambda i, n: (n - 1 - i) / (n - 1) if n > 1 else 1.0), "stands on its head"),
        (widths_by(lambda i, n: i / (n - 1)), "divided by zero"),
        (as_floats, "floats"),
    ],
    "rms_norm": [
        (layer_norm, "LayerNorm"),
        (lambda x, g, e: x.float() * (x.float().square().mean(-2, True) + e).rsqrt() * g,
         "wrong axis"),
        (lambda x, g, e: x.float() * (x.float().square().sum(-1, True) + e).rsqrt() * g, "the sum"),
        (lambda x, g, e: x.float() / (x.float().square().mean(-1, True).sqrt() + e) * g, "inside"),
        (lambda x, g, e: x.float() / x.float().square().mean(-1, True).sqrt() * g,
         "eps is missing"),
        (lambda x, g, e: x.float() * (x.float().square().mean(-1, True) + e).rsqrt(), "the gain"),
        (lambda x, g, e: x.float() / (x.float().square().mean(-1, True) + e) * g, "square root"),
        (norm_in_16_bits, "float32 first"),
        (norm_in_place, "in place"),
    ],
    "swiglu": [
        (lambda x, g, u, d: linear(d)(linear(g)(x) * silu(linear(u)(x))).detach(), "wrong branch"),
        (lambda x, g, u, d: linear(d)(linear(g)(x).sigmoid() * linear(u)(x)).detach(), "sigmoid"),
        (lambda x, g, u, d: linear(d)(linear(g)(x).clamp(min=0) * linear(u)(x)).detach(), "ReLU"),
        (lambda x, g, u, d: linear(d)(nn.GELU()(linear(g)(x)) * linear(u)(x)).detach(), "GELU"),
        (lambda x, g, u, d: linear(d)(silu(linear(g)(x) * linear(u)(x))).detach(), "the product"),
        (lambda x, g, u, d: linear(d)(silu(linear(g)(x)) + linear(u)(x)).detach(), "added"),
        (lambda x, g, u, d: (silu(x.mm(g)) * x.mm(u)).mm(d), "transpose"),
        (lambda x, g, u, d: linear(d)(linear(g)(x) * linear(u)(x)).detach(), "is missing"),
    ],
}


@pytest.mark.parametrize("exercise, answer, phrase", [
    pytest.param(name, answer, phrase, id=f"{name}-{phrase}")
    for name, answers in WRONG.items() for answer, phrase in answers])
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    verdict = getattr(checks, exercise)(answer)
    assert not verdict.passed and phrase in verdict.message, verdict.message


def test_the_bug_hunt():
    verdicts = {name: checks.bug_hunt(name) for name in ("std", "pyramid", "seed")}
    assert [name for name, verdict in verdicts.items() if verdict.passed] == ["std"]
    assert "widths" in verdicts["pyramid"].message and "1.00" in verdicts["seed"].message
    assert checks.bug_hunt(None).message.startswith("Not yet")
