"""A process that asks the Hub for things, one after the other, and tells what came.

    python hub_visitor.py '[["data", "owner/name"], ["train", "--data", "owner/name"]]'

prints a line of JSON for each: the outcome, and what it wrote to stdout and to stderr.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from picolm_lib import hub
from picolm_lib.cli import run_command
from picolm_lib.commands.train import train_command
from picolm_lib.config import PicoError
from picolm_lib.corpus import load_corpus
from picolm_lib.course.tokens import sources
from picolm_lib.tokenizer import fingerprint, load_tokenizer


def data(name: str) -> dict[str, list[str]]:
    corpus = load_corpus(name)
    return {split: list(corpus.split(split)) for split in ("train", "validation")}


def stream(name: str) -> list[str]:
    return sources.tinystories(5, name)


def tokenizer(name: str) -> list[object]:
    """All that makes two tokenizers different ones."""
    loaded = load_tokenizer(name)
    return [fingerprint(loaded), len(loaded), loaded.model_max_length, type(loaded).__name__,
            loaded.all_special_tokens]


def train(*words: str) -> int:
    """The command's exit code."""
    sys.argv = ["run_train.py", *words]
    try:
        run_command(train_command)
    except SystemExit as end:
        return end.code
    return 0


def visit(job: Callable, *words: str) -> tuple[object, str, str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            outcome = job(*words)
        except PicoError as error:
            outcome = f"refused: {error}"
    return outcome, out.getvalue(), errors.getvalue()


if __name__ == "__main__":
    hub.PAUSES_S = (0.0,) * len(hub.PAUSES_S)  # as many tries as ever, without the waiting
    jobs = {job.__name__: job for job in (data, stream, tokenizer, train)}
    for name, *words in json.loads(sys.argv[1]):
        print(json.dumps(visit(jobs[name], *words)), flush=True)
