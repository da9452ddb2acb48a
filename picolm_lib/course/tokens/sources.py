"""What notebook 01 fetches from the Hugging Face Hub, and what it does without a network."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from picolm_lib.config import SMOLLM, TINYSTORIES, PicoError
from picolm_lib.data import hub
from picolm_lib.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tinystories(count: int, name: str = TINYSTORIES) -> list[str]:
    """The first stories of TinyStories' validation split, read as a stream: no large download.

    Args:
        name: a dataset's id on the Hub, or a local folder in the same layout.

    Returns:
        The stories; an empty list where the Hub cannot be reached, and one printed line says so.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    # Instead of 20 retries, 5 s apart: hub.load retries by itself.
    datasets.config.STREAMING_READ_MAX_RETRIES = 1

    def stream() -> list[str]:
        rows = datasets.load_dataset(name, split="validation", streaming=True)
        return [row["text"] for row in islice(rows, count)]

    def local_copy() -> list[str]:
        return hub.local_dataset(name)["validation"][:count]["text"]

    if Path(name).exists():
        return stream()
    try:
        return hub.load(f"datasets/{name}", stream, local_copy,
                        "the Storybook, as the cells below do")
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
        print(f"note: {error} Until then, the bundled tokenizer is used instead.")
        return load_tokenizer()
