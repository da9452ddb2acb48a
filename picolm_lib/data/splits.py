"""Which split a file belongs to, by its name.

A file is for validation where its name says so: it is called "validation", "valid", "val" or "dev",
stands in a folder of that name, or ends with it beside a file without that ending (stories.txt and
stories-valid.txt, or stories-train.txt). Numbers of shards do not count. It is for testing in the
same way. All others are for training.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from picolm_lib.config import PicoError
from picolm_lib.data.readers import kind_of

SPLITS = {"train": "train", "training": "train",
          "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation",
          "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
# As the Hub names parts of a split: train-00000-of-00002, perhaps with a hash; also train_1.
_SHARD = re.compile(r"(.*?)(?:[-_.](\d+)(?:-of-(\d+))?)?(?:-[0-9a-f]{8,})?", re.DOTALL)
# Name without the number, the number, and of how many: ("train", 1, 4).
Part = tuple[str, int | None, int | None]


def sort_into_splits(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Files by split: "train", "validation", "test".

    Raises:
        PicoError: a split lacks a part, or is there twice: in parts of two sizes, in two kinds.
    """
    parts = {file: _part(file) for file in files}
    stems = {(file.parent, stem) for file, (stem, _, _) in parts.items()}
    splits: dict[str, list[Path]] = defaultdict(list)
    kinds: dict[str, set[str]] = defaultdict(set)
    for file, (stem, _, _) in parts.items():
        name = _split_of(file, stem, stems, root)
        splits[name or "train"].append(file)
        kinds[name].add(kind_of(file))
    for name in ("train", "validation"):
        if len(kinds[name]) > 1:
            raise PicoError(f"{str(root)!r} contains the split {name!r} as "
                            f"{' and as '.join(sorted(kinds[name]))} files; name a file, or give "
                            "those of one kind a folder of their own.")
    _check_shards({file: part for file, part in parts.items() if file not in splits["test"]})
    return splits


def _part(file: Path) -> Part:
    name = file.name.lower().removesuffix(".gz").removesuffix(kind_of(file))
    match = _SHARD.fullmatch(name)
    assert match, "every part of the pattern may be missing"
    stem, number, total = match.groups()
    return stem, int(number) if number else None, int(total) if total else None


def _split_of(file: Path, stem: str, stems: set[tuple[Path, str]], root: Path) -> str:
    for word in (stem, *reversed(file.parent.relative_to(root).parts)):
        if split := SPLITS.get(word.lower()):
            return split
    match = re.fullmatch(r"(.+)[-_.]([^-_.]+)", stem, re.DOTALL)
    if not match:
        return ""
    base, ending = match.groups()
    beside = any((file.parent, base + rest) in stems for rest in ("", "-train", "_train", ".train"))
    return SPLITS.get(ending, "") if beside else ""


def _check_shards(parts: dict[Path, Part]) -> None:
    """Refuses a split that lacks one of its parts, or is there twice."""
    there: dict[tuple[Path, str], dict[int | None, list[int | None]]] = defaultdict(dict)
    for file, (stem, number, total) in parts.items():
        there[file.parent, stem].setdefault(total, []).append(number)
    for (folder, stem), totals in there.items():
        numbers = [number or 0 for total in totals if total for number in totals[total]]
        if not numbers:
            continue
        if len(totals) > 1 or len({*numbers}) < len(numbers):
            sets = " and ".join(sorted(f"-of-{total or 1:05d}" for total in totals))
            raise PicoError(f"{str(folder)!r} contains {stem!r} in more than one set of parts "
                            f"({sets}); remove one, or its documents count twice.")
        total = next(iter(totals)) or 0
        # The Hub counts from 0, people from 1.
        first = 1 if total in numbers else 0
        absent = next(n for n in itertools.count(first) if n not in numbers)
        if absent < first + total or max(numbers) >= first + total:
            raise PicoError(f"{str(folder)!r} lacks {stem}-{absent:05d}-of-{total:05d}; fetch "
                            "what is missing, or rename the files.")
