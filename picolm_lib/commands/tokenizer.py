"""`picolm tokenizer`: trains a byte-level BPE tokenizer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from picolm_lib.commands.parse import parse
from picolm_lib.commands.printing import print_notes
from picolm_lib.config import PicoError, TrainConfig
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import save_tokenizer, train_bpe


@dataclass(frozen=True)
class TokenizerOptions:
    """Options of the tokenizer's training."""

    data: str = "storybook"
    """Texts to train on: as --data of picolm train."""
    storybook_stories: int = TrainConfig.storybook_stories
    """Stories to write when the data are the Storybook."""
    vocab_size: int = 4_096
    """Size of the vocabulary, including the 256 bytes and the special tokens."""
    out: str = "tokenizer"
    """The folder to save it in."""


def tokenizer_command(argv: list[str], prog: str = "picolm tokenizer") -> None:
    """`picolm tokenizer`: trains a byte-level BPE tokenizer."""
    options = parse(TokenizerOptions, argv, TokenizerOptions(), prog,
                    "Trains a byte-level BPE tokenizer on the training documents of any data.")
    out = Path(options.out)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise PicoError(f"{options.out!r} is there already; choose another --out.")
    corpus = load_corpus(options.data, options.storybook_stories)
    print_notes(corpus)
    tokenizer = train_bpe(corpus.split("train"), options.vocab_size)
    save_tokenizer(out, tokenizer)
    print(f"{len(tokenizer):,} tokens in {options.out}; use it with --tokenizer {options.out}")
