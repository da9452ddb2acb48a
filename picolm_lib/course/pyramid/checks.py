"""The exercises of notebook 03 and the mistakes that people make in them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from picolm_lib.config import PicoConfig
from picolm_lib.course.checks import BugHunt, Exercise
from picolm_lib.mlp import pyramid_widths


def _library_widths(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    return pyramid_widths(PicoConfig(d_model=d_model, n_layers=n_layers, mlp_ratio_first=first,
                                     mlp_ratio_last=last, multiple_of=step, n_heads=4))


def _widths(rounding: Callable = round, shift: int = 0, by_layers: bool = False,
            backwards: bool = False) -> Callable:
    """The pyramid, with a mistake chosen by the arguments."""
    def widths(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
        found = []
        for layer in range(n_layers):
            along = (layer + shift) / max(n_layers if by_layers else n_layers - 1, 1)
            along = 1 - along if backwards else along
            found.append(step * rounding(d_model * (first + along * (last - first)) / step))
        return found

    return widths


def _crashing(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    return [step * round(d_model * (first + i / (n_layers - 1) * (last - first)) / step)
            for i in range(n_layers)]


def _not_rounded(d_model: int, n_layers: int, first: float, last: float, step: int) -> list[int]:
    return [round(d_model * (first + i / max(n_layers - 1, 1) * (last - first)))
            for i in range(n_layers)]


pyramid = Exercise(
    reference=_library_widths,
    cases=lambda: [(384, 12, 1.5, 4.0, 32), (128, 4, 1.5, 4.0, 32), (64, 5, 1.0, 3.3, 8),
                   (64, 1, 2.0, 4.0, 32)],
    praise="Right: both ends are met exactly, and every width is a multiple.",
    mistakes={
        "every width is one step off: you used the layer's index minus 1. The first layer is layer "
        "0, and its width must be ratio_first * d_model exactly.": _widths(shift=-1),
        "you counted layers from 1, so the first layer is too wide and the last one beyond the "
        "wide end. Count from 0.": _widths(shift=1),
        "you divided by n_layers, so the last layer never reaches the wide end. From the first to "
        "the last layer there are n_layers - 1 steps.": _widths(by_layers=True),
        "you cut off (int or //) instead of rounding to the nearest multiple: use round.":
            _widths(rounding=math.floor),
        "the sizes are right, but they are floats, and nn.Linear wants whole numbers: call int on "
        "each of them.": lambda *given: [float(width) for width in _library_widths(*given)],
        "you rounded up (ceil) instead of rounding to the nearest multiple: use round.":
            _widths(rounding=math.ceil),
        "your widths are not multiples of multiple_of: divide by it, round, multiply again.":
            _not_rounded,
        "the pyramid stands on its head: the first layer is the narrow one.":
            _widths(backwards=True),
        "with a single layer you divided by zero: n_layers - 1 is 0 there. Use max(n_layers - 1, "
        "1).": _crashing,
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
        "you took the mean over the wrong axis: each token is normalized alone, over its features, "
        "the last axis.": lambda x, g, e: x.float() / _rms_of(x.float(), e, -2) * g,
        "you took the sum of the squares, not their mean: the result is too small by sqrt(D).":
            lambda x, g, e: x.float() / (x.float().pow(2).sum(-1, keepdim=True) + e).sqrt() * g,
        "eps belongs inside of the square root: sqrt(mean + eps), not sqrt(mean) + eps.":
            lambda x, g, e: x.float() / (_rms_of(x.float(), 0) + e) * g,
        "eps is missing: a vector of zeros would be divided by zero.":
            lambda x, g, e: x.float() / _rms_of(x.float(), 0) * g,
        "you forgot the gain.": lambda x, g, e: x.float() / _rms_of(x.float(), e),
        "the square root is missing: divide by the root of the mean square.":
            lambda x, g, e: x.float() / (x.float().pow(2).mean(-1, keepdim=True) + e) * g,
        "you squared in 16 bits: a float16 ends at 65,504, and 1,000 squared is more. Convert x to "
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
        "SiLU on the gate is missing: without it both branches are linear.":
            lambda x, g, u, d: ((x @ g.T) * (x @ u.T)) @ d.T,
    })


bug_hunt = BugHunt(
    culprit="std",
    alibis={
        "pyramid": "the widths acquit the pyramid. If they were computed with the layer's index "
                   "minus 1, the first bar would be below 1.5 D and the last one below 4 D.",
        "seed": "the similarities acquit the seed. If all layers had been drawn from one seed, "
                "their matrices would be equal, and every number in the square would be 1.00.",
    },
    praise="Right: it is the standard deviation. It falls with depth and reaches exactly zero in "
           "the last block, so gate and up are all zeros there. down starts at zero on purpose. A "
           "product of zeros has no gradient on either side: the widest MLP never learns.")
