"""SwiGLU is its formula, and the pyramid has the widths that it promises."""

from __future__ import annotations

import pytest
import torch

from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.model.mlp import MLP, pyramid_widths, swiglu


def test_swiglu_equals_the_formula(randomize):
    mlp = randomize(MLP(6, 10), std=0.7)
    x = torch.randn(2, 3, 6)
    gate, up, down = mlp.gate.weight, mlp.up.weight, mlp.down.weight
    expected = torch.zeros(2, 3, 6)
    for b in range(2):
        for t in range(3):
            g, u = gate @ x[b, t], up @ x[b, t]
            silu = g / (1 + torch.exp(-g))
            expected[b, t] = down @ (silu * u)
    torch.testing.assert_close(mlp(x), expected)


def test_swiglu_has_three_matrices_and_no_biases():
    shapes = {name: tuple(p.shape) for name, p in MLP(6, 10).named_parameters()}
    assert shapes == {"gate.weight": (10, 6), "up.weight": (10, 6), "down.weight": (6, 10)}


# 384 * (1.5 + 2.5 l / 11) / 32 is 18 + 2.727 l, rounded, times 32.
PICO = [576, 672, 736, 832, 928, 1_024, 1_088, 1_184, 1_280, 1_376, 1_440, 1_536]
# 128 * (1.5 + 2.5 l / 3) / 32 is 6 + 3.333 l: 6, 9.33, 12.67, 16.
NANO = [192, 288, 416, 512]


@pytest.mark.parametrize("preset, widths", [("pico", PICO), ("pico8k", PICO), ("nano", NANO),
                                            ("smoke", [96, 256])])
def test_widths_of_the_presets(preset, widths):
    assert pyramid_widths(PRESETS[preset].model) == widths


def test_widths_of_the_planned_model():
    widths = pyramid_widths(PRESETS["planned"].model)
    assert len(widths) == 32
    # 1280 * (1.5 + 2.5 l / 31) / 32 is 60 + 3.2258 l: l = 1 gives 63.2, l = 30 gives 156.8.
    assert widths[:2] == [1_920, 2_016]
    assert widths[-2:] == [5_024, 5_120]


@pytest.mark.parametrize("preset", PRESETS)
def test_pyramid_starts_and_ends_exactly_and_never_narrows(preset):
    config = PRESETS[preset].model
    widths = pyramid_widths(config)
    assert widths[0] == 1.5 * config.d_model
    assert widths[-1] == 4 * config.d_model
    assert widths == sorted(widths)
    assert len(set(widths)) == config.n_layers
    assert all(width % config.multiple_of == 0 for width in widths)


def test_second_block_is_already_wider():
    # A prototype took the layer's index minus one: two narrow blocks, and the top never reached.
    config = PicoConfig(n_layers=5, d_model=64, multiple_of=8)
    assert pyramid_widths(config) == [96, 136, 176, 216, 256]


def test_single_block_has_the_first_width():
    assert pyramid_widths(PicoConfig(n_layers=1, d_model=64)) == [96]


def test_equal_ratios_make_a_column():
    config = PicoConfig(n_layers=4, d_model=64, mlp_ratio_first=2.0, mlp_ratio_last=2.0)
    assert pyramid_widths(config) == [128] * 4


def test_widths_are_rounded_to_the_nearest_multiple():
    # 8 * 1.5 = 12 and 8 * 4 = 32 in units of 10: 1.2 and 3.2.
    config = PicoConfig(n_layers=2, d_model=8, n_heads=2, multiple_of=10)
    assert pyramid_widths(config) == [10, 30]


def test_width_is_never_zero():
    assert pyramid_widths(PicoConfig(n_layers=2, d_model=8, multiple_of=64)) == [64, 64]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_swiglu_has_the_values_and_gradients_of_its_definition(dtype):
    gate, up = (torch.randn(2, 5, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    upstream = torch.randn(2, 5, 8, dtype=dtype)
    expected = torch.nn.functional.silu(gate) * up
    tolerance = {} if dtype != torch.bfloat16 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(swiglu(gate, up), expected, **tolerance)
    torch.testing.assert_close(torch.autograd.grad(swiglu(gate, up), (gate, up), upstream),
                               torch.autograd.grad(expected, (gate, up), upstream), **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(swiglu(gate, up), expected, **tolerance)


def test_swiglu_has_the_gradients_of_finite_differences():
    inputs = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(swiglu, inputs)


def test_swiglu_keeps_only_its_inputs():
    gate, up = (torch.randn(2, 8, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t,
                                                  lambda t: t):
        swiglu(gate, up)
    assert sorted(kept) == sorted([gate.data_ptr(), up.data_ptr()])
