"""The tokenizer writes down any text, merges what a naive BPE merges, and fails in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from helpers import ROOT, SHARED, STORIES, bpe, isolate, refused

from picolm_lib.tokenizer import END_OF_TEXT, encode, fingerprint, load_tokenizer, train_bpe

TEXTS = ["Once upon a time.", "  two  spaces \t tabs ", "line\r\nline\n\n\nline\r", "1234567890",
         "\x00\x01\x1f\x7f\u200b\ufeff", "😀 👩‍👩‍👧 🇫🇷", "Ünïcödé", "Жила-была",
         "从前有座山", "こんにちは", "مرحبا", "नमस्ते", "\U0001d54f", "Ġ Ċ â", "", " "]
SMOLLM = SHARED / "smollm-tokenizer"


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize("tokenizer", [bpe(257), bpe(), load_tokenizer()],
                         ids=["bytes", "trained", "bundled"])
def test_any_text_comes_back(tokenizer):
    for text, ids in zip(TEXTS, encode(tokenizer, TEXTS), strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("tokenizer", [bpe(), load_tokenizer()], ids=["trained", "bundled"])
def test_encode_is_the_tokenizers_own_encoding(tokenizer):
    texts = TEXTS + STORIES
    assert encode(tokenizer, texts) == [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


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
            pieces[word] = merged(parts, best)
    return merges


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def test_merges_are_those_of_a_naive_bpe():
    counts = {"hug": 100, "pug": 53, "pun": 121, "bun": 41, "hugs": 75, "shrug": 7, "bandana": 19}
    texts = [" ".join([word] * count) for word, count in counts.items()]
    words = Counter({f"Ġ{word}": count - 1 for word, count in counts.items()})
    words.update(counts.keys())  # the first word of a text has no space before it
    expected = naive_merges(words, 11)
    rules = json.loads(train_bpe(texts, 257 + 11).backend_tokenizer.to_str())["model"]["merges"]
    assert [tuple(rule) for rule in rules] == expected


def test_a_new_word_is_cut_as_the_naive_merges_cut_it():
    texts = [" ".join(["hug"] * 9), " ".join(["pug"] * 5), "bug"]
    tokenizer = train_bpe(texts, 257 + 4)
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    parts = list("shugbug")
    for rule in rules:
        parts = merged(parts, tuple(rule))
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ["shugbug"])[0]) == parts
    assert len(parts) < 7


def test_digits_stand_alone():
    tokenizer = train_bpe(["In 1999 and 1999 and 1999 and 1999."] * 50, 320)
    assert not [token for token in tokenizer.get_vocab() if re.search(r"\d.|.\d", token)]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ["1999"])[0]) == list("1999")


def test_digits_stand_alone_in_the_bundled_tokenizer():
    assert not [token for token in load_tokenizer().get_vocab() if re.search(r"\d.|.\d", token)]


def test_the_end_of_text_is_one_token_that_no_other_text_makes():
    for tokenizer in (bpe(), load_tokenizer()):
        assert tokenizer.eos_token == END_OF_TEXT
        assert encode(tokenizer, [END_OF_TEXT]) == [[tokenizer.eos_token_id]]
        assert not any(tokenizer.eos_token_id in ids for ids in encode(tokenizer, TEXTS + STORIES))


@pytest.mark.parametrize("size", [257, 258, 300])
def test_the_vocabulary_has_exactly_the_size_that_was_asked_for(size):
    tokenizer = train_bpe(STORIES, size)
    assert len(tokenizer) == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))


def test_a_text_without_more_pairs_gives_fewer_tokens():
    assert len(train_bpe(["ab"], 500)) == 258


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with refused("257", "256"):
        train_bpe(STORIES, 256)


def test_a_saved_tokenizer_comes_back(tmp_path):
    bpe().save_pretrained(tmp_path / "t")
    loaded = load_tokenizer(str(tmp_path / "t"))
    assert loaded.get_vocab() == bpe().get_vocab() and loaded.eos_token == END_OF_TEXT
    assert encode(loaded, TEXTS) == encode(bpe(), TEXTS)
    assert fingerprint(loaded) == fingerprint(bpe())


def test_fingerprints_tell_tokenizers_apart():
    assert len({fingerprint(t) for t in (bpe(257), bpe(), load_tokenizer())}) == 3


def test_the_bundled_tokenizer_is_small_and_can_end_a_story():
    tokenizer = load_tokenizer("bundled")
    assert 257 < len(tokenizer) <= 2_048
    assert tokenizer.eos_token == END_OF_TEXT


@pytest.mark.skipif(not SMOLLM.exists(), reason="the SmolLM tokenizer's folder is not here")
def test_a_local_folder_of_the_hubs_layout_loads():
    tokenizer = load_tokenizer(str(SMOLLM))
    assert len(tokenizer) == 49_152 and tokenizer.eos_token == END_OF_TEXT
    for text, ids in zip(STORIES, encode(tokenizer, STORIES), strict=True):
        assert tokenizer.decode(ids) == text


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with refused("folder", tmp_path.name):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{broken", "{}", '{"version": "1.0"}'])
def test_a_broken_tokenizer_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with refused("folder", tmp_path.name):
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


def test_a_hub_that_cannot_be_reached_gives_one_line_and_the_way_out(tmp_path):
    script = ("from picolm_lib.config import PicoError\n"
              "from picolm_lib.tokenizer import load_tokenizer\n"
              "try: load_tokenizer('somebody/something')\n"
              "except PicoError as error: print(error)")
    environment = {name: value for name, value in os.environ.items()
                   if "proxy" not in name.lower() and name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                          env={**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, check=True)
    line, = done.stdout.splitlines()
    assert "Hub cannot be reached" in line and "somebody/something" in line
    assert "--tokenizer bundled" in line and "local folder" in line
    assert done.stderr == ""
