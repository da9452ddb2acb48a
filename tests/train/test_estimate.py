"""What a run will need, against runs that were really made."""

from __future__ import annotations

import math
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import pytest
import torch
from helpers import isolate

from picolm_lib.commands.train import train_command
from picolm_lib.config import PRESETS, PicoConfig
from picolm_lib.model.picolm import PicoLM, count_parameters, flops_per_token
from picolm_lib.train import estimate
from picolm_lib.train.estimate import (
    AllocationTracker,
    MemoryEstimate,
    count_pass,
    kernels_of_a_gpu,
)
from picolm_lib.train.muon import MuonAdamW, parameter_groups

# Long enough for three chunks of the loss in 24 sequences.
SMALL = PicoConfig(vocab_size=96, max_seq_len=64, n_layers=3, d_model=32, n_heads=4, n_kv_heads=2,
                   multiple_of=8)


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stepped() -> tuple[PicoLM, MuonAdamW]:
    model = PicoLM(SMALL)
    optimizer = MuonAdamW(parameter_groups(model))
    tokens = torch.randint(0, 96, (2, 65))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    optimizer.step()
    return model, optimizer


def test_weights_gradients_and_optimizer_are_those_of_a_model_after_a_step():
    model, optimizer = stepped()
    memory = MemoryEstimate(SMALL).memory(gpus=1, sharded=False, sequences=2)
    assert memory.weights == bytes_of(model.parameters())
    assert memory.gradients == bytes_of(p.grad for p in model.parameters())
    assert memory.optimizer == bytes_of(
        value for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_pass_without_content_counts_as_a_real_one(dtype, grouped):
    with kernels_of_a_gpu(grouped):
        real = count_pass(PicoLM(SMALL), 3, dtype)
    with estimate.FakeTensorMode(), kernels_of_a_gpu(grouped):
        fake = count_pass(estimate._without_content(PicoLM(SMALL)), 3, dtype)
    assert fake == real


def saved(dtype: torch.dtype, **changes: float) -> int:
    """Bytes that a model of one block saves: T 64, D 32, H = K = 2, E 16, W 48, V 96."""
    config = PicoConfig(**{"vocab_size": 96, "max_seq_len": 64, "n_layers": 1, "d_model": 32,
                           "n_heads": 2, "n_kv_heads": 2, "multiple_of": 8, **changes})
    with kernels_of_a_gpu():
        return count_pass(PicoLM(config), 1, dtype).saved


def test_a_wider_mlp_saves_what_is_counted_by_hand():
    """SwiGLU saves the gate before silu, up, and the product: (T, 8) each. In bfloat16 the three
    matrices are copied, too: (8, D) each. The names stand for the widths 48 and 56."""
    narrow, wide = {"mlp_ratio_first": 1.5}, {"mlp_ratio_first": 1.75}
    assert saved(torch.float32, **wide) - saved(torch.float32, **narrow) == 4 * 3 * 64 * 8
    assert (saved(torch.bfloat16, **wide) - saved(torch.bfloat16, **narrow)
            == 2 * (3 * 64 * 8 + 3 * 8 * 32))


def test_a_larger_vocabulary_saves_the_output_layers_gradient():
    """One that loss.py computes ahead, in float32."""
    assert (saved(torch.bfloat16, vocab_size=196) - saved(torch.bfloat16)) == 4 * 100 * 32


def test_scores_are_not_saved():
    """Twice the context is twice the bytes; with T x T scores it would be four times as many."""
    at = [saved(torch.float32, max_seq_len=length) for length in (256, 512, 1_024)]
    assert at[2] - at[1] == 2 * (at[1] - at[0])


def test_larger_micro_batches_follow_from_two_small_ones():
    # 2**29 bytes are 2,048 rows of so many logits, hence 32 sequences; three such chunks are 96.
    estimated = MemoryEstimate(replace(SMALL, vocab_size=2**16))
    # Chunks may be partial.
    assert estimated.one_pass(400) == pytest.approx(estimated._count(400), rel=0.005)
    assert estimated.one_pass(5) == estimated._count(5)
    assert sorted(estimated._passes) == [5, 96, 192, 400]


def test_alive_sees_the_most_that_lives_at_once():
    with AllocationTracker() as alive:
        first = torch.zeros(1_000)
        second = first + 1
        assert alive.now == alive.peak == 8_000
        view = second[10:]
        del first, second
        assert alive.now == 4_000
        del view
        torch.zeros(500)
    assert (alive.now, alive.peak) == (0, 8_000)


def test_shares_of_fsdp_and_buckets_of_ddp():
    estimated = MemoryEstimate(SMALL)
    one, ddp, fsdp = (estimated.memory(n, sharded, 2) for n, sharded in (
        (1, False), (4, False), (4, True)))
    model = PicoLM(SMALL)
    assert ddp.weights == one.weights and ddp.sharing == bytes_of(model.parameters())
    assert one.sharing == 0
    for part in ("weights", "gradients", "optimizer", "step"):
        assert getattr(fsdp, part) == math.ceil(getattr(one, part) / 4), part
    last, before = (4 * count_parameters(model.blocks[i]) for i in (-1, -2))
    blocks = sum(4 * count_parameters(block) for block in model.blocks)
    root = 4 * count_parameters(model) - blocks
    assert fsdp.sharing == 2 * root + 2 * last + before
    assert fsdp.activations == one.activations


def test_the_total_is_the_larger_of_pass_and_step():
    memory = estimate.Memory(1, 2, 3, 10, 20, 30, 40)
    assert memory.total == 6 + 60
    assert estimate.Memory(1, 2, 3, 10, 20, 30, 70).total == 6 + 70


def test_what_fits_is_the_largest_half_that_does():
    estimated = MemoryEstimate(SMALL)
    limit = estimated.memory(1, False, 16).total
    assert estimated.fits(limit, 1, False, 64) == 16
    assert estimated.fits(limit - 1, 1, False, 64) == 8
    assert estimated.fits(0, 1, False, 64) == 0


def test_flops_of_a_token_by_hand():
    """D 32, E 8, two KV heads of four; widths 48, 88, 128; V 96; T 64."""
    block = 32 * (32 + 2 * 16) + 4 * 8 * 8 + 32 * 32             # qkv, gate, out
    weights = 3 * block + 3 * 32 * (48 + 88 + 128) + 96 * 32
    assert flops_per_token(SMALL) == 6 * weights + 3 * 12 * 32 * 64 // 2


@pytest.mark.parametrize("preset", ["smoke", "planned"])
def test_a_dry_run_touches_no_folder_and_no_data(tmp_path, monkeypatch, preset):
    isolate(monkeypatch, tmp_path / "caches")
    monkeypatch.chdir(tmp_path)
    # A few layers of planned say as much as all, in a tenth of the time.
    layers = str(min(PRESETS[preset].model.n_layers, 2))
    printed = StringIO()
    with redirect_stdout(printed):
        train_command(["--preset", preset, "--dry-run", "--n-layers", layers, "--tokenizer",
                       "/no/tokenizer"])
    assert not list(tmp_path.iterdir())
    text = printed.getvalue()
    with torch.device("meta"):
        model = PicoLM(PicoConfig(**{**vars(PRESETS[preset].model), "n_layers": int(layers)}))
    assert f"{count_parameters(model):,} parameters" in text and "estimate" in text
    rows = re.findall(r"^\| +([1248]) \| +(DDP|FSDP2|) \|", text, re.MULTILINE)
    assert rows == [("1", ""), *((n, way) for n in "248" for way in ("DDP", "FSDP2"))]
    assert all(name in text for name in ("T4 (15)", "A100 (40)", "H100"))
