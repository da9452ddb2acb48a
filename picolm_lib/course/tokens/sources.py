"""What notebook 01 fetches from the Hugging Face Hub, and what it says without a network."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from picolm_lib.config import SMOLLM, TINYSTORIES, PicoError
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tinystories(count: int, name: str = TINYSTORIES) -> list[str]:
    """The first stories of TinyStories' validation split, a download of 10 MB.

    Args:
        name: a dataset's id on the Hub, or a local folder in the same layout.

    Returns:
        The stories; an empty list where the Hub cannot be reached, and one printed line says so.
    """
    try:
        return list(islice(load_corpus(name).split("validation"), count))
    except PicoError as error:
        print(f"note: {str(error).split('; use ')[0]}; the cells below use the Storybook, and "
              "stored measurements of TinyStories.")
        return []


def smollm(name: str = SMOLLM) -> PreTrainedTokenizerFast | None:
    """The SmolLM tokenizer of 49,152 tokens.

    Args:
        name: a tokenizer's id on the Hub, or a local folder.

    Returns:
        The tokenizer; None where the Hub cannot be reached, and one printed line says so.
    """
    try:
        return load_tokenizer(name)
    except PicoError as error:
        print(f"note: {str(error).split('; use ')[0]}; the cells below show the stored "
              "measurement of it.")
        return None
