"""The runs of notebook 05: the learner's own, and small ones to stop and resume."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from picolm_lib.config import PRESETS, PicoConfig, PicoError, TrainConfig
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import Corpus, load_corpus
from picolm_lib.data.token_file import TokenFile
from picolm_lib.data.tokenizer import load_tokenizer, save_tokenizer
from picolm_lib.data.tokens import tokenize_corpus
from picolm_lib.device import choose_precision
from picolm_lib.train.checkpoint import RunConfig, save_config
from picolm_lib.train.distributed import LossModule
from picolm_lib.train.trainer import Listener, Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Of training, unless the learner sets them.
MINUTES = {"pico": 16.0, "nano": 1.2}
# Documents of a large corpus that are scored at the end.
VALIDATION = 2_000


class OneLine(PicoError):
    """A PicoError that a notebook shows as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"error: {self}"]


@dataclass(frozen=True)
class Ready:
    """Everything that a Trainer needs."""

    preset: str
    model: PicoConfig
    train: TrainConfig
    tokenizer: PreTrainedTokenizerFast
    files: dict[str, TokenFile]

    def trainer(self, folder: Path | None = None, listener: Listener | None = None) -> Trainer:
        """The run, in a folder from which it can be loaded."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_config(folder, RunConfig(self.preset, self.model, self.train))
            save_tokenizer(folder / "tokenizer", self.tokenizer)
        return Trainer(self.model, self.train, self.tokenizer, self.files, folder, show=False,
                       listener=listener)

    def trial(self) -> Trainer:
        """The same run without a folder and without a limit in minutes, to take a few steps of."""
        train = replace(self.train, max_minutes=0.0, max_tokens=10**6, max_steps=0)
        return replace(self, train=train).trainer()


def get_ready(preset: str, data: str = "auto", minutes: float = 0.0, seed: int = 0,
              stories: int = 400_000) -> Ready:
    """Data, tokenizer and configuration of the learner's run.

    Args:
        preset: the one that sets the model, and the data if `data` is "auto".
        data: "auto", "storybook", a dataset's id on the Hub, or a local file or folder.
        minutes: of training; 0 means 16 with pico, 1.2 with nano, and the preset's own limit with
            any other.
        stories: documents of a large corpus to turn into tokens, more than the run can read.

    Raises:
        OneLine: the data or the tokenizer is not available; it says what to set.
    """
    chosen = PRESETS[preset]
    train = replace(chosen.train, seed=seed)
    if data != "auto" and data != train.data:
        train = replace(train, data=data, tokenizer="bundled")
    minutes = minutes or MINUTES.get(preset, 0.0)
    if minutes:
        train = replace(train, max_minutes=minutes, max_tokens=0, max_steps=0)
    gpu = choose_precision(train.device).device.type == "cuda"
    try:
        corpus = load_corpus(train.data, train.storybook_stories)
        for note in corpus.notes:
            print(note)
        if train.data != "storybook":
            corpus = first(corpus, stories)
        tokenizer = tokenizer_for(train.tokenizer, corpus)
        files = tokenize_corpus(corpus, tokenizer, show_progress=gpu)
    except PicoError as error:
        reason = str(error).split("; use ")[0]
        raise OneLine(f"{reason}; set DATA = 'storybook' in Settings and run again from there: it "
                      "needs no network.") from None
    model = replace(chosen.model, vocab_size=len(tokenizer))
    return Ready(preset, model, train, tokenizer, files)


def first(corpus: Corpus, stories: int, validation: int = VALIDATION) -> Corpus:
    """The first documents of each split of a corpus."""
    def documents() -> Iterator[tuple[str, str]]:
        left = {"train": stories, "validation": validation}
        for split, text in corpus.documents():
            if left[split] > 0:
                left[split] -= 1
                yield split, text
            elif not any(left.values()):
                return
    return Corpus(documents, f"{corpus.fingerprint}-{stories}-{validation}")


def run_folder(preset: str) -> Path:
    """A new folder for a run: runs/05-1, or the next number; a temporary one for smoke runs."""
    if preset == "smoke":
        return Path(tempfile.mkdtemp(prefix="picolm-")) / "run"
    return next(path for path in (Path(f"runs/05-{n}") for n in count(1)) if not path.exists())


def small_ready(seed: int = 0, **changes: Any) -> Ready:
    """A run of twenty steps on the CPU, where the same inputs give the same bits."""
    preset = PRESETS["smoke"]
    train = replace(preset.train, device="cpu", dtype="float32", seed=seed, evals=1, **changes)
    tokenizer = load_tokenizer()
    files = tokenize_corpus(load_corpus("storybook", train.storybook_stories), tokenizer,
                    show_progress=False)
    return Ready("smoke", preset.model, train, tokenizer, files)


def small_trainer(folder: Path | None = None, listener: Listener | None = None,
                  **changes: Any) -> Trainer:
    """A Trainer for `small_ready`."""
    return small_ready(**changes).trainer(folder, listener)


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
