"""What notebook 01 fetches from the Hugging Face Hub, and what it does without a network."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from picolm_lib import hub
from picolm_lib.config import SMOLLM, TINYSTORIES, PicoError
from picolm_lib.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tinystories(count: int, name: str = TINYSTORIES) -> list[str]:
    """The first stories of TinyStories' validation split, read as a stream: no large download.

    Args:
        name: a data set's id on the Hub, or a local folder in the same layout.

    Returns:
        The stories. None at all where the Hub cannot be reached; then one line says so.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.STREAMING_READ_MAX_RETRIES = 1  # of 20, 5 s apart; hub.load asks again itself

    def read() -> list[str]:
        rows = datasets.load_dataset(name, split="validation", streaming=True)
        return [row["text"] for row in islice(rows, count)]

    if Path(name).exists():
        return read()
    try:
        return hub.load(f"datasets/{name}", read, "the Storybook, as the cells below do")
    except PicoError as error:
        print(f"note: {error}")
        return []


def smollm(name: str = SMOLLM) -> PreTrainedTokenizerFast:
    """The SmolLM tokenizer of 49,152 tokens, or the bundled one where the Hub cannot be reached.

    Args:
        name: a tokenizer's id on the Hub, or a local folder.
    """
    try:
        return load_tokenizer(name)
    except PicoError as error:
        print(f"note: {error} Until then, the bundled tokenizer stands in for it.")
        return load_tokenizer()
