"""Makes the bundled tokenizer and model: the files in assets/, which are in the repository.

    python -m picolm_lib.bundle

A byte-level BPE is trained on the Storybook, then the nano preset with it, longer than `make train`
does. The weights are stored in bfloat16, half the size, for a loss that differs in the fourth
digit. An interrupted run goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from picolm_lib.checkpoint import BUNDLED_RUN, load_run, save_config, save_weights
from picolm_lib.cli import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.config import PRESETS
from picolm_lib.corpus import load_corpus
from picolm_lib.tokenizer import BUNDLED, train_bpe

RUN = Path("runs/bundled")
TOKENS = 8_000_000


def bundle(argv: list[str]) -> None:
    """Trains and saves both; `argv` goes to run_train.py."""
    if not RUN.exists():
        nano = PRESETS["nano"]
        corpus = load_corpus("storybook", nano.train.storybook_stories)
        train_bpe(corpus.split("train"), nano.model.vocab_size).save_pretrained(BUNDLED)
    train_command(["--preset", "nano", "--run", str(RUN), "--max-tokens", str(TOKENS), "--resume",
                   *argv])
    model, _, config = load_run(RUN)
    save_weights(BUNDLED_RUN / "model.safetensors", model, torch.bfloat16)
    save_config(BUNDLED_RUN, replace(config, train=replace(config.train, tokenizer="bundled")))
    size = sum(f.stat().st_size for f in BUNDLED_RUN.rglob("*") if f.is_file())
    print(f"{BUNDLED_RUN.name}: {size / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    run_command(bundle)
