"""How much memory a loss needs, measured with PyTorch's profiler."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from picolm_lib.config import PRESETS
from picolm_lib.course.plots import BLUE, RED, Picture, canvas, finish
from picolm_lib.model.loss import linear_cross_entropy
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.estimate import MemoryEstimate


def peak_bytes(work: Callable[[], object]) -> int:
    """The peak CPU memory that `work` allocates.

    The profiler records every allocation and every release of a tensor's memory. Their running sum
    is the memory in use, and its largest value is the peak.
    """
    cpu = [ProfilerActivity.CPU]
    with _without_stderr(), profile(activities=cpu, profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events
                     if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0)
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Keeps messages of the profiler's C++ code out of the notebook."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def full_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss from all logits at once."""
    return F.cross_entropy(F.linear(x, weight), targets)


def _forward_backward(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    loss(*inputs).backward()


def loss_peaks(rows: Sequence[int], vocabulary: int, width: int, chunk_rows: int,
               ) -> dict[str, list[int]]:
    """Peak bytes of loss and gradients, full and in chunks, for several numbers of rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    peaks: dict[str, list[int]] = {"all logits at once": [], f"chunks of {chunk_rows} rows": []}
    for count in rows:
        x = torch.randn(count, width, generator=generator, requires_grad=True)
        targets = torch.randint(vocabulary, (count,), generator=generator)
        losses: list[Callable[..., Tensor]] = [
            full_loss, partial(linear_cross_entropy, chunk_rows=chunk_rows)]
        for found, loss in zip(peaks.values(), losses, strict=True):
            found.append(peak_bytes(partial(_forward_backward, loss, x, weight, targets)))
            x.grad = weight.grad = None
    return peaks


def on_a_t4() -> Markdown:
    """Peak memory of a step of pico in float16, counted: with chunks, and with all logits."""
    config = PRESETS["pico"].model

    def all_logits(model: PicoLM, tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    chunked = MemoryEstimate(config, torch.float16)
    full = MemoryEstimate(config, torch.float16, all_logits)
    rows = ["| sequences at a time | loss in chunks | all logits at once |", "|---|---|---|"]
    for sequences in (8, 16, 32):
        gigabytes = [estimate.memory(1, False, sequences).total / 1e9
                     for estimate in (chunked, full)]
        rows.append(f"| {sequences} | {gigabytes[0]:.1f} GB | {gigabytes[1]:.1f} GB |")
    return Markdown("\n".join(rows))


def draw_memory(rows: Sequence[int], peaks: dict[str, list[int]], vocabulary: int) -> Picture:
    """Measured peaks, with the size of all float32 logits for comparison."""
    figure, axes = canvas(3.2)
    for (name, found), color in zip(peaks.items(), (RED, BLUE), strict=True):
        axes.plot(rows, [value / 1e6 for value in found], "o-", color=color, label=name)
    axes.plot(rows, [4 * vocabulary * count / 1e6 for count in rows], ":", color="#777777",
              label="all logits in float32")
    axes.set(xlabel="rows (tokens of the batch)", ylabel="peak memory (MB)", ylim=(0, None),
             title=f"Loss and its gradients, {vocabulary:,} tokens in the vocabulary")
    axes.legend()
    return finish(figure, "; ".join(f"{name}: {found[-1] / 1e6:,.0f} MB at {rows[-1]:,} rows"
                                    for name, found in peaks.items()) + ".")
