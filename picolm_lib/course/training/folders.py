"""Which folder a learner's run is in: here, on Drive, or a new one."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from itertools import count
from pathlib import Path

from picolm_lib.config import PicoError
from picolm_lib.course.drive import Drive
from picolm_lib.files import first_line
from picolm_lib.train.checkpoint import (
    RunConfig,
    find_checkpoint,
    has_resume,
    is_intact,
    load_config,
)
from picolm_lib.train.metrics import read_metrics

CONTINUE = "continue, else new"
# Folders beside the runs: a copy that was broken off, and a run that Drive has a newer copy of.
UNUSED = (".part", ".older")


def choose_folder(preset: str, choice: str, drive: Drive) -> Path:
    """The folder of a run, copied from Drive where only Drive has it."""
    root = runs_folder(preset)
    kept = {path.name: path for path in drive.find("runs/*")}
    _make_room(root, kept)
    here = {path.name: path for path in root.glob("*")
            if path.suffix not in UNUSED and (path / "config.json").exists()}
    choice = choice.strip() or CONTINUE
    name = Path(choice).name
    if choice != CONTINUE and (not re.fullmatch(r"\w[\w .-]{0,99}", name)
                               or (root / name).is_file()):
        raise PicoError(f"RUN is {choice!r}, which cannot be a run's folder; set RUN to a name "
                        "such as '05-2', or to 'new', and run again from Settings.")
    if choice == CONTINUE:
        unfinished = {name: found for name, path in (kept | here).items()
                      if (found := _unfinished(path))}
        # 05-10 comes after 05-9.
        *others, name = "new", *sorted((name for name, found in unfinished.items()
                                        if found == preset), key=lambda name: (len(name), name))
        if not others and unfinished:
            other, found = max(unfinished.items(), key=lambda item: (len(item[0]), item))
            print(f"note: {other} is an unfinished run of {found}; to continue it, set MODEL to "
                  "that, on a GPU if it began on one, and run again from Settings.")
    if name == "new":
        return _new(root, kept)
    if name not in kept | here:
        print(f"note: there is no run {name} yet, so it is a new one.")
    folder, older = root / name, root / f"{name}{UNUSED[1]}"
    if name in kept and folder.exists() and (name not in here or (
            is_same_run(folder, kept[name]) and _last_step(kept[name]) > _last_step(folder))):
        # It is no run, or another machine has taken it further.
        shutil.rmtree(older, ignore_errors=True)
        folder.rename(older)
    drive.fetch(f"runs/{name}", folder)
    if name in kept and not folder.exists():
        if older.exists():
            older.rename(folder)
        raise PicoError(f"{name} is on Drive, but could not be copied to this machine; run this "
                        "cell again, or set RUN to 'new', and run again from Settings.")
    return folder


def _last_step(folder: Path) -> int:
    try:
        return max((line["step"] for line in read_metrics(folder)), default=0)
    except OSError:
        return 0


def is_same_run(one: Path, other: Path) -> bool:
    """Whether two folders contain the same run."""
    try:
        return load_config(one).run == load_config(other).run
    except (PicoError, OSError):
        return False


def _make_room(root: Path, kept: dict[str, Path]) -> None:
    """Renames runs that began without Drive, where it has another run of that name."""
    for folder in sorted(path.parent for path in root.glob("*/config.json")):
        if folder.name in kept and not is_same_run(folder, kept[folder.name]):
            free = _new(root, kept)
            folder.rename(free)
            print(f"{folder} is called {free} from now on, since Drive has another {folder.name}.")


def _new(root: Path, kept: dict[str, Path]) -> Path:
    """A name that no run has, here or on Drive."""
    return next(path for path in (root / f"05-{n}" for n in count(1))
                if path.name not in kept and not path.exists())


def _unfinished(folder: Path) -> str:
    """The preset of a run that has a checkpoint and has not reached its end; "" of any other."""
    try:
        config = load_config(folder)
        if not has_resume(folder):
            return ""
        scored = [line for line in read_metrics(folder) if line["kind"] == "evaluation"]
        done = scored[-1]["tokens"] if scored else 0
        # A run in minutes ends where its learning rate does: its picture is drawn then.
        over = ((folder / "loss.png").exists() if config.train.max_minutes
                else done >= end_of(config, 0))
    except OSError as error:
        print(f"note: {folder.name} could not be looked at ({first_line(error)}).")
        return ""
    # It is no run, or of another version.
    except (PicoError, KeyError, TypeError, ValueError):
        return ""
    return "" if over else config.preset


def runs_folder(preset: str) -> Path:
    """Where runs go: $PICOLM_RUNS, or the folder runs; a temporary one for the preset smoke."""
    if named := os.environ.get("PICOLM_RUNS"):
        return Path(named)
    return Path(tempfile.mkdtemp(prefix="picolm-")) if preset == "smoke" else Path("runs")


def end_of(config: RunConfig, planned: int) -> int:
    """The tokens at which a run ends; `planned` is what minutes have become."""
    train = config.train
    limits = (train.max_tokens, train.max_steps * train.batch_size * config.model.max_seq_len,
              planned if train.max_minutes else 0)
    return min(limit for limit in limits if limit)


def is_last_damaged(folder: Path) -> bool:
    """Whether a run must go on from the checkpoint before its last one; says so."""
    last = find_checkpoint(folder, "resume")
    damaged = not (last and is_intact(last)) and bool(find_checkpoint(folder, "resume.previous"))
    if damaged:
        print(f"note: the last checkpoint in {folder} is damaged or missing; the one before it is "
              "taken.")
    return damaged
