"""Batches: every window of a token file, shuffled; every token once, in order."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import refused

from picolm_lib.data.batches import Batches, sequential_batches
from picolm_lib.model.loss import IGNORE

TOKENS = np.arange(1_003, dtype=np.uint16)  # a token is its own position, so a window says where


def take(batches: Batches, number: int) -> list[list[int]]:
    """Where the windows of some batches begin."""
    return [batches.next()[0][:, 0].tolist() for _ in range(number)]


def test_targets_are_inputs_shifted_by_one_and_equal_the_file():
    tokens = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint16)
    cuts = {tuple(tokens[i:i + 9]) for i in range(len(tokens) - 8)}
    batches = Batches(tokens, seq_len=8, batch_size=5)
    for _ in range(30):
        inputs, targets = batches.next()
        assert inputs.shape == targets.shape == (5, 8) and inputs.dtype == torch.int64
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        rows = torch.cat((inputs, targets[:, -1:]), dim=1)
        assert all(tuple(row) in cuts for row in rows.numpy())


def test_inputs_and_targets_of_a_batch_of_one_share_no_memory():
    inputs, targets = Batches(TOKENS, seq_len=8, batch_size=1).next()
    before = inputs.clone()
    targets.fill_(IGNORE)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("seed", range(4))
def test_every_window_comes_once_per_epoch_in_an_order_of_its_own(seed):
    batches, epochs = Batches(TOKENS, seq_len=10, batch_size=1, seed=seed), {0: [], 1: [], 2: []}
    while batches.epoch < 2:
        start = batches.next()[0][0, 0].item()
        epochs[batches.epoch].append(start)
    for starts in (epochs[0], epochs[1]):
        first = min(starts)
        assert first < 10  # at most one window's worth is left out at either end
        assert sorted(starts) == list(range(first, len(TOKENS) - 10, 10))
        assert starts != sorted(starts)
    assert epochs[0] != epochs[1]


def test_the_order_depends_on_the_seed():
    first, same, other = (take(Batches(TOKENS, 10, 1, seed), 50) for seed in (1, 1, 2))
    assert first == same != other


@pytest.mark.parametrize("before", [0, 1, 32, 33, 34, 70])  # an epoch is about 33 batches
def test_the_position_of_a_run_is_two_integers(before):
    batches, other = (Batches(TOKENS, seq_len=10, batch_size=3, seed=5) for _ in range(2))
    take(batches, before)
    state = json.loads(json.dumps(batches.state_dict()))
    assert len(state) == 2 and all(type(value) is int for value in state.values())
    take(other, 7)
    other.load_state_dict(state)
    assert take(other, 50) == take(batches, 50)


def test_data_shorter_than_the_context_are_refused():
    with refused("15 tokens", "16", "--max-seq-len"):
        Batches(TOKENS[:15], seq_len=16, batch_size=1)


@pytest.mark.parametrize(("length", "seq_len", "batch_size"), [
    (41, 8, 2), (42, 8, 2), (40, 8, 3), (9, 8, 4), (2, 8, 4), (1_003, 64, 5)])
def test_in_order_predicts_every_token_once(length, seq_len, batch_size):
    seen, ignored = [], 0
    for inputs, targets in sequential_batches(TOKENS[:length], seq_len, batch_size):
        assert inputs.shape == targets.shape and inputs.shape[1] == seq_len
        assert len(inputs) <= batch_size
        counts = targets != IGNORE
        assert torch.equal(inputs[counts] + 1, targets[counts])
        seen += targets[counts].tolist()
        ignored += (~counts).sum().item()
    assert seen == list(range(1, length))
    assert ignored == -(length - 1) % seq_len
