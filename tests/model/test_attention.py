"""Attention is its equations, written out in loops; caches and kernels change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from picolm_lib.config import PicoConfig
from picolm_lib.model.attention import Attention, KVCache, attend
from picolm_lib.model.fast import kernels_of_a_gpu, takes_grouped_kv
from picolm_lib.model.rope import rope_tables

HEADS = [(4, 4), (4, 2), (4, 1), (6, 3), (1, 1)]


def naive_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, one query at a time; the queries are the last of the positions."""
    out = torch.empty_like(q)
    (batch, heads, length, width), (kv_heads, total) = q.shape, k.shape[1:3]
    for b in range(batch):
        for h in range(heads):
            shared = h // (heads // kv_heads)
            for t in range(length):
                seen = total - length + t + 1
                scores = [q[b, h, t] @ k[b, shared, s] / math.sqrt(width) for s in range(seen)]
                weights = torch.stack(scores).softmax(0)
                out[b, h, t] = sum(w * v[b, shared, s] for s, w in enumerate(weights))
    return out


def random_qkv(heads: int, kv_heads: int, length: int = 5, total: int = 5) -> tuple[Tensor, ...]:
    torch.manual_seed(heads * 10 + kv_heads)
    return (torch.randn(2, heads, length, 8), torch.randn(2, kv_heads, total, 8),
            torch.randn(2, kv_heads, total, 8))


@pytest.fixture(params=["products", "kernel, grouped", "kernel, expanded"])
def route(request, monkeypatch) -> str:
    """Each of the ways of attend: for 16 bits on a CPU, for float32 there, for an old GPU."""
    products = request.param == "products"
    monkeypatch.setattr("picolm_lib.model.fast._multiplies_in_16_bits", lambda q: products)
    grouped = request.param != "kernel, expanded"
    monkeypatch.setattr("picolm_lib.model.fast.takes_grouped_kv",
                        lambda device, in_16_bits: grouped)
    return request.param


@pytest.fixture
def layer(tiny_config, randomize) -> Attention:
    return randomize(Attention(tiny_config, layer_idx=0), std=0.5)


def run(layer: Attention, x: Tensor, start: int = 0, cache=None, mask=None) -> Tensor:
    cos, sin = rope_tables(torch.arange(start, start + x.shape[1]), layer.q_norm.weight.numel())
    return layer(x, cos, sin, cache, mask)


@pytest.mark.parametrize("heads, kv_heads", HEADS)
@pytest.mark.parametrize("length", [1, 3, 5])
def test_attend_equals_loops(heads, kv_heads, length, route):
    q, k, v = random_qkv(heads, kv_heads, length)
    torch.testing.assert_close(attend(q, k, v), naive_attend(q, k, v))


@pytest.mark.parametrize("heads, kv_heads", HEADS)
def test_grouped_equals_expanded(heads, kv_heads, route):
    q, k, v = random_qkv(heads, kv_heads)
    full = [t.repeat_interleave(heads // kv_heads, dim=1) for t in (k, v)]
    torch.testing.assert_close(attend(q, k, v), attend(q, *full))


def test_all_routes_have_the_same_gradients(route):
    q, k, v = (t.requires_grad_() for t in random_qkv(4, 2))
    weights = torch.randn(2, 4, 5, 8)
    got = torch.autograd.grad((attend(q, k, v) * weights).sum(), (q, k, v))
    expected = torch.autograd.grad((naive_attend(q, k, v) * weights).sum(), (q, k, v))
    for mine, naive in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, naive, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_all_routes_keep_the_dtype(dtype, route):
    q, k, v = random_qkv(4, 2)
    got = attend(q.to(dtype), k.to(dtype), v.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), naive_attend(q, k, v), atol=0.05, rtol=0.05)


def test_grouped_heads_reach_the_kernel_only_where_it_takes_them(monkeypatch, route):
    calls = []

    def spy(q, k, v, enable_gqa=False, **rest):
        calls.append((k.shape[1], v.shape[1], enable_gqa))
        return q

    monkeypatch.setattr("picolm_lib.model.attention.F.scaled_dot_product_attention", spy)
    attend(*random_qkv(4, 2))
    assert calls == {"products": [], "kernel, grouped": [(2, 2, True)],
                     "kernel, expanded": [(4, 4, False)]}[route]


@pytest.mark.parametrize("dtype, mixed, length, products", [
    (torch.float32, None, 5, False), (torch.float32, torch.bfloat16, 5, True),
    (torch.bfloat16, None, 5, True), (torch.bfloat16, None, 600, False)])
def test_products_are_for_short_sequences_in_16_bits(monkeypatch, dtype, mixed, length, products):
    calls = []
    monkeypatch.setattr("picolm_lib.model.attention.F.scaled_dot_product_attention",
                        lambda q, *rest, **options: calls.append(1) or q)
    q, k, v = (t.to(dtype) for t in random_qkv(4, 2, length, length))
    with torch.autocast("cpu", mixed, enabled=mixed is not None):
        attend(q, k, v)
    assert bool(calls) != products


def test_attend_is_causal(route):
    q, k, v = random_qkv(4, 2)
    before = attend(q, k, v)
    k[:, :, 3:], v[:, :, 3:] = torch.randn(2, 2, 2, 2, 8)
    after = attend(q, k, v)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.isclose(before[:, :, 3:], after[:, :, 3:]).all(-1).any()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_mask_of_the_past_equals_causal(length, route):
    q, k, v = random_qkv(4, 2, length)
    past = torch.ones(length, 5, dtype=torch.bool).tril(5 - length)
    torch.testing.assert_close(attend(q, k, v, past), attend(q, k, v))
    each = past.expand(2, 1, length, 5)
    torch.testing.assert_close(attend(q, k, v, each), attend(q, k, v))


def test_mask_hides_keys():
    q, k, v = random_qkv(4, 2)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask[:, 0] = False
    mask[0, 0] = True
    shorter = attend(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:])
    torch.testing.assert_close(attend(q, k, v, mask)[:, :, 1:], shorter)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_layer_equals_its_equations_written_in_loops(kv_heads, randomize):
    heads, width, batch, length = 4, 8, 2, 5
    config = PicoConfig(d_model=32, n_heads=heads, n_kv_heads=kv_heads)
    layer = randomize(Attention(config, layer_idx=0), seed=kv_heads, std=0.5)
    torch.manual_seed(0)
    x = torch.randn(batch, length, 32)
    rows = layer.qkv.weight.view(-1, width, 32)          # heads of q, then of k, then of v
    biases = layer.qkv.bias.view(-1, width)

    def norm(vector: Tensor, gain: Tensor) -> Tensor:
        return vector / (vector.square().mean() + config.norm_eps).sqrt() * gain

    def turn(vector: Tensor, position: int) -> Tensor:
        out = torch.empty_like(vector)
        for i in range(width // 2):
            angle = position * config.rope_theta ** (-2 * i / width)
            a, b = vector[i], vector[i + width // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + width // 2] = a * math.sin(angle) + b * math.cos(angle)
        return out

    def project(head: int, b: int, t: int) -> Tensor:
        return rows[head] @ x[b, t] + biases[head]

    expected = torch.empty(batch, length, 32)
    for b in range(batch):
        for t in range(length):
            mixed = []
            for h in range(heads):
                q = norm(project(h, b, t), layer.q_norm.weight)
                shared = heads + h // (heads // kv_heads)
                keys = [turn(norm(project(shared, b, s), layer.k_norm.weight), s)
                        for s in range(t + 1)]
                values = [project(shared + kv_heads, b, s) for s in range(t + 1)]
                scores = torch.stack([turn(q, t) @ key for key in keys]) / math.sqrt(width)
                y = scores.softmax(0) @ torch.stack(values)
                mixed.append(y / (1 + torch.exp(-layer.gate[h] @ q)))
            expected[b, t] = layer.out.weight @ torch.cat(mixed)
    torch.testing.assert_close(run(layer, x), expected, atol=1e-4, rtol=1e-4)


def test_nothing_depends_on_the_absolute_position(layer):
    # The scores see distances; the gate sees the query before it is turned.
    x = torch.randn(2, 6, 32)
    torch.testing.assert_close(run(layer, x, start=57), run(layer, x), atol=1e-4, rtol=1e-4)


CHUNKS = [[8], [5, 1, 1, 1], [1] * 8, [3, 4, 1], [2, 2, 2, 2]]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("theirs", [False, True])
@torch.no_grad()
def test_cached_equals_at_once(chunks, theirs, layer):
    cache = DynamicCache() if theirs else KVCache(8)
    x = torch.randn(2, 8, 32)
    parts, start = [], 0
    for part in x.split(chunks, dim=1):
        parts.append(run(layer, part, start, cache))
        start += part.shape[1]
        assert cache.get_seq_length() == start
    torch.testing.assert_close(torch.cat(parts, dim=1), run(layer, x), atol=1e-5, rtol=1e-5)


def test_cache_works_while_gradients_are_recorded(layer):
    cache = KVCache(6)
    x = torch.randn(2, 6, 32)
    parts = [run(layer, part, start, cache) for start, part in enumerate(x.split(1, dim=1))]
    torch.testing.assert_close(torch.cat(parts, dim=1), run(layer, x), atol=1e-5, rtol=1e-5)


def test_cache_keeps_its_layers_apart():
    cache = KVCache(4)
    written = []
    for layer in range(3):
        key, value = torch.randn(2, 1, 2, 3, 8)
        written.append((key, value))
        cache.update(key, value, layer)
    more = torch.randn(2, 1, 2, 1, 8)
    for layer in range(3):
        got = cache.update(*more, layer)
        for mine, first, last in zip(got, written[layer], more, strict=True):
            assert torch.equal(mine, torch.cat((first, last), dim=2))


def test_full_cache_refuses_more():
    cache = KVCache(4)
    cache.update(*torch.zeros(2, 1, 2, 3, 8), 0)
    with pytest.raises(ValueError, match="room for 4 tokens, not 5"):
        cache.update(*torch.zeros(2, 1, 2, 2, 8), 0)
    keys, _ = cache.update(*torch.ones(2, 1, 2, 1, 8), 0)            # what fits still fits
    assert keys.shape[2] == cache.get_seq_length() == 4


def test_cache_has_the_dtypes_of_what_comes_first():
    """Under autocast a normalized key is of 32 bits, and its value of 16."""
    cache = KVCache(4)
    keys, values = cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8).bfloat16(), 0)
    assert (keys.dtype, values.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(("capability", "native"), [
    ((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)])
def test_grouped_heads_go_to_the_kernel_only_where_it_takes_them(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert takes_grouped_kv(torch.device("cuda")) is native
    # FlashAttention has no float32, and no other kernel shares heads.
    assert not takes_grouped_kv(torch.device("cuda"), in_16_bits=False)


def test_grouped_heads_go_to_the_kernel_on_a_cpu():
    assert takes_grouped_kv(torch.device("cpu"))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_cpu_can_choose_as_a_gpu_does(monkeypatch, grouped):
    calls = []
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention",
                        lambda q, k, v, **options: calls.append(k.shape[1]) or q)
    q, k, v = (t.bfloat16() for t in random_qkv(4, 2))
    with kernels_of_a_gpu(grouped):
        attend(q, k, v)
    assert calls == [2 if grouped else 4]
    attend(q, k, v)                                                  # by products again
    assert len(calls) == 1
