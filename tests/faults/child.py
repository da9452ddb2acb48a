"""What runs in the forked processes. Importing it imports all that a command needs."""

from __future__ import annotations

import json
import os
import sys

import matplotlib.backends.backend_agg  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo  # noqa: F401
import transformers.models.auto.tokenization_auto  # noqa: F401
from disk import Disk

from picolm_lib.commands.evaluate import evaluate_command
from picolm_lib.commands.generate import generate_command
from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command

COMMANDS = {"train": train_command, "story": generate_command, "evaluate": evaluate_command}
torch.set_num_threads(1)


def run(command: str, argv: list[str], output: str, disk: dict, cache: str, setup: str) -> None:
    """Runs a command as its script does; leaves what it said beside `output`.

    Args:
        disk: arguments of Disk.
        setup: Python to run first, in the manner of an accident.
    """
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    os.environ["PICOLM_CACHE"] = cache
    sys.argv = [command, *argv]
    exec(setup, {})
    watched = Disk(**disk)
    try:
        run_command(COMMANDS[command])
    finally:
        sys.stdout.flush()
        with open(f"{output}.events", "w") as stream:
            json.dump(watched.events, stream)
