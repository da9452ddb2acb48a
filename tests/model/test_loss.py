"""The chunked loss is F.cross_entropy: same value, same gradients, a fraction of the memory."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from picolm_lib.model.loss import linear_cross_entropy
from picolm_lib.train.estimate import AllocationTracker

ROWS, WIDTH, WORDS = 70, 12, 31


def case(rows: int = ROWS, ignored: slice | None = None) -> tuple[Tensor, Tensor, Tensor]:
    targets = torch.randint(WORDS, (rows,))
    if ignored is not None:
        targets[ignored] = -100
    return torch.randn(rows, WIDTH), torch.randn(WORDS, WIDTH), targets


def reference(x: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0) -> list[Tensor]:
    """Loss and both gradients of scale * loss, by PyTorch in float64."""
    x, weight = (t.detach().double().requires_grad_() for t in (x, weight))
    loss = F.cross_entropy(x @ weight.T, targets)
    return [t.float() for t in (loss, *torch.autograd.grad(scale * loss, (x, weight)))]


def ours(x: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int = 512,
         scale: float = 1.0) -> list[Tensor]:
    x, weight = (t.detach().requires_grad_() for t in (x, weight))
    loss = linear_cross_entropy(x, weight, targets, chunk_rows)
    return [loss, *torch.autograd.grad(scale * loss, (x, weight))]


def assert_same(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        difference = (mine.float() - theirs).norm() / theirs.norm()
        assert difference < tolerance


# One row at a time, ragged last chunks, exact division, exactly one chunk, fewer rows than one.
@pytest.mark.parametrize("chunk_rows", [1, 16, 33, 35, 69, 70, 512])
def test_equals_cross_entropy(chunk_rows):
    problem = case()
    assert_same(ours(*problem, chunk_rows), reference(*problem))


def test_single_row():
    problem = case(rows=1)
    assert_same(ours(*problem), reference(*problem))


# A few rows, a row at either end, all of the second chunk, all but one row.
@pytest.mark.parametrize("ignored", [slice(3, 9), slice(0, 1), slice(69, 70), slice(16, 32),
                                     slice(1, 70)])
def test_ignored_rows_count_for_nothing(ignored):
    problem = case(ignored=ignored)
    got = ours(*problem, chunk_rows=16)
    assert_same(got, reference(*problem))
    assert not got[1][ignored].any()


def test_nothing_to_count_is_nan_as_in_torch():
    x, weight, targets = case(ignored=slice(None))
    assert F.cross_entropy(x @ weight.T, targets).isnan()
    assert linear_cross_entropy(x, weight, targets, 16).isnan()


@pytest.mark.parametrize("scale", [65_536.0, 0.25, -3.0])
def test_gradients_follow_the_upstream_gradient(scale):
    problem = case()
    assert_same(ours(*problem, chunk_rows=16, scale=scale), reference(*problem, scale=scale))


def test_huge_logits_stay_finite():
    x, weight, targets = case()
    problem = (300 * x, weight, targets)
    got = ours(*problem, chunk_rows=16)
    assert all(t.isfinite().all() for t in got)
    assert_same(got, reference(*problem), 1e-4)


def test_even_logits_cost_the_log_of_the_vocabulary():
    x, weight, targets = case()
    loss = linear_cross_entropy(x, torch.zeros_like(weight), targets)
    assert loss.item() == pytest.approx(math.log(WORDS), rel=1e-6)


def test_without_gradients_the_value_is_the_same():
    x, weight, targets = case()
    expected, *_ = reference(x, weight, targets)
    loss = linear_cross_entropy(x, weight, targets, 16)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():
        loss = linear_cross_entropy(x.requires_grad_(), weight.requires_grad_(), targets, 16)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_side_may_be_frozen(frozen):
    problem = case()
    free = problem[1 - frozen].requires_grad_()
    linear_cross_entropy(*problem, chunk_rows=16).backward()
    assert_same([free.grad], [reference(*problem)[2 - frozen]])
    assert problem[frozen].grad is None


def test_gradients_equal_finite_differences():
    x, weight, targets = case(rows=9)
    _, grad_x, grad_weight = ours(x, weight, targets, chunk_rows=4)
    for at, grad in ((x, grad_x), (weight, grad_weight)):
        direction = F.normalize(torch.randn_like(at), dim=(0, 1))
        losses = []
        for step in (0.02, -0.02):
            at += step * direction
            losses.append(linear_cross_entropy(x, weight, targets, 4).item())
            at -= step * direction
        slope = (losses[0] - losses[1]) / 0.04
        assert (grad * direction).sum().item() == pytest.approx(slope, rel=0.02, abs=2e-4)


def test_loss_is_float32_and_gradients_keep_their_dtype():
    x, weight, targets = case()
    x = x.bfloat16().requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(x, weight, targets, 16)
    loss.backward()
    assert (loss.dtype, x.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16,
                                                             torch.float32)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_under_autocast(dtype, tolerance):
    problem = case(ignored=slice(3, 9))
    with torch.autocast("cpu", dtype):
        got = ours(*problem, chunk_rows=16)
    assert got[0].dtype == torch.float32
    assert_same(got, reference(*problem), tolerance)


def test_float16_with_a_loss_scale_has_the_right_gradients():
    # So many rows that a float16 gradient divided by their number would be mere noise.
    rows, scale = 4_096, 65_536.0
    x, weight, targets = case(rows)
    x, weight = x.half(), 0.1 * weight
    loss, *grads = ours(x, weight, targets, chunk_rows=512, scale=scale)
    assert all(grad.isfinite().all() for grad in grads)
    assert_same([loss, *(grad.float() / scale for grad in grads)], reference(x, weight, targets),
                0.003)


class Largest(TorchDispatchMode):
    """Notes the most elements that any tensor had."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.numel())
        return out


@pytest.mark.parametrize("chunk_rows", [4, 16])
def test_never_holds_more_than_one_chunk_of_logits(chunk_rows):
    x, weight, targets = (torch.randn(64, 8, requires_grad=True),
                          torch.randn(400, 8, requires_grad=True), torch.randint(400, (64,)))
    with Largest() as all_at_once:
        F.cross_entropy(x @ weight.T, targets).backward()
    with Largest() as in_chunks:
        linear_cross_entropy(x, weight, targets, chunk_rows).backward()
    assert all_at_once.numel == 64 * 400
    assert in_chunks.numel == max(chunk_rows * 400, weight.numel())


def test_the_memory_of_a_chunk_serves_the_next_one():
    """What lives at once: two gradients, and of logits never more than one chunk."""
    x, weight = torch.randn(64, 8, requires_grad=True), torch.randn(400, 8, requires_grad=True)
    with AllocationTracker() as alive:
        linear_cross_entropy(x, weight, torch.randint(400, (64,)), chunk_rows=16)
    gradients, chunk = 4 * (x.numel() + weight.numel()), 4 * 16 * 400
    assert chunk < alive.peak - gradients < 1.8 * chunk  # and for a moment a chunk's share of one
