"""Small runs of notebook 05, to stop, to resume, and to run out of memory."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from picolm_lib.config import PRESETS, TrainConfig
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.train.distributed import LossModule
from picolm_lib.train.trainer import Listener, Trainer

MODEL = PRESETS["smoke"].model


def small_config(seed: int = 0, **changes: Any) -> TrainConfig:
    """A run of twenty steps on the CPU, where the same inputs give the same bits.

    Args:
        changes: fields of TrainConfig.
    """
    options = {"device": "cpu", "dtype": "float32", "seed": seed, "evals": 1, **changes}
    return replace(PRESETS["smoke"].train, **options)


def small_files() -> dict[str, TokenFile]:
    """What it trains on: 400 stories."""
    corpus = load_corpus("storybook", PRESETS["smoke"].train.storybook_stories)
    return tokenize_corpus(corpus, load_tokenizer(), show_progress=False)


def small_trainer(folder: Path | None = None, listener: Listener | None = None, seed: int = 0,
                  **changes: Any) -> Trainer:
    """A Trainer for `small_config`."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Trainer(MODEL, small_config(seed, **changes), load_tokenizer(), small_files(), folder,
                   show=False, listener=listener)


def stop_after(step: int) -> Listener:
    """Does what the notebook's stop button does, after the given step."""
    def listen(trainer: Trainer, line: dict[str, Any]) -> None:
        if line["kind"] == "step" and line["step"] == step:
            signal.raise_signal(signal.SIGINT)
    return listen


def pretend_memory(trainer: Trainer, sequences: int) -> None:
    """From now on, at most this many sequences fit into a pass.

    A larger pass raises what PyTorch raises when a GPU is out of memory.
    """
    objective = cast(LossModule, trainer.objective)
    loss: Callable = objective.loss

    def limited_loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(tokens) > sequences:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended).")
        return loss(tokens, targets)
    objective.loss = limited_loss
