"""What notebook 05 measures and draws, against references."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import STORIES, isolate, refused, tiny_trainer

from picolm_lib.config import PRESETS, PicoConfig, TrainConfig
from picolm_lib.course import race
from picolm_lib.course.training import (
    budget,
    hunt,
    live,
    memory,
    mixed_precision,
    run,
    schedules,
    time_machine,
)
from picolm_lib.data.corpus import Corpus
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.model.rope import rope_tables
from picolm_lib.train.checkpoint import load_run
from picolm_lib.train.muon import MuonAdamW, parameter_groups
from picolm_lib.train.signals import Interrupted
from picolm_lib.train.snapshots import history

SMALL = PicoConfig(vocab_size=50, max_seq_len=16, n_layers=3, d_model=32, n_heads=4, multiple_of=8)
TOKENS = torch.arange(32).view(2, 16)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")
    monkeypatch.chdir(tmp_path)


@contextmanager
def unraveled() -> Iterator[None]:
    """Passes a OneLine on, after a look at what a notebook shows of it."""
    try:
        yield
    except run.OneLine as error:
        assert error._render_traceback_() == [f"error: {error}"] and "--data" not in str(error)
        raise


# --- the budget ----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["nano", "pico", "planned"])
def test_the_parts_add_up_to_the_models_flops(name):
    config = PRESETS[name].model
    assert sum(budget.flops(config).values()) == flops_per_token(config)
    assert budget.flops(config)["output layer"] == 6 * config.d_model * config.vocab_size


def test_the_bytes_are_those_that_an_optimizer_holds(randomize):
    model = randomize(PicoLM(SMALL))
    optimizer = MuonAdamW(parameter_groups(model))
    model.loss(TOKENS, TOKENS).backward()
    optimizer.step()
    counted = budget.state_bytes(SMALL)
    assert counted["weights"] == counted["gradients"] == 4 * count_parameters(model)
    kept = sum(value.numel() * value.element_size() for state in optimizer.state.values()
               for value in state.values() if isinstance(value, torch.Tensor) and value.ndim)
    assert counted["Muon's momentum"] + counted["AdamW's two averages"] == kept
    picture = budget.draw_budget(SMALL, 100, "small")
    assert f"{4 * 50 * 100 / 1e6:,.0f} MB more" in picture.text and len(picture.png) < 80_000


def test_measured_steps_are_real_steps():
    trial = run.get_ready("smoke", "storybook", minutes=0.5).trial()
    assert budget.measure_steps(trial, 1).loss > 0 and trial.folder is None
    trainer = tiny_trainer()
    speed = budget.measure_steps(trainer, 2)
    assert trainer.progress.step == 3 and speed.tokens_per_second > 0
    assert speed.flops_per_second == pytest.approx(speed.tokens_per_second * trainer.flops)
    assert budget.matmul_flops(torch.device("cpu"), torch.float32, 64) > 0


# --- sixteen bits --------------------------------------------------------------------------------

def test_what_float16_loses_by_numpy(randomize):
    values = torch.tensor([0.0, 1e-9, 1e-8, 5e-8, 1e-4, 1.0, 70_000.0])
    for scale in (1.0, 2.0**10, 2.0**20):
        with np.errstate(over="ignore"):
            rounded = (values.double().numpy() * scale).astype(np.float16)[1:]
        found = mixed_precision.lost(values, scale)
        assert found.zeros == pytest.approx((rounded == 0).mean())
        assert found.infinite == pytest.approx(np.isinf(rounded).mean())
    assert mixed_precision.lost(torch.zeros(3), 1.0) == mixed_precision.Lost(0.0, 0.0)


def test_real_gradients_are_autograds(randomize):
    model = randomize(PicoLM(SMALL))
    found = mixed_precision.real_gradients(model, TOKENS, TOKENS.roll(-1, 1))
    assert all(p.grad is None for p in model.parameters())
    assert not model.blocks[0]._forward_hooks
    loss = F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.roll(-1, 1).flatten())
    expected = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(found["weights"], torch.cat([g.flatten() for g in expected]),
                               rtol=1e-3, atol=1e-6)
    assert found["activations"].numel() == 3 * 2 * 16 * 32
    last = found["activations"][:2 * 16 * 32].view(2, 16, 32)      # the way back starts here
    x = model.embedding(TOKENS).detach()
    x = x * SMALL.d_model**0.5
    cos, sin = rope_tables(torch.arange(16), SMALL.head_dim, SMALL.rope_theta)
    for block in model.blocks:
        x = block(x, cos, sin)
    x = x.detach().requires_grad_()
    F.cross_entropy(model.output(model.final_norm(x)).flatten(0, 1),
                    TOKENS.roll(-1, 1).flatten()).backward()
    torch.testing.assert_close(last, x.grad, rtol=1e-3, atol=1e-6)


def test_the_pictures_of_numbers_say_what_they_show():
    assert "65,504" in mixed_precision.draw_ranges().text
    values = torch.tensor([1e-9] * 3 + [1.0])
    picture = mixed_precision.draw_lost({"weights": values, "activations": values})
    assert "75.0% of the weights' gradients vanish" in picture.text and len(picture.png) < 80_000


# --- memory --------------------------------------------------------------------------------------

def test_the_peak_is_what_is_held_at_once(capfd):
    def two_at_once():
        a = torch.ones(1_000, 250)                                   # 1 MB
        b = a + 1                                                    # 2 MB: the peak
        del a
        c = torch.ones(1_000, 125)                                   # 1.5 MB
        return b, c
    assert memory.peak_bytes(two_at_once) == pytest.approx(2e6, rel=0.01)
    assert memory.peak_bytes(lambda: torch.empty(500, 1_000)) == pytest.approx(2e6, rel=0.01)
    assert capfd.readouterr() == ("", "")


def test_the_chunked_loss_stays_flat_and_the_full_one_grows():
    rows = (128, 256, 512)
    full, chunked = memory.loss_peaks(rows, 1_024, 8, 32).values()
    assert full[2] == pytest.approx(4 * full[0], rel=0.1) and full[2] > 2 * 4 * 1_024 * 512
    assert chunked[2] < 1.5 * chunked[0] and chunked[2] < full[2] / 5
    picture = memory.draw_memory(rows, {"full": full, "chunks": chunked}, 1_024)
    assert f"full: {full[2] / 1e6:,.0f} MB" in picture.text


# --- runs ----------------------------------------------------------------------------------------

def test_the_settings_make_the_run():
    ready = run.get_ready("smoke", "storybook", 0.0, 3)
    assert ready.train == PRESETS["smoke"].train.__class__(
        **{**PRESETS["smoke"].train.__dict__, "seed": 3})
    assert ready.model.vocab_size == len(ready.tokenizer)
    timed = run.get_ready("smoke", "auto", 0.5)
    assert (timed.train.max_minutes, timed.train.max_tokens) == (0.5, 0)
    assert run.MINUTES == {"pico": 16.0, "nano": 1.2}


def test_a_hub_that_is_away_gives_one_line_that_names_the_way_out():
    with refused("DATA = 'storybook'", "Hub cannot be reached"), unraveled():
        run.get_ready("pico")


def test_other_data_bring_the_bundled_tokenizer():
    Path("mine.txt").write_text("\n\n".join(STORIES))
    ready = run.get_ready("pico", "mine.txt", stories=20)
    assert ready.train.tokenizer == "bundled" and ready.train.max_minutes == 16
    assert ready.files["train"].count.documents == 20
    assert ready.model.n_layers == 12 and ready.model.vocab_size == len(ready.tokenizer)


def test_the_first_documents_of_each_split():
    read = []

    def documents():
        for number in range(100):
            read.append(number)
            yield ("validation" if number % 3 == 2 else "train"), str(number)
    found = list(run.first(Corpus(documents, "x"), 4, 2).documents())
    assert found == [("train", "0"), ("train", "1"), ("validation", "2"), ("train", "3"),
                     ("train", "4"), ("validation", "5")]
    assert read[-1] < 10 and run.first(Corpus(documents, "x"), 4).fingerprint != "x"


def test_a_run_gets_a_folder_of_its_own_that_can_be_loaded():
    first = run.run_folder("nano")
    first.mkdir(parents=True)
    assert (str(first), str(run.run_folder("nano"))) == ("runs/05-1", "runs/05-2")
    assert "runs" not in str(run.run_folder("smoke"))
    trainer = run.small_trainer(first, max_tokens=1_024)
    trainer.run()
    model, tokenizer, config = load_run(first)
    assert config.train == trainer.config and len(tokenizer) == model.config.vocab_size
    for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_stop_button_and_the_resume(tmp_path):
    whole = run.small_trainer(tmp_path / "whole", max_tokens=5_120)
    whole.run()
    first = run.small_trainer(tmp_path / "parts", run.stop_after(4), max_tokens=5_120)
    with pytest.raises(Interrupted, match="step 4"):
        first.run()
    second = run.small_trainer(tmp_path / "parts", max_tokens=5_120)
    second.resume()
    assert second.progress.step == 4
    second.run()
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pretended_memory_is_told_to_the_listener():
    heard = []
    trainer = run.small_trainer(listener=lambda who, line: heard.append(line))
    run.pretend_memory(trainer, 2)
    assert trainer.step()["micro_batch"] == 2
    assert [line["kind"] for line in heard] == ["note", "note"]
    assert "2 sequences at a time instead of 4" in heard[-1]["note"]


def test_the_live_picture_follows_the_run(monkeypatch):
    shown, clock = live.Live("small"), itertools.count(step=3)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    trainer = run.small_trainer(listener=shown, max_tokens=4 * 512)
    drawn = []
    monkeypatch.setattr(shown, "show", lambda: drawn.append(shown.draw()))
    trainer.run()
    assert len(shown.steps) == 4 and len(shown.evaluations) == 1
    score = shown.evaluations[0]["bits_per_byte"]
    assert f"step 4, loss {shown.steps[-1]['loss']:.2f}" in drawn[-1].text
    assert f"{score:.3f} bits per byte" in drawn[-1].text and f"{score:.3f}" in shown.text
    assert "Once upon a time" in shown.text and len(drawn[-1].png) < 80_000
    shown(trainer, {"kind": "note", "note": "something to say"})
    assert shown.text.endswith("something to say")
    norms = live.draw_norms(shown.steps, 1.0)
    share = sum(m["grad_norm"] > 1 for m in shown.steps) / 4
    assert norms.text.startswith(f"{share:.0%} of the 4 steps")


# --- schedules -----------------------------------------------------------------------------------

def test_the_cosine_is_pytorchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=100)
    config = TrainConfig(warmup=0.0)
    for step in range(100):
        assert schedules.cosine(step / 100, config) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    assert schedules.cosine(0.01, TrainConfig(warmup=0.02)) == pytest.approx(0.5)


def test_a_race_takes_fields_of_the_run(monkeypatch):
    """Without decay, the last step is as long as the others; and the model may change, too."""
    monkeypatch.setenv("PICOLM_PRESET", "smoke")
    ends = [race.run("a", n_layers=1, decay=decay, momentum_warmup=0).last for decay in (0.0, 0.5)]
    assert ends[0] != ends[1] and all(0.5 < bits < 4 for bits in ends)


# --- the hunt ------------------------------------------------------------------------------------

def test_the_evidence_convicts_the_leak_and_acquits_the_others():
    found = hunt.investigate(48)
    assert len(found.training) == len(found.norms) == len(found.stepped) == 48
    assert found.inside[-1] < found.inside[0] and found.apart[-1] > found.inside[-1] + 1
    assert max(found.stepped) <= 1.001 and max(found.norms) > 1.5
    clipped = [min(norm, 1.0) for norm in found.norms]
    assert found.stepped == pytest.approx(clipped, rel=1e-3)
    assert found.end_at_ends[-1] > 10 * found.end_elsewhere[-1]
    report, insides = hunt.examine_report(found), hunt.examine_insides(found)
    assert f"validation {found.apart[-1]:.2f}. The patient's" in report.text
    assert len(report.png) < 80_000 and len(insides.png) < 80_000


def test_the_probability_of_the_end_by_a_naive_loop(randomize):
    model = randomize(PicoLM(replace(SMALL, vocab_size=2_048)))
    text = hunt.token_file(STORIES[:6])
    end, ends, others = hunt.load_tokenizer().eos_token_id, [], []
    ids = torch.from_numpy(text.tokens[:49].astype(np.int64))
    for window in range(3):
        for place in range(16):
            seen = ids[16 * window:16 * window + place + 1]
            probability = model(seen[None])[0, -1].softmax(-1)[end].item()
            (ends if ids[16 * window + place + 1] == end else others).append(probability)
    at_ends, elsewhere = hunt.end_probabilities(model, text, 3)
    assert at_ends == pytest.approx(np.mean(ends), rel=1e-3)
    assert elsewhere == pytest.approx(np.mean(others), rel=1e-3)
    assert text.tokens[0] == text.tokens[-1] == end


# --- the time machine ----------------------------------------------------------------------------

def test_the_same_seed_tells_the_same_story_and_the_picture_holds_it():
    told = time_machine.story(2, "Once upon a time", 0.8, 1, 60)
    time_machine.story.cache_clear()
    assert time_machine.story(2, "Once upon a time", 0.8, 1, 60) == told
    assert time_machine.story(2, "Once upon a time", 0.8, 2, 60) != told
    moment = history().snapshots[2]
    picture = time_machine.draw_checkpoint(2, seed=1)
    assert told[:40] in picture.text and f"{moment.tokens:,} tokens" in picture.text


def test_a_dollar_sign_in_a_story_is_only_a_sign(monkeypatch):
    monkeypatch.setattr(time_machine, "story", lambda *_: "It cost $5, not $6_000.")
    assert "$6_000" in time_machine.draw_checkpoint(0).text
