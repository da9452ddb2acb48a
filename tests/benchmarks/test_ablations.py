"""The ablations change what they say they change, go on where they were, and are read rightly."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import ablations
import effects
import headline
import pytest
import torch
import variants
from variants import DEFAULT, VARIANTS

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.course import ablation_results
from picolm_lib.course.pyramid.probes import dead_parameters
from picolm_lib.model.mlp import pyramid_widths
from picolm_lib.model.picolm import PicoLM, count_parameters
from picolm_lib.train.muon import MuonAdamW

TOKENS = torch.arange(64).view(2, 32) % 97


def changed(name: str, config: PicoConfig, seed: int = 0) -> PicoLM:
    model = PicoLM(VARIANTS[name].shape(config), seed)
    VARIANTS[name].change(model)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_and_gives_each_parameter_one_rule(name, tiny_config):
    model = changed(name, tiny_config)
    groups = VARIANTS[name].groups(model)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    optimizer = MuonAdamW(groups)
    losses = []
    for _ in range(6):
        loss = model.loss(TOKENS, TOKENS.roll(-1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and math.isfinite(losses[-1])


def test_flat_and_reversed_pyramids_have_as_many_parameters(tiny_config):
    size = count_parameters(PicoLM(tiny_config))
    for name in ("flat MLP, as many parameters", "pyramid upside down"):
        assert count_parameters(changed(name, tiny_config)) == pytest.approx(size, rel=0.02)
    down = pyramid_widths(VARIANTS["pyramid upside down"].shape(tiny_config))
    assert down == pyramid_widths(tiny_config)[::-1]


def test_the_headwise_gate_is_one_number_per_head_and_token(tiny_config, randomize):
    attn = randomize(changed("one gate per head", tiny_config)).blocks[0].attn
    q = torch.randn(2, 5, 4, 8)
    by_hand = torch.stack([torch.sigmoid(q[:, :, head] @ attn.gate[head, 0]) for head in range(4)],
                          dim=-1)[..., None]
    torch.testing.assert_close(attn._gate(q), by_hand)


def test_the_gate_from_the_input_reads_the_input(tiny_config, randomize):
    """Against attention written out, in which the gate has the input's own projection."""
    attn = randomize(changed("gate from the block's input", tiny_config)).blocks[0].attn
    plain = randomize(PicoLM(tiny_config)).blocks[0].attn
    plain.load_state_dict({**attn.state_dict(), "gate": torch.zeros_like(plain.gate)})
    x, cos, sin = torch.randn(2, 5, 32), torch.ones(5, 4), torch.zeros(5, 4)
    seen = {}
    plain.out.register_forward_pre_hook(lambda module, inputs: seen.update(y=inputs[0]))
    plain(x, cos, sin)                                               # its gates are all 1/2
    expected = plain.out(2 * seen["y"] * torch.sigmoid(x @ attn.gate.T))
    torch.testing.assert_close(attn(x, cos, sin), expected)


def test_without_zero_init_only_the_zeros_change(tiny_config):
    before, after = PicoLM(tiny_config), changed("no zero-init", tiny_config)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if name.endswith(variants.MATRICES):
            assert not old.any() and new.std().item() == pytest.approx(0.02, rel=0.1)
        else:
            assert torch.equal(old, new), name


def test_the_schedules_by_hand():
    config = TrainConfig(warmup=0.02)
    found = [variants.step_schedule(done, config) for done in (0.01, 0.3, 0.49, 0.5, 0.74, 0.75, 1)]
    assert found == [0.5, 1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].sweep ==
                                  variants.ORIGINAL])
def test_the_original_has_the_faults_of_the_prototypes(name, tiny_config):
    config = replace(tiny_config, n_heads=4, n_kv_heads=1, mlp_ratio_first=1.5, mlp_ratio_last=4.0)
    shape = VARIANTS[name].shape(config)
    widths = [block.mlp.up.out_features for block in PicoLM(shape).blocks]
    assert widths == [8 * round(32 * (1.5 + (layer - 1) / 2 * 2.5) / 8) for layer in range(3)]
    assert shape.post_norm_gain == 1
    model = changed(name, config)
    first, second = model.blocks[0].attn.qkv.weight, model.blocks[1].attn.qkv.weight
    assert torch.equal(first, second)                                # all from one seed
    dead = dead_parameters(model, TOKENS, TOKENS.roll(-1, 1))
    assert {f"blocks.2.mlp.{part}.weight" for part in ("gate", "up", "down")} <= set(dead)
    kinds = {id(p): group["kind"] for group in VARIANTS[name].groups(model)
             for p in group["params"]}
    assert kinds[id(model.output.weight)] == "muon"


def test_rope_along_the_heads_loses_the_positions(tiny_config, randomize):
    """Two tokens before the last change places, and the last one cannot tell in its first layer."""
    config = replace(tiny_config, n_layers=1)
    swapped = TOKENS[:1, [1, 0, *range(2, 32)]]
    for name, same in (("RoPE along the heads (a fault)", True), (DEFAULT, False)):
        model = randomize(changed(name, config))
        with torch.no_grad():
            gap = (model(TOKENS[:1])[0, -1] - model(swapped)[0, -1]).abs().max()
        assert (gap < 1e-4) == same, name


def line(variant: str, seed: int, bpb: float, seconds: float = 10.0) -> dict:
    return {"variant": variant, "seed": seed, "bpb": bpb, "processor_seconds": seconds,
            "parameters": 7, "tokens": 100}


LINES = [line(DEFAULT, 0, 1.0), line(DEFAULT, 1, 1.1), line(DEFAULT, 2, 0.9),
         line("no QK-norm", 0, 1.02, 9), line("no QK-norm", 1, 1.12, 9),
         line("no QK-norm", 2, 0.92, 9),
         line("no RoPE", 0, 1.1), line("no RoPE", 1, 1.3), line("no RoPE", 2, 1.2),
         line("AdamW alone, rate 0.001", 0, 1.3), line("AdamW alone, rate 0.002", 0, 1.2),
         line("AdamW alone, rate 0.002", 1, 1.3), line("AdamW alone, rate 0.002", 2, 1.1)]


def test_effects_by_hand():
    """Differences: 0.02 three times; 0.1, 0.2, 0.3; 0.2 three times. Pooled variance: 0.02 / 6."""
    found = {e["name"]: e for e in effects.effects(LINES)}
    assert set(found) == {"no QK-norm", "no RoPE", "AdamW alone, rate 0.002"}
    assert [found[name]["difference"] for name in ("no QK-norm", "no RoPE")] == [0.02, 0.2]
    half = effects.student(6) * math.sqrt(0.02 / 6 / 3)
    assert all(e["half_width"] == pytest.approx(half, abs=1e-5) for e in found.values())
    assert found["no QK-norm"]["seconds"] == 0.9 and found["no RoPE"]["seeds"] == 3


def test_student_against_the_printed_table():
    for freedom, printed in ((20, 2.086), (30, 2.042), (60, 2.000), (120, 1.980)):
        assert effects.student(freedom) == pytest.approx(printed, abs=6e-4)


def test_what_the_course_shows_is_what_was_run():
    """The file in the package and the table are made from the runs as they are."""
    stored = json.loads(ablation_results.FILE.read_text())
    for regime in effects.REGIMES:
        lines = ablations.read(ablations.RESULTS / f"ablations-{regime}.jsonl")
        assert stored[regime] == {"about": effects.about(regime, lines),
                                  "effects": effects.effects(lines)}
        assert ablation_results.markdown(ablation_results.effects(regime)) in (
            ablations.RESULTS / "ablations.md").read_text()
        assert min(e.seeds for e in ablation_results.effects(regime)) >= 3
    text = headline.table(ablations.read(headline.LINES))
    assert text in (ablations.RESULTS / "headline.md").read_text()


def test_a_verdict_needs_an_interval_that_leaves_zero_out():
    effect = ablation_results.Effect("x", "02", 0.01, 0.02, 1.0, 3, 1, 1.0)
    assert effect.verdict == "no difference seen"
    assert replace(effect, half_width=0.005).verdict == "worse"
    assert replace(effect, difference=-0.03).verdict == "better"
