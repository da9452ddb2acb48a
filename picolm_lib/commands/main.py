"""The command `picolm`: runs a subcommand, and reports every user error in one line.

A subcommand's module is imported only when it is called, so that `picolm --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from picolm_lib.commands.parse import nearest
from picolm_lib.config import PicoError
from picolm_lib.train.signals import Interrupted, terminable

Command = Callable[[list[str]], None]

# Seconds.
OTHERS_WAIT_S = 3.0
# Each is picolm_lib/commands/NAME.py with a function NAME_command(argv, prog).
COMMANDS = {
    "train": "train a model, or resume a run",
    "generate": "write stories with a trained model",
    "evaluate": "score a model: loss, perplexity, accuracy, bits per byte, hallucination meter",
    "tokenizer": "train a byte-level BPE tokenizer",
    "export": "write a model as a folder that the transformers library loads",
    "estimate": "estimate the parameters, FLOPs, time and memory of a training run",
    "bundle": "train the tokenizer and the model that come with the package",
}


def main() -> None:
    """The console script `picolm`, and `python -m picolm_lib`."""
    called_as_module = Path(sys.argv[0]).name == "__main__.py"
    program = "python -m picolm_lib" if called_as_module else "picolm"
    run_command(lambda argv: dispatch(argv, program))


def dispatch(argv: list[str], program: str = "picolm") -> None:
    """Runs the subcommand that the first word names, with the words after it.

    Raises:
        PicoError: there is no such subcommand, or it was called wrongly.
    """
    name = argv[0] if argv else "--help"
    if name in ("--help", "-h"):
        print(_overview(program))
    elif name == "--version":
        print(f"picolm {_version()}")
    elif name in COMMANDS:
        subcommand(name, argv[1:], f"{program} {name}")
    else:
        kind = "option" if name.startswith("-") else "command"
        known = ["--help", "--version"] if kind == "option" else list(COMMANDS)
        raise PicoError(f"unknown {kind} {name}{nearest(name, known)}; see {program} --help.")


def subcommand(name: str, argv: list[str], prog: str) -> None:
    """Runs one subcommand.

    Args:
        name: one of COMMANDS.
        argv: its options.
        prog: what the user typed to call it, for its messages and its help.
    """
    module = import_module(f"picolm_lib.commands.{name}")
    getattr(module, f"{name}_command")(argv, prog)


def run_command(command: Command) -> None:
    """Runs a command with this process's arguments; a user error ends it in one line, code 2."""
    try:
        with terminable():
            command(sys.argv[1:])
    except Interrupted as stop:  # requested, so not an error
        _end(f"\n{stop}")
    except PicoError as error:
        _end(f"error: {error}")
    except KeyboardInterrupt:
        _end("\ninterrupted.")
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
    except SystemExit as stop:
        _exit(int(stop.code or 0))
    except RuntimeError as error:
        distributed = _distributed()
        if not (distributed and distributed.is_lost_process(error)):
            raise
        _end(f"error: {distributed.LOST_PROCESS}")


def _end(line: str) -> NoReturn:
    distributed = _distributed()
    if distributed and not distributed.is_main():
        # What all processes refuse the main one says, and then torchrun ends the others.
        time.sleep(OTHERS_WAIT_S)
    print(line, file=sys.stderr, flush=True)
    _exit(2)


def _exit(code: int) -> NoReturn:
    distributed = _distributed()
    if distributed and distributed.is_joined():
        sys.stdout.flush()
        # The usual way out waits for threads, which may themselves wait for a dead process.
        os._exit(code)
    sys.exit(code)


def _distributed() -> ModuleType | None:
    """The module of several processes, where a command has loaded it, and torch with it."""
    return sys.modules.get("picolm_lib.train.distributed")


def _overview(program: str) -> str:
    lines = "\n".join(f"  {name:<11}{meaning}" for name, meaning in COMMANDS.items())
    return (f"usage: {program} COMMAND [OPTIONS]\n\n"
            "Simple-PicoLM: train a small language model and use it.\n\n"
            f"{lines}\n\n"
            f"{program} COMMAND --help lists the options of a command.\n"
            f"{program} --version prints the version.")


def _version() -> str:
    try:
        return version("simple-picolm")
    except PackageNotFoundError:
        raise PicoError("simple-picolm is not installed, so its version is not known; run: "
                        "pip install -e .") from None
