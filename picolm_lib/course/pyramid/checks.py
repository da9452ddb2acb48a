"""The exercises of notebook 03 and the mistakes that people make in them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.course.pyramid import width_mistakes as wrong

pyramid = Exercise(
    reference=wrong.library_widths,
    cases=lambda: [(384, 12, 1.5, 4.0, 32), (128, 4, 1.5, 4.0, 32), (64, 5, 1.0, 3.3, 8),
                   (64, 1, 2.0, 4.0, 32)],
    praise="Right: both ends are exact, and every width is a multiple.",
    mistakes={
        "every width is one step off: you used the layer's index minus 1. The first layer is layer "
        "0, and its width must be ratio_first * d_model exactly.": wrong.widths_with(shift=-1),
        "you counted layers from 1, so the first layer is too wide and the last one wider "
        "than the wide end. Count from 0.": wrong.widths_with(shift=1),
        "you divided by n_layers, so the last layer never reaches the wide end. From the first to "
        "the last layer there are n_layers - 1 steps.": wrong.widths_with(by_layers=True),
        "you truncated (int or //) instead of rounding to the nearest multiple: use round.":
            wrong.widths_with(rounding=math.floor),
        "the sizes are right, but they are floats or tensors, and nn.Linear needs integers: "
        "call int on each of them.":
            lambda *given: [float(width) for width in wrong.library_widths(*given)],
        "you rounded up (ceil) instead of rounding to the nearest multiple: use round.":
            wrong.widths_with(rounding=math.ceil),
        "your widths are not multiples of multiple_of: divide by it, round, multiply again.":
            wrong.not_rounded,
        "the pyramid is upside down: the first layer is the narrow one.":
            wrong.widths_with(backwards=True),
        "with a single layer you took the wide end. Layer 0 always has the narrow one: divide by "
        "max(n_layers - 1, 1), without a special case.": wrong.by_ratio(wrong.line, alone=1.0),
        "you added all of ratio_last along the way. Add only the distance: along * (ratio_last - "
        "ratio_first).": wrong.by_ratio(lambda first, last, place: first + place * last),
        "your ratios grow by a constant factor. Here they grow by a constant amount, on a straight "
        "line.": wrong.by_ratio(lambda first, last, place: first * (last / first) ** place),
        "you rounded to multiples of 32, whatever multiple_of says.":
            wrong.by_ratio(wrong.line, unit=lambda step: 32),
        "you rounded the ratio. Round the width, in units of multiple_of, at the very end.":
            wrong.by_ratio(lambda first, last, place: round(wrong.line(first, last, place))),
        "d_model is missing: a width is d_model times the ratio.":
            wrong.by_ratio(wrong.line, per=lambda d_model, step: 1),
        "you divided by multiple_of and rounded, but did not multiply again: these are counts of "
        "multiples, not widths.":
            lambda *given: [width // given[-1] for width in wrong.library_widths(*given)],
        "the last layer is missing: range(n_layers) counts from 0 to n_layers - 1 by itself.":
            wrong.by_ratio(wrong.line, layers=lambda count: range(count - 1)),
        "the first layer is missing: count from 0, range(n_layers).":
            wrong.by_ratio(wrong.line, layers=lambda count: range(1, count)),
        "you returned inside the loop, after the first layer. Collect all widths, then return.":
            lambda *given: wrong.library_widths(*given)[:1],
        "with a single layer you divided by zero: n_layers - 1 is 0 there. Use max(n_layers - 1, "
        "1).": wrong.crashing,
    })


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    x = x.float()
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain


def _norm_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    gain = torch.rand(4, generator=generator) + 0.5
    return [(torch.randn(3, 4, generator=generator) + 1, gain, 1e-6),
            (torch.randn(4, 4, generator=generator) * 1e-3, gain, 1e-6),
            (torch.randn(2, 4, 4, generator=generator), gain, 0.5),
            ((torch.randn(2, 4, generator=generator) * 1000).half(), gain, 1e-6)]


def _rms_of(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    return (x.pow(2).mean(dim, keepdim=True) + eps).sqrt()


rms_norm = Exercise(
    reference=_norm,
    cases=_norm_cases,
    praise="Right: in float32, over the last axis, eps inside the root, the gain at the end.",
    mistakes={
        "you subtracted the mean: that is LayerNorm. RMSNorm only divides.":
            lambda x, g, e: _norm(x.float() - x.float().mean(-1, keepdim=True), g, e),
        "you took the mean over the wrong axis: each token is normalized separately, over its "
        "features, the last axis.": lambda x, g, e: x.float() / _rms_of(x.float(), e, -2) * g,
        "you took the sum of the squares, not their mean: the result is too small by sqrt(D).":
            lambda x, g, e: x.float() / (x.float().pow(2).sum(-1, keepdim=True) + e).sqrt() * g,
        "eps belongs inside the square root: sqrt(mean + eps), not sqrt(mean) + eps.":
            lambda x, g, e: x.float() / (_rms_of(x.float(), 0) + e) * g,
        "eps is missing: a vector of zeros would be divided by zero.":
            lambda x, g, e: x.float() / _rms_of(x.float(), 0) * g,
        "you multiplied by the rms. A norm divides by it.":
            lambda x, g, e: x.float() * _rms_of(x.float(), e) * g,
        "you returned 16 bits: the result is float32, whatever x is. Do not convert it back.":
            lambda x, g, e: _norm(x, g, e).to(x.dtype),
        "you rounded to 16 bits before the gain: stay in float32 to the end.":
            lambda x, g, e: _norm(x, torch.ones_like(g), e).to(x.dtype) * g,
        "the mean has lost its axis: keepdim=True keeps it, so that each vector is divided by its "
        "own rms. With as many vectors as features nothing crashes.":
            lambda x, g, e: x.float() / (x.float().pow(2).mean(-1) + e).sqrt() * g,
        "the gain came first, so it was normalized away: multiply by it at the end.":
            lambda x, g, e: _norm(x.float() * g, torch.ones_like(g), e),
        "you multiplied by 1 + gain. Multiply by the gain itself; it starts at 1.":
            lambda x, g, e: _norm(x, 1 + g, e),
        "you divided by the length of the vector, not by its rms: the result is too small by "
        "sqrt(D), and eps is missing.":
            lambda x, g, e: x.float() / x.float().norm(dim=-1, keepdim=True) * g,
        "you divided by the length of the vector plus eps: take the root of the mean, with eps "
        "inside.": lambda x, g, e: x.float() / (x.float().norm(dim=-1, keepdim=True) + e) * g,
        "you divided by the root of the variance, which subtracts the mean. The rms does not.":
            lambda x, g, e: x.float() / (x.float().var(-1, keepdim=True, correction=0) + e).sqrt()
            * g,
        "you divided by the standard deviation, which subtracts the mean. The rms does not.":
            lambda x, g, e: x.float() / (x.float().std(-1, keepdim=True) + e) * g,
        "you took one mean over everything. Each token is normalized alone, over the last axis.":
            lambda x, g, e: x.float() / (x.float().pow(2).mean() + e).sqrt() * g,
        "your eps is always 1e-6. Use the argument.":
            lambda x, g, e: _norm(x, g, 1e-6),
        "you called F.rms_norm without eps, so it used its own default. Pass eps=eps.":
            lambda x, g, e: F.rms_norm(x.float(), g.shape, g),
        "you took the mean of the absolute values. The rms is the root of the mean square.":
            lambda x, g, e: x.float() / (x.float().abs().mean(-1, keepdim=True) + e) * g,
        "you forgot the gain.": lambda x, g, e: x.float() / _rms_of(x.float(), e),
        "the square root is missing: divide by the root of the mean square.":
            lambda x, g, e: x.float() / (x.float().pow(2).mean(-1, keepdim=True) + e) * g,
        "you squared in 16 bits: float16 ends at 65,504, and 1,000 squared is larger. Convert x to "
        "float32 first.": lambda x, g, e: x / _rms_of(x, e) * g,
    })


def _swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def _swiglu_cases() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)

    def matrices(batch: int, width: int, inside: int) -> tuple:
        shapes = ((batch, width), (inside, width), (inside, width), (width, inside))
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    return [matrices(3, 4, 4), matrices(2, 4, 6)]


swiglu = Exercise(
    reference=_swiglu,
    cases=_swiglu_cases,
    praise="Right: one branch is gated by the SiLU of the other, then `down` brings it back.",
    mistakes={
        "SiLU is on the wrong branch: it belongs to the gate, not to up.":
            lambda x, g, u, d: ((x @ g.T) * F.silu(x @ u.T)) @ d.T,
        "you used sigmoid. SiLU is x * sigmoid(x): F.silu.":
            lambda x, g, u, d: (torch.sigmoid(x @ g.T) * (x @ u.T)) @ d.T,
        "you used ReLU. That is ReGLU; here it is SiLU: F.silu.":
            lambda x, g, u, d: (F.relu(x @ g.T) * (x @ u.T)) @ d.T,
        "you used GELU. That is GEGLU; here it is SiLU: F.silu.":
            lambda x, g, u, d: (F.gelu(x @ g.T) * (x @ u.T)) @ d.T,
        "you applied SiLU to the product. Apply it to the gate first, then multiply.":
            lambda x, g, u, d: F.silu((x @ g.T) * (x @ u.T)) @ d.T,
        "you added the two branches. A gate multiplies.":
            lambda x, g, u, d: (F.silu(x @ g.T) + x @ u.T) @ d.T,
        "a transpose is missing: weights are stored as (out, in), as in nn.Linear, so it is x @ "
        "weight.T. With square matrices nothing crashes.":
            lambda x, g, u, d: (F.silu(x @ g) * (x @ u)) @ d,
        "the transpose of down is missing: it is stored as (D, W), so the last product is @ "
        "down.T.": lambda x, g, u, d: (F.silu(x @ g.T) * (x @ u.T)) @ d,
        "the transpose of gate is missing: it is stored as (W, D), so it is x @ gate.T.":
            lambda x, g, u, d: (F.silu(x @ g) * (x @ u.T)) @ d.T,
        "the transpose of up is missing: it is stored as (W, D), so it is x @ up.T.":
            lambda x, g, u, d: (F.silu(x @ g.T) * (x @ u)) @ d.T,
        "down is missing: the product still has W features, and the result must have D.":
            lambda x, g, u, d: F.silu(x @ g.T) * (x @ u.T),
        "you projected each branch down and then multiplied. Multiply first, inside, where there "
        "are W features.": lambda x, g, u, d: (F.silu(x @ g.T) @ d.T) * (x @ u.T @ d.T),
        "SiLU is on both branches. up stays linear, so that it can be negative.":
            lambda x, g, u, d: (F.silu(x @ g.T) * F.silu(x @ u.T)) @ d.T,
        "SiLU came last, after down. It belongs to the gate.":
            lambda x, g, u, d: F.silu(((x @ g.T) * (x @ u.T)) @ d.T),
        "SiLU came first, on x. Apply it to the gate's output.":
            lambda x, g, u, d: ((F.silu(x) @ g.T) * (x @ u.T)) @ d.T,
        "up is missing: that is a plain MLP. Multiply the gate with x @ up.T.":
            lambda x, g, u, d: F.silu(x @ g.T) @ d.T,
        "the gate is missing: that is a linear map. Multiply with F.silu(x @ gate.T).":
            lambda x, g, u, d: (x @ u.T) @ d.T,
        "you used the gate twice. The second factor is x @ up.T.":
            lambda x, g, u, d: (F.silu(x @ g.T) * (x @ g.T)) @ d.T,
        "you added x. The block does that, not the MLP.":
            lambda x, g, u, d: x + _swiglu(x, g, u, d),
        "you used tanh. Here it is SiLU: F.silu.":
            lambda x, g, u, d: (torch.tanh(x @ g.T) * (x @ u.T)) @ d.T,
        "SiLU on the gate is missing: without it both branches are linear.":
            lambda x, g, u, d: ((x @ g.T) * (x @ u.T)) @ d.T,
    })


bug_hunt = BugHunt(
    culprit="seed",
    alibis={
        "pyramid": "plot B clears the pyramid. If widths were computed with the layer's index "
                   "minus 1, every block of the patient would be smaller than its healthy twin.",
        "std": "plot A clears the standard deviation. With a wrong one, some block of the patient "
               "would have clearly larger or smaller activations than its healthy twin; with a std "
               "of zero they would be zero.",
    },
    praise="Right: it is the seed. Before training, blocks add nothing, so all of them read the "
           "same stream. If all look at exactly the same tokens, their matrices must be equal: the "
           "generator was created again for each block. Sizes and standard deviations are correct, "
           "nothing crashes, and four blocks start as exact copies.")
