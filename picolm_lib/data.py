"""From documents to one file of token ids, from which batches are cut (batches.py).

    <|endoftext|> story <|endoftext|> story ... <|endoftext|>

The file is written once per data set and tokenizer, as uint16, and then mapped into memory: a
corpus may be larger than the machine's memory, and a batch is read as fast as an array. The end of
text stands between stories, so the model learns to begin and, what matters more, to stop.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from picolm_lib.config import PicoError
from picolm_lib.corpus import Corpus
from picolm_lib.files import disk_errors, replace_text
from picolm_lib.tokenizer import encode, fingerprint, load_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
# What is encoded, and counted as done, together: so many documents or characters.
BLOCK, BLOCK_CHARACTERS = 10_000, 1_000_000
AT_ONCE = 256  # documents: more at once are slower, since their encodings are large
AHEAD = 3  # blocks in memory: two in the threads that encode, one waiting


@dataclass
class Count:
    """What a token file holds."""

    documents: int = 0
    bytes: int = 0
    """UTF-8 bytes of the documents' text; the end of text counts for none."""
    tokens: int = 0


@dataclass(frozen=True)
class TokenFile:
    """One split as token ids."""

    tokens: np.ndarray
    """(N,) uint16, mapped from the file."""
    count: Count

    @property
    def bytes_per_token(self) -> float:
        return self.count.bytes / self.count.tokens


def cache_folder() -> Path:
    """Where token files are kept: $PICOLM_CACHE, or ~/.cache/picolm."""
    return Path(os.environ.get("PICOLM_CACHE", "~/.cache/picolm")).expanduser()


def tokenizer_for(name: str, corpus: Corpus) -> PreTrainedTokenizerFast:
    """The tokenizer that `name` says; "bpe:4096" is trained on the corpus, once, and kept."""
    if not name.startswith("bpe:"):
        return load_tokenizer(name)
    if not name[4:].isdecimal():
        raise PicoError(f"{name!r} is no tokenizer; 'bpe:4096' trains one of 4,096 tokens.")
    folder = cache_folder() / f"{corpus.fingerprint}-bpe{name[4:]}-v{FORMAT}"
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                part = folder.with_name(folder.name + ".part")
                train_bpe(corpus.split("train"), int(name[4:])).save_pretrained(part)
                part.replace(folder)
    return load_tokenizer(str(folder))


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerFast,
            splits: tuple[str, ...] = ("train", "validation"),
            show_progress: bool = True) -> dict[str, TokenFile]:
    """The token files of a corpus, written if they are not there yet.

    An interrupted call goes on where it stopped.

    Returns:
        A TokenFile for each of `splits`, and perhaps for others.

    Raises:
        PicoError: the vocabulary does not fit into uint16, or a split is empty.
    """
    if len(tokenizer) > 2**16:
        raise PicoError(f"token files are uint16, so a vocabulary has at most {2**16:,} tokens; "
                        f"this one has {len(tokenizer):,}.")
    key = f"{corpus.fingerprint}-{fingerprint(tokenizer)}-v{FORMAT}"
    if "train" not in splits and (cache_folder() / f"{key}-train-validation/counts.json").exists():
        splits = ("train", "validation")                             # both are there already
    folder = cache_folder() / "-".join((key, *splits))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not _is_whole(folder):
                _write(folder, corpus, tokenizer, splits, show_progress)
    return _open(folder)


def _write(folder: Path, corpus: Corpus, tokenizer: PreTrainedTokenizerFast,
           splits: tuple[str, ...], show_progress: bool) -> None:
    """Reads and writes here, encodes in two threads.

    The tokenizer's own threads, which do not need the interpreter, fill all processor cores. Two
    threads call it, so that there is work for the cores while one of them collects its ids; reading
    and writing go on beside.
    """
    progress = folder / "progress.json"
    (folder / "counts.json").unlink(missing_ok=True)                 # where its files are damaged
    counts, done = _so_far(folder, progress, splits)
    documents = islice(corpus.documents(), done, None)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(desc="tokens", unit=" documents", initial=done, delay=1.0,
                                       unit_scale=True, disable=not show_progress))
        streams = {name: stack.enter_context(open(folder / f"{name}.bin", "ab"))
                   for name in counts}
        for name, stream in streams.items():
            stream.truncate(2 * counts[name].tokens)  # what was written after the last count
        pool = stack.enter_context(ThreadPoolExecutor(2))
        jobs = (pool.submit(_encode, tokenizer, block, splits) for block in _blocks(documents))
        for job in _ahead(jobs):
            encoded, documents_read = job.result()
            for name, (ids, count) in encoded.items():
                _append(streams[name], ids, counts[name], count)
            done += documents_read
            replace_text(progress, json.dumps({"counts": _plain(counts), "done": done}))
            bar.update(documents_read)
        for name, stream in streams.items():
            _append(stream, array("H", [tokenizer.eos_token_id]), counts[name], Count(tokens=1))
    replace_text(folder / "counts.json", json.dumps(_plain(counts)))
    progress.unlink(missing_ok=True)


def _so_far(folder: Path, progress: Path, splits: tuple[str, ...]) -> tuple[dict[str, Count], int]:
    """What an interrupted call has left, and of how many documents."""
    try:
        saved = json.loads(progress.read_text())
        counts, done = _counts(saved["counts"]), saved["done"]
        if all(_size(folder, name) >= 2 * count.tokens for name, count in counts.items()):
            return counts, done
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # there is nothing, or it is damaged
    return {name: Count() for name in splits}, 0


def _is_whole(folder: Path) -> bool:
    """Whether the token files are there, and as long as was counted."""
    try:
        counts = _counts(json.loads((folder / "counts.json").read_text()))
        return all(_size(folder, name) == 2 * count.tokens for name, count in counts.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _size(folder: Path, name: str) -> int:
    return (folder / f"{name}.bin").stat().st_size


def _blocks(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    block, characters = [], 0
    for split, text in documents:
        block.append((split, text))
        characters += len(text)
        if len(block) >= BLOCK or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _ahead(jobs: Iterator[Future]) -> Iterator[Future]:
    """The same jobs, each handed out when the next ones have been started."""
    started = deque(islice(jobs, AHEAD - 1))
    while started:
        started.extend(islice(jobs, 1))
        yield started.popleft()


def _encode(tokenizer: PreTrainedTokenizerFast, block: list[tuple[str, str]],
            splits: tuple[str, ...]) -> tuple[dict[str, tuple[array, Count]], int]:
    """The ids of each split's documents in a block, each after an end of text; and its length."""
    encoded = {name: (array("H"), Count()) for name in splits}
    wanted = [(split, text) for split, text in block if split in encoded]
    texts = [text for _, text in wanted]
    parts = (encode(tokenizer, texts[i:i + AT_ONCE]) for i in range(0, len(texts), AT_ONCE))
    for (split, text), text_ids in zip(wanted, chain.from_iterable(parts), strict=True):
        ids, count = encoded[split]
        ids.append(tokenizer.eos_token_id)
        ids.fromlist(text_ids)
        count.documents += 1
        count.bytes += len(text.encode())
        count.tokens += 1 + len(text_ids)
    return encoded, len(block)


def _append(stream: BinaryIO, ids: array, total: Count, count: Count) -> None:
    stream.write(np.array(ids).astype("<u2").tobytes())
    stream.flush()
    os.fsync(stream.fileno())  # on the disk before it is counted: power may fail in between
    for name, value in asdict(count).items():
        setattr(total, name, getattr(total, name) + value)


def _plain(counts: dict[str, Count]) -> dict[str, dict[str, int]]:
    return {name: asdict(count) for name, count in counts.items()}


def _counts(plain: dict[str, dict[str, int]]) -> dict[str, Count]:
    return {name: Count(**count) for name, count in plain.items()}


def _open(folder: Path) -> dict[str, TokenFile]:
    counts = _counts(json.loads((folder / "counts.json").read_text()))
    for name, count in counts.items():
        if not count.documents:
            raise PicoError(f"the data have no {name} documents.")
    return {name: TokenFile(np.memmap(folder / f"{name}.bin", dtype="<u2", mode="r"), count)
            for name, count in counts.items()}
