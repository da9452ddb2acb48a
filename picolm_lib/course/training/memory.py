"""How much memory a loss needs: measured with PyTorch's profiler, counted where it is too large."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from picolm_lib.course.plots import BLUE, RED, Picture, canvas, finish
from picolm_lib.loss import linear_cross_entropy


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory on the CPU that `work` holds at once beyond what was there before.

    The profiler notes every allocation and every release of a tensor's memory. Adding them up in
    their order gives the memory in use, and its largest value is the peak.
    """
    with _hushed(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
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
def _hushed() -> Iterator[None]:
    """Keeps what the profiler's C++ says about itself out of the notebook."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def full_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss from all logits at once."""
    return F.cross_entropy(F.linear(x, weight), targets)


def loss_peaks(rows: Sequence[int], vocabulary: int, width: int, chunk_rows: int,
               ) -> dict[str, list[int]]:
    """Peak bytes of loss and gradients, full and in chunks, for several numbers of rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    peaks: dict[str, list[int]] = {"all logits at once": [], f"chunks of {chunk_rows} rows": []}
    for count in rows:
        x = torch.randn(count, width, generator=generator, requires_grad=True)
        targets = torch.randint(vocabulary, (count,), generator=generator)
        losses = (full_loss, lambda *given: linear_cross_entropy(*given, chunk_rows))
        for found, loss in zip(peaks.values(), losses, strict=True):
            found.append(peak_bytes(lambda loss=loss, x=x, targets=targets:
                                    loss(x, weight, targets).backward()))
            x.grad = weight.grad = None
    return peaks


def draw_memory(rows: Sequence[int], peaks: dict[str, list[int]], vocabulary: int) -> Picture:
    """Measured peaks, with one table of float32 logits as a ruler."""
    figure, axes = canvas(3.2)
    for (name, found), color in zip(peaks.items(), (RED, BLUE), strict=True):
        axes.plot(rows, [value / 1e6 for value in found], "o-", color=color, label=name)
    axes.plot(rows, [4 * vocabulary * count / 1e6 for count in rows], ":", color="#777777",
              label="one table of float32 logits")
    axes.set(xlabel="rows (tokens of the batch)", ylabel="peak memory (MB)", ylim=(0, None),
             title=f"Loss and its gradients, {vocabulary:,} words")
    axes.legend()
    return finish(figure, "; ".join(f"{name}: {found[-1] / 1e6:,.0f} MB at {rows[-1]:,} rows"
                                    for name, found in peaks.items()) + ".")
