"""RMSNorm against its definition and against automatic differentiation, with and without PyTorch's
own operation underneath."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from picolm_lib.model.norm import RMSNorm

SHAPES = [(7,), (5, 7), (2, 3, 8), (2, 4, 3, 6)]


def definition(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def norm_of(width: int, eps: float = 1e-6, dtype: torch.dtype = torch.float64) -> RMSNorm:
    norm = RMSNorm(width, eps=eps, dtype=dtype)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_definition(shape, eps):
    norm, x = norm_of(shape[-1], eps), random(shape).requires_grad_()
    gain, upstream = norm.weight.detach().clone().requires_grad_(), random(shape, 2)
    expected = torch.autograd.grad(definition(x, gain, eps), (x, gain), upstream)
    found = torch.autograd.grad(norm(x), (x, norm.weight), upstream)
    torch.testing.assert_close(norm(x), definition(x, gain, eps))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_finite_differences(shape):
    norm = norm_of(shape[-1])
    assert torch.autograd.gradcheck(norm, random(shape).requires_grad_())


def test_a_strided_input_and_a_strided_gradient():
    norm, x = norm_of(6), random((2, 6, 4)).requires_grad_()
    upstream = random((6, 4, 2), 2).permute(2, 1, 0)
    expected = torch.autograd.grad(definition(x.mT, norm.weight, 1e-6), x, upstream)
    found = torch.autograd.grad(norm(x.mT), x, upstream)
    torch.testing.assert_close(found, expected)


def test_with_and_without_gradients_it_says_the_same():
    norm, x = norm_of(8, dtype=torch.float32), random((3, 8)).float()
    with torch.no_grad():
        expected = norm(x)
    torch.testing.assert_close(norm(x), expected)
    assert norm(x).requires_grad and not expected.requires_grad


def test_the_plain_form_says_the_same(monkeypatch):
    norm, x = norm_of(8, eps=0.3), random((3, 8)).requires_grad_()
    fast, fast_grads = norm(x), torch.autograd.grad(norm(x), (x, norm.weight), random((3, 8), 2))
    monkeypatch.setattr("picolm_lib.model.norm.norm_form", lambda x: None)
    torch.testing.assert_close(norm(x), fast)
    torch.testing.assert_close(torch.autograd.grad(norm(x), (x, norm.weight), random((3, 8), 2)),
                               fast_grads)


def test_sixteen_bits_come_out_as_float32():
    norm, x = norm_of(8, dtype=torch.float32), random((3, 8)).bfloat16().requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.dtype == torch.float32 and x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y, definition(x.float(), norm.weight, 1e-6))


def test_zeros_stay_zeros_and_give_finite_gradients():
    norm, x = norm_of(8), torch.zeros(2, 8, dtype=torch.float64, requires_grad=True)
    y = norm(x)
    y.sum().backward()
    assert not y.any()
    torch.testing.assert_close(x.grad, (norm.weight.detach() / 1e-6**0.5).expand(2, 8))


def test_huge_values_that_a_square_in_float32_holds():
    norm, x = norm_of(4, dtype=torch.float32), torch.full((4,), 1e18)
    torch.testing.assert_close(norm(x), norm.weight)
