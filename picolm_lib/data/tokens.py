"""From documents to one file of token ids, from which batches are cut (batches.py).

    <|endoftext|> story <|endoftext|> story ... <|endoftext|>

The file is written once per dataset and tokenizer, as uint16, and then memory-mapped: a corpus may
be larger than the machine's memory, and a batch is read as fast as from an array. The end of text
stands between stories, so the model learns to begin and, more importantly, to stop.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from picolm_lib.config import PicoError
from picolm_lib.data.cache import CACHE_FORMAT, say_line
from picolm_lib.data.corpus import Corpus
from picolm_lib.data.token_file import (
    PROGRESS,
    TokenCounts,
    TokenFile,
    load_progress,
    open_token_files,
    save_counts,
)
from picolm_lib.data.tokenizer import (
    MAX_VOCAB_SIZE,
    changed_text,
    encode,
    fingerprint,
    plain,
)
from picolm_lib.files import CACHE_WAY_OUT, cache_folder, disk_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Documents are encoded, and recorded as done, in blocks of at most this size.
BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 10_000, 1_000_000
# Documents per call of the tokenizer. More are slower, since their encodings are large.
ENCODE_BATCH = 256
# Two are being encoded in threads, one is waiting.
BLOCKS_IN_MEMORY = 3
Encoded = dict[str, tuple[bytes, int, int]]


def tokenize_corpus(corpus: Corpus, tokenizer: PreTrainedTokenizerFast,
                    splits: tuple[str, ...] = ("train", "validation"),
                    show_progress: bool = True, data_tokens: int = 0) -> dict[str, TokenFile]:
    """The token files of a corpus, from the cache or newly written.

    It continues where an interrupted call stopped, and writes damaged files again.

    Args:
        data_tokens: stop reading after about so many training tokens, at least so many, if
            validation is a split of its own (0: read all). If it is not, a part of the documents
            would have another validation split.
        show_progress: whether to show progress, and say in a line what was found on the way.

    Returns:
        A TokenFile for each of `splits`, and perhaps for others.

    Raises:
        PicoError: the vocabulary does not fit into uint16, a split is empty, or the cache cannot
            be written.
    """
    if len(tokenizer) > MAX_VOCAB_SIZE:
        raise PicoError(f"token files are uint16, so a vocabulary has at most {MAX_VOCAB_SIZE:,} "
                        f"tokens; this one has {len(tokenizer):,}.")
    # Where both splits are there, one alone would be a second copy.
    both = token_folder(corpus, tokenizer, data_tokens=data_tokens)
    if {"train", "validation"} > set(splits) and os.path.exists(both / "counts.json"):
        splits = ("train", "validation")
    most = data_tokens if "train" in splits and corpus.has_validation else 0
    folder = token_folder(corpus, tokenizer, splits, most)
    files = open_token_files(folder)
    if files is None:
        with disk_errors(folder, CACHE_WAY_OUT):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                # Another process may have written them meanwhile.
                if open_token_files(folder) is None:
                    _write(folder, corpus, tokenizer, splits, most, show_progress)
        files = open_token_files(folder)
    if files is None:
        raise PicoError(f"the token files in {str(folder)!r} are not what was written to them; "
                        "check the disk, or set PICOLM_CACHE to a folder on another.")
    for name, file in files.items():
        if not file.count.documents:
            raise PicoError(f"the split {name!r} of the data is empty; add documents to it, or "
                            "others than those that are there.")
    return files


def token_folder(corpus: Corpus, tokenizer: PreTrainedTokenizerFast,
                 splits: tuple[str, ...] = ("train", "validation"), data_tokens: int = 0) -> Path:
    """The folder in the cache where `tokenize_corpus` keeps such token files."""
    limit = [str(data_tokens)] if data_tokens and corpus.has_validation else []
    key = f"{corpus.fingerprint}-{fingerprint(tokenizer)}-v{CACHE_FORMAT}"
    return cache_folder() / "-".join((key, *splits, *limit))


def _write(folder: Path, corpus: Corpus, tokenizer: PreTrainedTokenizerFast,
           splits: tuple[str, ...], most: int, show_progress: bool) -> None:
    """Reads and writes in this thread, encodes in two others.

    The tokenizer has threads of its own, outside Python's global lock, that use all processor
    cores. Two threads call it, so that the cores stay busy while one of them collects its ids.
    """
    say = say_line if show_progress else lambda line: None
    progress = folder / PROGRESS
    if (folder / "counts.json").exists():
        say(f"the token files in {folder} are damaged; they are made again")
        (folder / "counts.json").unlink()
    counts, done = load_progress(folder, splits)
    marked = False
    # Its settings must not change while threads read them.
    plain(tokenizer)
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(desc="tokenizing", unit="tok", unit_scale=True, delay=1.0,
                                       initial=_tokens(counts), total=most or None,
                                       disable=not show_progress))
        streams = {name: stack.enter_context(open(folder / f"{name}.bin", "ab"))
                   for name in counts}
        for name, stream in streams.items():
            # Drops what was written after the last recorded block.
            stream.truncate(2 * counts[name].tokens)
        pool = stack.enter_context(ThreadPoolExecutor(2))
        documents = corpus.documents()
        if corpus.has_validation and splits == ("validation",):
            # The others come after it, and may have to be downloaded.
            documents = takewhile(lambda document: document[0] == "validation", documents)
        blocks = _blocks(islice(documents, done, None))
        jobs = (pool.submit(_encode, tokenizer, block, splits) for block in blocks)
        for job in _prefetch(jobs):
            if most and counts["train"].tokens >= most:
                break
            encoded, number, has_mark = job.result()
            for name, (ids, number_of_split, text_bytes) in encoded.items():
                _append(streams[name], ids)
                counts[name].add(ids, number_of_split, text_bytes)
            done, marked = done + number, marked or has_mark
            save_counts(progress, counts, done)
            bar.update(_tokens(counts) - bar.n)
        for name, stream in streams.items():
            end = np.array([tokenizer.eos_token_id], dtype="<u2").tobytes()
            _append(stream, end)
            counts[name].add(end)
    save_counts(folder / "counts.json", counts)
    progress.unlink(missing_ok=True)
    for reason, number in corpus.skipped.items():
        say(f"skipped {number:,} documents: {reason}")
    if marked:
        say(f"the end of text {tokenizer.eos_token!r} stands within documents, where it is text, "
            "not an end")
    if changed := changed_text(tokenizer, islice(corpus.split(splits[0]), 100)):
        say("the tokenizer does not keep texts as they are, so bits per byte look better than they "
            f"are: {changed[0]!r} becomes {changed[1]!r}")


def _tokens(counts: dict[str, TokenCounts]) -> int:
    """What the progress bar counts: training tokens, where there are any to count."""
    return counts["train" if "train" in counts else next(iter(counts))].tokens


def _blocks(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    block, characters = [], 0
    for split, text in documents:
        block.append((split, text))
        characters += len(text)
        if len(block) >= BLOCK_DOCUMENTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _prefetch(jobs: Iterator[Future]) -> Iterator[Future]:
    """The same jobs in the same order, each after the next ones have been started."""
    started = deque(islice(jobs, BLOCKS_IN_MEMORY - 1))
    while started:
        started.extend(islice(jobs, 1))
        yield started.popleft()


def _encode(tokenizer: PreTrainedTokenizerFast, block: list[tuple[str, str]],
            splits: tuple[str, ...]) -> tuple[Encoded, int, bool]:
    """Ids of each split's documents, an end of text before each, and counts.

    Returns:
        By split (ids, documents, bytes of text); the documents of all splits; whether a text
        contains the end of text.

    Raises:
        PicoError: the tokenizer takes a part of a text for an end of text.
    """
    wanted = [(split, text) for split, text in block if split in splits]
    texts = [text for _, text in wanted]
    ids = {name: array("H") for name in splits}
    documents, text_bytes = dict.fromkeys(splits, 0), dict.fromkeys(splits, 0)
    batches = (encode(tokenizer, texts[i:i + ENCODE_BATCH])
               for i in range(0, len(texts), ENCODE_BATCH))
    for (split, text), text_ids in zip(wanted, chain.from_iterable(batches), strict=True):
        if tokenizer.eos_token_id in text_ids:
            raise PicoError(f"the tokenizer takes {tokenizer.eos_token!r} in a text for its end, "
                            f"in {text[:40]!r}; remove it there, or choose another --tokenizer.")
        ids[split].append(tokenizer.eos_token_id)
        ids[split].fromlist(text_ids)
        documents[split] += 1
        text_bytes[split] += len(text.encode())
    encoded = {name: (np.array(ids[name]).astype("<u2").tobytes(), documents[name],
                      text_bytes[name]) for name in splits}
    return encoded, len(block), any(str(tokenizer.eos_token) in text for text in texts)


def _append(stream: BinaryIO, ids: bytes) -> None:
    stream.write(ids)
    stream.flush()
    # On the disk before it is counted, since the power may fail in between.
    os.fsync(stream.fileno())
