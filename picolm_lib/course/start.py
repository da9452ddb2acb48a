"""What every notebook does first: the preset, the seed, and a report of this machine."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

import torch
from IPython.display import Markdown

from picolm_lib.config import PRESETS, PicoError
from picolm_lib.device import choose_precision, device_report


def preset_name() -> str:
    """The preset that fits this machine: $PICOLM_PRESET, else "pico" on a GPU and "nano" on a CPU.

    Raises:
        PicoError: $PICOLM_PRESET is not the name of a preset.
    """
    name = os.environ.get("PICOLM_PRESET") or (
        "pico" if choose_precision().device.type == "cuda" else "nano")
    if name not in PRESETS:
        raise PicoError(f"PICOLM_PRESET is {name!r}; choose one of {', '.join(PRESETS)}.")
    return name


def start(seed: int = 0) -> None:
    """Seeds PyTorch and prints a table of versions, device, dtype, seed and preset."""
    torch.manual_seed(seed)
    print(device_report(seed=seed, preset=preset_name()))


def show_source(*things: Callable) -> Markdown:
    """The library's own source of functions or classes."""
    return Markdown("\n\n".join(f"`{thing.__module__}.{thing.__qualname__}`\n"
                                f"```python\n{inspect.getsource(thing).rstrip()}\n```"
                                for thing in things))
