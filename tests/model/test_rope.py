"""RoPE turns by the right angles, along the sequence, and so that only distance counts."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from picolm_lib.model.rope import apply_rope, rope_tables


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float = 10_000.0) -> torch.Tensor:
    return apply_rope(x, *rope_tables(positions, x.shape[-1], theta))


def test_hand_computed_angles():
    # E = 4, theta = 100: pair 0 turns by p, pair 1 by p * 100^(-2/4) = p / 10.
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    turned = rotate(x, torch.tensor([3]), theta=100.0).flatten()
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    assert turned.tolist() == pytest.approx(expected, abs=1e-6)


def test_tables_have_one_angle_per_pair_in_float32():
    cos, sin = rope_tables(torch.arange(5), 8)
    assert cos.shape == sin.shape == (5, 4)
    assert cos.dtype == sin.dtype == torch.float32


@pytest.mark.parametrize("head_dim", [4, 16, 96])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_equals_the_rotation_of_llama(head_dim, theta):
    torch.manual_seed(0)
    heads, positions = 3, torch.tensor([[0, 1, 2, 3, 4, 5, 6], [9, 3, 300, 0, 41, 41, 2]])
    q, k = torch.randn(2, 2, 7, heads, head_dim)
    config = LlamaConfig(hidden_size=heads * head_dim, num_attention_heads=heads,
                         rope_parameters={"rope_type": "default", "rope_theta": theta})
    cos, sin = LlamaRotaryEmbedding(config)(q, positions)
    expected = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=2)
    for mine, theirs in zip((q, k), expected, strict=True):
        torch.testing.assert_close(rotate(mine, positions, theta), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("distance", [0, 1, 7, 100])
def test_scores_depend_on_the_distance_only(distance):
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)

    def score(at: int) -> torch.Tensor:
        return (rotate(q, torch.tensor([at + distance])) * rotate(k, torch.tensor([at]))).sum()

    scores = torch.stack([score(at) for at in (0, 1, 5, 50, 500)])
    torch.testing.assert_close(scores, scores[:1].expand(5), atol=1e-3, rtol=1e-3)


def test_turns_along_the_sequence_and_not_along_the_heads():
    one = torch.randn(16)
    # As many heads as positions, so that the wrong axis would not show in the shapes.
    turned = rotate(one.expand(1, 5, 5, 16), torch.arange(5))
    for head in range(5):
        assert torch.equal(turned[0, :, head], turned[0, :, 0])
    for position in range(1, 5):
        assert not torch.allclose(turned[0, position, 0], turned[0, 0, 0], atol=1e-2)


def test_every_sequence_may_have_its_own_positions():
    x = torch.randn(2, 4, 3, 8)
    positions = torch.tensor([[0, 1, 2, 3], [10, 11, 50, 7]])
    together = rotate(x, positions)
    for row in range(2):
        torch.testing.assert_close(together[row:row + 1], rotate(x[row:row + 1], positions[row]))


def test_far_positions_keep_their_angles_under_bfloat16_autocast():
    positions = torch.tensor([100_000, 100_001, 131_071])
    with torch.autocast("cpu", torch.bfloat16):
        cos, sin = rope_tables(positions, 96)
    assert cos.dtype == sin.dtype == torch.float32
    exact = [[p * 10_000.0 ** (-2 * i / 96) for i in range(48)] for p in positions.tolist()]
    exact = torch.tensor(exact, dtype=torch.float64)
    assert (cos - exact.cos()).abs().max() < 0.02
    assert (sin - exact.sin()).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_dtype_of_its_input(dtype):
    x = torch.randn(1, 6, 2, 8)
    turned = rotate(x.to(dtype), torch.arange(6))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float(), rotate(x, torch.arange(6)), atol=0.03, rtol=0.03)
