"""What notebook 03 measures and draws, against references."""

from __future__ import annotations

import math

import pytest
import torch

from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.course.pyramid import designer, hunt, probes, residual_stream
from picolm_lib.model.picolm import PicoLM, count_parameters

SMALL = PicoConfig(vocab_size=50, max_seq_len=16, n_layers=3, d_model=32, n_heads=4, multiple_of=8)
TOKENS = torch.arange(32).view(2, 16)


def test_the_stack_counts_what_the_model_has():
    for config in (SMALL, PRESETS["pico"].model):
        with torch.device("meta"):
            blocks = PicoLM(config).blocks
        assert designer.stack(config).parameters == sum(count_parameters(b.mlp) for b in blocks)
        assert designer.stack(config).widths == [b.mlp.up.out_features for b in blocks]


def test_the_flat_twin_is_flat_and_as_large():
    pyramid = designer.stack(PRESETS["pico"].model)
    flat = designer.stack(designer.flat_twin(PRESETS["pico"].model))
    assert len(set(flat.widths)) == 1
    assert flat.parameters == pytest.approx(pyramid.parameters, rel=0.02)


def test_the_designer_draws_any_number_of_blocks():
    for layers in (1, 16, 17, 32):
        picture = designer.draw_pyramid(4.0, 0.5, layers)
        assert f"over {layers} blocks" in picture.text and len(picture.png) < 80_000


def test_the_stream_of_a_random_model():
    narrow, wide = (residual_stream.measure(6, std, 1.0, "before and after") for std in (0.05, 0.2))
    for block in range(1, 7):  # two parts of rms 1 for each block, whatever the weights
        for found in (narrow, wide):
            grown = found.scale[block] ** 2 - found.scale[block - 1] ** 2
            assert grown == pytest.approx(2, rel=0.5)
    before = [residual_stream.measure(6, std, 1.0, "before").scale[-1] for std in (0.05, 0.2)]
    assert before[1] > 4 * before[0]                                 # as large as the weights
    still = residual_stream.measure(6, 0.05, 0.0, "before and after")
    assert still.scale == pytest.approx([still.scale[0]] * 7, rel=1e-5)
    assert still.similarity == pytest.approx([1.0] * 7, rel=1e-5)
    quiet = residual_stream.measure(6, 0.05, 0.1, "before and after")
    assert quiet.similarity[-1] > 0.7 > 0.4 > narrow.similarity[-1]
    assert "too large for float32" in residual_stream.draw_stream(24, 0.2, 1.0, "none").text
    assert f"{quiet.scale[-1]:.3g}" in residual_stream.draw_stream(6, 0.05, 0.1).text


def test_the_streams_states_are_those_of_the_forward_pass(randomize):
    model = randomize(PicoLM(SMALL))
    states = probes.stream_states(model, TOKENS)
    torch.testing.assert_close(states[0], model.embedding.weight[TOKENS] * 32**0.5)
    with torch.no_grad():
        torch.testing.assert_close(model.output(model.final_norm(states[-1])), model(TOKENS))


def test_the_patient_differs_in_its_culprit_alone():
    config = PicoConfig(vocab_size=50, max_seq_len=32, n_layers=3, d_model=64, n_heads=4)
    tokens = torch.randint(50, (2, 32), generator=torch.Generator().manual_seed(0))
    healthy, patient = PicoLM(config), hunt.patient(config)
    first, last = (patient.blocks[i].attn.qkv.weight for i in (0, -1))
    assert torch.equal(first, last)
    assert not torch.equal(healthy.blocks[0].attn.qkv.weight, healthy.blocks[-1].attn.qkv.weight)
    well, ill = (hunt.symptoms(model, tokens) for model in (healthy, patient))
    assert well.parameters == ill.parameters == [count_parameters(b) for b in healthy.blocks]
    assert ill.activation_rms == pytest.approx(well.activation_rms, rel=0.15)
    assert ill.activation_rms[0] > 2 * ill.activation_rms[-1]
    torch.testing.assert_close(ill.looks.sum(-1), torch.ones(3))
    torch.testing.assert_close(ill.looks, ill.looks[:1].expand(3, -1))
    assert (well.looks - well.looks[0]).abs().max() > 0.02
    sets = ({name for name, p in model.named_parameters() if not p.any()}
            for model in (healthy, patient))
    assert next(sets) == next(sets)
    targets = tokens.roll(-1, 1)
    assert patient.loss(tokens, targets).item() == pytest.approx(math.log(50), rel=1e-5)
    assert probes.dead_parameters(patient, tokens, targets) == []


def test_the_parameter_table_adds_up():
    table = designer.parameter_table("pico", "planned").splitlines()
    numbers = {row[:28].strip(): row[28:].split() for row in table[1:]}
    for name, column in (("pico", 0), ("planned", 1)):
        with torch.device("meta"):
            total = count_parameters(PicoLM(PRESETS[name].model))
        assert numbers["all"][column] == f"{total:,}"
        parts = [int(numbers[part][2 * column].replace(",", ""))
                 for part in ("embedding", "attention", "mlp", "norms", "output")]
        assert sum(parts) == total


def test_the_shares_are_those_of_the_parameters():
    counts = designer.parameter_counts("pico")
    model = PRESETS["pico"].model
    assert counts["embedding"] == counts["output"] == model.vocab_size * model.d_model
    assert counts["mlp"] == designer.stack(model).parameters
    picture = designer.draw_parameters("pico", "planned")
    assert "pico: MLPs 26%" in picture.text and len(picture.png) < 80_000


def test_the_streams_scale_by_hand(randomize):
    model = randomize(PicoLM(SMALL))
    scales = probes.stream_scale(model, TOKENS)
    assert len(scales) == 1 + SMALL.n_layers
    x = model.embedding.weight[TOKENS] * SMALL.d_model**0.5
    assert scales[0] == pytest.approx((x * x).mean().sqrt().item(), rel=1e-5)
    bare = randomize(PicoLM(SMALL))
    probes.post_norm_gain(bare, 0.0)
    assert probes.stream_scale(bare, TOKENS) == pytest.approx([scales[0]] * 4, rel=1e-5)
    assert not model.blocks[0]._forward_hooks and not model.blocks[0]._forward_pre_hooks


def test_activations_are_what_down_multiplies(randomize):
    model = randomize(PicoLM(SMALL))
    last, kept = probes.activations(model, TOKENS)[-1], []
    handle = model.blocks[-1].mlp.register_forward_hook(lambda m, i, out: kept.append(out))
    with torch.no_grad():
        model(TOKENS)
    handle.remove()
    torch.testing.assert_close(last @ model.blocks[-1].mlp.down.weight.T, kept[0])


def test_gradients_are_autograds(randomize):
    model = randomize(PicoLM(SMALL))
    found = probes.gradients(model, TOKENS, TOKENS)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(model.loss(TOKENS, TOKENS), parameters),
                              strict=True):
        torch.testing.assert_close(found[name], gradient)
    assert all(parameter.grad is None for parameter in parameters)


def test_the_dead_layer_detector():
    healthy, broken = PicoLM(SMALL), PicoLM(SMALL)
    probes.zero_last_mlp(broken)
    targets = TOKENS.roll(-1, 1)
    assert probes.dead_parameters(healthy, TOKENS, targets) == []
    assert probes.dead_parameters(broken, TOKENS, targets) == [
        f"blocks.2.{name}.weight" for name in (
            "mlp_norm", "mlp.gate", "mlp.up", "mlp.down", "mlp_post_norm")]
    assert len(probes.dead_parameters(PicoLM(SMALL), TOKENS, targets, steps=1)) > 4


def test_naive_init_and_variants():
    model = PicoLM(SMALL)
    probes.naive_init(model)
    assert model.output.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[1].mlp.down.weight.any() and not model.blocks[1].attn.qkv.bias.any()
    assert torch.equal(model.blocks[0].mlp_post_norm.weight, torch.ones(32))
    for change in (probes.without_post_norms, probes.without_pre_norms):
        other = PicoLM(SMALL)
        probes.naive_init(other)
        change(other)
        assert probes.stream_scale(other, TOKENS) != probes.stream_scale(model, TOKENS)
