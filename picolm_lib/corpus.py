"""Documents from anywhere: the Storybook, the Hugging Face Hub, local txt, jsonl and parquet files.

Train and validation never share a document. Where the data come with a validation split, that is
used. Where they do not, the hash of a document's text decides, so that the copies of a document all
fall on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from picolm_lib import hub, storybook
from picolm_lib.config import PicoError
from picolm_lib.tokenizer import END_OF_TEXT

WAY_OUT = "--data storybook or a local file or folder"
KINDS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SMALL = 2_000  # documents: below this, one in a hundred would be too few to measure on
STORY_SOURCES = sorted(Path(storybook.__file__).parent.glob("story*.py"))
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Corpus:
    """Documents, each with the split that it belongs to."""

    documents: Callable[[], Iterator[tuple[str, str]]]
    """Reads from the beginning at every call: ("train" or "validation", text)."""
    fingerprint: str
    """Changes whenever the documents may have changed."""

    def split(self, name: str) -> Iterator[str]:
        """The texts of one split."""
        return (text for split, text in self.documents() if split == name)


def load_corpus(data: str, stories: int = 24_000) -> Corpus:
    """Finds the documents that `data` names.

    Args:
        data: "storybook", a local file or folder, or a data set's id on the Hugging Face Hub.
        stories: how many, when it is the Storybook.

    Raises:
        PicoError: there is nothing, it cannot be read, or the Hub cannot be reached.
    """
    if data == "storybook":
        return Corpus(lambda: _held_out(story.text for story in storybook.stories(stories)),
                      _hash(stories, *(path.read_text() for path in STORY_SOURCES)))
    path = Path(data)
    if not path.exists():
        if path.suffix in KINDS or data.startswith((".", "/", "~")):
            raise PicoError(f"there is no file or folder {data!r}; use {WAY_OUT}.")
        return _from_datasets(data, {})
    files = sorted(f for f in (path.rglob("*") if path.is_dir() else [path])
                   if f.suffix in KINDS and not f.name.startswith("."))
    kinds = {KINDS[f.suffix] for f in files}
    if not kinds:
        raise PicoError(f"{data!r} holds no txt, jsonl or parquet file.")
    if len(kinds) > 1:
        raise PicoError(f"{data!r} mixes {' and '.join(sorted(kinds))} files; name one kind.")
    if kinds == {"text"}:
        for file in files:
            with _reading(file):
                pass
        changes = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return Corpus(lambda: _held_out(read_text_files(files)), _hash(*changes))
    if kinds == {"json"}:
        _refuse_null_lines(files)
    if path.is_dir():
        return _from_datasets(data, {})
    return _from_datasets(kinds.pop(), {"data_files": str(path)}, shown=data)


def _refuse_null_lines(files: list[Path]) -> None:
    """pyarrow, which reads JSON for us, crashes the whole process at a line "null"."""
    for file in files:
        with _reading(file) as stream:
            for number, line in enumerate(stream, start=1):
                if len(line) < 99 and line.lstrip().startswith(b"null"):
                    raise PicoError(f"{str(file)!r} cannot be read: line {number} is null and no "
                                    "object; take it out.")


def read_text_files(files: list[Path]) -> Iterator[str]:
    """Documents of plain text files, which must be UTF-8.

    A line "<|endoftext|>" ends a document. In a file without such a line, an empty line does.
    """
    for file in files:
        has_marks = any(line.strip() == END_OF_TEXT for line in _lines(file))
        lines: list[str] = []
        for line in _lines(file):
            if line.strip() == (END_OF_TEXT if has_marks else ""):
                yield from _document(lines)
                lines = []
            else:
                lines.append(line)
        yield from _document(lines)


@contextmanager
def _reading(file: Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise PicoError(f"{str(file)!r} cannot be read ({error.strerror}); mend it, or use other "
                        "--data.") from error


def _lines(file: Path) -> Iterator[str]:
    with _reading(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").replace("\r\n", "\n")
            except UnicodeDecodeError:
                raise PicoError(f"{str(file)!r} is not UTF-8 (line {number}); convert it first, for"
                                " example with iconv.") from None


def _document(lines: list[str]) -> Iterator[str]:
    text = "".join(lines).strip()
    if text:
        yield text


def _from_datasets(name: str, options: dict, shown: str | None = None) -> Corpus:
    """A data set of the Hub, or files that the `datasets` library reads: one path for both."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong, we say ourselves
    if Path(shown or name).exists():
        try:
            splits = datasets.load_dataset(name, **options)
        except Exception as error:  # the library raises a dozen kinds
            raise _unreadable(shown or name, error) from error
    else:
        splits = hub.load(f"datasets/{name}", lambda: datasets.load_dataset(name), WAY_OUT)
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    column = _text_column(train, shown or name)

    found = next((splits[n] for n in VALIDATION_NAMES if n in splits), None)
    key = _hash(train._fingerprint, found._fingerprint if found is not None else "held out")

    def read(split: datasets.Dataset) -> Iterator[str]:
        try:
            for batch in split.select_columns(column).iter(1_000):
                yield from (text for text in batch[column] if text and text.strip())
        except UnicodeDecodeError as error:  # the library looks at the bytes only now
            raise _unreadable(shown or name, error) from error

    if found is None:
        return Corpus(lambda: _held_out(read(train)), key)
    return Corpus(lambda: chain((("train", text) for text in read(train)),
                                (("validation", text) for text in read(found))), key)


def _unreadable(name: str, error: Exception) -> PicoError:
    if not Path(name).exists():
        return hub.problem(name, error, WAY_OUT)
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__
    reason = "it is not UTF-8" if isinstance(cause, UnicodeDecodeError) else hub.first_line(cause)
    return PicoError(f"{name!r} cannot be read ({reason}); mend it, or use other --data.")


def _text_column(split, name: str) -> str:
    texts = [key for key, feature in split.features.items()
             if getattr(feature, "dtype", "") in ("string", "large_string")]
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    raise PicoError(f"{name!r} needs a column 'text'; it has {', '.join(split.features)}.")


def _held_out(documents: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Holds documents back for validation: one in a hundred, by hash, in a single pass.

    A small corpus is ranked by hash instead and gives one in ten, so that there is always something
    to measure on.
    """
    head = list(islice(documents, SMALL))
    bound = 2**64 // 100
    if len(head) < SMALL:
        ranks = sorted({_hash64(text) for text in head})
        if len(ranks) < 2:
            raise PicoError("the data need at least two different documents, one of them for "
                            f"validation; part them by a line {END_OF_TEXT!r}.")
        bound = ranks[max(len(ranks) // 10, 1) - 1]
    for text in chain(head, documents):
        yield ("validation" if _hash64(text) <= bound else "train"), text


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
