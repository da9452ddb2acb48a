"""What every notebook does first: the preset, the seed, and a report of this machine."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable

import torch
from IPython.display import HTML, Markdown, display

from picolm_lib.config import PRESETS, PicoError
from picolm_lib.device import choose_precision, device_report


def preset_name(on_gpu: str = "pico") -> str:
    """The preset that fits this machine: $PICOLM_PRESET, else `on_gpu`, or "nano" on a CPU.

    Raises:
        PicoError: there is no such preset.
    """
    name = os.environ.get("PICOLM_PRESET") or (
        on_gpu if choose_precision().device.type == "cuda" else "nano")
    if name not in PRESETS:
        raise PicoError(f"there is no preset {name!r}; set MODEL in Settings, or PICOLM_PRESET, to "
                        f"one of {', '.join(PRESETS)}.")
    return name


def start(seed: int = 0, wants_gpu: bool = False) -> None:
    """Seeds PyTorch and prints a table of versions, device, dtype, seed and preset.

    Args:
        wants_gpu: whether to say loudly where there is no GPU, and what to do.
    """
    torch.manual_seed(seed)
    # Where there is a choice of models, Settings makes it.
    print(device_report(seed=seed, **({} if wants_gpu else {"preset": preset_name()})))
    if wants_gpu and choose_precision().device.type != "cuda":
        display(HTML(NO_GPU))


NO_GPU = """<div style="border: 3px solid #D55E00; padding: 0.6em 1em; font-size: 110%">
<b>There is no GPU here.</b> In Colab: menu <b>Runtime</b>, <b>Change runtime type</b>, choose
<b>T4 GPU</b>, <b>Save</b>, then <b>Runtime</b>, <b>Run all</b>.<br>
Without one, this notebook works, too: it trains the small model <code>nano</code> on the Storybook
for about a minute, in place of <code>pico</code> on TinyStories for sixteen. An unfinished run of
a GPU waits on your Drive until you get one again.</div>"""


def show_source(*things: Callable) -> None:
    """Shows the library's own source of functions or classes."""
    display(Markdown("\n\n".join(f"`{thing.__module__}.{thing.__qualname__}`\n"
                                 f"```python\n{inspect.getsource(thing).rstrip()}\n```"
                                 for thing in things)))
