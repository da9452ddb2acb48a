"""Warm-up, plateau, decay: the learning rate and the momentum at their corners and between."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, LinearLR, SequentialLR

from picolm_lib.config import TrainConfig
from picolm_lib.train.schedule import lr_factor, momentum

RUN = TrainConfig(warmup=0.1, decay=0.5)


@pytest.mark.parametrize("done, factor", [
    (0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.3, 1.0), (0.5, 1.0), (0.75, 0.5), (0.9, 0.2),
    (1.0, 0.0)])
def test_corners_of_the_learning_rate(done, factor):
    assert lr_factor(done, RUN) == pytest.approx(factor, abs=1e-12)


@pytest.mark.parametrize("done", [0.0, 0.3, 0.999])
def test_without_warm_up_it_starts_at_the_peak(done):
    config = TrainConfig(warmup=0.0, decay=0.0)
    assert lr_factor(done, config) == 1.0


def test_without_decay_it_ends_at_the_peak():
    config = TrainConfig(warmup=0.2, decay=0.0)
    assert [lr_factor(d, config) for d in (0.1, 0.2, 1.0)] == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize("done", [-0.5, 1.0001, 3.0])
def test_outside_the_run_it_is_zero(done):
    assert lr_factor(done, RUN) == 0.0


def test_equals_the_schedulers_of_torch():
    steps, warm, fall = 100, 10, 50
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    pieces = [LinearLR(optimizer, 1e-9, 1.0, warm), ConstantLR(optimizer, 1.0),
              LinearLR(optimizer, 1.0, 0.0, fall)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                              # SequentialLR warns of itself
        scheduler = SequentialLR(optimizer, pieces, [warm, steps - fall])
        for step in range(steps):
            assert lr_factor(step / steps, RUN) == pytest.approx(scheduler.get_last_lr()[0],
                                                                 abs=1e-6)
            optimizer.step()
            scheduler.step()


def test_corners_of_the_momentum():
    config = TrainConfig(momentum_start=0.8, momentum=0.9, momentum_warmup=100)
    got = [momentum(step, config) for step in (0, 50, 100, 101, 10_000)]
    assert got == pytest.approx([0.8, 0.85, 0.9, 0.9, 0.9])


def test_default_momentum_rises_from_085_to_09():
    config = TrainConfig()
    assert momentum(0, config) == pytest.approx(0.85)
    assert momentum(config.momentum_warmup, config) == pytest.approx(0.9)
