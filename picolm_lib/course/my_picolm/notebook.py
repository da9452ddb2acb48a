"""What a notebook says about my_picolm.py: where it is kept, what was kept, the story it tells."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import display

from picolm_lib.config import PicoError
from picolm_lib.course import drive
from picolm_lib.course.my_picolm import reference
from picolm_lib.course.my_picolm.keeper import NAME, WEIGHTS, Keeper, run_file
from picolm_lib.course.my_picolm.parts import FUNCTIONS, count_sentence, unfinished_sentence
from picolm_lib.course.my_picolm.source import Refused
from picolm_lib.course.my_picolm.text import Unreadable
from picolm_lib.files import first_line

LENT = "on this machine until Colab takes it back"

_keeper: Keeper | None = None
# Kept until the process ends.
_temporary: list[tempfile.TemporaryDirectory] = []


def start(save_to_drive: bool = False) -> None:
    """Says where my_picolm.py is kept and how many of its parts are the learner's.

    Until this is called, nothing is kept.

    Args:
        save_to_drive: whether it is kept on Google Drive, in Colab.
    """
    global _keeper
    try:
        folder, where, kept_on = Path.cwd(), "beside this notebook", None
    except OSError as error:
        print(f"note: this folder cannot be used ({error.strerror}), so {NAME} is not kept.")
        return
    colab = drive.in_colab()
    if os.environ.get("PICOLM_PRESET") == "smoke":
        if not _temporary:
            _temporary.append(tempfile.TemporaryDirectory(prefix="my_picolm"))
        folder, where, colab = Path(_temporary[0].name), "in a temporary folder", False
    elif colab and save_to_drive:
        try:
            kept_on = drive.Drive(drive.mount())
            where = f"in MyDrive/{drive.FOLDER}"
        # Colab raises kinds of its own, such as where the learner declines.
        except Exception as error:
            print(f"note: Drive is not available ({first_line(error)}).")
    if colab and kept_on is None:
        where = LENT
    before, _keeper = _keeper, Keeper(folder, where, kept_on)
    if before is not None:
        _keeper.own += before.own
        _keeper.passed += before.passed
    try:
        for path in kept_on.find(NAME) if kept_on else []:
            _keeper.take_up(path.read_bytes())
    except (OSError, PicoError, Unreadable) as error:
        _keeper.drive, _keeper.where, kept_on = drive.Drive(), LENT, None
        print(f"note: the {NAME} on Drive could not be taken up ({_local(error)}). It stays as it "
              "is, and nothing is copied there now. Correct or rename it, and run this cell again.")
    try:
        print(f"{NAME}, {where}: {count_sentence(_keeper.read().yours)}")
    except OSError as error:
        print(f"note: {NAME} could not be read ({error.strerror}).")
    if colab and kept_on is None:
        print("You can download it at the end. If you have one from another notebook, upload it "
              "here; what you have written since stays.")
        display(upload_box())


def keep(name: str, answer: Callable) -> str:
    """Puts the learner's function into my_picolm.py, and says so, or why not.

    Args:
        name: what the file calls it.
        answer: a function that has passed its check, or the course's own, of which nothing is said.
    """
    if answer is getattr(reference, name, None):
        return ""
    if _keeper is None:
        return f"Not kept in {NAME}: run the Settings cell, then this check again."
    try:
        if name not in FUNCTIONS:
            raise Refused(f"it has no function {name}")
        _keeper.keep(name, answer)
    except (Refused, OSError, PicoError) as error:
        return f"Not kept in {NAME}: {_local(error)}."
    return f"Kept in {NAME}."


def _written() -> Keeper | None:
    """The keeper, with its files on the disk; None where that is not so, and a line says why."""
    if _keeper is None:
        print(f"{NAME} is there after the Settings cell has been run.")
        return None
    try:
        _keeper.write(_keeper.read().text)
    except (OSError, PicoError) as error:
        print(f"{NAME} could not be written ({_local(error)}).")
        return None
    return _keeper


def tell(prompt: str = "Once upon a time", **options: Any) -> None:
    """Lets my_picolm.py tell a story, in a process of its own, and prints it.

    Args:
        options: temperature, top_p, tokens, seed.
    """
    if (keeper := _written()) is None:
        return
    print(run_file(keeper.path, str(prompt), **options))
    if missing := unfinished_sentence(keeper.read().yours):
        print(missing)


def offer() -> None:
    """Says where the file is and how to run it; a download, where Colab would take it back."""
    if (keeper := _written()) is None:
        return
    print(f"{NAME} and {WEIGHTS} are {keeper.where}. On any machine with Python, torch, "
          f'tokenizers and safetensors:\n\n    python {NAME} "Once upon a time"')
    if keeper.where == LENT:
        button = ipywidgets.Button(description="Download both", icon="download")
        button.on_click(lambda _: download())
        display(button)


def download() -> None:
    """Sends both files to the learner's browser, from Colab."""
    from google.colab import files

    if _keeper is not None:
        for name in (NAME, WEIGHTS):
            files.download(str(_keeper.folder / name))


def upload_box() -> ipywidgets.Box:
    """A button that takes up a my_picolm.py, and what came of it."""
    button = ipywidgets.FileUpload(accept=".py", multiple=False, description=NAME)
    said = ipywidgets.Label()

    def take(change: dict) -> None:
        for content in uploaded(change["new"]):
            said.value = take_up(content)

    button.observe(take, names="value")
    return ipywidgets.VBox([button, said])


def uploaded(value: Any) -> list[bytes]:
    """The content of every file of a FileUpload: a dict by name in ipywidgets 7, a tuple in 8."""
    return [bytes(file["content"])
            for file in (value.values() if isinstance(value, dict) else value)]


def take_up(content: bytes) -> str:
    """Adds the functions of an uploaded my_picolm.py, and says what came of it."""
    if _keeper is None:
        return "Run the Settings cell first."
    try:
        lost = _keeper.take_up(content)
        count = count_sentence(_keeper.read().yours)
    except (OSError, PicoError, Unreadable) as error:
        return f"It was not taken up: {_local(error)}."
    again = f" Run the checks of {', '.join(lost)} again." if lost else ""
    return f"Taken up: {count}{again}"


def _local(error: BaseException) -> str:
    """What an error says, without this machine's folders."""
    folder = f"{_keeper.folder}{os.sep}" if _keeper else ""
    return first_line(error).replace(folder, "")
