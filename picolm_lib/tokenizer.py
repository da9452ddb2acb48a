"""Text to token ids and back: load a tokenizer by name, or train a byte-level BPE.

BPE starts from the 256 bytes, so any text can be written down. Then the most frequent pair of
neighboring tokens becomes one token, again and again, until the vocabulary is full. Digits stay
single: then 1234 is four digits with a place value each and not a word of its own.

    python -m picolm_lib.tokenizer --data storybook --vocab-size 1024 --out my_tokenizer

Sources: Rico Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
Alec Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, for the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from picolm_lib import hub
from picolm_lib.config import PicoError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
BUNDLED = Path(__file__).parent / "assets" / "nano" / "tokenizer"
SMALLEST = 257  # the bytes and the end of text


def load_tokenizer(name: str = "bundled") -> PreTrainedTokenizerFast:
    """A tokenizer with an end-of-text token.

    Args:
        name: "bundled", a local folder, or an id on the Hugging Face Hub.

    Raises:
        PicoError: it is not there, the Hub cannot be reached, or it has no end-of-text token.
    """
    where = BUNDLED if name == "bundled" else Path(name)
    if not where.exists():
        way_out = "--tokenizer bundled or a local folder"
        if name.startswith((".", "/", "~")):
            raise PicoError(f"there is no folder {name!r}; use {way_out}.")
        where = hub.load(f"models/{name}", lambda: hub.model_folder(name), way_out)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(where))
    except Exception as error:  # the library raises a dozen kinds
        raise PicoError(f"the folder {str(where)!r} holds no tokenizer that can be read."
                        ) from error
    if tokenizer.eos_token_id is None:
        raise PicoError(f"the tokenizer {name!r} has no end-of-text token, so stories could not "
                        "end; choose another.")
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE.

    Args:
        texts: the documents.
        vocab_size: tokens in the end, the 256 bytes and the end of text among them.

    Returns:
        A tokenizer of `vocab_size` tokens, fewer where the texts have no more pairs to merge.
    """
    if vocab_size < SMALLEST:
        raise PicoError(f"a byte-level vocabulary has at least {SMALLEST} tokens: the bytes and the"
                        f" end of text; {vocab_size} are too few.")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT,
                                   clean_up_tokenization_spaces=False)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of every text, without special tokens; all processor cores work on it."""
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [item.ids for item in encoded]


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash that two tokenizers share only if they write every text the same way."""
    rules = f"{tokenizer.backend_tokenizer.to_str()} {tokenizer.eos_token_id}"
    return hashlib.sha256(rules.encode()).hexdigest()[:16]


if __name__ == "__main__":
    from picolm_lib.cli import run_command
    from picolm_lib.commands.tokenizer import tokenizer_command

    run_command(tokenizer_command)
