"""Which files of a folder are data, of which split, and why the others are not.

The files are exactly those that the user named: one file, or all in a folder and its subfolders.
What is left out is named with the reason.

Links are followed, and a copy of a file that is read already is left out: its documents would count
twice. Beside tables, JSON is taken for metadata; LICENSE.txt and its like are never data.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from picolm_lib.config import PicoError
from picolm_lib.data.readers import content_sha256, kind_of, read_documents
from picolm_lib.data.splits import sort_into_splits
from picolm_lib.files import listed, printable

KINDS = "txt, jsonl, json, parquet or arrow; the first three also as .gz"
HINT = "--data storybook or a local file or folder"
TABLES = (".jsonl", ".ndjson", ".parquet", ".arrow")
# Texts that accompany data.
NOTES = {"license", "licence", "copying", "notice", "readme", "citation", "authors", "changelog",
         "requirements"}


@dataclass
class Found:
    """The files of a source."""

    root: Path
    splits: dict[str, list[Path]] = field(default_factory=dict)
    """"train", and "validation" where there is one."""
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By the reason, names within `root`."""
    digests: dict[Path, str] = field(default_factory=dict)
    """The SHA-256 of the content of each file that is read."""
    stats: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Its size and time when that was read."""

    def name(self, path: Path) -> str:
        """A path within `root`, fit for printing."""
        return printable(str(path.relative_to(self.root)) if path != self.root else str(path))

    def read(self, split: str) -> Iterator[str]:
        """The documents of a split.

        Raises:
            PicoError: a file is damaged, or has changed since its digest was taken.
        """
        for file in self.splits[split]:
            yield from read_documents(file)
            if _stat(file) != self.stats[file]:
                raise PicoError(f"{str(file)!r} has changed while it was read; run the command "
                                "again.")

    def leave_out(self, path: Path, reason: str) -> None:
        """Notes that a file or folder is not read."""
        self.left_out[reason].append(self.name(path))

    def describe(self) -> list[str]:
        """What is read and what is left out, a line each."""
        lines = []
        for split, files in self.splits.items() if self.root.is_dir() else ():
            size = sum(file.stat().st_size for file in files)
            names = listed([self.name(file) for file in files])
            lines.append(f"{split}: {len(files):,} file{'s' * (len(files) > 1)} of {size:,} bytes "
                         f"({names})")
        return lines + self.omissions()

    def omissions(self) -> list[str]:
        """What is left out, a line for each reason."""
        return [f"left out: {listed(names)} ({reason})"
                for reason, names in sorted(self.left_out.items())]


def find_files(path: Path) -> Found:
    """The data files of a file or folder.

    Raises:
        PicoError: there is none, a part is missing, or something cannot be reached.
    """
    found = Found(path)
    try:
        if path.is_dir():
            _assign(_without_notes(sorted(_walk(found)), found), found)
        elif not kind_of(path):
            raise PicoError(f"{str(path)!r} is not of a kind that is read ({KINDS}); convert it, "
                            f"or use {HINT}.")
        elif not path.is_file():
            raise PicoError(f"{str(path)!r} is not a file that can be read; use {HINT}.")
        else:
            found.splits = {"train": [path]}
        _leave_out_copies(found)
    except OSError as error:
        raise PicoError(f"{error.filename!r} cannot be read ({error.strerror}); fix it, or use "
                        f"{HINT}.") from error
    except RecursionError:
        raise PicoError(f"{str(path)!r} contains folders within folders without end; use {HINT}."
                        ) from None
    return found


def _walk(found: Found) -> list[Path]:
    """All files that could be read. Links are followed, but no folder is entered twice."""
    files: list[Path] = []
    entered: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    def enter(path: Path) -> bool:
        size = len(entered)
        entered.add(os.path.realpath(path))
        if len(entered) == size:
            found.leave_out(path, "read already by another name")
        return len(entered) > size

    enter(found.root)
    for parent, folders, names in os.walk(found.root, followlinks=True, onerror=fail):
        folder = Path(parent)
        for name in sorted((*folders, *names)):
            if name.startswith("."):
                found.leave_out(folder / name, "hidden")
        # Folders before links to them, so that the links are what is left out.
        folders[:] = [name for name in sorted(folders, key=lambda n: ((folder / n).is_symlink(), n))
                      if not name.startswith(".") and enter(folder / name)]
        for path in (folder / name for name in sorted(names) if not name.startswith(".")):
            if not kind_of(path):
                found.leave_out(path, f"not {KINDS}")
            elif path.is_file():
                files.append(path)
            elif path.is_symlink():
                raise PicoError(f"{str(path)!r} is a link that leads nowhere; fix or remove it.")
            else:
                found.leave_out(path, "not a regular file")
    return files


def _without_notes(files: list[Path], found: Found) -> list[Path]:
    """The files that are data by their names and neighbors."""
    tables = sorted({kind_of(file) for file in files}.intersection(TABLES))
    data = []
    for file in files:
        if kind_of(file) == ".txt" and file.stem.split(".")[0].lower() in NOTES:
            found.leave_out(file, "a note, by its name; name it to read it")
        elif kind_of(file) == ".json" and tables:
            found.leave_out(file, f"beside {' and '.join(tables)} files it is taken for metadata; "
                                  "name it to read it")
        elif _is_listed(file, found):
            data.append(file)
    return data


def _is_listed(file: Path, found: Found) -> bool:
    """Whether `Dataset.save_to_disk` counts a file as data; without its list, any file is."""
    if kind_of(file) != ".arrow":
        return True
    names = [item.get("filename") for item in _saved(file.parent / "state.json", "_data_files")
             if isinstance(item, dict)]
    if names and file.name not in names:
        found.leave_out(file, "not in the list of files in state.json")
    return not names or file.name in names


def _saved(path: Path, key: str) -> list:
    """A list in a file of JSON that `save_to_disk` wrote; empty where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key] if path.is_file() else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _assign(files: list[Path], found: Found) -> None:
    """Sorts files into splits by their names, and checks that no part is missing."""
    if not files:
        raise PicoError("; ".join([f"{str(found.root)!r} contains no file of data ({KINDS})",
                                   *found.omissions(), f"use {HINT}."]))
    splits = sort_into_splits(files, found.root)
    for file in splits.pop("test", []):
        found.leave_out(file, "a split for testing")
    for file in [file for file in splits["train"] if not file.stat().st_size]:
        splits["train"].remove(file)
        found.leave_out(file, "empty")
    for file in splits["validation"]:
        if not file.stat().st_size:
            raise PicoError(f"{str(file)!r} is empty, though its name says that it is for "
                            "validation; fill or remove it.")
    missing = [name for name in _saved(found.root / "dataset_dict.json", "splits")
               if not (found.root / str(name)).is_dir()]
    if missing:
        raise PicoError(f"{str(found.root)!r} lacks its split {missing[0]!r}, which "
                        "dataset_dict.json lists; copy the folder again.")
    if not splits["train"]:
        raise PicoError("; ".join([
            f"{str(found.root)!r} contains nothing to train on", *found.omissions(),
            *(f"for validation: {listed([found.name(file) for file in splits['validation']])}"
              for _ in splits["validation"][:1]), "to learn from such a file, name it."]))
    found.splits = {name: files for name, files in sorted(splits.items()) if files}


def _leave_out_copies(found: Found) -> None:
    """Reads every file once: documents that are there twice would count twice."""
    first: dict[str, Path] = {}
    for split, files in list(found.splits.items()):
        for file in list(files):
            found.stats[file] = _stat(file)
            digest = found.digests[file] = content_sha256(file)
            if first.setdefault(digest, file) != file:
                files.remove(file)
                found.leave_out(file, f"the same as {found.name(first[digest])}")
        if not files:
            del found.splits[split]


def _stat(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
