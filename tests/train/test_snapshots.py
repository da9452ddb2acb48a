"""The five snapshots of the bundled run: small, complete, and as good as it says."""

from __future__ import annotations

import pytest
import torch
from helpers import isolate, refused, tiny_trainer

from picolm_lib.commands import bundle
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import evaluate
from picolm_lib.train import snapshots
from picolm_lib.train.checkpoint import BUNDLED_RUN, load_run
from picolm_lib.train.metrics import read_metrics


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


def test_there_are_five_and_the_last_is_the_bundled_model():
    past = snapshots.history()
    assert len(past.snapshots) == 5
    tokens = [snapshot.tokens for snapshot in past.snapshots]
    assert tokens == sorted(tokens) and tokens[-1] == bundle.TOKENS == past.curve[-1][0]
    for snapshot, share in zip(past.snapshots, (*bundle.SHARES, 1.0), strict=True):
        assert 0 <= snapshot.tokens - share * bundle.TOKENS < 2_048
    losses = [snapshot.loss for snapshot in past.snapshots]
    assert losses == sorted(losses, reverse=True)
    bundled = load_run("bundled")[0]
    for a, b in zip(snapshots.load_snapshot(4).parameters(), bundled.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("number", [0, 2, 4])
def test_a_snapshot_scores_what_the_history_says(tmp_path, monkeypatch, number):
    isolate(monkeypatch, tmp_path)
    corpus = load_corpus("storybook", 600)
    text = tokenize_corpus(corpus, load_tokenizer(), ("validation",))["validation"]
    precision = choose_precision("cpu", "float32")
    scores = evaluate(snapshots.load_snapshot(number), text, precision, 4_096)
    snapshot = snapshots.history().snapshots[number]
    assert scores.loss == pytest.approx(snapshot.loss, rel=0.12)  # other stories, and few
    assert snapshot.loss == pytest.approx(snapshot.loss_float32, abs=2e-3)


def test_a_snapshot_that_is_not_there_is_refused():
    for number in (-1, 5):
        with refused("no checkpoint", "0 to 4"):
            snapshots.load_snapshot(number)


def test_the_bundled_metrics_are_those_of_the_last_snapshot():
    (line,) = read_metrics(BUNDLED_RUN)
    last = snapshots.history().snapshots[-1]
    for name in ("step", "tokens", "loss", "bits_per_byte"):
        assert line[name] == getattr(last, name)
