"""The command line: options from the dataclasses, and every mistake answered in one line.

tyro reads the fields, their types and docstrings, and makes the options and `--help` from them.
"""

from __future__ import annotations

import difflib
import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import TypeVar

import tyro

from picolm_lib.config import PRESETS, PicoError, Preset
from picolm_lib.interrupt import Interrupted, terminable
from picolm_lib.peers import LOST, end, is_lost_peer

Options = TypeVar("Options")


def parse(options: type[Options], argv: list[str], default: Options, prog: str,
          description: str) -> Options:
    """Reads the options of a command.

    Args:
        options: the dataclass to fill; its fields that are dataclasses lend it their options.
        argv: the words after the command.
        default: what holds where nothing is given.

    Raises:
        PicoError: an option is unknown, or its value is of the wrong type.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                options, args=argv, default=default, prog=prog, description=description,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise PicoError(_first_line(complaint.getvalue())) from None
    if unknown:
        raise PicoError(_unknown(unknown[0], option_names(default), prog))
    return parsed


def option_names(default: object) -> list[str]:
    """All options of a command, as they are typed."""
    names = []
    for name, value in vars(default).items():
        names += option_names(value) if hasattr(value, "__dataclass_fields__") else [
            "--" + name.replace("_", "-")]
    return names


def given(argv: list[str]) -> set[str]:
    """Names of the fields whose options appear in argv."""
    return {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def preset_of(argv: list[str], otherwise: str) -> tuple[str, Preset]:
    """The preset that argv names, whose values are the defaults of all other options."""
    name = otherwise
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.split("=", 1)[1]
    if name not in PRESETS:
        raise PicoError(f"unknown preset {name!r}{_nearest(name, list(PRESETS))}; there are "
                        f"{', '.join(PRESETS)}.")
    return name, PRESETS[name]


def run_command(command: Callable[[list[str]], None]) -> None:
    """Runs a command with the words it was given; a mistake ends it with one line and code 2."""
    try:
        with terminable():
            command(sys.argv[1:])
    except Interrupted as stop:  # asked for, so no error
        end(f"\n{stop}")
    except PicoError as error:
        end(f"error: {error}")
    except KeyboardInterrupt:
        end("\ninterrupted.")
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stderr.close()
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        end(f"error: {LOST}")


def _unknown(word: str, names: list[str], prog: str) -> str:
    if not word.startswith("-"):
        return (f"unexpected word {word!r}; options begin with --, and a text of several words "
                f"stands in quotes, see {prog} --help.")
    name = word.split("=")[0].replace("_", "-")
    return f"unknown option {word.split('=')[0]}{_nearest(name, names)}; see {prog} --help."


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _first_line(box: str) -> str:
    """The message inside the frame that tyro draws."""
    lines = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in box.splitlines()[1:]]
    message = []
    for line in lines:
        if not line:
            break
        message.append(line)
    return re.sub(r"^Error parsing ", "", " ".join(message)).rstrip(".") + "."
