"""Command-line options from dataclasses: tyro makes options and `--help` from their fields."""

from __future__ import annotations

import difflib
import io
import re
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any, TypeVar

import tyro

from picolm_lib.config import DEFAULT_PRESET, LIMITS, PRESETS, PicoError, Preset, TrainConfig

Options = TypeVar("Options")


def parse(options: type[Options], argv: list[str], default: Options, prog: str,
          description: str) -> Options:
    """Reads the options of a command.

    Args:
        options: the dataclass to fill; the fields of nested dataclasses are options, too.
        argv: the words after the command.
        default: the values of options that are not given.
        prog: what the user typed to call the command.
        description: the first sentences of its help.

    Raises:
        PicoError: an option is unknown, or its value is of the wrong type.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                options, args=argv, default=default, prog=prog, description=description,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:  # --help
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


def explicitly_set(argv: list[str]) -> set[str]:
    """Names of the fields whose options appear in argv."""
    return {word[2:].split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def preset_of(argv: list[str]) -> tuple[str, Preset]:
    """The preset that argv names, whose values are the defaults of all other options."""
    name = DEFAULT_PRESET
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.split("=", 1)[1]
    if name not in PRESETS:
        raise PicoError(f"unknown preset {name!r}{nearest(name, list(PRESETS))}; choose one of "
                        f"{', '.join(PRESETS)}.")
    return name, PRESETS[name]


def override_limits(argv: list[str], train: TrainConfig) -> TrainConfig:
    """Removes the preset's limits of the run's length where argv gives others."""
    given = LIMITS & explicitly_set(argv)
    no_limits: dict[str, Any] = dict.fromkeys(LIMITS - given, 0)
    return replace(train, **no_limits) if given else train


def nearest(name: str, names: list[str]) -> str:
    """" (did you mean ...?)" with the most similar of the names; empty where none is similar."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _unknown(word: str, names: list[str], prog: str) -> str:
    if not word.startswith("-"):
        return (f"unexpected word {word!r}; options begin with --, and a text of several words "
                f"needs quotes; see {prog} --help.")
    name = word.split("=")[0].replace("_", "-")
    return f"unknown option {word.split('=')[0]}{nearest(name, names)}; see {prog} --help."


def _first_line(box: str) -> str:
    """The message inside the box that tyro draws."""
    lines = [re.sub(r"[│╭╮╰╯─]", "", line).strip() for line in box.splitlines()[1:]]
    message = []
    for line in lines:
        if not line:
            break
        message.append(line)
    return re.sub(r"^Error parsing ", "", " ".join(message)).rstrip(".") + "."
