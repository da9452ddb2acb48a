"""`python -m picolm_lib.tokenizer`: trains a byte-level BPE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from picolm_lib.cli import parse
from picolm_lib.config import PicoError, TrainConfig
from picolm_lib.corpus import load_corpus
from picolm_lib.files import disk_errors
from picolm_lib.tokenizer import train_bpe


@dataclass(frozen=True)
class TokenizerOptions:
    """Options of the tokenizer's training."""

    data: str = "storybook"
    """Texts to train on: as --data of run_train.py."""
    storybook_stories: int = TrainConfig.storybook_stories
    """Stories to write when the data are the Storybook."""
    vocab_size: int = 4_096
    """Tokens in the end, the 256 bytes and the end of text among them."""
    out: str = "tokenizer"
    """Folder to save it in."""


def tokenizer_command(argv: list[str]) -> None:
    """`python -m picolm_lib.tokenizer`: trains a byte-level BPE."""
    options = parse(TokenizerOptions, argv, TokenizerOptions(), "python -m picolm_lib.tokenizer",
                    "Trains a byte-level BPE on the training documents of any data.")
    if (Path(options.out) / "tokenizer.json").exists():
        raise PicoError(f"{options.out!r} already holds a tokenizer; choose another --out.")
    corpus = load_corpus(options.data, options.storybook_stories)
    tokenizer = train_bpe(corpus.split("train"), options.vocab_size)
    with disk_errors(Path(options.out)):
        tokenizer.save_pretrained(options.out)
    print(f"{len(tokenizer):,} tokens in {options.out}; use it with --tokenizer {options.out}")
