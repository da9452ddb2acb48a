"""Too little memory: smaller micro-batches, the same result."""

from __future__ import annotations

import pytest
import torch
from helpers import refused, tiny_trainer
from tools import (
    equal,
    everything,
    room_for,
)

from picolm_lib.train.distributed import Processes


@pytest.mark.parametrize("room", [4, 2, 1])
def test_out_of_memory_halves_the_micro_batch_and_the_result_is_the_same(folder, capsys, room):
    trainer = tiny_trainer(folder, batch_size=8, max_tokens=8 * 16 * 6 + 5)
    trainer.show, expected = True, tiny_trainer(batch_size=8, max_tokens=8 * 16 * 6 + 5,
                                                micro_batch_size=room)
    tried = room_for(trainer, room)
    capsys.readouterr()
    for _ in range(7):
        metrics = trainer.step()
        assert metrics["loss"] == expected.step()["loss"] and metrics["micro_batch"] == room
    assert equal(everything(trainer), everything(expected))
    assert tried[:4] == {4: [8, 4, 4, 4], 2: [8, 4, 2, 2], 1: [8, 4, 2, 1]}[room]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == {4: 1, 2: 2, 1: 3}[room]
    assert f"{room} sequences at a time instead of {2 * room}, {8 // room} times" in said[-1]


@pytest.mark.parametrize("spared", [1, 2, 3, 5])
def test_memory_that_runs_out_within_a_step_loses_neither_data_nor_gradients(spared):
    whole = tiny_trainer(batch_size=12, micro_batch_size=3)
    trainer = tiny_trainer(batch_size=12, micro_batch_size=3)
    tried = room_for(trainer, 1, spared)
    for _ in range(3):
        one, other = whole.step(), trainer.step()
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert tried[spared] == 3 and tried[-1] == 1
    assert trainer.batches.state_dict() == whole.batches.state_dict()
    for a, b in zip(whole.model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_one_sequence_that_does_not_fit_is_refused_in_one_line():
    trainer = tiny_trainer()
    tried = room_for(trainer, 0)
    with refused("out of memory", "one sequence", "--max-seq-len"):
        trainer.run()
    assert tried == [4, 2, 1] and all(p.grad is None for p in trainer.model.parameters())


def test_one_of_several_processes_cannot_halve_alone(monkeypatch):
    trainer = tiny_trainer(micro_batch_size=2)
    trainer.processes = Processes(rank=0, world_size=2)
    room_for(trainer, 1)
    with refused("out of memory with 2 sequences", "each process", "--micro-batch-size 1"):
        trainer.accumulate_gradients(*trainer.batches.next(), 64)
