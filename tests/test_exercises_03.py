"""Wrong answers to the exercises of notebook 03, as learners write them: each is told its bug."""

from __future__ import annotations

import torch
from helpers import assert_told, each_wrong_answer
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


def line(first, last, along):
    return first + (last - first) * along


def pyramid_of(ratio, per=1, layers=range, alone=0.0):
    """Widths from a rule for the ratio; per=0 forgets d_model."""
    def widths(d, n, first, last, m):
        along = [i / (n - 1) if n > 1 else alone for i in layers(n)]
        return [round(d**per * ratio(first, last, a) / m) * m for a in along]

    return widths


def returned_in_the_loop(d, layers, first, last, m):
    for _ in range(layers):
        return [m * round(d * first / m)]


def in_multiples(d, layers, first, last, m):
    return [round(d * line(first, last, place(i, layers)) / m) for i in range(layers)]


def always_32(d, layers, first, last, m):
    return widths_by(place)(d, layers, first, last, 32)


def tensors(d, layers, first, last, m):
    return list((torch.linspace(first, last, layers) * d / m).round().int() * m)


def norm_by(divisor, back=False):
    """x over something, times the gain; back converts to x's dtype at the end."""
    def norm(x, gain, eps):
        y = x.float() / divisor(x.float(), eps) * gain
        return y.type_as(x) if back else y

    return norm


def right_rms(x, eps):
    return torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + eps)


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
        (tensors, "or tensors"),
        (pyramid_of(line, alone=1.0), "took the wide end"),
        (pyramid_of(lambda first, last, a: first + last * a), "added all of ratio_last"),
        (pyramid_of(lambda first, last, a: first ** (1 - a) * last**a), "constant factor"),
        (pyramid_of(line, per=0), "d_model is missing"),
        (pyramid_of(line, layers=lambda n: range(n - 1)), "last layer is missing"),
        (pyramid_of(line, layers=lambda n: range(1, n)), "first layer is missing"),
        (pyramid_of(lambda first, last, a: round(line(first, last, a))), "rounded the ratio"),
        (returned_in_the_loop, "inside of the loop"),
        (in_multiples, "did not multiply again"),
        (always_32, "multiples of 32"),
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
        (lambda x, g, e: x.float() * right_rms(x.float(), e) * g, "multiplied by the rms"),
        (norm_by(right_rms, back=True), "returned 16 bits"),
        (lambda x, g, e: (x.float() / right_rms(x.float(), e)).type_as(x) * g, "before the gain"),
        (norm_by(lambda x, e: (x.square().mean(dim=-1) + e).sqrt()), "keepdim=True"),
        (lambda x, g, e: x.float() * g / right_rms(x.float() * g, e), "gain came first"),
        (lambda x, g, e: x.float() / right_rms(x.float(), e) * (1 + g), "1 + gain"),
        (lambda x, g, e: nn.functional.normalize(x.float(), dim=-1) * g, "too small by sqrt(D)"),
        (norm_by(lambda x, e: x.norm(dim=-1, keepdim=True) + e), "length of the vector plus eps"),
        (norm_by(lambda x, e: (x.var(-1, unbiased=False, keepdim=True) + e).sqrt()), "variance"),
        (norm_by(lambda x, e: x.std(-1, keepdim=True) + e), "standard deviation"),
        (norm_by(lambda x, e: torch.sqrt(torch.mean(x**2) + e)), "one mean over everything"),
        (norm_by(lambda x, e: right_rms(x, 1e-6)), "always 1e-6"),
        (lambda x, g, e: nn.functional.rms_norm(x.float(), (x.shape[-1],), g), "Pass eps=eps"),
        (norm_by(lambda x, e: x.abs().mean(-1, keepdim=True) + e), "absolute values"),
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
        (lambda x, g, u, d: torch.mm(silu(x @ g.T) * (x @ u.T), d), "transpose of down"),
        (lambda x, g, u, d: (silu(x.mm(g)) * x.mm(u.t())).mm(d.t()), "transpose of gate"),
        (lambda x, g, u, d: (silu(x.mm(g.t())) * x.mm(u)).mm(d.t()), "transpose of up"),
        (lambda x, g, u, d: silu(x.mm(g.t())) * x.mm(u.t()), "down is missing"),
        (lambda x, g, u, d: linear(d)(silu(linear(g)(x))).detach() * (x @ u.T @ d.T),
         "each branch down"),
        (lambda x, g, u, d: linear(d)(silu(linear(g)(x)) * silu(linear(u)(x))).detach(), "both"),
        (lambda x, g, u, d: silu(linear(d)(linear(g)(x) * linear(u)(x))).detach(), "came last"),
        (lambda x, g, u, d: linear(d)(linear(g)(silu(x)) * linear(u)(x)).detach(), "came first"),
        (lambda x, g, u, d: silu(x.mm(g.t())).mm(d.t()), "plain MLP"),
        (lambda x, g, u, d: x.mm(u.t()).mm(d.t()), "linear map"),
        (lambda x, g, u, d: linear(d)(silu(linear(g)(x)) * linear(g)(x)).detach(), "gate twice"),
        (lambda x, g, u, d: x + linear(d)(silu(linear(g)(x)) * linear(u)(x)).detach(), "added x"),
        (lambda x, g, u, d: linear(d)(linear(g)(x).tanh() * linear(u)(x)).detach(), "tanh"),
    ],
}


@each_wrong_answer(WRONG)
def test_a_wrong_answer_is_told_its_bug(exercise, answer, phrase):
    assert_told(getattr(checks, exercise), answer, phrase)


def test_the_bug_hunt():
    verdicts = {name: checks.bug_hunt(name) for name in ("std", "pyramid", "seed")}
    assert [name for name, verdict in verdicts.items() if verdict.passed] == ["seed"]
    assert "plot B" in verdicts["pyramid"].message and "plot A" in verdicts["std"].message
    assert checks.bug_hunt(None).message.startswith("Not yet")
