"""From documents to one file of token ids, whatever interrupts its making."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from helpers import STORIES, bpe, refused

from picolm_lib.data import cache, tokens
from picolm_lib.data.cache import tokenizer_for
from picolm_lib.data.corpus import Corpus
from picolm_lib.data.token_file import TokenCounts, TokenFile


def corpus_of(train: list[str], validation: list[str], name: str = "hand-made") -> Corpus:
    pairs = [("train", text) for text in train] + [("validation", text) for text in validation]
    return Corpus(lambda: iter(pairs), name)


def mixed(texts: list[str]) -> Corpus:
    """A corpus whose splits take turns."""
    pairs = [("train" if i % 6 else "validation", text) for i, text in enumerate(texts)]
    return Corpus(lambda: iter(pairs), "mixed")


def tokenize_corpus(corpus: Corpus, tokenizer=None,
                    splits: tuple[str, ...] = ("train", "validation")) -> dict[str, TokenFile]:
    return tokens.tokenize_corpus(corpus, tokenizer or bpe(), splits, show_progress=False)


def files_of(cache: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in cache.rglob("*") if f.suffix in (".bin", ".json")}


# --- what is in it -------------------------------------------------------------------------------

@pytest.mark.parametrize(("block", "characters"), [(10_000, 10**6), (7, 10**6), (10_000, 100)])
def test_the_end_of_text_stands_before_between_and_after_documents(monkeypatch, block, characters):
    monkeypatch.setattr(tokens, "BLOCK_DOCUMENTS", block)
    monkeypatch.setattr(tokens, "BLOCK_CHARACTERS", characters)
    corpus = mixed([*STORIES, "", "é" * 300, "🦊", "<|endoftext|>"] * 3)
    for name, file in tokenize_corpus(corpus).items():
        texts, ids = list(corpus.split(name)), [0]
        for text in texts:
            ids += [*bpe().encode(text, split_special_tokens=True), 0]
        assert file.tokens.tolist() == ids and file.tokens.dtype == np.dtype("<u2")
        size = len("".join(texts).encode())
        written = np.array(ids, "<u2").tobytes()
        assert file.count == TokenCounts(len(texts), size, len(ids), zlib.crc32(written))
        assert file.bytes_per_token == size / len(ids)


def test_a_vocabulary_over_uint16_is_refused():
    tokenizer = tokenizer_for("bundled", corpus_of([], []))
    tokenizer.add_tokens([f"<{i}>" for i in range(2**16 + 1 - len(tokenizer))])
    with refused("65,536", "65,537"):
        tokenize_corpus(corpus_of(["a"], ["b"]), tokenizer)


def test_a_split_without_documents_is_refused():
    with refused("validation", "empty"):
        tokenize_corpus(corpus_of(["a"], []))


def test_few_documents_are_in_memory_at_once(monkeypatch):
    """Reading stays at most as far ahead of writing as the blocks that are under way."""
    monkeypatch.setattr(tokens, "BLOCK_DOCUMENTS", 10)
    read, ahead = 0, []

    def documents():
        nonlocal read
        for number in range(400):
            read += 1
            yield "validation" if number % 9 == 0 else "train", STORIES[number % 36]

    def noting(path, counts, done=None, write=tokens.save_counts):
        ahead.append(read - (done or read))
        return write(path, counts, done or 0)

    monkeypatch.setattr(tokens, "save_counts", noting)
    tokenize_corpus(Corpus(documents, "long"))
    assert len(ahead) == 41
    assert max(ahead) <= 10 * (tokens.BLOCKS_IN_MEMORY - 1)


# --- made once -----------------------------------------------------------------------------------

def test_the_second_time_nothing_is_encoded(monkeypatch):
    corpus = mixed(STORIES)
    first = tokenize_corpus(corpus)["train"].tokens.tolist()
    monkeypatch.setattr(tokens, "encode", lambda *_: pytest.fail("encoded again"))
    assert tokenize_corpus(corpus)["train"].tokens.tolist() == first


def test_another_tokenizer_or_corpus_has_files_of_its_own():
    sizes = {tokenize_corpus(corpus_of(STORIES[:n], STORIES[30:], str(n)), bpe(size))["train"]
             .count.tokens for n in (20, 30) for size in (262, 300)}
    assert len(sizes) == 4


def test_a_split_that_was_prepared_alone_hides_no_other():
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    alone = tokenize_corpus(corpus, splits=("validation",))
    both = tokenize_corpus(corpus)
    assert both["validation"].tokens.tolist() == alone["validation"].tokens.tolist()
    assert both["train"].count.documents == 30


def break_off(monkeypatch, function: str, *calls: int, error: type[BaseException]) -> None:
    """These calls of a function that tokens.py uses fail: after some blocks, with others ahead."""
    original, number = getattr(tokens, function), count(1)

    def breaking(*args):
        if next(number) in calls:
            raise error("the power went")
        return original(*args)

    monkeypatch.setattr(tokens, "BLOCK_DOCUMENTS", 4)
    monkeypatch.setattr(tokens, function, breaking)


@pytest.mark.parametrize("splits", [("train", "validation"), ("validation",)])
@pytest.mark.parametrize("function", ["encode", "save_counts"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_preparation_resumes_to_the_same_files(tmp_path, monkeypatch, splits,
                                                              function, error):
    corpus = mixed(STORIES)
    tokenize_corpus(corpus, splits=splits)
    expected = files_of(tmp_path / "caches")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path / "again"))
    for _ in range(2):
        # Counted anew: two threads call `encode`, and not always in the same order.
        with monkeypatch.context() as attempt, pytest.raises(error):
            break_off(attempt, function, 3, error=error)
            tokenize_corpus(corpus, splits=splits)
    again = tokenize_corpus(corpus, splits=splits)
    assert files_of(tmp_path / "again") == expected
    assert sum(file.count.documents for file in again.values()) == (36 if len(splits) > 1 else 6)


# Also what a power cut leaves: less than was recorded.
DAMAGES = {"cut": lambda content: content[:len(content) // 2], "empty": lambda _: b"",
           "one token short": lambda content: content[:-2], "other": lambda _: b"[1]",
           "longer": lambda content: content + b"\0\0", "gone": None,
           # What crashes nothing: another token, and another count.
           "a low bit": lambda content: content[:10] + bytes([content[10] ^ 1]) + content[11:],
           "a high bit": lambda content: content[:11] + bytes([content[11] ^ 128]) + content[12:],
           "zeros": lambda content: content[:40] + bytes(32) + content[72:],
           "a digit": lambda content: re.sub(rb'(bytes": \d*)(\d)', rb"\g<1>7\2", content)
                                      if content[:1] == b"{" else content[::-1],
           "a document": lambda content: re.sub(rb'(documents": )(\d)', rb"\g<1>1\2", content)
                                         if content[:1] == b"{" else content[2:] + content[:2]}


@pytest.mark.parametrize(("interrupted", "name"), [
    (False, "counts.json"), (False, "train.bin"), (False, "validation.bin"),
    (True, "progress.json"), (True, "train.bin")])
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_damaged_is_made_again(tmp_path, monkeypatch, interrupted, name, kind):
    corpus = mixed(STORIES)
    tokenize_corpus(corpus)
    expected = files_of(tmp_path / "caches")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path / "again"))
    with monkeypatch.context() as broken:
        if interrupted:
            break_off(broken, "encode", 6, error=RuntimeError)
        with suppress(RuntimeError):
            tokenize_corpus(corpus)
    path, = (tmp_path / "again").rglob(name)
    if DAMAGES[kind]:
        path.write_bytes(DAMAGES[kind](path.read_bytes()))
    else:
        path.unlink()
    tokenize_corpus(corpus)
    assert files_of(tmp_path / "again") == expected


# --- a tokenizer of one's own --------------------------------------------------------------------

def test_a_tokenizer_of_ones_own_is_trained_once_on_the_training_documents(monkeypatch):
    corpus = corpus_of(STORIES, ["zzzz zzzz zzzz zzzz"] * 50)
    tokenizer = tokenizer_for("bpe:300", corpus)
    assert len(tokenizer) == 300
    assert not [token for token in tokenizer.get_vocab() if "zz" in token]
    monkeypatch.setattr(cache, "train_bpe", lambda *_: pytest.fail("trained again"))
    assert tokenizer_for("bpe:300", corpus).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["bpe:", "bpe:many", "bpe:-5", "bpe:4_096"])
def test_a_size_that_is_no_number_is_refused(name):
    with refused(name, "bpe:4096"):
        tokenizer_for(name, corpus_of(STORIES, []))
