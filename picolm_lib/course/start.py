"""What every notebook does first: which preset, which seed, and what this machine is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

import torch
from IPython.display import Markdown

from picolm_lib.config import PRESETS, PicoError
from picolm_lib.doctor import doctor, numerics


def preset_name() -> str:
    """The preset that fits this machine: $PICOLM_PRESET, else "pico" on a GPU and "nano" on a CPU.

    Raises:
        PicoError: $PICOLM_PRESET names no preset.
    """
    name = os.environ.get("PICOLM_PRESET") or (
        "pico" if numerics().device.type == "cuda" else "nano")
    if name not in PRESETS:
        raise PicoError(f"PICOLM_PRESET is {name!r}; choose one of {', '.join(PRESETS)}.")
    return name


def start(seed: int = 0) -> None:
    """Seeds PyTorch and prints a table of versions, device, dtype, seed and preset."""
    torch.manual_seed(seed)
    print(doctor(seed=seed, preset=preset_name()))


def show_source(thing: Callable) -> Markdown:
    """The library's own source of a function or class."""
    return Markdown(f"`{thing.__module__}.{thing.__qualname__}`\n"
                    f"```python\n{inspect.getsource(thing).rstrip()}\n```")
