"""Keeps the learner's functions in my_picolm.py: beside the notebook, and on Drive from Colab."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from picolm_lib.config import PicoError
from picolm_lib.course.drive import Drive
from picolm_lib.course.my_picolm.parts import template
from picolm_lib.course.my_picolm.source import Refused, global_names
from picolm_lib.course.my_picolm.text import Text, Unreadable, own_functions
from picolm_lib.course.my_picolm.uses import Collector, Written
from picolm_lib.files import ASSETS, atomic_write_text, first_line, load_tensors, save_tensors

NAME, WEIGHTS = "my_picolm.py", "my_picolm.safetensors"
BUNDLED = ASSETS / "nano"
SECONDS = 120  # for a story


class Keeper:
    """A my_picolm.py, and where it is.

    Args:
        folder: of the file.
        where: the same in words.
        kept_on: where a copy is kept.
    """

    def __init__(self, folder: Path, where: str, kept_on: Drive | None = None) -> None:
        self.folder, self.where, self.drive = folder, where, kept_on or Drive()
        self.path = folder / NAME
        self.own: list[tuple[Any, str]] = []
        """The learner's functions that are in the file, as this notebook has them."""
        self._put: dict[str, str] = {}
        self.passed: list[tuple[Any, str]] = []
        """All that passed their check, also those that could not be kept."""

    def read(self) -> Text:
        """The file, or the course's where there is none. One that cannot be read is set aside."""
        try:
            return Text(self.path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return self._begin()
        except (Unreadable, UnicodeDecodeError) as error:
            why = str(error) if isinstance(error, Unreadable) else "it is not UTF-8"
            older = self.set_aside()
            print(f"note: {NAME} could not be read, since {why}. It is called {older} from now on, "
                  "and a new one is begun, with the functions of this notebook.")
            return self._begin()

    def _begin(self) -> Text:
        """A new file, with the functions that this notebook has put into an earlier one."""
        text = Text(template())
        # Of a function that was kept twice, the later one.
        for name, answer in {name: answer for answer, name in self.own}.items():
            with contextlib.suppress(Refused):
                text = Text(text.put(name, Collector(name, answer, self.passed).written()))
        return text

    def set_aside(self, content: bytes | None = None) -> str:
        """Renames the file, or writes another one beside it, and returns the new name."""
        names = (f"my_picolm.older{number if number > 1 else ''}.py" for number in count(1))
        there = {path.name for path in self.drive.find("my_picolm.older*.py")}
        older = next(self.folder / name for name in names
                     if name not in there and not (self.folder / name).exists())
        if content is None:
            self.path.rename(older)
        else:
            older.write_bytes(content)
        self.drive.keep_file(older)
        return older.name

    def write(self, text: str) -> None:
        """Writes the file and, where they are not there, the weights; copies both to Drive."""
        weights = self.folder / WEIGHTS
        try:
            load_tensors(weights)
        except PicoError:
            save_weights(weights)
        if not self.path.exists() or self.path.read_text(encoding="utf-8") != text:
            atomic_write_text(self.path, text)
        self.drive.keep_file(weights)
        self.drive.keep_file(self.path)

    def keep(self, name: str, answer: Callable) -> None:
        """Puts a function into the file.

        Raises:
            Refused: it cannot be kept.
        """
        self.passed.append((answer, name))
        written = Collector(name, answer, self.passed).written()
        before = self.read()
        text = before.put(name, written, {own for _, own in self.own})
        check_runs(text, name, written)
        known = (Text(template()).source(name), written.source, self._put.get(name, ""))
        if before.source(name).strip() not in [source.strip() for source in known]:
            # By hand, or in another notebook.
            print(f"note: {NAME} had another {name}; that file is called "
                  f"{self.set_aside(before.text.encode())} from now on.")
        self.write(text)
        self.own.append((answer, name))
        self._put[name] = written.source

    def take_up(self, content: bytes) -> list[str]:
        """Adds the functions of another my_picolm.py; those that were kept here win.

        Returns:
            Functions of this file that could not be taken over into it.

        Raises:
            Unreadable: it is not such a file.
        """
        here = self.read()
        try:
            text = other = Text(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise Unreadable("it is not UTF-8") from None
        lost = []
        for name, written in own_functions(here).items():
            try:
                text = Text(text.put(name, written))
            except Refused:
                lost.append(name)
        if self.path.exists() and here.text not in (text.text, template()):
            self.set_aside()
        if any(text.source(name) != other.source(name) for name in other.yours):
            self.set_aside(content)
        self.write(text.text)
        return lost


def save_weights(path: Path) -> None:
    """Writes the bundled model: its weights, its shape and its tokenizer in one file."""
    tensors, _ = load_tensors(BUNDLED / "model.safetensors")
    config = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))["model"]
    tokenizer = (BUNDLED / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    save_tensors(path, tensors, config=json.dumps(config), tokenizer=tokenizer)


def check_runs(text: str, name: str, written: Written) -> None:
    """Runs the file as far as its definitions.

    Raises:
        Refused: it stops, or a name is missing that the function needs.
    """
    module = ModuleType("my_picolm")
    module.__dict__["__file__"] = NAME
    # A dataclass looks for the module that it is in.
    before = sys.modules.get("my_picolm")
    sys.modules["my_picolm"] = module
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, NAME, "exec", dont_inherit=True), module.__dict__)
    except KeyboardInterrupt:
        raise
    # A file that was changed by hand may end in sys.exit().
    except BaseException as error:
        raise Refused(f"with it the file stops with {type(error).__name__}: {first_line(error)}"
                      ) from None
    finally:
        sys.modules.pop("my_picolm")
        if before is not None:
            sys.modules["my_picolm"] = before
    for source in (written.source, *written.uses.values()):
        for needed in sorted(global_names(source)):
            if not hasattr(module, needed) and needed not in vars(module)["__builtins__"]:
                raise Refused(f"in the file {name} would miss {needed}; define it in the notebook")


def run_file(path: Path, prompt: str, **options: object) -> str:
    """Runs a my_picolm.py by itself: the story and the count of parts, or in one line why not."""
    command = [sys.executable, "-I", "-X", "utf8", path.name]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    try:
        # Isolated: what is beside the file or on PYTHONPATH is not seen, as on another machine.
        done = subprocess.run([*command, "--", prompt], cwd=path.parent, capture_output=True,
                              timeout=SECONDS, encoding="utf-8", errors="replace",
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return f"{NAME} had not finished its story after {SECONDS} seconds, and was stopped."
    except (OSError, ValueError) as error:
        return f"{NAME} could not be started ({first_line(error)})."
    if done.returncode == 0:
        return done.stdout.rstrip()
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if last.startswith("error: "):
        return last
    places = re.findall(r'File "[^"]*my_picolm\.py", line (\d+), in (\w+)', done.stderr)
    where = f" in {places[-1][1]} (line {places[-1][0]})" if places else ""
    return f"{NAME} stopped{where}: {last}"
