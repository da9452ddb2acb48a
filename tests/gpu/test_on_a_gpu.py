"""What a run does on a GPU, seen on the pretended one: where it waits, where its tensors are."""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from gpu.pretend import GPU, pretend_gpu
from helpers import bpe, tiny_model_config, tiny_trainer, token_files
from torch.utils._python_dispatch import TorchDispatchMode

from picolm_lib.config import SampleConfig
from picolm_lib.device import choose_precision
from picolm_lib.evaluate import continuation_logprobs, evaluate
from picolm_lib.model.fast import kernels_of_a_gpu, rows_of_logits
from picolm_lib.model.picolm import PicoLM
from picolm_lib.sampling import stream_text
from picolm_lib.train.muon import MuonAdamW, parameter_groups


@pytest.fixture
def gpu():
    with pretend_gpu() as gpu:
        yield gpu


def random_model() -> PicoLM:
    """On the CPU; an untrained model gives every token the same logits."""
    model = PicoLM(tiny_model_config())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 1}, {"grad_clip": 0.0}])
def test_a_step_waits_once(gpu, changes):
    """The loss and the norm of the gradient are read together; all else is only queued."""
    trainer = tiny_trainer(device="cuda", dtype="auto", **changes)
    for _ in range(12):
        gpu.waits.clear()
        trainer.step()
        assert len(gpu.waits) == 1, gpu.waits
    assert 0 < trainer.progress.skipped < 6


def test_an_evaluation_waits_at_its_end():
    """However many batches it has; and it scores what the CPU scores."""
    model, text = random_model(), token_files()["train"]
    expected = evaluate(model, text, choose_precision("cpu", "float32"))
    with pretend_gpu() as gpu:
        scores = evaluate(model.to("cuda"), text, choose_precision("cuda", "float32"), batch_size=2)
        assert len(gpu.waits) == 2 < len(text.tokens) // 32
    assert scores.loss == pytest.approx(expected.loss, rel=1e-6)
    assert (scores.accuracy, scores.predicted) == (expected.accuracy, expected.predicted)


def test_a_question_waits_once():
    model, question = random_model(), (bpe(), "The", [" cat saw", " dog", " fox."])
    expected = continuation_logprobs(model, *question, choose_precision("cpu", "float32"))
    with pretend_gpu() as gpu:
        model.to("cuda")
        found = continuation_logprobs(model, *question, choose_precision("cuda", "float32"))
        assert len(gpu.waits) == 1
    assert found == pytest.approx(expected, rel=1e-5) and len(set(expected)) == 3


@pytest.mark.parametrize("options", [
    {"temperature": 0.0}, {"temperature": 1.3, "min_p": 0.02}, {"top_k": 7, "top_p": 0.8},
    {"repetition_penalty": 1.3}])
def test_a_text_is_that_of_the_cpu(options):
    model, config = random_model(), SampleConfig(max_new_tokens=12, **options)
    expected = "".join(stream_text(model, bpe(), "The", config, seed=3))
    with pretend_gpu():
        assert "".join(stream_text(model.to("cuda"), bpe(), "The", config, seed=3)) == expected


def test_a_run_is_saved_and_resumed(gpu, tmp_path):
    """The counts of AdamW's steps come back to the GPU, where the fused kernel reads them."""
    changes = {"device": "cuda", "dtype": "auto", "max_tokens": 64 * 8}
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    straight = tiny_trainer(tmp_path / "straight", **changes)
    straight.run()
    first = tiny_trainer(tmp_path / "stopped", **changes)
    for _ in range(6):
        first.step()
    first.save()
    second = tiny_trainer(tmp_path / "stopped", **changes)
    second.resume()
    second.run()
    steps = [state["step"] for state in second.optimizer.state.values() if "step" in state]
    assert steps and all(step.device == GPU for step in steps)
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


@pytest.mark.parametrize("here, there", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(tmp_path, here, there):
    """Whatever the device that wrote the checkpoint, AdamW's counts are where its weights are."""
    changes = {"dtype": "float32", "max_tokens": 64 * 4}
    with pretend_gpu():
        first = tiny_trainer(tmp_path, device=here, **changes)
        first.step()
        first.save()
        second = tiny_trainer(tmp_path, device=there, **changes)
        second.resume()
        second.run()
        assert second.progress.step == 4
        assert {value.device.type for state in second.optimizer.state.values()
                for value in state.values()} == {there}


@pytest.mark.parametrize("capability, dtype, shared", [
    ((7, 5), "float16", False), ((8, 0), "bfloat16", True), ((8, 0), "float16", True),
    ((8, 0), "float32", False)])
def test_heads_share_keys_where_flash_attention_takes_them(monkeypatch, capability, dtype, shared):
    attention, heads = torch.nn.functional.scaled_dot_product_attention, []

    def spy(q, k, v, *masks, **options):
        heads.append((q.shape[1], k.shape[1]))
        return attention(q, k, v, *masks, **options)

    with pretend_gpu(capability):
        trainer = tiny_trainer(device="cuda", dtype=dtype)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        trainer.step()
    assert set(heads) == {(2, 1) if shared else (2, 2)}


class Kernels(TorchDispatchMode):
    """Counts operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def test_more_matrices_are_no_more_kernels():
    """Muon computes lists and stacks: an operation for all of them, not one for each."""
    numbers = []
    for n_layers in (2, 6):
        model = PicoLM(tiny_model_config(n_layers=n_layers, mlp_ratio_first=2, mlp_ratio_last=2))
        optimizer = MuonAdamW(parameter_groups(model))
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape)
        # The first step makes the state.
        optimizer.step()
        with Kernels() as kernels:
            optimizer.step()
        numbers.append(kernels.number)
    assert numbers[0] == numbers[1] < 200


@pytest.mark.parametrize("gib, vocabulary, rows", [
    # 2,048 * 49,152 * 4 bytes are 384 MiB: less than half a GiB, and than 14.7 / 32 = 0.46 GiB
    (14.7, 49_152, 2_048), (80, 49_152, 2_048), (80, 8_192, 16_384), (14.7, 8_192, 8_192),
    (4, 49_152, 512), (0.1, 49_152, 512)])
def test_chunks_of_the_loss_are_larger_on_a_gpu_with_room(gib, vocabulary, rows):
    with pretend_gpu(gib=gib):
        assert rows_of_logits(vocabulary, GPU) == rows
        assert rows_of_logits(vocabulary, torch.device("cpu")) == 512
    with kernels_of_a_gpu():
        assert rows_of_logits(49_152, torch.device("cpu")) == 2_048


def test_the_policy_of_a_t4_learns_as_float32_does():
    """200 steps in float16 with a scaled loss, keys and values copied for each head."""
    steps = 200
    with kernels_of_a_gpu(grouped=False):
        half = tiny_trainer(dtype="float16", max_tokens=64 * steps)
        lines = []
        while half.progress.tokens < half.total_tokens:
            skipped = half.progress.skipped
            metrics = half.step()
            lines += [metrics] if half.progress.skipped == skipped else []
    # The scale begins at 2**16 and is halved until nothing overflows; then it holds.
    assert 0 < half.progress.skipped <= 8 and len(lines) == steps
    assert half.scaler.get_scale() == 2 ** (16 - half.progress.skipped)
    single = tiny_trainer(dtype="float32", max_tokens=64 * steps)
    expected = [single.step() for _ in range(steps)]
    # Until a batch is skipped both read the same; at first with the same weights.
    for ours, theirs in zip(lines[:2], expected[:2], strict=True):
        assert ours["skipped"] == 0
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2**-10)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2**-8)
    for start in range(0, steps, 50):
        ours, theirs = (mean(line["loss"] for line in run[start:start + 50])
                        for run in (lines, expected))
        assert ours == pytest.approx(theirs, rel=0.06), start
    scores = [evaluate(trainer.model, token_files()["train"],
                       choose_precision("cpu", "float32")).loss for trainer in (half, single)]
    assert scores[0] == pytest.approx(scores[1], rel=0.06) and scores[1] < 1
