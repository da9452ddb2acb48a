"""The cache of token files, and of tokenizers that were trained for them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from picolm_lib.config import PicoError
from picolm_lib.data.corpus import Corpus
from picolm_lib.data.tokenizer import load_tokenizer, read_tokenizer, save_tokenizer, train_bpe
from picolm_lib.files import atomic_write_text, disk_errors, file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_FORMAT = 2
WAY_OUT = "set PICOLM_CACHE to a folder that can"


def cache_folder() -> Path:
    """Where token files are kept: $PICOLM_CACHE, or ~/.cache/picolm."""
    try:
        return Path(os.environ.get("PICOLM_CACHE") or "~/.cache/picolm").expanduser()
    except RuntimeError:
        raise PicoError("this user has no home folder for the cache; set PICOLM_CACHE to a folder."
                        ) from None


def bpe_size(name: str) -> int | None:
    """The 4,096 of "bpe:4096", and None of a name that asks for no training.

    Raises:
        PicoError: it is no number.
    """
    if not name.startswith("bpe:"):
        return None
    if not name[4:].isdecimal():
        raise PicoError(f"{name!r} is not a tokenizer; 'bpe:4096' trains one of 4,096 tokens.")
    return int(name[4:])


def tokenizer_for(name: str, corpus: Corpus) -> PreTrainedTokenizerFast:
    """The tokenizer of a name, as for `load_tokenizer`.

    "bpe:4096" trains one of 4,096 tokens on the training documents, once, and caches it.

    Raises:
        PicoError: there is no such tokenizer, or the cache cannot be written.
    """
    size = bpe_size(name)
    if size is None:
        return load_tokenizer(name)
    folder = cache_folder() / f"{corpus.fingerprint}-bpe{size}-v{CACHE_FORMAT}"
    if tokenizer := _cached_tokenizer(folder):
        return tokenizer
    with disk_errors(folder, WAY_OUT):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # Another process may have made it meanwhile.
            if tokenizer := _cached_tokenizer(folder):
                return tokenizer
            if folder.exists():
                say_line(f"the tokenizer in {folder} is damaged; it is made again")
            save_tokenizer(folder, train_bpe(corpus.split("train"), size))
            atomic_write_text(folder.with_suffix(".sha256"), _sha256(folder))
    return read_tokenizer(folder)


def _cached_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    try:
        intact = folder.with_suffix(".sha256").read_text() == _sha256(folder)
    except (OSError, ValueError):
        return None
    return read_tokenizer(folder) if intact else None


def _sha256(folder: Path) -> str:
    return " ".join(f"{path.name} {file_sha256(path)}" for path in sorted(folder.iterdir()))


def say_line(line: str) -> None:
    """Prints what was found on the way, beside the progress bars."""
    print(line, file=sys.stderr)
