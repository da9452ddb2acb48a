"""Text to token ids and back: load a tokenizer by name, or train a byte-level BPE.

BPE starts from the 256 bytes, so any text can be written down. Then the most frequent pair of
neighboring tokens becomes one token, again and again, until the vocabulary is full. Digits stay
single: then 1234 is four digits with a place value each and not a word of its own.

    picolm tokenizer --data storybook --vocab-size 1024 --out my_tokenizer

Sources: Rico Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.
Alec Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, for the bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from picolm_lib.config import PicoError
from picolm_lib.data import hub
from picolm_lib.files import ASSETS, disk_errors, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# Those that come with the package: of 2,048 tokens for the Storybook, of 8,192 for TinyStories.
BUNDLED = ASSETS / "nano" / "tokenizer"
BUNDLED_8K = ASSETS / "tinystories-8k"
PAD = "<|pad|>"
# Ids 0 to 5 of every tokenizer that is trained here: what ends a document, what fills up a batch,
# what begins and ends a turn of a conversation (as in the SmolLM family), and what stands around
# a thought. Fine-tuning needs them, and a vocabulary that grew later would change the model.
SPECIAL_TOKENS = (END_OF_TEXT, PAD, "<|im_start|>", "<|im_end|>", "<think>", "</think>")
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)
# Token files are uint16.
MAX_VOCAB_SIZE = 2**16


def load_tokenizer(name: str = "bundled") -> PreTrainedTokenizerFast:
    """A tokenizer with an end-of-text token.

    Args:
        name: "bundled", "bundled8k", a local folder, or an id on the Hugging Face Hub.

    Raises:
        PicoError: it is not there, the Hub cannot be reached, or it cannot be used.
    """
    if name in ("bundled", "bundled8k"):
        return read_tokenizer(BUNDLED if name == "bundled" else BUNDLED_8K)
    hint = "--tokenizer bundled or a local folder"
    return read_tokenizer(hub.local_path(name, hint) or hub.load(
        f"models/{name}", lambda: hub.download_tokenizer(name), lambda: hub.local_tokenizer(name),
        hint))


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder. Code in it is never run, and nothing is asked.

    Raises:
        PicoError: there is none that can be used.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    way_out = "restore it, or choose another --run or --tokenizer"
    if not folder.is_dir():
        raise PicoError(f"there is no folder {str(folder)!r} with a tokenizer; {way_out}.")
    try:
        with hub.quiet(logging):
            tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False))
        # Where it finds no file that it knows, the library makes a tokenizer of nothing.
        if not plain(tokenizer).get_vocab(with_added_tokens=False):
            raise ValueError("it has no vocabulary")
    except (KeyboardInterrupt, SystemExit):
        raise
    # The library raises a dozen kinds, and tokenizers, written in Rust, one that is no Exception.
    except BaseException as error:
        reason = f"{_broken_file(folder)}: {first_line(error)}"
        if "trust_remote_code" in str(error):
            reason = "it needs code of its own (auto_map), which is never run"
        raise PicoError(f"{str(folder)!r} contains no tokenizer that can be read ({reason}); "
                        f"{way_out}.") from error
    # Nobody who reads what is saved of it shall be asked to run that code.
    tokenizer.init_kwargs.pop("auto_map", None)
    if tokenizer.eos_token_id is None:
        raise PicoError(f"the tokenizer in {str(folder)!r} has no end-of-text token (eos_token), "
                        "so stories could not end; choose another.")
    if max(tokenizer.get_vocab().values()) >= len(tokenizer):
        raise PicoError(f"the tokenizer in {str(folder)!r} has {len(tokenizer):,} tokens, and ids "
                        "above that; choose another.")
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes a tokenizer's folder, all of it or nothing; replaces the one before.

    Raises:
        PicoError: the disk is full, or `folder` cannot be written.
    """
    part = folder.with_name(folder.name + ".part")
    with disk_errors(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tokenizer.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)


def saved_and_read(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer as it comes back from a folder.

    Of some, the library does not save all settings. So a run uses what it can read again later.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return read_tokenizer(Path(folder))


def _broken_file(folder: Path) -> str:
    """The file that is to blame where a tokenizer cannot be read: the first that is not JSON."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return path.name
    return "tokenizer.json"


def plain(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Tokenizer of the library `tokenizers`, set so that its ids depend on the text alone.

    A tokenizer remembers how it was used or trained: to cut texts, to fill them up, to leave out
    merges by chance. And text is text: what looks like a special token there is not one.
    """
    backend = tokenizer.backend_tokenizer
    # Only where it is needed, since another thread may be reading it.
    if (backend.truncation or backend.padding or not backend.encode_special_tokens
            or getattr(backend.model, "dropout", None)):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        if hasattr(backend.model, "dropout"):
            backend.model.dropout = None
    return backend


def decode(tokenizer: PreTrainedTokenizerFast, ids: list[int],
           skip_special_tokens: bool = True) -> str:
    """Token ids back to text."""
    return cast(str, tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE.

    Args:
        texts: the documents.
        vocab_size: size of the vocabulary, the 256 bytes and the special tokens included.

    Returns:
        A tokenizer of `vocab_size` tokens, fewer where the texts have no more pairs to merge.
    """
    if vocab_size > MAX_VOCAB_SIZE:
        raise PicoError(f"a vocabulary has at most {MAX_VOCAB_SIZE:,} tokens, since token files "
                        f"are uint16; {vocab_size:,} are too many.")
    if vocab_size < MIN_VOCAB_SIZE:
        raise PicoError(f"a byte-level vocabulary has at least {MIN_VOCAB_SIZE} tokens: 256 bytes "
                        f"and {len(SPECIAL_TOKENS)} special tokens; {vocab_size} is too few.")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=PAD,
                                   additional_special_tokens=list(SPECIAL_TOKENS[2:]),
                                   clean_up_tokenization_spaces=False)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of every text, without special tokens; all processor cores work on it.

    Raises:
        PicoError: the tokenizer has no token for something in them.
    """
    backend = plain(tokenizer)
    try:
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    # tokenizers, written in Rust, raises no other kind.
    except Exception as error:
        raise PicoError(f"the tokenizer cannot write down a text ({first_line(error)}); choose "
                        "another --tokenizer.") from error
    return [item.ids for item in encoded]


def changed_text(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str],
                 ) -> tuple[str, str] | None:
    """The place where a text does not come back from its ids as it was, and what comes instead."""
    for text in texts:
        back = decode(tokenizer, encode(tokenizer, [text])[0], skip_special_tokens=False)
        # Some tokenizers begin every text with a space, and take it away again.
        if back.strip() != text.strip():
            start = next((i for i, (one, two) in enumerate(zip(text, back)) if one != two),  # noqa: B905
                         min(len(text), len(back)))
            start = max(start - 5, 0)
            return text[start:start + 20], back[start:start + 20]
    return None


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash that two tokenizers share only if they write every text the same way."""
    rules = f"{plain(tokenizer).to_str()} {tokenizer.eos_token_id}"
    return hashlib.sha256(rules.encode()).hexdigest()[:16]
