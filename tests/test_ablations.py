"""The ablations change what they say they change, go on where they were, and are read rightly."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, isolate, tiny_trainer

from picolm_lib.config import PicoConfig, TrainConfig
from picolm_lib.course import evidence
from picolm_lib.course.pyramid.probes import dead_parameters
from picolm_lib.mlp import pyramid_widths
from picolm_lib.model import PicoLM, count_parameters

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import ablations  # noqa: E402
import effects  # noqa: E402
import headline  # noqa: E402
import variants  # noqa: E402
from variants import DEFAULT, VARIANTS  # noqa: E402

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
    optimizer = ablations.MuonAdamW(groups)
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


def test_tied_embeddings_and_no_sqrt_d(tiny_config):
    tied = changed("tied embeddings", tiny_config)
    vocabulary = tiny_config.vocab_size * tiny_config.d_model
    assert count_parameters(tied) == count_parameters(PicoLM(tiny_config)) - vocabulary
    assert tied.output.weight is tied.embedding.weight
    seen = {}
    plain = changed("no sqrt(d)", tiny_config)
    plain.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    plain(TOKENS)
    torch.testing.assert_close(seen["x"], F.embedding(TOKENS, plain.embedding.weight))


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


def test_a_variants_schedule_drives_the_steps():
    plain = tiny_trainer(warmup=0.1)
    cosine = ablations.VariantTrainer(VARIANTS["cosine schedule"], plain.model.config, plain.config,
                                      plain.tokenizer, plain.files)
    rates = []
    cosine.optimizer.register_step_pre_hook(lambda *_: rates.append(
        cosine.optimizer.param_groups[0]["lr"]))
    for _ in range(10):
        cosine.step()
    expected = [0.01 * min((i + 0.5) / 10 / 0.1, 0.5 * (1 + math.cos(math.pi * (i + 0.5) / 10)))
                for i in range(10)]
    assert rates == pytest.approx(expected)


def test_adamw_alone_leaves_nothing_to_muon(tiny_config):
    model = PicoLM(tiny_config)
    assert {group["kind"] for group in variants.by_adamw(model)} == {"adamw"}


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


def test_later_seeds_take_only_the_best_of_a_sweep():
    names = list(dict.fromkeys(found["variant"] for found in LINES))
    assert ablations.jobs(names, [0, 1, 2], 0, LINES) == []
    assert ablations.jobs(names, [0, 1, 2], 1, LINES[:-2]) == ["AdamW alone, rate 0.002"]
    assert ablations.jobs(names, [0], 0, LINES[1:]) == [DEFAULT]


def test_a_slow_variant_gets_fewer_tokens_in_equal_time():
    """Three default runs of 10 s in the middle, one of 40 s: a quarter of 240 batches of 1,024."""
    lines = [line(DEFAULT, seed, 1.0, seconds) for seed, seconds in enumerate((10, 9, 30))]
    lines.append(line("vocabulary 8,192", 0, 1.0, 40))
    found = ablations.tokens_in_equal_time("vocabulary 8,192, equal time", ablations.CPU, lines)
    assert found == 60 * 1_024


def test_runs_are_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr(ablations, "RESULTS", tmp_path)
    tiny = ablations.Setting(
        PicoConfig(vocab_size=300, max_seq_len=32, n_layers=2, d_model=16, n_heads=2),
        TrainConfig(tokenizer="bpe:300", max_tokens=640, batch_size=2), [DEFAULT, "no QK-norm"],
        unique=400)
    monkeypatch.setitem(ablations.SETTINGS, "cpu", tiny)
    stories = tmp_path / "stories.txt"
    stories.write_text("\n\n".join(f"The fox {n} saw a red ball. It was {n}." for n in range(200)))
    command = ["ablations.py", "--data", str(stories), "--seeds", "0", "--workers", "1"]
    for again in (False, True):
        monkeypatch.setattr(sys, "argv", command)
        ablations.main()
        assert (capsys.readouterr().out == "") == again
    kept = ablations.read(tmp_path / "ablations-cpu.jsonl")
    assert [k["variant"] for k in kept] == [DEFAULT, "no QK-norm"]
    for found in kept:
        assert found["tokens"] == 640 and found["epochs"] == 2 and found["seconds"] > 0
        assert 1 < found["loss"] < math.log(300) and found["machine"]
    assert kept[0]["bpb"] != kept[1]["bpb"]


def test_what_the_course_shows_is_what_was_run():
    """The file in the package and the table are made from the runs as they are."""
    stored = json.loads(evidence.FILE.read_text())
    for regime in effects.REGIMES:
        lines = ablations.read(ablations.RESULTS / f"ablations-{regime}.jsonl")
        assert stored[regime] == {"about": effects.about(regime, lines),
                                  "effects": effects.effects(lines)}
        assert evidence.markdown(evidence.effects(regime)) in (
            ablations.RESULTS / "ablations.md").read_text()
        assert min(e.seeds for e in evidence.effects(regime)) >= 3
    assert evidence.markdown(evidence.effects("cpu")) in (ROOT / "README.md").read_text()
    text = headline.table(ablations.read(headline.LINES))
    assert text in (ablations.RESULTS / "headline.md").read_text()


def test_the_picture_is_sorted_and_says_its_numbers():
    found = evidence.effects("cpu", "02")
    assert [e.difference for e in found] == sorted((e.difference for e in found), reverse=True)
    assert {e.notebook for e in found} == {"02"} and len(found) > 4
    picture = evidence.draw("cpu", "02")
    assert len(picture.png) < 80_000
    assert all(f"{e.name}: {e.difference:+.4f} ± {e.half_width:.4f}" in picture.text for e in found)


def test_a_verdict_needs_an_interval_that_leaves_zero_out():
    effect = evidence.Effect("x", "02", 0.01, 0.02, 1.0, 3, 1, 1.0)
    assert effect.verdict == "no difference seen"
    assert replace(effect, half_width=0.005).verdict == "worse"
    assert replace(effect, difference=-0.03).verdict == "better"


def test_shares_of_the_headline_shrink_the_batch_with_their_root():
    whole = headline.setting_of("smollm", headline.WHOLE, 1_000_000)
    quarter = headline.setting_of("smollm", headline.Fraction(1, 4), 1_000_000)
    assert (whole.run.batch_size, quarter.run.batch_size) == (8, 4)
    assert 0 <= 1_000_000 - whole.run.max_tokens < 8 * 384
    assert 0 <= 250_000 - quarter.run.max_tokens < 4 * 384
    assert whole.model.max_seq_len == 384


def test_the_headline_takes_the_rates_that_the_sweep_found():
    lines = [line(f"{variants.ORIGINAL}, rates x {factor}", 0, bpb)
             for factor, bpb in ((1, 1.5), (2, 1.3), (4, 1.4))]
    names = [name for name, *_ in headline.runs(lines)]
    assert names[0] == f"{variants.ORIGINAL}, rates x 2"
    assert names.count("ours") == 1 + len(headline.SHARES)
