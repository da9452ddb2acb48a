"""Weights as safetensors, which know the run and the model that they belong to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from picolm_lib.config import PicoError
from picolm_lib.files import load_tensors, save_tensors
from picolm_lib.model.picolm import PicoLM


def save_weights(path: Path, model: PicoLM, dtype: torch.dtype | None = None, run: str = "",
                 ) -> None:
    """Writes the weights as safetensors, in `dtype` or as they are.

    Args:
        run: the name of the run that they belong to.
    """
    save_tensors(path, {name: value.detach().to("cpu", dtype).contiguous()
                        for name, value in model.state_dict().items()}, **describe(model, run))


def describe(model: PicoLM, run: str) -> dict[str, str]:
    """What a file of weights says of itself: its run, and the configuration of its model."""
    return {"run": run, "config": json.dumps(asdict(model.config))}


def load_weights(path: Path, model: PicoLM, run: str = "") -> None:
    """Reads weights into a model, checking their hash.

    Args:
        run: the name of the run that they must belong to; empty: any.

    Raises:
        PicoError: the file is missing or damaged, belongs to another run or to a model of another
            configuration, or contains NaN or infinity.
    """
    weights, said = load_tensors(path)
    if run and said.get("run") != run:
        raise PicoError(f"{str(path)!r} belongs to another run than the config.json beside it; "
                        "restore the one that belongs there.")
    for name, value in json.loads(said.get("config", "{}")).items():
        if value != (now := getattr(model.config, name, None)):
            raise PicoError(f"{str(path)!r} has {name} {value}, but config.json says {now}; "
                            "restore config.json.")
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise PicoError(f"the weights in {str(path)!r} are not finite, so they are useless; "
                        "choose another run.")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PicoError(f"{str(path)!r} does not fit the model in config.json.") from error
