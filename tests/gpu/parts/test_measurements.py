"""Every measurement runs in a tiny size, on the pretended GPU or a CPU, and its figures add up."""

from __future__ import annotations

import json
import math
import shutil
from argparse import Namespace
from dataclasses import replace
from itertools import islice

import pytest
from gpu import run
from gpu.measurements.story_pool import texts
from gpu.pretend import pretend_gpu

from picolm_lib.config import PRESETS, SampleConfig
from picolm_lib.data.tokenizer import BUNDLED
from picolm_lib.model.mlp import pyramid_widths
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.storybook.story import stories

SMOKE = PRESETS["smoke"]
TOKENS, STEP = 4 * 512, 512


@pytest.fixture(scope="module", autouse=True)
def results(tmp_path_factory):
    """Where the parts write, and what they cache."""
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        patch.setenv("PICOLM_CACHE", str(folder / "cache"))
        patch.setattr("picolm_lib.train.trainer.SAMPLE", SampleConfig(max_new_tokens=5))
        yield folder


def rows_of(name: str, **options: object) -> list[dict]:
    """Runs a part as run.py does; returns what it has written."""
    from record import results_folder

    assert run.run(name, Namespace(**{"small": True, "minutes": 5.0, "data": ".gpu", **options}))
    rows = json.loads((results_folder() / f"gpu-{name}.json").read_text())["rows"]
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                assert math.isfinite(value) and (value >= 0 or "minus" in key), (key, value)
    return rows


def on_the_pretended_gpu(name: str, **options: object) -> list[dict]:
    with pretend_gpu():
        return rows_of(name, **options)


@pytest.fixture(scope="module")
def texts_folder(tmp_path_factory):
    """As .gpu is, with other texts and another tokenizer."""
    folder, told = tmp_path_factory.mktemp("texts"), [s.text for s in stories(40)]
    for name, part in (("train", told[2:]), ("validation", told[:2])):
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(part))
    shutil.copytree(BUNDLED, folder / "smollm-tokenizer")
    return folder


def test_the_t4s_policy_beside_the_others(texts_folder):
    from gpu.measurements.stories import tinystories
    from gpu.measurements.t4_policy import new_trainer

    options = Namespace(small=True, data=str(texts_folder))
    rows = on_the_pretended_gpu("t4-policy", data=str(texts_folder))
    assert [row["policy"] for row in rows] == ["float16 of a T4"] * 2 + ["bfloat16"] * 2 + [
        "float32"] * 2
    assert [row["tokens"] for row in rows] == [TOKENS // 2, TOKENS] * 3
    text = tinystories(options, 0)
    assert text.name == "TinyStories, SmolLM's tokenizer"
    assert text.files["validation"].count.documents == 2
    trainer = new_trainer(SMOKE.model, replace(SMOKE.train, max_tokens=TOKENS, device="cpu",
                                               dtype="float32"), text)
    losses = [[STEP * (i + 1), round(trainer.step()["loss"], 4)] for i in range(4)]
    curves = [[point for row in rows[i:i + 2] for point in row["curve"]] for i in (0, 2, 4)]
    for (tokens, loss), *others in zip(losses, *curves, strict=True):
        assert [point[0] for point in others] == [tokens] * 3
        assert others[2][1] == pytest.approx(loss, abs=2e-4)
        assert [point[1] for point in others] == pytest.approx([loss] * 3, abs=0.02)
    for row in rows:
        assert row["parameters"] == count_parameters(PicoLM(SMOKE.model))
        assert row["MFU"] == pytest.approx(
            row["tokens/s"] * flops_per_token(SMOKE.model) / 65e12, abs=1e-4)
        assert ("end" in row) == ("story" in row) == (row["tokens"] == TOKENS)


def test_the_recorded_run_stands_beside_the_same_text():
    from gpu.measurements.t4_policy import beside_recorded

    row = {"text": "TinyStories, SmolLM's tokenizer", "curve": [[12_288, 1.0], [24_576, 1.0]]}
    assert beside_recorded(row)["training loss, recorded on a CPU"] == pytest.approx(
        (10.8027 + 10.5583) / 2, abs=1e-4)
    for other in ({"text": "Storybook"}, {"curve": [[12_289, 1.0]]}):
        assert beside_recorded(row | other) == row | other


def test_the_long_run_takes_new_text_and_ends_in_time():
    *_, last = on_the_pretended_gpu("long-run")
    assert (last["tokens"], last["end"]) == (TOKENS, "all tokens")
    assert last["text"].startswith("Storybook, the bundled tokenizer, for want of .gpu")
    # Without a minute it still plans a step, and scores what it has.
    *_, last = on_the_pretended_gpu("long-run", minutes=0.0)
    assert last["end"].startswith("out of minutes") and last["tokens"] < TOKENS
    assert last["validation loss"] == pytest.approx(math.log(2048), abs=0.5)


def test_evidence_is_beside_the_default():
    rows = on_the_pretended_gpu("evidence")
    key = "bits per byte, minus the default's"
    assert [row[key] for row in rows[:2]] == [0, 0]
    for default, row in zip(rows[:2], rows[2:], strict=True):
        assert [tokens for tokens, _ in row["curve"]] == [tokens for tokens, _ in default["curve"]]
        assert row[key] == pytest.approx(row["bits per byte"] - default["bits per byte"], abs=1e-4)
        widths = pyramid_widths(SMOKE.model)
        flat = 32 * round(sum(widths) / len(widths) / 32) * len(widths)
        more = 3 * SMOKE.model.d_model * (flat - sum(widths))
        assert row["parameters"] - default["parameters"] == more


def test_muon_and_its_looped_form_do_the_same():
    import torch
    from gpu.measurements.optimizer import LoopedMuon
    from speed_optimizer import with_gradients

    from picolm_lib.train.muon import MuonAdamW, parameter_groups

    models = [with_gradients("smoke", torch.device("cpu")) for _ in range(2)]
    for model, kind in zip(models, (MuonAdamW, LoopedMuon), strict=True):
        optimizer = kind(parameter_groups(model))
        optimizer.step()
        optimizer.step()
    for ours, looped in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, looped)


def test_the_optimizer_in_parts():
    rows = on_the_pretended_gpu("optimizer")
    shares = {row["task"]: row for row in rows[:8]}
    both = shares["forward and backward"], shares["MuonAdamW"]
    assert sum(row["share of pass and MuonAdamW"] for row in both) == pytest.approx(1, abs=1e-3)
    assert {row["dtype"] for row in rows[:8]} == {"float16"} and len(rows) == 11
    assert not any("processor" in key for row in rows for key in row)


def test_larger_chunks_of_the_loss_take_more_memory():
    rows = on_the_pretended_gpu("loss-chunks")
    for part in (rows[:4], rows[4:]):
        assert len({row["rows"] for row in part}) == 1
        peaks = [row["peak memory, GiB"] for row in part]
        assert peaks == sorted(peaks) and peaks[0] < peaks[-1]


def test_the_loop_and_its_habits():
    rows = on_the_pretended_gpu("loop")
    assert [row["times as long"] for row in rows if row["loop"] == "as it is"] == [1.0]
    assert len(rows) == 3 and all(row["ms per step"] > 0 for row in rows)


def test_peers_take_turns_in_processes():
    ours, llama = rows_of("peers")
    config = SMOKE.model
    assert ours["parameters"] == count_parameters(PicoLM(config))
    assert llama["parameters"] == pytest.approx(ours["parameters"], rel=0.05)
    for row in (ours, llama):
        assert row["tokens"] == 2 * config.max_seq_len
        seconds = row["forward and backward, s"] + row["optimizer, s"]
        assert row["tokens/s"] == pytest.approx(row["tokens"] / seconds, rel=0.05)
    (row,) = rows_of("peers", minutes=0.0)
    assert row["end"].startswith("out of minutes")


def test_a_rival_that_dies_is_an_error():
    from speed_training import race

    with pytest.raises(EOFError):
        race("smoke", "eager", Namespace(rivals=("nobody",), repeats=1), patience=60)


def test_generation():
    rows = rows_of("generation-speed")
    assert [row["batch"] for row in rows] == [2] * 3 and all(row["tokens/s"] > 0 for row in rows)


def test_compiled_beside_eager(monkeypatch):
    monkeypatch.setattr("picolm_lib.train.trainer.compiled", lambda loss, device: loss)
    eager, compiled = rows_of("compile-speed")
    assert (eager["mode"], compiled["mode"]) == ("eager", "compiled")
    for row in (eager, compiled):
        assert row["tokens/s"] == pytest.approx(STEP / row["ms per step"] * 1e3, rel=0.01)


@pytest.mark.parametrize("name", ["t4-policy", "evidence", "loop", "generation-speed",
                                  "compile-speed"])
def test_minutes_stop_a_measurement(name, texts_folder):
    *_, last = on_the_pretended_gpu(name, minutes=0.0, data=str(texts_folder))
    assert last["end"].startswith("out of minutes")


def test_stories_of_several_processes_are_those_of_one():
    told = list(islice(texts(2, block=7), 30))
    assert told == list(islice(texts(1, block=4), 30)) == [s.text for s in stories(30)]


def test_the_summary_is_a_page(results, tmp_path):
    from gpu.summary import summary

    on_the_pretended_gpu("loop")
    page = summary(results, tmp_path).read_text()
    assert (tmp_path / "gpu-loop.json").read_bytes() == (results / "gpu-loop.json").read_bytes()
    assert "## loop" in page and "| as it is |" in page and "Tesla T4, torch" in page
    heads = {line.count("|") for line in page.split("## loop")[1].split("## ")[0].splitlines()
             if line.startswith("|")}
    assert len(heads) == 1


def test_the_summary_keeps_lists_out_and_estimates_a_t4():
    from gpu.summary import page

    row = {"policy": "float16 of a T4", "MFU": 0.2, "FLOPs per token": 240_600_000, "end": "all",
           "curve": [[1, 2.0]], "story": "Once\nupon"}
    text = page("t4-policy", {"machine": {"date": "today", "gpu": "H100", "torch": "2",
                                          "transformers": "5"}, "seconds": 1, "command": "run",
                              "rows": [row]})
    assert "[[" not in text and "> Once upon" in text
    # 9.46 PFLOP at 13 TFLOP/s.
    assert "12 minutes" in text
