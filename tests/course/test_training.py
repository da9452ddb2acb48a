"""What notebook 05 measures and draws, against references."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import STORIES, isolate, refused, tiny_trainer
from torch.utils.flop_counter import FlopCounterMode

from picolm_lib.commands.plan import trial
from picolm_lib.config import PRESETS, TINYSTORIES, PicoConfig, PicoError, TrainConfig
from picolm_lib.course import ablation_results, race
from picolm_lib.course.drive import Drive
from picolm_lib.course.training import (
    budget,
    hunt,
    live,
    memory,
    mixed_precision,
    plans,
    run,
    schedules,
    small_runs,
    time_machine,
)
from picolm_lib.course.training.live import Live
from picolm_lib.course.training.recorded import recorded
from picolm_lib.data import tokens
from picolm_lib.data.hub_dataset import HubDataset, HubFile
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.model.rope import rope_tables
from picolm_lib.train.checkpoint import (
    RunConfig,
    load_config,
    load_resume,
    load_run,
    save_config,
)
from picolm_lib.train.metrics import smooth
from picolm_lib.train.muon import MuonAdamW, parameter_groups
from picolm_lib.train.snapshots import history

SMALL = PicoConfig(vocab_size=50, max_seq_len=16, n_layers=3, d_model=32, n_heads=4, multiple_of=8)
TOKENS = torch.arange(32).view(2, 16)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")
    monkeypatch.chdir(tmp_path)


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
    trainer = tiny_trainer()
    speed = budget.measure_steps(trainer, 2, 0)
    assert trainer.progress.step == 3 and speed.tokens_per_second > 0
    assert speed.flops_per_second == pytest.approx(speed.tokens_per_second * trainer.flops)
    assert budget.matmul_flops(torch.device("cpu"), torch.float32, 64) > 0


def test_muons_flops_are_those_that_pytorch_counts(randomize):
    model = randomize(PicoLM(SMALL))
    optimizer = MuonAdamW([g for g in parameter_groups(model) if g["kind"] == "muon"])
    model.loss(TOKENS, TOKENS).backward()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    assert budget.muon_flops(SMALL) == counter.get_total_flops()


def test_the_prediction_is_arithmetic_on_the_data_sheet():
    rows = [[cell.strip() for cell in row.strip("|").split("|")]
            for row in budget.predict((0.1, 0.2)).data.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["pico", "49,152"], ["pico8k", "8,192"]]
    for name, row in zip(("pico", "pico8k"), rows, strict=True):
        model, train = PRESETS[name].model, PRESETS[name].train
        each = flops_per_token(model) + budget.muon_flops(model) / (32 * 384)
        assert int(row[2]) == round(each / 1e6)
        slow, fast = (float(word.replace(",", "")) for word in row[5].split(" to "))
        assert slow == pytest.approx(0.1 * 65e12 / each, abs=500)
        assert fast == pytest.approx(0.2 * 65e12 / each, abs=500)
        least, most = map(int, row[6].split(" to "))
        assert least == round(train.max_tokens * each / (0.2 * 65e12) / 60)
        assert most == round(train.max_tokens * each / (0.1 * 65e12) / 60)
    # What the notebook says: Muon's share; the output layer's; the logits of a pass.
    assert rows[0][3] == "6%" and int(rows[1][2]) < 0.7 * int(rows[0][2])
    pico = PRESETS["pico"].model
    assert 0.45 < budget.flops(pico)["output layer"] / flops_per_token(pico) < 0.5
    assert sum(budget.state_bytes(pico).values()) < 4 * 49_152 * 16 * 384


def test_the_counted_memory_is_about_what_a_step_takes():
    preset = PRESETS["smoke"]
    sketch = trial(preset.model, preset.train)
    sketch.step()
    predicted = budget.predicted_memory(preset.model, preset.train, sketch.precision.dtype)
    assert budget.measured_memory(sketch) == pytest.approx(predicted, rel=0.2)


def test_the_table_of_a_t4_grows_by_all_logits_and_both_fit():
    rows = [[float(cell.split()[0]) for cell in row.strip("| ").split("|")]
            for row in memory.on_a_t4().data.splitlines()[2:]]
    assert [row[0] for row in rows] == [8, 16, 32]
    for sequences, chunked, full in rows:
        # At least logits and their gradient, in float32.
        assert full - chunked > 1.5 * 4 * 49_152 * 384 * sequences / 1e9 and full < 15
    assert rows[2][1] < 0.5 * rows[2][2], "the chunks halve the memory"


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
    spread = {"weights": 10 ** torch.linspace(-12, -4, 1_001)}
    text = mixed_precision.draw_ranges(spread).text
    assert "65,504" in text and "between 1e-11.9 and 1e-4.1" in text
    with pytest.raises(AssertionError, match="fit into float16"):
        mixed_precision.draw_ranges({"weights": torch.ones(10)})
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

def plan(*settings: Any, **more: Any) -> plans.Plan:
    return plans.plan_run("smoke", "storybook", *settings, **more)


def test_the_settings_make_the_run(monkeypatch):
    monkeypatch.setattr(plans, "measure_steps", lambda sketch: budget.Speed(1_000.0, 1.0))
    untimed = plan(0.0, 3)
    assert untimed.config.train == replace(PRESETS["smoke"].train, seed=3)
    assert untimed.config.model == PRESETS["smoke"].model and not untimed.trained
    timed = plan(2.0).config.train
    # 98% of 120 s, less the evaluations, at 1,000 tokens per second, in whole steps of 512 tokens.
    evaluations = (4_096 + 26_000) / 3_000
    steps = round((120 * 0.98 - evaluations) * 1_000 / 512)
    assert (timed.max_tokens, timed.max_minutes, timed.max_steps) == (512 * steps, 0, 0)
    assert plans.MINUTES == {"pico": 16.0, "pico8k": 16.0, "nano": 1.2}
    assert f"{512 * steps:,} tokens" in plan(2.0).describe()
    assert f"about {512 * steps / 60_000:.1f} minutes" in plan(2.0).describe()
    Path("mine.txt").write_text("One.")
    other = plans.plan_run("smoke", "mine.txt").config
    assert other.train.tokenizer == "bundled" and other.model.vocab_size == 2_048
    stories = plans.plan_run("nano", "roneneldan/TinyStories", 0.1).config
    assert stories.train.tokenizer == "bundled8k" and stories.model.vocab_size == 8_192


@pytest.mark.parametrize(("settings", "words"), [
    (("storybook", 1e-9), ("too short", "set MINUTES")), (("storybook", -1), ("MINUTES", "-1")),
    (("storybook", "long"), ("MINUTES", "long")), (("storybook", 1, "one"), ("SEED", "one")),
    (("nobody.txt",), ("no file or folder 'nobody.txt'", "Settings")),
    (("storybook", 1, 0, ".."), ("RUN", "new"))])
def test_settings_that_make_no_run_are_refused_in_a_line(settings, words):
    with refused(*words):
        plans.plan_run("smoke", *settings)


def test_a_mistake_is_one_line_in_a_notebook():
    assert PicoError("so and so.")._render_traceback_() == ["error: so and so."]


def test_a_hub_that_is_away_gives_one_line_that_names_the_way_out():
    pico = replace(plan(), config=RunConfig("pico", PRESETS["pico"].model, PRESETS["pico"].train))
    with refused("DATA = 'storybook'", "Hub cannot be reached", "run this cell again"):
        run.get_data(pico)


def test_the_price_is_said_before_anything_is_downloaded(monkeypatch):
    found = HubDataset(TINYSTORIES, "0" * 40, "parquet", {}, {
        "train": [HubFile(f"data/train-{n}.parquet", 249_000_000, "") for n in range(4)],
        "validation": [HubFile("data/validation.parquet", 10_000_000, "")]})
    monkeypatch.setattr(run, "find_dataset", lambda name: found)
    said = run.price(TINYSTORIES, 40_000_000, there=False)
    assert "259 MB" in said and "first of 4 files" in said and "190,476 stories" in said
    # 259 MB at 20 MB/s, and 40 million tokens at half a million per second: 93 s.
    assert "about 2 minutes" in said and "40,000,000 tokens" in said
    assert "nothing to download" in run.price(TINYSTORIES, 40_000_000, there=True)
    assert "nothing to download" in run.price("storybook", 0, there=False)


def test_a_run_goes_on_and_a_finished_one_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PICOLM_RUNS", str(tmp_path / "runs"))
    first = plan()
    assert first.folder == tmp_path / "runs" / "05-1"
    trainer = run.get_data(first).trainer(Live("first"))
    while trainer.progress.step < 7:
        trainer.step()
    trainer.save()
    again = plan(5.0, 9)
    assert (again.folder, again.trained, again.config) == (
        first.folder, 7 * 512, load_config(first.folder)), "its own settings, not today's"
    assert "goes on after 3,584 of 10,240 tokens" in again.describe()
    assert plan(0.0, 0, "new").folder.name == "05-2"
    with refused("smoke, not of nano", "set RUN"):
        plans.plan_run("nano", "storybook", 0.0, 0, "05-1")
    shown = Live("again")
    ready = run.get_data(again)
    scores = ready.train(ready.trainer(shown))
    assert len(shown.steps) == 13 and shown.steps[-1]["tokens"] == 10_240
    model, tokenizer, config = load_run(first.folder)
    assert len(tokenizer) == model.config.vocab_size and config.train.max_tokens == 10_240
    whole = small_runs.small_trainer(dtype="auto", device="auto", evals=2)
    assert whole.run() == scores
    for a, b in zip(model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert plan().folder.name == "05-2", "a finished run is not taken again"
    assert "only scored again" in plan(0.0, 0, "05-1").describe()
    # The last of several, by number.
    for name in ("05-9", "05-10"):
        shutil.copytree(first.folder, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / "metrics.jsonl").unlink()
    assert plan().folder.name == "05-10"
    for path in (tmp_path / "runs" / "05-10").glob("resume*"):
        path.write_bytes(b"not a checkpoint")
    with refused("is damaged", "set RUN to 'new'"):
        plan()


def test_a_run_of_another_model_is_named_and_not_taken(tmp_path, monkeypatch, capsys):
    """As where the badge was opened again, so that MODEL is back at its default."""
    monkeypatch.setenv("PICOLM_RUNS", str(tmp_path))
    monkeypatch.setattr(plans, "measure_steps", lambda sketch: budget.Speed(1_000.0, 1.0))
    run.get_data(plan()).trainer(Live("smoke")).save()
    capsys.readouterr()
    assert plans.plan_run("nano", "storybook", 1.0).folder.name == "05-2"
    said = capsys.readouterr().out
    assert "05-1 is an unfinished run of smoke" in said and "set MODEL" in said
    assert plan().folder.name == "05-1" and not capsys.readouterr().out
    assert plan(0.0, 0, "05-7").folder.name == "05-7"
    assert "there is no run 05-7 yet" in capsys.readouterr().out


def test_the_stop_button_leaves_a_model_and_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PICOLM_RUNS", str(tmp_path))
    ready = run.get_data(plan())
    shown = Live("stopped")
    trainer = ready.trainer(shown)
    trainer.listener = lambda who, line: (shown(who, line), small_runs.stop_after(3)(who, line))
    scores = ready.train(trainer)
    said = capsys.readouterr().out
    assert "Stopped at step 3, after 1,536 of 10,240 tokens" in said and "Run this cell" in said
    assert scores.predicted > 0 and len(shown.steps) == 3
    load_run(ready.plan.folder)
    # Before the first step.
    trainer = run.get_data(plan(0.0, 0, "new")).trainer(Live("stopped"))
    monkeypatch.setattr(trainer, "step", interrupted)
    assert ready.train(trainer).predicted > 0


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_new_machine_gets_the_run_and_the_tokens_from_drive(tmp_path, monkeypatch):
    drive = Drive(tmp_path / "Drive")
    for machine in ("first", "second"):
        isolate(monkeypatch, tmp_path / machine)
        monkeypatch.setenv("PICOLM_RUNS", str(tmp_path / machine / "runs"))
        now = plan(drive=drive)
        assert now.trained == (0 if machine == "first" else 5 * 512)
        with monkeypatch.context() as patch:
            if machine == "second":
                patch.setattr(tokens, "_write", not_again)
            ready = run.get_data(now)
        trainer = ready.trainer(Live(machine))
        if machine == "first":
            trainer.config = replace(trainer.config, checkpoint_minutes=1e-9)
            trainer.listener = small_runs.stop_after(5)
        ready.train(trainer)
    assert trainer.progress.tokens == 10_240
    kept = {path.name for path in drive.find("runs/05-1/*")}
    assert {"resume.pt", "model.safetensors", "config.json", "metrics.jsonl"} <= kept
    assert not kept & {"resume.previous.pt", ".lock"}


def begin(now: plans.Plan, steps: int) -> plans.Plan:
    """Takes some steps of a run, and copies it to its Drive."""
    trainer = run.get_data(now).trainer(Live("begun"))
    while trainer.progress.step < steps:
        append(now.folder / "metrics.jsonl", {"kind": "step", **trainer.step()})
    trainer.save()
    now.drive.say = print
    run.keep_run(now.drive, now.folder)
    return now


def append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that moves to a machine of this name."""
    monkeypatch.setattr(plans, "measure_steps", lambda sketch: budget.Speed(1_000.0, 1.0))
    return lambda name: monkeypatch.setenv("PICOLM_RUNS", str(tmp_path / name))


def on_drive(drive: Drive, name: str = "05-1") -> tuple[str, int]:
    """Whose run Drive has, and how far it is."""
    folder = drive.folder / "runs" / name
    return load_config(folder).run, load_resume(folder)["progress"]["tokens"]


def test_no_run_on_drive_is_replaced_by_another(tmp_path, machine, monkeypatch, capsys):
    drive = Drive(tmp_path / "Drive")
    machine("first")
    first = begin(plan(drive=drive), 4)
    machine("second")
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "copytree", fails)
        with refused("05-1 is on Drive", "could not be copied", "run this cell again"):
            plan(drive=drive)
    # As where Drive was away when the run was named.
    begin(replace(plan(), drive=drive), 1)
    assert on_drive(drive) == (first.config.run, 4 * 512)
    assert "Drive has another run called 05-1" in capsys.readouterr().out
    [beside] = drive.find("runs/05-1-*")
    assert on_drive(drive, beside.name)[1] == 512


def fails(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_what_another_machine_has_done_is_taken_up(tmp_path, machine):
    drive = Drive(tmp_path / "Drive")
    machine("first")
    begin(plan(drive=drive), 3)
    machine("second")
    begin(plan(drive=drive), 9)
    machine("first")
    now = plan(drive=drive)
    assert now.trained == 9 * 512 and (now.folder.parent / "05-1.older").exists()
    # A copy that was broken off is no run.
    now.folder.rename(now.folder.with_name("05-1.part"))
    again = plan(drive=drive)
    assert (again.folder.name, again.trained) == ("05-1", 9 * 512)


def test_the_checkpoint_before_a_damaged_one_is_taken(tmp_path, machine, capsys):
    machine("here")
    now = begin(begin(plan(), 2), 5)
    (now.folder / "resume.pt").write_bytes(b"damaged")
    capsys.readouterr()
    again = plan()
    assert again.trained == 2 * 512 and "one before it is taken" in capsys.readouterr().out
    assert run.get_data(again).trainer(Live("again")).progress.step == 2


def test_a_run_of_the_command_keeps_the_end_that_it_had(machine):
    machine("here")
    now = plan()
    trainer = run.get_data(now).trainer(Live("timed"))
    trainer.step()
    trainer.progress.planned_tokens, trainer.progress.planned_minutes = 40 * 512, 3.0
    trainer.save()
    train = replace(now.config.train, max_tokens=0, max_minutes=3.0)
    save_config(now.folder, replace(now.config, train=train))
    for _ in range(2):
        again = plan(9.0)
        assert (again.config.train.max_tokens, again.config.train.max_minutes) == (40 * 512, 0)


def test_the_data_cell_again_reads_no_more_than_before(tmp_path, machine):
    """Not even where the plan cell was not run again after the stop."""
    machine("here")
    (tmp_path / "data").mkdir()
    for name, texts in (("train", STORIES * 2_000), ("validation", ["A story that is apart."] * 9)):
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(
            json.dumps({"text": f"{text} {n}"}) + "\n" for n, text in enumerate(texts)))
    now = plans.plan_run("smoke", str(tmp_path / "data"))
    first = run.get_data(now)
    first.trainer(Live("first")).save()
    again = run.get_data(now)
    assert again.train_config.data_tokens == first.train_config.data_tokens == 20_000
    assert len(again.files["train"].tokens) == len(first.files["train"].tokens)


def not_again(*_: object) -> None:
    raise AssertionError("the tokens were not taken from Drive")


def test_what_has_not_changed_is_not_copied_again_and_trouble_is_said_once(tmp_path):
    said: list[str] = []
    drive = Drive(tmp_path / "Drive", said.append)
    source = tmp_path / "05-1"
    (source / "tokenizer").mkdir(parents=True)
    for name in ("resume.pt", "resume.previous.pt", ".lock", "x.part", "tokenizer/a.json"):
        (source / name).write_text(name)
    drive.keep(source, "runs/05-1")
    copies = {path: path.stat().st_ino for path in drive.find("runs/05-1/**/*") if path.is_file()}
    assert {path.name for path in copies} == {"resume.pt", "a.json"}
    (source / "resume.pt").write_text("a longer one")
    drive.keep(source, "runs/05-1")
    changed = [path.name for path, inode in copies.items() if path.stat().st_ino != inode]
    assert changed == ["resume.pt"] and not said
    # A file where the folder should be, as on a Drive that cannot be written.
    (tmp_path / "Drive" / "runs" / "05-2").write_text("")
    for _ in range(2):
        drive.keep(source, "runs/05-2")
    assert len(said) == 1 and "could not be copied to Drive" in said[0]
    drive.fetch("runs/05-1", tmp_path / "back")
    assert (tmp_path / "back" / "resume.pt").read_text() == "a longer one"
    Drive().keep(source, "runs/05-1")
    assert Drive().find("*") == []


def test_pretended_memory_is_told_to_the_listener():
    heard = []
    trainer = small_runs.small_trainer(listener=lambda who, line: heard.append(line))
    small_runs.pretend_memory(trainer, 2)
    assert trainer.step()["micro_batch"] == 2
    assert [line["kind"] for line in heard] == ["note", "note"]
    assert "2 sequences at a time instead of 4" in heard[-1]["note"]


def test_the_live_picture_follows_the_run(monkeypatch):
    shown, clock = Live("small"), itertools.count(step=3)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    trainer = small_runs.small_trainer(listener=shown, max_tokens=4 * 512)
    shown.recall(trainer, [])
    shown._next = 0.0
    drawn, statuses = [], []
    monkeypatch.setattr(shown, "show",
                        lambda: (drawn.append(shown.draw()), statuses.append(shown.status)))
    trainer.run()
    assert len(shown.steps) == 4 and len(shown.evaluations) == 1
    score = shown.evaluations[0]["bits_per_byte"]
    assert f"step 4, loss {shown.steps[-1]['loss']:.2f}" in drawn[-1].text
    assert f"{score:.3f} bits per byte" in drawn[-1].text and f"{score:.3f}" in shown.text
    assert "Once upon a time" in shown.text and len(drawn[-1].png) < 80_000
    assert "minutes left" in statuses[1] and "validation documents are scored" in statuses[-2]
    assert statuses[-1].endswith("done") and shown.decay_begins == 1_024
    shown(trainer, {"kind": "note", "note": "something to say"})
    assert shown.text.endswith("something to say")
    norms = live.draw_norms(shown.steps, 1.0)
    share = sum(m["grad_norm"] > 1 for m in shown.steps) / 4
    assert norms.text.startswith(f"{share:.0%} of the 4 steps")
    assert live.draw_norms([], 1.0).text.startswith("0% of the 0 steps")
    skipped = {**shown.steps[0], "grad_norm": None}
    assert live.draw_norms([*shown.steps, skipped], 1.0).text == norms.text


def test_the_smoothed_curve_neither_lags_nor_leads():
    falling = [100.0 - 2 * n for n in range(100)]
    assert smooth(falling) == pytest.approx(falling)
    noisy = [value + (-1) ** n for n, value in enumerate(falling)]
    window = noisy[50 - 4:50 + 5]
    assert smooth(noisy, 4)[50] == pytest.approx(np.mean(window))
    assert smooth([1.0], 3) == [1.0] and smooth([]) == []


def test_recorded_runs_are_what_was_measured():
    past = history()
    nano = recorded("nano", "storybook")
    assert nano.bits_per_byte[-1] == (past.snapshots[-1].tokens, past.snapshots[-1].bits_per_byte)
    pico = recorded("pico", TINYSTORIES)
    assert pico.loss[-1][0] == pico.bits_per_byte[-1][0] and "one pass" in pico.label
    assert pico.loss[0][1] == pytest.approx(np.log(49_152), abs=0.02), "it begins by guessing"
    assert recorded("nano", TINYSTORIES) is None
    drawn = Live("beside", pico).draw()
    assert pico.label in drawn.text


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


def test_the_two_regimes_differ_as_the_notebook_says():
    text = ablation_results.draw_regimes().text
    found = dict(re.findall(r"([^;.]+: seen \w+(?: times)?): ([+-][\d.]+ ± [\d.]+\d)", text))
    verdicts = {name.strip(): 0 if abs(middle) <= half else 1 if middle > 0 else -1
                for name, (middle, half) in (
                    (name, map(float, value.split(" ± "))) for name, value in found.items())}
    for name in ("AdamW alone", "no sqrt(d)"):
        assert verdicts[f"{name}: seen once"] == 1 and verdicts[f"{name}: seen four times"] == -1
    for name in ("no output gate", "flat MLP"):
        assert not verdicts[f"{name}: seen once"] and not verdicts[f"{name}: seen four times"]


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
