"""The cache of token files, and of tokenizers that were trained for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from picolm_lib.config import PicoError
from picolm_lib.data.corpus import Corpus
from picolm_lib.data.tokenizer import load_tokenizer, read_tokenizer, save_tokenizer, train_bpe
from picolm_lib.files import (
    CACHE_WAY_OUT,
    atomic_write_text,
    cache_folder,
    disk_errors,
    file_sha256,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CACHE_FORMAT = 3
# Of English stories: 3.3 with the bundled 2,048 tokens, 4.0 with 49,152, 4.1 with 8,192.
BYTES_PER_TOKEN = 4


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


def tokenizer_for(name: str, corpus: Corpus, data_tokens: int = 0) -> PreTrainedTokenizerFast:
    """The tokenizer of a name, as for `load_tokenizer`.

    "bpe:4096" trains one of 4,096 tokens on the training documents, once, and caches it.

    Args:
        data_tokens: the documents are about those that `tokenize_corpus` reads for so many.

    Raises:
        PicoError: there is no such tokenizer, or the cache cannot be written.
    """
    size = bpe_size(name)
    if size is None:
        return load_tokenizer(name)
    most = BYTES_PER_TOKEN * data_tokens if corpus.has_validation else 0
    part = f"-{data_tokens}" if most else ""
    folder = cache_folder() / f"{corpus.fingerprint}-bpe{size}{part}-v{CACHE_FORMAT}"
    if tokenizer := _cached_tokenizer(folder):
        return tokenizer
    with disk_errors(folder, CACHE_WAY_OUT):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # Another process may have made it meanwhile.
            if tokenizer := _cached_tokenizer(folder):
                return tokenizer
            if folder.exists():
                say_line(f"the tokenizer in {folder} is damaged; it is made again")
            save_tokenizer(folder, train_bpe(_first_bytes(corpus.split("train"), most), size))
            atomic_write_text(folder.with_suffix(".sha256"), _sha256(folder))
    return read_tokenizer(folder)


def _first_bytes(texts: Iterator[str], most: int) -> Iterator[str]:
    """The first texts that have so many bytes together, or all where `most` is 0."""
    read = 0
    for text in texts:
        yield text
        read += len(text.encode())
        if most and read >= most:
            return


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
