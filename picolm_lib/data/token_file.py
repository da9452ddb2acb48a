"""Token files: what one contains, and whether it still does.

    train.bin, validation.bin    token ids, uint16, little-endian
    counts.json                  TokenCounts of each, the CRC-32 of the ids among them

A flipped bit crashes nothing: it is another token, and the model learns it. So the checksum is
compared whenever a file is opened, which takes half a second per gigabyte.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from picolm_lib.files import atomic_write_text

Ids = bytes
PROGRESS = "progress.json"
# What reading a damaged file may raise.
DAMAGES = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass
class TokenCounts:
    """What a token file contains."""

    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of the documents' text, end-of-text tokens excluded."""
    tokens: int = 0
    crc32: int = 0
    """Of the ids as they are in the file."""

    def add(self, ids: Ids, documents: int = 0, text_bytes: int = 0) -> None:
        """Counts what is appended to the file."""
        self.documents += documents
        self.bytes += text_bytes
        self.tokens += len(ids) // 2
        self.crc32 = zlib.crc32(ids, self.crc32)


@dataclass(frozen=True)
class TokenFile:
    """One split as token ids."""

    tokens: np.ndarray
    """(N,) uint16, memory-mapped."""
    count: TokenCounts

    @property
    def bytes_per_token(self) -> float:
        return self.count.bytes / self.count.tokens


def open_token_files(folder: Path) -> dict[str, TokenFile] | None:
    """The token files of a folder; None where they are not complete, or not as they were written.
    """
    try:
        counts = load_counts(folder / "counts.json")[0]
        files = {name: TokenFile(np.memmap(folder / f"{name}.bin", dtype="<u2", mode="r"), count)
                 for name, count in counts.items()}
    except DAMAGES:
        return None
    intact = all(_matches(file.tokens, file.count) for file in files.values())
    return files if intact else None


def load_progress(folder: Path, splits: tuple[str, ...]) -> tuple[dict[str, TokenCounts], int]:
    """What an interrupted call has written, and from how many documents.

    Where that is not intact, the files are removed: new ones must not be written into old ones,
    which another process may still be reading.
    """
    try:
        counts, done = load_counts(folder / PROGRESS)
        tokens = {name: np.fromfile(folder / f"{name}.bin", dtype="<u2", count=count.tokens)
                  for name, count in counts.items()}
        if all(_matches(tokens[name], count) for name, count in counts.items()):
            return counts, done
    except DAMAGES:
        # There is no such file, or it is damaged.
        pass
    for name in splits:
        (folder / f"{name}.bin").unlink(missing_ok=True)
    return {name: TokenCounts() for name in splits}, 0


def _matches(tokens: np.ndarray, count: TokenCounts) -> bool:
    return len(tokens) == count.tokens and zlib.crc32(tokens.data) == count.crc32


def save_counts(path: Path, counts: dict[str, TokenCounts], done: int = 0) -> None:
    """Writes counts, and how many documents of all splits are done, with a checksum of all that."""
    content = {"counts": {name: asdict(count) for name, count in counts.items()}, "done": done}
    atomic_write_text(path, json.dumps({**content, "crc32": _crc32(content)}) + "\n")


def load_counts(path: Path) -> tuple[dict[str, TokenCounts], int]:
    """Reads what `save_counts` wrote.

    Raises:
        one of DAMAGES: it is not there, or damaged.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("crc32") != _crc32(content):
        raise ValueError("the checksum does not match")
    counts = {name: TokenCounts(**count) for name, count in content["counts"].items()}
    return counts, content["done"]


def _crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
