"""A process that loads things from the Hub, one after another, and prints the outcomes.

    python hub_visitor.py '[["data", "owner/name"], ["train", "--data", "owner/name"]]'

prints a line of JSON for each: the outcome, and what it wrote to stdout and to stderr.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from huggingface_hub import constants

from picolm_lib.commands.evaluate import evaluate_command
from picolm_lib.commands.main import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.config import PicoError
from picolm_lib.course.tokens.sources import tinystories
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import fingerprint, load_tokenizer


def data(name: str) -> dict[str, list[str]]:
    corpus = load_corpus(name)
    return {split: list(corpus.split(split)) for split in ("train", "validation")}


def notes(name: str) -> tuple[str, ...]:
    return load_corpus(name).notes


def stream(name: str) -> list[str]:
    return tinystories(5, name)


def tokenizer(name: str) -> list[object]:
    """What two equal tokenizers have in common."""
    loaded = load_tokenizer(name)
    return [fingerprint(loaded), len(loaded), loaded.model_max_length, type(loaded).__name__,
            loaded.all_special_tokens]


def train(*words: str) -> int:
    """The command's exit code."""
    return command(train_command, "run_train.py", *words)


def evaluate(*words: str) -> int:
    """The command's exit code."""
    return command(evaluate_command, "evaluate", *words)


def command(run: Callable[..., None], *words: str) -> int:
    sys.argv = list(words)
    try:
        run_command(run)
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    # A file of some kilobytes arrives in many parts, as one of 250 MB does.
    constants.DOWNLOAD_CHUNK_SIZE = 1_000
    # As many attempts as usual, ours and the libraries', without the waiting.
    time.sleep = lambda _, sleep=time.sleep: sleep(0.01)
    for job, *words in json.loads(sys.argv[1]):
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
            try:
                outcome = globals()[job](*words)
            except PicoError as error:
                outcome = f"refused: {error}"
        print(json.dumps([outcome, out.getvalue(), errors.getvalue()]), flush=True)
