"""What the measurements train on: TinyStories from a folder, or the Storybook, each text once.

The folder (--data) has train.txt and validation.txt, with a line <|endoftext|> between documents,
and smollm-tokenizer/. Where it is missing, all is Storybook and has the bundled tokenizer.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpu.measurements.story_pool import texts

from picolm_lib.data.corpus import Corpus, load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VALIDATION = 1_000  # stories, those of the lowest indices
SPLITS = ("train.txt", "validation.txt")


@dataclass(frozen=True)
class Text:
    """Texts as tokens."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    files: dict[str, TokenFile]

    def one_epoch(self, seq_len: int) -> int:
        """Tokens that a run can take before it sees a text for the second time."""
        # The windows begin up to one length late.
        return (len(self.files["train"].tokens) - seq_len) // seq_len * seq_len


def tinystories(options: argparse.Namespace, tokens: int) -> Text:
    """TinyStories with SmolLM's tokenizer, or so many tokens of the Storybook instead."""
    folder = Path(options.data)
    if not all((folder / name).exists() for name in SPLITS):
        return storybook(options, tokens)
    tokenizer, name = _tokenizer(options)
    with tempfile.TemporaryDirectory() as alone:
        for split in SPLITS:
            # The tokenizer beside them has texts, too.
            shutil.copy(folder / split, alone)
        files = tokenize_corpus(load_corpus(alone), tokenizer, show_progress=False)
    return Text(f"TinyStories, {name}", tokenizer, files)


def storybook(options: argparse.Namespace, tokens: int, seconds: float = math.inf) -> Text:
    """Storybook stories, each once, and others for validation.

    A story takes 0.3 ms to write and as long to encode, for 179 tokens of SmolLM's (one core of an
    AMD EPYC): 39.3 million tokens take 145 core-seconds, 10 seconds on 16 cores.

    Args:
        tokens: at least so many in the training split.
        seconds: after these, fewer will do.
    """
    tokenizer, name = _tokenizer(options)
    held = 20 if options.small else VALIDATION
    key = f"{load_corpus('storybook', 1).fingerprint}-once-{held}-{seconds:.0f}"
    corpus = Corpus(lambda: _documents(options, held, time.monotonic() + seconds), key,
                    has_validation=True)
    files = tokenize_corpus(corpus, tokenizer, show_progress=False, data_tokens=tokens)
    return Text(f"Storybook, {name}", tokenizer, files)


def _documents(options: argparse.Namespace, held: int, end: float) -> Iterator[tuple[str, str]]:
    seen: set[int] = set()
    # Starting processes takes longer than writing a few stories.
    for text in texts(1 if options.small else None):
        if hash(text) not in seen:
            seen.add(hash(text))
            yield ("validation" if len(seen) <= held else "train"), text
        if time.monotonic() > end and len(seen) > 2 * held:
            return


def _tokenizer(options: argparse.Namespace) -> tuple[PreTrainedTokenizerFast, str]:
    folder = Path(options.data) / "smollm-tokenizer"
    if folder.exists():
        return load_tokenizer(str(folder)), "SmolLM's tokenizer"
    return load_tokenizer("bundled"), f"the bundled tokenizer, for want of {folder}"
