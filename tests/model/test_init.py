"""Every initial value is what init.py's table says, and nothing starts out dead."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from picolm_lib.config import PicoConfig, PicoError
from picolm_lib.model.init import depth_std
from picolm_lib.model.mlp import MLP
from picolm_lib.model.picolm import PicoLM

WIDE = PicoConfig(vocab_size=512, max_seq_len=32, n_layers=4, d_model=256, n_heads=4)


@pytest.fixture(scope="module")
def wide() -> PicoLM:
    return PicoLM(WIDE)


def assert_normal(weight: torch.Tensor, std: float) -> None:
    """Mean 0 and this std, within five standard errors of a sample of this size."""
    n = weight.numel()
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n))
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(n)
    inside = (weight.abs() < std).float().mean().item()
    assert inside == pytest.approx(0.6827, abs=2.5 / math.sqrt(n))


def test_depth_std_runs_from_first_to_last():
    config = PicoConfig(n_layers=5, std_first=0.05, std_last=0.01)
    got = [depth_std(config, layer) for layer in range(5)]
    assert got == pytest.approx([0.05, 0.04, 0.03, 0.02, 0.01])
    assert depth_std(replace(config, n_layers=1), 0) == pytest.approx(0.05)


# From 0.04 to 0.02 over four blocks.
@pytest.mark.parametrize("layer, std", [(0, 0.04), (1, 0.1 / 3), (2, 0.08 / 3), (3, 0.02)])
def test_mlp_std_by_depth(wide, layer, std):
    mlp = wide.blocks[layer].mlp
    assert_normal(mlp.gate.weight, std)
    assert_normal(mlp.up.weight, std)


def test_other_matrices_have_the_common_std(wide):
    assert_normal(wide.embedding.weight, 0.02)
    for block in wide.blocks:
        assert_normal(block.attn.qkv.weight, 0.02)


def test_exactly_the_declared_parameters_start_at_zero(wide):
    zero = {name for name, p in wide.named_parameters() if not p.any()}
    parts = ("attn.qkv.bias", "attn.gate", "attn.out.weight", "mlp.down.weight")
    assert zero == {"output.weight"} | {f"blocks.{i}.{part}" for i in range(4) for part in parts}


def test_gains_of_the_norms(wide):
    for name, parameter in wide.named_parameters():
        if "norm" in name:
            gain = WIDE.post_norm_gain if "post_norm" in name else 1.0
            assert torch.equal(parameter, torch.full_like(parameter, gain)), name
    names = [name for name, _ in wide.named_parameters() if "norm" in name]
    assert len(names) == 4 * 6 + 1                       # two of attention, four of the block


def test_only_qkv_has_a_bias(wide):
    biases = {name for name, _ in wide.named_parameters() if "bias" in name}
    assert biases == {f"blocks.{i}.attn.qkv.bias" for i in range(4)}
    vectors = {name for name, p in wide.named_parameters() if p.ndim < 2 and "norm" not in name}
    assert vectors == biases


def test_no_two_matrices_are_alike(wide):
    # A prototype seeded every layer anew, with the same seed.
    starts = [tuple(p.flatten()[:8].div(p.std()).round(decimals=3).tolist())
              for p in wide.parameters() if p.ndim >= 2 and p.any()]
    assert len(starts) == 1 + 3 * 4
    assert len(set(starts)) == len(starts)


def test_seed_decides_the_weights(tiny_config):
    one, same, other = (PicoLM(tiny_config, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    differs = {name for name in one if not torch.equal(one[name], other[name])}
    assert differs == {name for name in one if name.endswith(("embedding.weight", "qkv.weight",
                                                              "mlp.gate.weight", "up.weight"))}


def test_global_seed_neither_decides_nor_is_touched(tiny_config):
    torch.manual_seed(1)
    one = PicoLM(tiny_config).embedding.weight
    after = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(PicoLM(tiny_config).embedding.weight, one)
    torch.manual_seed(1)
    PicoLM(tiny_config)
    assert torch.equal(torch.rand(1), after)


def test_first_loss_is_the_log_of_the_vocabulary(tiny_config):
    tokens, targets = torch.randint(97, (2, 2, 16))
    loss = PicoLM(tiny_config).loss(tokens, targets)
    assert loss.item() == pytest.approx(math.log(97), rel=1e-6)


@pytest.mark.parametrize("name", ["std_first", "std_last"])
@pytest.mark.parametrize("value", [0.0, -0.02, math.nan])
def test_std_of_zero_is_refused(name, value):
    with pytest.raises(PicoError, match=name):
        PicoConfig(**{name: value})


def test_two_zeros_in_a_product_are_dead_for_ever():
    # What a standard deviation of zero in the last block would do: up = 0 and down = 0.
    torch.manual_seed(0)
    x, gate = torch.randn(5, 4), torch.randn(6, 4, requires_grad=True)
    up, down = torch.zeros(6, 4, requires_grad=True), torch.zeros(4, 6, requires_grad=True)
    y = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
    (y - torch.randn(5, 4)).square().sum().backward()
    assert not gate.grad.any() and not up.grad.any() and not down.grad.any()


def test_last_mlp_starts_alive(wide):
    width = wide.blocks[-1].mlp.up.out_features
    mlp = MLP(256, width)
    mlp.load_state_dict(wide.blocks[-1].mlp.state_dict())
    torch.manual_seed(0)
    (mlp(torch.randn(5, 256)) - torch.randn(5, 256)).square().sum().backward()
    assert (mlp.down.weight.grad != 0).float().mean() > 0.99


def test_blocks_start_as_the_identity(wide):
    tokens = torch.randint(512, (1, 8))
    x = wide.embedding.weight[tokens] * 16                           # sqrt(256)
    expected = x / (x.square().mean(-1, keepdim=True) + WIDE.norm_eps).sqrt()
    torch.testing.assert_close(wide.hidden(tokens), expected)
