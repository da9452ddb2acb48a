"""MuonAdamW against PyTorch's own Muon and AdamW, a naive Newton-Schulz, and the SVD."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import MuonAdamW, newton_schulz, parameter_groups, update_scale

SHAPES = [(16, 16), (8, 24), (24, 8), (5, 3), (8, 13), (40, 10)]


def naive_newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Steps in float64 on one matrix, from the definition a X + (b XX' + c XX'XX') X."""
    x = matrix.double() / matrix.double().square().sum().sqrt()
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def muon(*matrices: Tensor, rows: tuple[int, ...] | None = None, **options) -> MuonAdamW:
    return MuonAdamW([{"kind": "muon", "params": list(matrices), "rows": rows}], **options)


def train(optimizer: torch.optim.Optimizer, parameters: list[Tensor], steps: int = 4,
          seed: int = 5) -> None:
    """Steps along gradients that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_equals_its_definition(shape):
    matrix = 7 * torch.randn(shape)
    assert relative(newton_schulz(matrix), naive_newton_schulz(matrix)) < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_result_is_nearly_orthogonal_and_points_as_the_svd_does(shape):
    matrix = torch.randn(shape)
    result = newton_schulz(matrix)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.5 and singular.max() < 1.5
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(result.flatten(), (u @ vh).flatten(), dim=0) > 0.97


def matrix_with(singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    return u * singular_values @ v


@pytest.mark.parametrize("smallest", [-1, -3, -6])
@pytest.mark.parametrize("shape", [(32, 64), (64, 256), (192, 48)])
def test_small_singular_values_survive_in_wide_and_tall_matrices(shape, smallest):
    matrix = matrix_with(torch.logspace(0, smallest, min(shape)), shape)
    got, expected = newton_schulz(matrix), naive_newton_schulz(matrix)
    assert relative(got, expected) < 1e-3
    spread = torch.linalg.svdvals(got.double()) - torch.linalg.svdvals(expected)
    assert spread.abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_take_small_singular_values(dtype):
    matrix = matrix_with(torch.logspace(0, -6, 64), (64, 256))
    error = relative(newton_schulz(matrix, dtype=dtype), naive_newton_schulz(matrix))
    assert error < (0.05 if dtype == torch.float16 else 0.3)


@pytest.mark.parametrize("shape", [(4, 6, 9), (4, 9, 6), (2, 3, 5, 5)])
def test_stack_equals_one_by_one(shape):
    stack = torch.randn(shape) * torch.logspace(-4, 4, shape[0]).view(-1, *[1] * (len(shape) - 1))
    result = newton_schulz(stack)
    assert result.shape == stack.shape
    for got, matrix in zip(result.flatten(0, -3), stack.flatten(0, -3), strict=True):
        torch.testing.assert_close(got, newton_schulz(matrix), atol=1e-5, rtol=1e-4)


def test_zero_matrix_stays_zero():
    assert torch.equal(newton_schulz(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


# Momentum that nothing feeds any more shrinks until the squares of its numbers underflow.
@pytest.mark.parametrize("size", [1e-30, 1e-24, 1e-18, 1e10, 1e30])
def test_any_scale_stays_bounded(size):
    result = newton_schulz(size * torch.randn(8, 16))
    assert result.isfinite().all()
    assert torch.linalg.svdvals(result).max() < 1.5


@pytest.mark.parametrize("size", [1e-6, 1e-8])
def test_float16_takes_gradients_that_float16_cannot_hold(size):
    matrix = size * torch.randn(32, 48)
    expected = newton_schulz(matrix)
    assert relative(newton_schulz(matrix, dtype=torch.float16), expected) < 0.01
    raw = matrix.half().float()                                      # a cast before the norm
    assert relative(newton_schulz(raw), expected) > 0.02


@pytest.mark.parametrize("rows, cols, scale", [(4, 4, 1), (4, 16, 1), (16, 4, 2), (9, 1, 3)])
def test_update_scale(rows, cols, scale):
    assert update_scale(rows, cols) == pytest.approx(scale)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_equals_torch_muon(weight_decay):
    start = [torch.randn(shape) for shape in SHAPES]
    mine, theirs = ([nn.Parameter(m.clone()) for m in start] for _ in range(2))
    options = {"weight_decay": weight_decay, "momentum": 0.9}
    train(muon(*mine, muon_lr=0.05, dtype=torch.bfloat16, **options), mine)
    train(torch.optim.Muon(theirs, lr=0.05, adjust_lr_fn="original", **options), theirs)
    for a, b, before in zip(mine, theirs, start, strict=True):
        assert relative(a - before, b - before) < 0.04               # torch's is bfloat16 all over


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_equals_the_rule_in_float64(weight_decay):
    start = [torch.randn(shape) for shape in SHAPES]
    mine = [nn.Parameter(m.clone()) for m in start]
    optimizer = muon(*mine, muon_lr=0.05, momentum=0.9, weight_decay=weight_decay)
    weights, momenta = [m.double() for m in start], [torch.zeros(s).double() for s in SHAPES]
    for _ in range(4):
        for i, (m, n) in enumerate(SHAPES):
            mine[i].grad = gradient = torch.randn(m, n)
            momenta[i] = 0.9 * momenta[i] + 0.1 * gradient
            step = naive_newton_schulz(0.9 * momenta[i] + 0.1 * gradient)
            weights[i] = ((1 - 0.05 * weight_decay) * weights[i]
                          - 0.05 * math.sqrt(max(1, m / n)) * step)
        optimizer.step()
    for got, expected, before in zip(mine, weights, start, strict=True):
        assert relative(got - before, expected - before) < 1e-4


def test_fused_qkv_is_three_matrices():
    whole = nn.Parameter(torch.randn(16, 8))
    parts = [nn.Parameter(part.clone()) for part in whole.detach().split((8, 4, 4))]
    one, three = muon(whole, rows=(8, 4, 4)), muon(*parts)
    for _ in range(3):
        whole.grad = torch.randn(16, 8)
        for part, grad in zip(parts, whole.grad.split((8, 4, 4)), strict=True):
            part.grad = grad.clone()
        one.step()
        three.step()
    torch.testing.assert_close(whole.detach(), torch.cat(parts).detach())


def test_gate_is_one_matrix_per_head():
    gate = nn.Parameter(torch.zeros(3, 5, 5))
    gate.grad = torch.randn(3, 5, 5) * torch.tensor([1.0, 1e-3, 1e3]).view(3, 1, 1)
    muon(gate, muon_lr=0.1).step()
    for head, gradient in zip(gate, gate.grad, strict=True):
        assert relative(head, -0.1 * naive_newton_schulz(gradient)) < 1e-4


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_torch_adamw(weight_decay):
    start = [torch.randn(7, 3), torch.randn(5)]
    mine, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    options = {"betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": weight_decay}
    train(MuonAdamW([{"kind": "adamw", "params": mine}], adamw_lr=0.01, **options), mine)
    train(torch.optim.AdamW(theirs, lr=0.01, **options), theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_every_parameter_is_in_exactly_one_group(tiny_config):
    model = PicoLM(tiny_config)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model)
    grouped = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    kinds = {names[id(p)]: group["kind"] for group in groups for p in group["params"]}
    hidden = ("attn.qkv.weight", "attn.gate", "attn.out.weight", "mlp.gate.weight",
              "mlp.up.weight", "mlp.down.weight")
    assert {name for name, kind in kinds.items() if kind == "muon"} == {
        f"blocks.{i}.{part}" for i in range(3) for part in hidden}
    assert {kinds[name] for name in ("embedding.weight", "output.weight", "final_norm.weight",
                                     "blocks.0.attn.qkv.bias")} == {"adamw"}


def test_only_qkv_is_split_and_by_the_heads(tiny_config):
    model = PicoLM(tiny_config)
    for group in parameter_groups(model):
        ours = [p for p in group["params"] if any(p is b.attn.qkv.weight for b in model.blocks)]
        if group["kind"] == "muon":
            assert group["rows"] == ((32, 16, 16) if ours else None)
            assert len(ours) in (0, len(group["params"]))


def test_norms_and_biases_do_not_decay(tiny_config, randomize):
    model = randomize(PicoLM(tiny_config))
    before = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MuonAdamW(parameter_groups(model), muon_lr=0.1, adamw_lr=0.2, weight_decay=0.5).step()
    for (name, new), old in zip(model.named_parameters(), before.parameters(), strict=True):
        adamw = name in ("embedding.weight", "output.weight")
        kept = 1.0 if new.ndim < 2 else 0.9 if adamw else 0.95       # 1 - rate * decay
        torch.testing.assert_close(new, kept * old, msg=name)


def test_parameters_without_gradient_are_untouched():
    frozen, free = (nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    vector = nn.Parameter(torch.ones(4))
    free.grad = torch.randn(4, 4)
    optimizer = MuonAdamW([{"kind": "muon", "params": [frozen, free], "rows": None},
                           {"kind": "adamw", "params": [vector]}], weight_decay=0.5)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(4, 4)) and torch.equal(vector, torch.ones(4))
    assert set(optimizer.state) == {free}
    assert not torch.equal(free, torch.ones(4, 4))


def test_every_group_has_its_own_rate():
    slow, fast, vector = (nn.Parameter(torch.zeros(4, 4)) for _ in range(3))
    for parameter in (slow, fast, vector):
        parameter.grad = torch.eye(4)
    optimizer = MuonAdamW([{"kind": "muon", "params": [slow], "rows": None},
                           {"kind": "muon", "params": [fast], "rows": None, "lr": 0.3},
                           {"kind": "adamw", "params": [vector]}], muon_lr=0.1, adamw_lr=0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3, 0.01]
    optimizer.step()
    torch.testing.assert_close(fast.detach(), 3 * slow.detach())
    torch.testing.assert_close(vector.detach(), -0.01 * torch.eye(4))
    optimizer.param_groups[0]["lr"] = 0.0                            # as the schedule sets it
    before = slow.detach().clone()
    optimizer.step()
    assert torch.equal(slow, before)


def test_saved_state_continues_bit_for_bit(tiny_config, randomize):
    model = randomize(PicoLM(tiny_config))
    optimizer = MuonAdamW(parameter_groups(model), weight_decay=0.1)
    train(optimizer, list(model.parameters()), steps=2)
    twin = PicoLM(tiny_config, seed=9)
    twin.load_state_dict(model.state_dict())
    other = MuonAdamW(parameter_groups(twin), muon_lr=1.0, adamw_lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        train(o, list(m.parameters()), steps=2, seed=6)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_scaler_skips_the_whole_step(tiny_config, randomize):
    model = randomize(PicoLM(tiny_config))
    optimizer = MuonAdamW(parameter_groups(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(fault: float) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1024.0)
        model.embedding.weight.grad[0, 0] += fault                   # in the AdamW part alone
        scaler.step(optimizer)
        scaler.update()

    scaler.scale(torch.ones(()))
    step(fault=0.0)
    weights = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    step(fault=math.inf)
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(tensor, moments[index][key]) for key, tensor in state.items())
    step(fault=0.0)
    assert not any(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("group", [{}, {"kind": "adam"}, {"kind": "muon", "lr": None}])
def test_a_group_without_kind_or_rate_is_refused_before_any_step(group):
    optimizer = muon(nn.Parameter(torch.ones(2, 2)))
    with pytest.raises(ValueError, match="a group needs its \"kind\""):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], **group})
    assert len(optimizer.param_groups) == 1


def test_closure_is_called_with_gradients():
    matrix = nn.Parameter(torch.ones(2, 2))

    def closure() -> Tensor:
        loss = matrix.square().sum()
        loss.backward()
        return loss

    assert muon(matrix).step(closure).item() == 4.0
    assert not torch.equal(matrix, torch.ones(2, 2))


def test_a_copied_or_pickled_optimizer_steps_as_the_first_one_does():
    matrix = nn.Parameter(torch.ones(4, 4))
    first = muon(matrix, muon_lr=0.1, dtype=torch.bfloat16)
    train(first, [matrix], steps=1)
    others = copy.deepcopy(first), pickle.loads(pickle.dumps(first))
    train(first, [matrix], steps=1, seed=6)
    for other in others:
        its_matrix, = other.param_groups[0]["params"]
        train(other, [its_matrix], steps=1, seed=6)
        assert torch.equal(its_matrix, matrix)
