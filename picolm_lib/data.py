"""From documents to batches: one file of token ids, cut into shuffled windows.

    <|endoftext|> story <|endoftext|> story ... <|endoftext|>

The file is written once per data set and tokenizer, as uint16, and then mapped into memory: a
corpus may be larger than the machine's memory, and a batch is read as fast as an array. The end of
text stands between stories, so the model learns to begin and, what matters more, to stop.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from picolm_lib.config import PicoError
from picolm_lib.corpus import Corpus
from picolm_lib.files import disk_errors, replace_text
from picolm_lib.loss import IGNORE
from picolm_lib.tokenizer import encode, fingerprint, load_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
BLOCK = 1_000  # documents that are encoded, and counted as done, together


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
        while block := list(islice(documents, BLOCK)):
            for name, stream in streams.items():
                _append(stream, [text for split, text in block if split == name], tokenizer,
                        counts[name])
            done += len(block)
            replace_text(progress, json.dumps({"counts": _plain(counts), "done": done}))
            bar.update(len(block))
        for name, stream in streams.items():
            _append_ids(stream, [tokenizer.eos_token_id], counts[name])
            os.fsync(stream.fileno())
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


def _append(stream, texts: list[str], tokenizer: PreTrainedTokenizerFast, count: Count) -> None:
    ids: list[int] = []
    for text_ids in encode(tokenizer, texts):
        ids.append(tokenizer.eos_token_id)
        ids.extend(text_ids)
    _append_ids(stream, ids, count)
    count.documents += len(texts)
    count.bytes += sum(len(text.encode()) for text in texts)


def _append_ids(stream, ids: list[int], count: Count) -> None:
    stream.write(np.array(ids, dtype="<u2").tobytes())
    stream.flush()
    count.tokens += len(ids)


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


class Batches:
    """Shuffled windows of a token file, for ever.

    Each epoch cuts the file at another offset and shuffles the windows, both drawn from (seed,
    epoch). So the position of a run is two integers, `epoch` and `window`.

    Args:
        tokens: (N,) token ids.
        seq_len: T, tokens per window.
        batch_size: B, windows per batch.
        seed: of the shuffling.

    Raises:
        PicoError: the data are shorter than one window.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, batch_size: int, seed: int = 0) -> None:
        if len(tokens) < 2 * seq_len + 1:
            raise PicoError(f"the training data have {len(tokens):,} tokens, too few for windows "
                            f"of {seq_len}; lower --max-seq-len or take more data.")
        self.tokens, self.seq_len, self.batch_size, self.seed = tokens, seq_len, batch_size, seed
        self.epoch, self.window = 0, 0
        self._start_epoch()

    def _start_epoch(self) -> None:
        draw = np.random.default_rng((self.seed, self.epoch))
        self._offset = int(draw.integers(self.seq_len))
        self._order = draw.permutation((len(self.tokens) - 1 - self._offset) // self.seq_len)

    def _next_window(self) -> np.ndarray:
        if self.window == len(self._order):
            self.epoch, self.window = self.epoch + 1, 0
            self._start_epoch()
        start = self._offset + int(self._order[self.window]) * self.seq_len
        self.window += 1
        return self.tokens[start:start + self.seq_len + 1]

    def next(self) -> tuple[Tensor, Tensor]:
        """(B, T) inputs and (B, T) targets; a target is the token after its input."""
        rows = np.stack([self._next_window() for _ in range(self.batch_size)]).astype(np.int64)
        windows = torch.from_numpy(rows)                             # (B, T + 1)
        # A copy: a batch of one is contiguous as it is, and its targets would lie in its inputs.
        return windows[:, :-1].contiguous(), windows[:, 1:].clone()

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "window": self.window}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.window = state["epoch"], state["window"]
        self._start_epoch()


def in_order(tokens: np.ndarray, seq_len: int, batch_size: int,
             limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token once, in order, for evaluation: (B, T) inputs and targets.

    The last window is filled up with targets that count for nothing.

    Args:
        limit: stop after this many targets.
    """
    total = min(len(tokens) - 1, limit or len(tokens) - 1)
    windows = -(-total // seq_len)
    padded = np.zeros((2, windows * seq_len), dtype=np.int64)
    padded[0, :total], padded[1, :total] = tokens[:total], tokens[1:total + 1]
    padded[1, total:] = IGNORE
    inputs, targets = torch.from_numpy(padded).view(2, windows, seq_len)
    yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
