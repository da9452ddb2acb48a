"""What notebook 02 draws, against references."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from picolm_lib.config import PRESETS
from picolm_lib.course.attention import (
    cost,
    hunt,
    pictures,
    playgrounds,
    record,
    rope_clocks,
    variants,
)
from picolm_lib.course.attention.scores import scores_as_weights_grow
from picolm_lib.model.picolm import PicoLM, flops_per_token
from picolm_lib.train.checkpoint import load_run

TOKENS = torch.arange(1, 13) * 7


@pytest.fixture(scope="module")
def bundled() -> PicoLM:
    return load_run("bundled")[0]


def test_hands_and_scores_by_hand():
    for (x, y), angle in zip(rope_clocks.hands(3, 8, 100.0).tolist(),
                             [3 * 100 ** (-2 * i / 8) for i in range(4)], strict=True):
        assert x == pytest.approx(math.cos(angle), abs=1e-6)
        assert y == pytest.approx(math.sin(angle), abs=1e-6)
    expected = sum(math.cos(5 * 100 ** (-2 * i / 8)) for i in range(4)) / math.sqrt(8)
    assert rope_clocks.score(9, 4, 8, 100.0) == pytest.approx(expected, abs=1e-5)
    assert rope_clocks.wavelengths(4, 100.0) == pytest.approx([2 * math.pi, 20 * math.pi])


def test_moving_both_clocks_turns_the_hands_and_keeps_the_score():
    here, there = rope_clocks.draw_clocks(20, 14), rope_clocks.draw_clocks(20, 14, both=50)
    assert here.png != there.png
    assert here.text.split("Their")[1] == there.text.split("Their")[1]


def curve(head_dim: int, theta: float) -> torch.Tensor:
    scores = torch.tensor([rope_clocks.score(d, 0, head_dim, theta) for d in range(257)])
    return scores / scores[0]


def test_the_clocks_do_what_the_notebook_says():
    assert curve(32, 1e4).argmax() == 0
    heights = [curve(32, theta).mean() for theta in (1e2, 1e3, 1e4, 1e5, 1e6)]
    assert heights == sorted(heights)
    rough = [curve(head_dim, 1e4).diff().abs().mean() for head_dim in (8, 16, 32, 64, 96)]
    assert rough == sorted(rough, reverse=True)
    slow = [rope_clocks.wavelengths(32, theta)[-1] for theta in (1e2, 1e4, 1e6)]
    assert slow == sorted(slow)
    assert rope_clocks.wavelengths(32, 1e2)[0] == rope_clocks.wavelengths(32, 1e6)[0]


def test_habits_are_those_of_a_naive_loop():
    tokens = torch.tensor([0, 5, 7, 5, 8, 7, 5])
    maps = torch.rand(2, 3, 7, 7).tril()
    found = record.habits(maps, tokens)
    for layer in range(2):
        for head in range(3):
            one = maps[layer, head]
            before = sum(one[t, t - 1] for t in range(2, 7)) / 5
            first = sum(one[t, 0] for t in range(2, 7)) / 5
            shares = [sum(one[t, s + 1] for s in range(t - 1) if tokens[s] == tokens[t])
                      for t in (3, 5, 6)]                            # tokens that came before
            assert found[record.JUST_BEFORE][layer, head] == pytest.approx(before.item())
            assert found[record.FIRST][layer, head] == pytest.approx(first.item())
            assert found[record.AFTER_THE_SAME][layer, head] == pytest.approx(
                (sum(shares) / 3).item())
    assert record.AFTER_THE_SAME not in record.habits(maps, torch.arange(7))


def test_attention_maps_are_those_of_a_naive_loop(bundled):
    maps = record.attention_maps(bundled, TOKENS)
    assert maps.shape == (4, 4, 12, 12)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 4, 12))
    assert maps.triu(1).abs().max() == 0
    captured = {}
    handle = bundled.blocks[1].attn.register_forward_pre_hook(
        lambda module, args: captured.update(x=args[0], cos=args[1], sin=args[2]))
    with torch.no_grad():
        bundled(TOKENS[None])
        layer, q = bundled.blocks[1].attn, []
        qkv = layer.qkv(captured["x"])[0]                            # (T, (H + 2K) * E)
        for vector, norm in ((qkv[:, 64:96], layer.q_norm), (qkv[:, 128:160], layer.k_norm)):
            vector = F.rms_norm(vector, (32,), norm.weight, norm.eps)
            z = torch.complex(*vector.chunk(2, -1)) * torch.complex(captured["cos"],
                                                                    captured["sin"])
            q.append(torch.cat((z.real, z.imag), -1))
    handle.remove()
    for row in range(12):
        scores = torch.stack([q[0][row] @ q[1][column] for column in range(row + 1)]) / 32**0.5
        torch.testing.assert_close(maps[1, 2, row, :row + 1], scores.softmax(0), rtol=1e-3,
                                   atol=1e-4)


def test_gates_are_half_open_where_their_matrix_is_zero(bundled):
    opened = record.gates(bundled, TOKENS)
    assert opened.shape == (4, 12, 4, 32) and 0 < opened.min() < 0.3 < 0.7 < opened.max() < 1
    fresh = PicoLM(replace(bundled.config, n_layers=2))
    assert torch.equal(record.gates(fresh, TOKENS), torch.full((2, 12, 4, 32), 0.5))


def test_loss_by_position_is_the_models_loss(bundled):
    rows = torch.stack([TOKENS, TOKENS.flip(0)])
    losses = record.loss_by_position(bundled, rows)
    torch.testing.assert_close(losses.mean(), bundled.loss(rows[:, :-1], rows[:, 1:]).detach(),
                               rtol=1e-4, atol=1e-4)
    assert not torch.allclose(losses, record.loss_by_position(bundled, rows, squeeze=0.5))


def test_costs():
    planned = PRESETS["planned"].model
    with torch.device("meta"):
        kept = [torch.empty(16, planned.n_kv_heads, 4096, 128, dtype=torch.bfloat16)
                for _ in range(2 * planned.n_layers)]
    assert cost.kv_cache_bytes(32, 5, 128, 4096, 16) == sum(
        t.numel() * t.element_size() for t in kept)
    nano = PRESETS["nano"].model
    context, output = nano.max_seq_len, 2 * nano.vocab_size * nano.d_model
    # flops_per_token counts 3 x as much (backward) and half of T pairs per token, not (T + 1) / 2.
    expected = context * (flops_per_token(nano) / 3 - output)
    expected += 2 * context * nano.n_layers * nano.d_model
    assert cost.forward_flops(nano, context, 0) == expected
    parts = [cost.forward_flops(nano, 1, seen) for seen in range(10)]
    assert sum(parts) == cost.forward_flops(nano, 10, 0)


def test_a_cache_does_not_change_what_is_written(bundled):
    prompt = TOKENS[None]
    cached, plain = (cost.write_tokens(bundled, prompt, 6, cached=c) for c in (True, False))
    assert cached.flops[0] == plain.flops[0] and sum(cached.flops) < sum(plain.flops)
    assert plain.flops[-1] == cost.forward_flops(bundled.config, 17, 0)
    assert cached.flops[-1] == cost.forward_flops(bundled.config, 1, 16)


def test_scores_grow_with_the_square_of_the_weights_unless_normalized():
    found = scores_as_weights_grow([1, 2, 4])
    largest, entropy = found["without QK-norm"]
    assert largest[1] == pytest.approx(4 * largest[0], rel=1e-4)
    assert entropy[0] > entropy[1] > entropy[2]
    largest, entropy = found["with QK-norm"]
    assert largest[2] == pytest.approx(largest[0], rel=1e-3) and largest[0] <= 32**0.5


def test_variants_take_out_what_they_say(bundled):
    swapped = TOKENS[[1, 0, *range(2, 12)]]

    def first_block(change):
        model = load_run("bundled")[0]
        change(model)
        kept = []
        model.blocks[0].attn.register_forward_hook(lambda m, a, out: kept.append(out[0, -1]))
        with torch.no_grad():
            model(TOKENS[None]), model(swapped[None])
        return (kept[0] - kept[1]).abs().max().item()

    assert first_block(lambda model: None) > 1e-3
    assert first_block(variants.without_rope) < 1e-5
    assert first_block(variants.patient) < 1e-5
    model = load_run("bundled")[0]
    variants.without_gate(model)
    assert not model.blocks[0].attn.gate.requires_grad
    variants.without_qk_norm(model)
    assert hunt.largest_score(model, TOKENS, 4) == pytest.approx(
        16 * hunt.largest_score(model, TOKENS, 1), rel=1e-3)


def test_the_patient_differs_in_its_culprit_alone(bundled):
    patient = variants.patient(load_run("bundled")[0])
    for model in (bundled, patient):
        assert hunt.change_before(model, TOKENS) == 0
        assert hunt.largest_score(model, TOKENS, 8) == pytest.approx(
            hunt.largest_score(model, TOKENS, 1), rel=1e-2)
    layers = (m.blocks[0].attn for m in (bundled, patient))
    healthy, patient = (record.head_weights_by_distance(layer, 1e4, 40)[0] for layer in layers)
    assert healthy.std() > 0.01
    torch.testing.assert_close(patient, torch.full((40,), 1 / 40), rtol=1e-4, atol=1e-6)
    seen = torch.ones(12, 12, dtype=torch.bool)
    assert hunt.change_before(bundled, TOKENS, seen) > 0.1
    picture = hunt.examine()
    assert len(picture.png) < 80_000 and "2.50 and 2.50 percent" in picture.text


def test_the_cache_of_one_head_is_told_in_the_singular():
    gib = 2 * 32 * 128 * 4096 * 16 * 2 / 2**30    # k and v, blocks, head_dim, tokens, texts, bytes
    assert f"takes {gib:g} GiB with 1 KV head and {10 * gib:g} GiB" in pictures.draw_cache(1).text


def test_the_story_names_the_token_that_is_looked_at_most():
    maps = torch.zeros(2, 2, 5, 5)
    maps[1, 0, 3] = torch.tensor([0.1, 0.7, 0.1, 0.1, 0.0])
    picture = pictures.draw_story(maps, ["a", "b", "\n", "d", "e"], layer=1, head=0, token=3)
    assert "token 3 pays 70% of its attention to token 1" in picture.text
    assert playgrounds.attention_layers(maps[:, :1, :1, :1], ["a"]).picture.html
