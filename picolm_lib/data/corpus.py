"""Documents from anywhere: the Storybook, the Hugging Face Hub, local files (local.py).

Train and validation never share a document. If the data come with a validation split, it is used.
If not, the hash of a document's text decides, so that all copies of a document are in one split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path

from picolm_lib.config import PicoError, TrainConfig
from picolm_lib.data import hub
from picolm_lib.data.hub_dataset import find_dataset
from picolm_lib.data.local import HINT, find_files
from picolm_lib.data.readers import kind_of
from picolm_lib.data.tokenizer import END_OF_TEXT
from picolm_lib.storybook import story as storybook

# Documents. In a smaller corpus, one in a hundred would be too few to measure on.
SMALL = 2_000
# What decides a story's text: plots, grammar, world.
STORY_SOURCES = sorted(Path(storybook.__file__).parent.glob("[!_]*.py"))


@dataclass(frozen=True)
class Corpus:
    """Documents, each with the split that it belongs to."""

    documents: Callable[[], Iterator[tuple[str, str]]]
    """Reads from the beginning at every call: ("train" or "validation", text)."""
    fingerprint: str
    """Changes whenever the documents may have changed."""
    has_validation: bool = False
    """Whether validation is a split of its own. Then its documents come first, so that whoever
    wants only a part of the training documents can stop reading."""
    notes: tuple[str, ...] = ()
    """What is read, and what is left out and why: a line each."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many documents the last reading left out, by the reason."""

    def split(self, name: str) -> Iterator[str]:
        """The texts of one split."""
        return (text for split, text in self.documents() if split == name)


def load_corpus(data: str, stories: int = TrainConfig.storybook_stories) -> Corpus:
    """The documents of a source.

    Args:
        data: "storybook", a local file or folder, or a dataset's id on the Hugging Face Hub.
        stories: how many, if it is the Storybook.

    Raises:
        PicoError: it does not exist, cannot be read, or the Hub cannot be reached.
    """
    if data == "storybook":
        key = _hash(stories, *(path.read_text() for path in STORY_SOURCES))
        return _corpus(data, {"train": lambda: (s.text for s in storybook.stories(stories))}, key)
    path = hub.local_path(data, HINT)
    if path is None:
        return _from_hub(data)
    found = find_files(path)
    splits = {name: partial(found.read, name) for name in found.splits}
    content = {name: [(kind_of(file), found.digests[file]) for file in files]
               for name, files in found.splits.items()}
    return _corpus(data, splits, _hash(content), found.describe())


def _from_hub(name: str) -> Corpus:
    found = find_dataset(name)
    used = found.parts()
    content = {part: found.splits[split] for part, split in used.items()}
    rest = [split for split in found.splits if split not in used.values()]
    return _corpus(name, {part: partial(found.read, split) for part, split in used.items()},
                   _hash(found.format, found.options, content),
                   [f"left out: {', '.join(rest)} (other splits)"] if rest else ())


def _corpus(name: str, splits: Mapping[str, Callable[[], Iterator[str]]], fingerprint: str,
            notes: Iterable[str] = ()) -> Corpus:
    """A corpus of one split, of which some documents are held out, or of two."""
    skipped: Counter[str] = Counter()

    def texts(split: str) -> Iterator[str]:
        for text in splits[split]():
            if text and not text.isspace():
                yield text
            else:
                skipped["empty"] += 1

    def documents() -> Iterator[tuple[str, str]]:
        skipped.clear()
        if len(splits) == 1:
            return _held_out(texts("train"), name)
        return _validation_first(texts, skipped)

    return Corpus(documents, fingerprint, len(splits) > 1, tuple(notes), skipped)


def _validation_first(texts: Callable[[str], Iterator[str]], skipped: Counter[str],
                      ) -> Iterator[tuple[str, str]]:
    """Both splits, without the training documents that are in the validation split, too."""
    held = set()
    for text in texts("validation"):
        held.add(_hash64(text))
        yield "validation", text
    for text in texts("train"):
        if _hash64(text) in held:
            skipped["in the validation split, too"] += 1
        else:
            yield "train", text


def _held_out(documents: Iterator[str], name: str) -> Iterator[tuple[str, str]]:
    """Assigns one document in a hundred to validation, by its hash, in a single pass.

    A small corpus is ranked by hash instead and gives one in ten, so that there is always something
    to measure on.
    """
    head = list(islice(documents, SMALL))
    bound = 2**64 // 100
    if len(head) < SMALL:
        ranks = sorted({_hash64(text) for text in head})
        if len(ranks) < 2:
            inside = " (inside of a line it is text)" if END_OF_TEXT in "".join(head) else ""
            raise PicoError(f"{name!r} contains {'one document' if head else 'no document'}, and "
                            "training needs at least two different documents, one of them for "
                            "validation; in a txt file, separate them by a line "
                            f"{END_OF_TEXT!r}{inside}.")
        bound = ranks[max(len(ranks) // 10, 1) - 1]
    for text in chain(head, documents):
        yield ("validation" if _hash64(text) <= bound else "train"), text


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
