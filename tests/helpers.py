"""What several test files share: little stories, tokenizers trained on them, and tiny runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from picolm_lib.config import PicoConfig, PicoError, TrainConfig
from picolm_lib.data.token_file import TokenCounts, TokenFile
from picolm_lib.data.tokenizer import encode, train_bpe
from picolm_lib.train.trainer import Trainer

torch.set_num_threads(1)  # for tensors this small, more threads only wait for each other

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
STORIES = [f"The {animal} saw a {color} {thing}. \"A {thing}!\" said the {animal}. It was {number}."
           for number, (animal, color, thing) in enumerate(
               (animal, color, thing) for animal in ("cat", "dog", "fox")
               for color in ("red", "blue", "green", "gray") for thing in ("ball", "hat", "kite"))]


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Sends every cache of the package and of its libraries to a folder, and nothing to the Hub."""
    import datasets
    import huggingface_hub

    monkeypatch.setenv("PICOLM_CACHE", str(folder / "picolm"))
    monkeypatch.setenv("HF_HOME", str(folder / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expects a PicoError of one line, a sentence, that holds all the words."""
    with pytest.raises(PicoError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    assert all(word in text for word in words), text


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def seal(path: Path) -> bytes:
    """Ends a file with the SHA-256 of its content, as a checkpoint ends; returns that content."""
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    return content


@lru_cache
def bpe(vocab_size: int = 300):
    """A BPE trained on the little stories; of size 262 it has the bytes and no merges."""
    return train_bpe(STORIES, vocab_size)


def token_file(texts: list[str], vocab_size: int = 300) -> TokenFile:
    """A token file that was never on a disk."""
    ids = [0]  # the end of text is the first token of our BPEs
    for text in encode(bpe(vocab_size), texts):
        ids += [*text, 0]
    count = TokenCounts(len(texts), sum(len(text.encode()) for text in texts), len(ids))
    return TokenFile(np.array(ids, dtype=np.uint16), count)


@lru_cache
def token_files() -> dict[str, TokenFile]:
    return {"train": token_file(STORIES[:30]), "validation": token_file(STORIES[30:])}


def tiny_model_config(**changes: Any) -> PicoConfig:
    return PicoConfig(**{"vocab_size": 300, "max_seq_len": 16, "n_layers": 2, "d_model": 16,
                         "n_heads": 2, "multiple_of": 8, **changes})


def tiny_trainer(folder: Path | None = None, **changes: Any) -> Trainer:
    """A run of ten steps of 64 tokens, unless told otherwise."""
    config = TrainConfig(**{"max_tokens": 640, "batch_size": 4, "device": "cpu", "prompt": "The",
                            "dtype": "float32", "evals": 1, "eval_tokens": 64, **changes})
    return Trainer(tiny_model_config(), config, bpe(), token_files(), folder, show=False)
