"""PicoLM as a whole: no look into the future, positions that count, a cache that changes nothing,
and parameters that all learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.model.attention import KVCache
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.model.rope import rope_tables
from picolm_lib.train.muon import MuonAdamW, parameter_groups


@pytest.fixture
def model(tiny_config, randomize) -> PicoLM:
    return randomize(PicoLM(tiny_config))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(97, (2, 12))


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


@pytest.mark.parametrize("changed", [1, 6, 11])
def test_later_tokens_change_nothing_before_them(model, tokens, changed):
    before = model(tokens)
    other = tokens.clone()
    other[:, changed:] = (other[:, changed:] + 1) % 97
    after = model(other)
    torch.testing.assert_close(after[:, :changed], before[:, :changed])
    assert not torch.isclose(after[:, changed:], before[:, changed:]).all(-1).any()


def test_gradients_reach_the_past_and_never_the_future(model, tokens):
    embedded = []
    model.embedding.register_forward_hook(lambda module, args, out: embedded.append(out))
    logits = model(tokens)
    (grad,) = torch.autograd.grad(logits[:, 5].sum(), embedded)
    assert not grad[:, 6:].any()
    assert (grad[:, :6].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("layers", [1, 3])
def test_order_of_earlier_words_matters(tiny_config, randomize, layers):
    # Rotated along the heads, one layer would see a mere bag of words. Deeper ones would not:
    # causality alone lets them guess the order.
    model = randomize(PicoLM(replace(tiny_config, n_layers=layers)))
    tokens = torch.arange(10)[None]
    shuffled = tokens[:, [3, 7, 0, 8, 2, 5, 1, 4, 6, 9]]
    difference = (model(tokens)[0, -1] - model(shuffled)[0, -1]).abs().max()
    assert difference > 1e-2


def test_equals_a_sandwich_written_by_hand(model, tokens):
    x = model.embedding.weight[tokens] * 32**0.5
    cos, sin = rope_tables(torch.arange(12), 8)
    for block in model.blocks:
        y = block.attn(rms_norm(x, block.attn_norm.weight), cos, sin)
        x = x + rms_norm(y, block.attn_post_norm.weight)
        y = block.mlp(rms_norm(x, block.mlp_norm.weight))
        x = x + rms_norm(y, block.mlp_post_norm.weight)
    x = rms_norm(x, model.final_norm.weight)
    torch.testing.assert_close(model.hidden(tokens), x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(tokens), x @ model.output.weight.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunks", [[1] * 12, [7, 1, 1, 1, 1, 1], [4, 5, 3]])
@pytest.mark.parametrize("theirs", [False, True])
@torch.no_grad()
def test_cached_equals_at_once(model, tokens, chunks, theirs):
    cache = DynamicCache() if theirs else KVCache(12)
    parts = [model(part, cache) for part in tokens.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), atol=1e-4, rtol=1e-4)


def test_every_sequence_may_have_its_own_positions(model, tokens):
    positions = torch.stack((torch.arange(12), 2 * torch.arange(12) + 5))
    together = model(tokens, positions=positions)
    for row in range(2):
        alone = model(tokens[row:row + 1], positions=positions[row])
        torch.testing.assert_close(together[row:row + 1], alone, atol=1e-4, rtol=1e-4)
    plain = model(tokens)
    torch.testing.assert_close(together[0], plain[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[1, 1:], plain[1, 1:], atol=1e-2)


def test_padding_on_the_left_can_be_masked_away(model, tokens):
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), tokens), dim=1)
    mask = torch.ones(15, 15, dtype=torch.bool).tril()
    mask[3:, :3] = False
    got = model(padded, mask=mask.expand(2, 1, 15, 15))[:, 3:]
    torch.testing.assert_close(got, model(tokens), atol=1e-4, rtol=1e-4)


def test_loss_is_the_cross_entropy_of_the_logits(model, tokens):
    targets = torch.randint(97, (2, 12))
    targets[0, 3:5] = -100
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    loss = model.loss(tokens, targets)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    for mine, theirs in zip(torch.autograd.grad(loss, parameters),
                            torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-3)


def test_autocast_gives_float32_logits_near_the_exact_ones(model, tokens):
    exact = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = model(tokens), model.loss(tokens, tokens)
    assert logits.dtype == loss.dtype == torch.float32
    assert (logits - exact).norm() / exact.norm() < 0.1
    assert loss.item() == pytest.approx(model.loss(tokens, tokens).item(), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_weights_of_16_bits(model, tokens, dtype):
    exact = model(tokens)
    logits = model.to(dtype)(tokens)
    assert logits.dtype == torch.float32
    assert (logits - exact).norm() / exact.norm() < 0.1


def test_nothing_but_parameters_is_stored(model):
    assert list(model.buffers()) == []
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


def test_meta_device_holds_no_numbers_until_they_are_loaded(model, tokens):
    with torch.device("meta"):
        twin = PicoLM(model.config)
    assert all(parameter.is_meta for parameter in twin.parameters())
    twin.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(twin(tokens), model(tokens))
    with torch.device("meta"):
        twin = PicoLM(model.config)
    twin.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(twin(tokens), model(tokens))


def parameters_by_hand(config: PicoConfig) -> int:
    d, e, heads, kv_heads = config.d_model, config.head_dim, config.n_heads, config.n_kv_heads
    attention = (d + 1) * (heads + 2 * kv_heads) * e + 2 * e + heads * e * e + d * d
    total = 2 * config.vocab_size * d + d
    for layer in range(config.n_layers):
        ratio = 1.5 + 2.5 * layer / (config.n_layers - 1)
        total += attention + 4 * d + 3 * d * int(32 * round(ratio * d / 32))
    return total


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_the_presets(preset):
    config = PRESETS[preset].model
    with torch.device("meta"):
        model = PicoLM(config)
    assert count_parameters(model) == parameters_by_hand(config)


def test_parameters_of_pico():
    with torch.device("meta"):
        model = PicoLM(PRESETS["pico"].model)
    # Two tables, 12 attentions, 12 MLPs whose widths add up to 12,672, the last norm.
    tables, attention = 2 * 49_152 * 384, 385 * 576 + 192 + 4 * 96 * 96 + 384 * 384 + 4 * 384
    assert count_parameters(model) == tables + 12 * attention + 3 * 384 * 12_672 + 384 == 57_240_960
    model.embedding.requires_grad_(False)
    assert count_parameters(model) == 57_240_960 - 49_152 * 384


def test_flops_of_a_small_model_by_hand(tiny_config):
    # Per block: qkv 64 x 32, gate 4 of 8 x 8, out 32 x 32. MLPs: 3 x 32 x (48 + 88 + 128).
    weights = 3 * (64 * 32 + 4 * 8 * 8 + 32 * 32) + 3 * 32 * 264 + 97 * 32
    # A token sees 16 others on average: 32 products for a score, 32 for its value, three blocks.
    attention = 3 * 16 * (32 + 32)
    assert flops_per_token(tiny_config) == 6 * (weights + attention) == 249_024


def train(model: PicoLM, steps: int, inputs: Tensor, targets: Tensor, **options) -> float:
    optimizer = MuonAdamW(parameter_groups(model), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(inputs, targets).backward()
        optimizer.step()
    return model.loss(inputs, targets).item()


def test_every_parameter_moves_within_three_steps(tiny_config):
    model = PicoLM(replace(tiny_config, n_layers=4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = torch.randint(97, (4, 17))
    train(model, 3, data[:, :-1], data[:, 1:])
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        if name == "embedding.weight":
            moved = moved[data[:, :-1].unique()]                     # only words that were read
        assert moved.float().mean() > 0.9, name


def test_learns_one_batch_by_heart(tiny_config):
    model = PicoLM(replace(tiny_config, n_layers=2))
    data = torch.randint(97, (4, 13))
    assert train(model, 60, data[:, :-1], data[:, 1:]) < 0.05
