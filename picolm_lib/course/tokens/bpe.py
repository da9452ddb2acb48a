"""Inspects a byte-level BPE of the `tokenizers` library: its bytes, its merges, its pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from picolm_lib.data.tokenizer import plain

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# See byte_order.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [byte for byte in range(256) if byte not in PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(HIDDEN)}


def byte_order() -> list[int]:
    """The 256 bytes in the order in which the library numbers them.

    The library writes a vocabulary as text, one printable character per byte, and numbers the bytes
    by these characters. The 188 bytes that are printable characters themselves come first; the
    other 68, such as the space and the line break, borrow the characters from 256 on, so they come
    last.
    """
    return PRINTABLE + HIDDEN


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """Every token of a byte-level tokenizer, by id, as the bytes that it represents.

    Special tokens represent the bytes of their name.
    """
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [name.encode() if name in special else bytes(BYTE_OF[sign] for sign in name)
            for name in names]


def merges_of(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int]]:
    """The merges of a BPE in the order in which they were learned, as pairs of token ids."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def first_merges(tokenizer: PreTrainedTokenizerFast, count: int) -> Tokenizer:
    """The same tokenizer as it was when it had learned only `count` merges."""
    from tokenizers import Tokenizer

    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["model"]["merges"] = rules["model"]["merges"][:count]
    return Tokenizer.from_str(json.dumps(rules))


def pieces(tokenizer: PreTrainedTokenizerFast, text: str, merges: int | None = None) -> list[str]:
    """A text cut into its tokens.

    Args:
        merges: use only this many of the first merges; None uses all.

    Returns:
        A string per token. Bytes that are not a character on their own are shown as \\xe2.
    """
    backend = plain(tokenizer) if merges is None else first_merges(tokenizer, merges)
    backend.encode_special_tokens = True
    names = backend.encode(text, add_special_tokens=False).tokens
    return [bytes(BYTE_OF[sign] for sign in name).decode(errors="backslashreplace")
            for name in names]


def train_variant(texts: Iterable[str], vocab_size: int, words: bool = True,
                  single_digits: bool = True) -> PreTrainedTokenizerFast:
    """A BPE without one of its rules, to see what the rule is for.

    Args:
        words: whether a token must lie within one word.
        single_digits: whether each digit is a token of its own. It needs `words`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    parts: list[pre_tokenizers.PreTokenizer] = []
    if words and single_digits:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe)
