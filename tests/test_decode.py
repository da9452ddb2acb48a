"""One token at a time gives the logits that the model gives for the whole text at once."""

from __future__ import annotations

import pytest
import torch

from picolm_lib.config import PicoConfig
from picolm_lib.decode import Decoder
from picolm_lib.model import PicoLM

SHAPES = [{"n_heads": 4, "n_kv_heads": 1}, {"n_heads": 4, "n_kv_heads": 2},
          {"n_heads": 2, "n_kv_heads": 2}, {"n_heads": 1, "n_kv_heads": 1, "n_layers": 1},
          {"n_heads": 4, "n_kv_heads": 2, "rope_theta": 100.0, "norm_eps": 0.1}]


def model_of(randomize, **shape: float) -> PicoLM:
    return randomize(PicoLM(PicoConfig(**{
        "vocab_size": 97, "max_seq_len": 32, "n_layers": 3, "d_model": 32, **shape})), std=0.3)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("read", [1, 5])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_token_gets_the_logits_of_the_model(randomize, shape, read, batch):
    model = model_of(randomize, **shape)
    text = torch.randint(97, (batch, 32), generator=torch.Generator().manual_seed(1))
    expected, decoder = model(text), Decoder(model, batch, 32)
    found = [decoder.read(text[:, :read])]
    found += [decoder.next(text[:, place]) for place in range(read, 32)]
    torch.testing.assert_close(torch.stack(found, 1), expected[:, read - 1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_was_read_may_come_in_pieces(randomize):
    model, text = model_of(randomize, n_heads=4, n_kv_heads=1), torch.arange(12)[None]
    decoder = Decoder(model, 1, 12)
    decoder.read(text[:, :4])
    decoder.next(text[:, 4])
    found = decoder.read(text[:, 5:])
    torch.testing.assert_close(found, model(text)[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_in_16_bits_it_is_as_near_as_the_modules(randomize):
    model, text = model_of(randomize, n_heads=4, n_kv_heads=2), torch.arange(12)[None]
    exact = model(text)[:, -1]
    model.bfloat16()
    decoder = Decoder(model, 1, 12)
    decoder.read(text[:, :-1])
    error = (decoder.next(text[:, -1]) - exact).abs().max()
    assert error < 2 * (model(text)[:, -1] - exact).abs().max()


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_matrices_are_not_copied_and_may_be_split_over_threads(randomize, monkeypatch, threads):
    monkeypatch.setattr("picolm_lib.decode.LARGE", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    model = model_of(randomize, n_heads=4, n_kv_heads=1, vocab_size=96)
    decoder, text = Decoder(model, 1, 8), torch.tensor([[1, 2, 3]])
    own = {p.data_ptr() for p in model.parameters()}
    for layer in decoder.layers:
        matrices = {layer.qkv, layer.gate, layer.out, layer.mlp_gate, layer.up, layer.down}
        assert {m.data_ptr() for m in matrices} <= own
        split = threads > 1 and layer.up.numel() // 32 % threads == 0  # 32 inputs
        assert layer.up.ndim == (3 if split else 2)
    decoder.read(text[:, :2])
    torch.testing.assert_close(decoder.next(text[:, 2]), model(text)[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 32, 33])
def test_many_sequences(randomize, rows):
    model = model_of(randomize, n_heads=4, n_kv_heads=2)
    text, decoder = torch.randint(97, (rows, 6)), Decoder(model, rows, 8)
    decoder.read(text[:, :5])
    logits = decoder.next(text[:, 5])
    assert logits.is_contiguous()
    torch.testing.assert_close(logits, model(text)[:, -1], rtol=1e-4, atol=1e-4)
