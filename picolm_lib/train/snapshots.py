"""Snapshots of the bundled run: five checkpoints, small enough for the repository.

The four early ones store each matrix as int8, with one float32 scale per row: a quarter of the
size, and a loss that hardly differs (compare `Snapshot.loss` with `loss_float32`). The fifth is the
bundled model itself. `picolm bundle` makes them all in one run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from picolm_lib.config import PicoError
from picolm_lib.files import load_tensors, save_tensors
from picolm_lib.model.picolm import PicoLM
from picolm_lib.train.checkpoint import BUNDLED_RUN, load_config, load_run

FOLDER = BUNDLED_RUN / "snapshots"
SCALE = ".scale"


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, as measured on all validation documents."""

    file: str
    """Its name in the snapshots' folder; empty for the bundled model."""
    step: int
    tokens: int
    loss: float
    """Nats per token, of the weights as they are stored."""
    bits_per_byte: float
    loss_float32: float
    """Nats per token, of the weights as they were in the run."""


@dataclass(frozen=True)
class History:
    """The run that the snapshots were taken from."""

    curve: list[tuple[int, float]]
    """(tokens trained on, mean training loss in nats per token since the point before)."""
    snapshots: list[Snapshot]


def history() -> History:
    """The bundled run: its loss curve and its five checkpoints, first to last."""
    read = json.loads((FOLDER / "history.json").read_text(encoding="utf-8"))
    return History([tuple(point) for point in read["curve"]],
                   [Snapshot(**snapshot) for snapshot in read["snapshots"]])


def load_snapshot(number: int) -> PicoLM:
    """The bundled model at one of its five checkpoints.

    Args:
        number: from 0, the earliest, to 4, the bundled model.

    Raises:
        PicoError: there is no such checkpoint, or it is damaged.
    """
    snapshots = history().snapshots
    if not 0 <= number < len(snapshots):
        raise PicoError(f"there is no checkpoint {number}; choose 0 to {len(snapshots) - 1}.")
    file = snapshots[number].file
    if not file:
        return load_run("bundled")[0]
    model = PicoLM(load_config(BUNDLED_RUN).model)
    model.load_state_dict(dequantize(load_tensors(FOLDER / file)[0]))
    return model.eval()


def save_snapshot(path: Path, model: PicoLM) -> None:
    """Writes the weights in int8."""
    save_tensors(path, quantize(model.state_dict()))


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with a scale per row; vectors stay as they are.

    A weight w of a row with scale s is stored as round(w / s), where s = max |w| / 127 of that row.
    So it changes by s / 2 at most.
    """
    stored = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            stored[name] = weight
            continue
        scale = weight.abs().amax(-1, keepdim=True) / 127            # (..., R, 1)
        stored[name] = (weight / scale.clamp(min=1e-30)).round().to(torch.int8)
        stored[name + SCALE] = scale
    return stored


def dequantize(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights of what `quantize` made."""
    return {name: value.float() * stored[name + SCALE] if name + SCALE in stored else value
            for name, value in stored.items() if not name.endswith(SCALE)}
