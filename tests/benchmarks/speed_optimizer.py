"""The optimizer step beside PyTorch's own; see speed.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest.mock import patch

import torch
from peers import TorchMuon
from record import in_turns, without_processor_seconds, write
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz

from picolm_lib.config import PRESETS
from picolm_lib.device import choose_precision
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.muon import COEFFICIENTS, MuonAdamW, newton_schulz, parameter_groups

OURS = "MuonAdamW"
THEIRS, THEIRS32 = "torch Muon and AdamW", "torch Muon in float32, and AdamW"
# Their Newton-Schulz casts to bfloat16 whatever the machine; this lets it stay in float32.
in_float32 = patch.object(Tensor, "bfloat16", Tensor.float)


def measure(options: argparse.Namespace) -> None:
    """Seconds per step, then how exact and how orthogonal each result is."""
    rows = []
    for preset in options.presets:
        rows += steps(preset, options)
    write("speed-optimizer", rows, repeats=options.repeats)
    write("newton-schulz", _exactness())


def with_gradients(preset: str, device: torch.device) -> PicoLM:
    """A model with random gradients, the same on every device."""
    model, generator = PicoLM(PRESETS[preset].model).to(device), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, device="cpu").to(device)
    return model


def steps(preset: str, options: argparse.Namespace) -> list[dict]:
    """Seconds of a step of each optimizer, in turns."""
    chosen = choose_precision(options.device, options.dtype)
    models = {name: with_gradients(preset, chosen.device) for name in (OURS, THEIRS, THEIRS32)}
    optimizers = {name: MuonAdamW(parameter_groups(m), dtype=chosen.dtype)
                  if name == OURS else TorchMuon(m) for name, m in models.items()}
    tasks: dict[str, Callable[[], object]] = {
        OURS: optimizers[OURS].step, THEIRS: optimizers[THEIRS].step,
        THEIRS32: in_float32(lambda: optimizers[THEIRS32].step())}
    taken = in_turns(tasks, options.repeats)
    rows = [{"preset": preset, "optimizer": name, "device": str(chosen.device),
             "seconds": round(taken[name][0], 4), "processor seconds": round(taken[name][1], 4),
             "times as long as MuonAdamW": round(taken[name][0] / taken[OURS][0], 2),
             "in processor seconds": round(taken[name][1] / taken[OURS][1], 2)} for name in tasks]
    return without_processor_seconds(rows) if chosen.device.type == "cuda" else rows


def _exactness() -> list[dict]:
    """Each way to the polynomial's value, against float64, on matrices easy and hard."""
    torch.manual_seed(0)
    rows, generator = [], torch.Generator().manual_seed(0)
    for shape in ((384, 384), (384, 1056), (384, 1536)):
        matrix = torch.randn(shape, generator=generator)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        for kind, each in (("random", matrix),
                           ("singular values from 1 to 1e-6", u * torch.logspace(0, -6, 384) @ v)):
            exact = _loop(each.double())
            for name, found in _ways(each).items():
                values = torch.linalg.svdvals(found.double())
                truth = torch.linalg.svdvals(exact)
                rows.append({
                    "shape": f"{shape[0]} x {shape[1]}", "matrix": kind, "way": name,
                    "relative error": f"{(found.double() - exact).norm() / exact.norm():.1e}",
                    "largest and median singular value": f"{values[0]:.3f} {values[192]:.3f}",
                    "exact": f"{truth[0]:.3f} {truth[192]:.3f}"})
    return rows


def _ways(matrix: Tensor) -> dict[str, Tensor]:
    ours = {str(dtype).removeprefix("torch."): newton_schulz(matrix, dtype=dtype)
            for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    return {**ours,
            "torch.optim.Muon": _zeropower_via_newtonschulz(matrix, COEFFICIENTS, 5, 1e-7)}


def _loop(matrix: Tensor) -> Tensor:
    """The definition, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x
