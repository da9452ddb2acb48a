"""The bundled run at five moments: small, whole, and as good as it says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from helpers import isolate, refused, tiny_trainer, token_files

from picolm_lib import bundle, snapshots
from picolm_lib.checkpoint import load_run
from picolm_lib.corpus import load_corpus
from picolm_lib.data import prepare
from picolm_lib.doctor import numerics
from picolm_lib.evaluate import evaluate
from picolm_lib.tokenizer import load_tokenizer


def test_eight_bits_are_as_near_as_they_can_be(randomize):
    model = randomize(tiny_trainer().model)
    weights = model.state_dict()
    back = snapshots.dequantize(snapshots.quantize(weights))
    assert back.keys() == weights.keys()
    for name, weight in weights.items():
        if weight.ndim < 2:
            assert torch.equal(back[name], weight)
            continue
        step = weight.abs().amax(-1, keepdim=True) / 127
        assert ((back[name] - weight).abs() <= step / 2 + 1e-7).all()
        assert not torch.equal(back[name], weight)


def test_a_row_of_zeros_stays_zeros():
    stored = snapshots.quantize({"w": torch.tensor([[0.0, 0.0], [1.0, -2.0]])})
    assert stored["w"].tolist() == [[0, 0], [64, -127]] and stored["w"].dtype == torch.int8
    assert snapshots.dequantize(stored)["w"][0].tolist() == [0.0, 0.0]


def test_there_are_five_and_the_last_is_the_bundled_model():
    past = snapshots.history()
    assert len(past.snapshots) == 5
    tokens = [moment.tokens for moment in past.snapshots]
    assert tokens == sorted(tokens) and tokens[-1] == bundle.TOKENS == past.curve[-1][0]
    for moment, share in zip(past.snapshots, (*bundle.SHARES, 1.0), strict=True):
        assert 0 <= moment.tokens - share * bundle.TOKENS < 2_048
    losses = [moment.loss for moment in past.snapshots]
    assert losses == sorted(losses, reverse=True)
    bundled = load_run("bundled")[0]
    for a, b in zip(snapshots.load_snapshot(4).parameters(), bundled.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_snapshot_scores_what_the_history_says(tmp_path, monkeypatch, number):
    isolate(monkeypatch, tmp_path)
    text = prepare(load_corpus("storybook", 600), load_tokenizer(), ("validation",))["validation"]
    scores = evaluate(snapshots.load_snapshot(number), text, numerics("cpu", "float32"), 4_096)
    moment = snapshots.history().snapshots[number]
    assert scores.loss == pytest.approx(moment.loss, rel=0.12)  # other stories, and few
    assert moment.loss == pytest.approx(moment.loss_float32, abs=2e-3)


def test_a_snapshot_that_is_not_there_is_refused():
    for number in (-1, 5):
        with refused("no checkpoint", "0 to 4"):
            snapshots.load_snapshot(number)


def test_the_bundle_keeps_what_passes_and_writes_what_it_measured(tmp_path, monkeypatch):
    """The same code on a tiny run."""
    run, folder = tmp_path / "run", tmp_path / "snapshots"
    run.mkdir()
    monkeypatch.setattr(bundle, "RUN", run)
    monkeypatch.setattr(bundle, "TOKENS", 640)
    kept = {}

    def listen(trainer, line):
        bundle.keep_snapshots(trainer, line)
        if line["kind"] == "step":
            kept[line["step"]] = {n: w.clone() for n, w in trainer.model.state_dict().items()}
    trainer = tiny_trainer(run)
    trainer.listener = listen
    trainer.run()
    for share, step in zip(bundle.SHARES, (1, 1, 2, 5), strict=True):
        model = tiny_trainer().model
        bundle.load_weights(bundle.snapshot_path(share), model)
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, kept[step][name])

    monkeypatch.setattr(bundle, "FOLDER", folder)
    monkeypatch.setattr(snapshots, "FOLDER", folder)
    loaded = {"config": replace(load_run("bundled")[2], model=trainer.model.config)}
    monkeypatch.setattr(bundle, "load_config", lambda _: loaded["config"])
    monkeypatch.setattr(snapshots, "load_config", lambda _: loaded["config"])
    for module in (bundle, snapshots):
        monkeypatch.setattr(module, "load_run", lambda _: (trainer.model, None, None))
    bundle.write_history(token_files()["validation"])
    past = snapshots.history()
    assert [moment.step for moment in past.snapshots] == [1, 1, 2, 5, 10]
    assert past.curve[-1][0] == 640
    assert json.loads((folder / "history.json").read_text())["snapshots"][0] == asdict(
        past.snapshots[0])
    scores = evaluate(trainer.model, token_files()["validation"], numerics("cpu", "float32"))
    assert past.snapshots[-1].bits_per_byte == pytest.approx(scores.bits_per_byte, abs=1e-5)
