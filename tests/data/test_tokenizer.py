"""The tokenizer writes down any text, merges what a naive BPE merges, and fails in one line."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from helpers import SHARED, STORIES, bpe, refused

from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import (
    END_OF_TEXT,
    MIN_VOCAB_SIZE,
    decode,
    encode,
    fingerprint,
    load_tokenizer,
    train_bpe,
)

TEXTS = ["Once upon a time.", "  two  spaces \t tabs ", "line\r\nline\n\n\nline\r", "1234567890",
         "\x00\x01\x1f\x7f\u200b\ufeff", "😀 👩‍👩‍👧 🇫🇷", "Ünïcödé", "Жила-была",
         "从前有座山", "こんにちは", "مرحبا", "नमस्ते", "\U0001d54f", "Ġ Ċ â", "", " "]
every = pytest.mark.parametrize(
    "tokenizer", [bpe(), load_tokenizer(), load_tokenizer("bundled8k")],
    ids=["trained", "bundled", "bundled8k"])


@every
def test_any_text_is_written_as_the_tokenizer_itself_does_and_comes_back(tokenizer):
    texts = TEXTS + STORIES
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@every
def test_the_end_of_text_is_one_token_that_no_other_text_makes(tokenizer):
    assert tokenizer.eos_token == END_OF_TEXT
    assert tokenizer(END_OF_TEXT)["input_ids"] == [tokenizer.eos_token_id]
    texts = [*TEXTS, *STORIES, *tokenizer.all_special_tokens, f"One {END_OF_TEXT} two."]
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        assert not set(ids) & set(tokenizer.all_special_ids)
        assert decode(tokenizer, ids, skip_special_tokens=False) == text


@every
def test_the_special_tokens_are_there_before_anybody_needs_them(tokenizer):
    names = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 5]
    assert set(tokenizer.all_special_tokens) == set(names)
    assert tokenizer.pad_token == "<|pad|>" != tokenizer.eos_token
    assert tokenizer.decode([0, 1, 2, 3, 4, 5], skip_special_tokens=True) == ""


def test_the_bundled_ones_are_what_their_commands_make():
    assert len(load_tokenizer()) == 2_048
    if not SHARED.exists():
        pytest.skip("needs ../shared/data")
    stories = load_corpus(str(SHARED / "tinystories"))
    made, there = train_bpe(stories.split("train"), 8_192), load_tokenizer("bundled8k")
    assert made.get_vocab() == there.get_vocab() and fingerprint(made) == fingerprint(there)


def naive_merges(words: Counter[str], number: int) -> list[tuple[str, str]]:
    """The textbook's BPE; `words` must leave no doubt which pair is the most frequent."""
    pieces = {word: list(word) for word in words}
    merges = []
    for _ in range(number):
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += words[word]
        (best, count), (_, second) = pairs.most_common(2)
        assert count > second
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = []
            for part in parts:
                if pieces[word] and (pieces[word][-1], part) == best:
                    pieces[word][-1] += part
                else:
                    pieces[word].append(part)
    return merges


def test_merges_are_those_of_a_naive_bpe():
    counts = {"hug": 100, "pug": 53, "pun": 121, "bun": 41, "hugs": 75, "shrug": 7, "bandana": 19}
    words = Counter({f"Ġ{word}": count - 1 for word, count in counts.items()})
    words.update(counts.keys())  # the first word of a text has no space before it
    tokenizer = train_bpe([" ".join([word] * count) for word, count in counts.items()],
                          MIN_VOCAB_SIZE + 11)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert [tuple(rule) for rule in rules] == naive_merges(words, 11)


@pytest.mark.parametrize("tokenizer", [
    train_bpe(["In 1999 and 1999 and 1999 and 1999."] * 50, 320), load_tokenizer()],
    ids=["trained", "bundled"])
def test_digits_stand_alone(tokenizer):
    assert not [token for token in tokenizer.get_vocab() if re.search(r"\d.|.\d", token)]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ["1999"])[0]) == list("1999")


@pytest.mark.parametrize("size", [MIN_VOCAB_SIZE, MIN_VOCAB_SIZE + 1, 300])
def test_the_vocabulary_has_exactly_the_size_that_was_asked_for(size):
    assert sorted(train_bpe(STORIES, size).get_vocab().values()) == list(range(size))


def test_a_vocabulary_of_another_size_where_that_cannot_be():
    assert len(train_bpe(["ab"], 500)) == MIN_VOCAB_SIZE + 1, "no more pairs"
    with refused("262", "261"):
        train_bpe(STORIES, 261)


def test_a_saved_tokenizer_comes_back_and_fingerprints_tell_others_apart(tmp_path):
    bpe().save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.get_vocab() == bpe().get_vocab() and loaded.eos_token == END_OF_TEXT
    assert fingerprint(loaded) == fingerprint(bpe())
    assert len({fingerprint(t) for t in (bpe(MIN_VOCAB_SIZE), bpe(), load_tokenizer())}) == 3


@pytest.mark.parametrize("content", [
    None, b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{broken", b"{" * 2_000, b'{"version": "1.0"}'])
def test_a_folder_with_a_broken_tokenizer_or_none_is_named(tmp_path, content):
    bpe().save_pretrained(tmp_path)
    if content is None:
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "tokenizer_config.json").unlink()
    else:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with refused("folder", "tokenizer", tmp_path.name):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=bpe().backend_tokenizer).save_pretrained(tmp_path)
    with refused("end-of-text", tmp_path.name):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["./nothing", "../nothing/at/all"])
def test_a_folder_that_is_not_there_is_named(name):
    with refused(name, "--tokenizer bundled", "local folder"):
        load_tokenizer(name)
