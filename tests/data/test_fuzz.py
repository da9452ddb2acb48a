"""Whatever a file holds: documents that come back from their tokens, or one line about the file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from helpers import STORIES, bpe, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import write_rows, write_texts

from picolm_lib.config import PicoError
from picolm_lib.data.corpus import load_corpus
from picolm_lib.data.tokenizer import END_OF_TEXT, load_tokenizer
from picolm_lib.data.tokens import tokenize_corpus

SETTINGS = settings(derandomize=True, deadline=None, max_examples=25, database=None,
                    suppress_health_check=list(HealthCheck))
BYTES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.text(st.characters(max_codepoint=255), max_size=99).map(lambda text: text.encode("latin-1")),
    st.lists(st.sampled_from([b"One.", b"\n", b"\r\n", b"\0", b" ", b"\xef\xbb\xbf", b"\xff", b"\r",
                              b"\n\n", b"<|endoftext|>", b"\xc3\xa9", b"\xed\xa0\x80", b"\x0b",
                              b"\xe2\x80\xa8", b'{"text": "a"}\n', b'{"text": ', b'"}']),
             max_size=30).map(b"".join))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["text", "a", ""]), inner, max_size=3), max_leaves=6)


def read(path: Path) -> list[str] | None:
    """The documents, after they have been to the token file and back; None where they are refused.

    Anything but a PicoError of one line fails the test, as does a document that comes back changed.
    """
    try:
        corpus = load_corpus(str(path))
        documents = list(corpus.documents())
        files = tokenize_corpus(corpus, bpe(), show_progress=False)
    except PicoError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and "\r" not in text, repr(text)
        return None
    assert all(text.strip() for _, text in documents)
    for split, file in files.items():
        texts = [text for where, text in documents if where == split]
        assert file.count.documents == len(texts)
        assert file.count.bytes == sum(len(text.encode()) for text in texts)
        told = bpe().decode(file.tokens.tolist(), skip_special_tokens=False)
        assert told == "".join(END_OF_TEXT + text for text in texts) + END_OF_TEXT
    return sorted(text for _, text in documents)


def read_bytes(name: str, content: bytes) -> list[str] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return read(path)


@pytest.mark.parametrize(("name", "before", "examples"), [
    ("a.txt", b"", 60), ("a.txt", b"One.\n\nTwo.\n\n", 60), ("a.jsonl", b"", 15),
    ("a.json", b"", 15), ("a.parquet", b"", 15)])
def test_any_bytes(name, before, examples):
    @settings(SETTINGS, max_examples=examples)
    @given(BYTES)
    def check(content):
        read_bytes(name, before + content)
    check()


def test_any_json_line_by_line():
    @SETTINGS
    @given(st.lists(JSON, max_size=4))
    def check(rows):
        read_bytes("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    check()


def test_any_texts_come_back_from_json_as_they_were():
    @SETTINGS
    @given(st.lists(st.text(max_size=30), min_size=2, max_size=6))
    def check(texts):
        wanted = sorted(text for text in texts if text.strip())
        if len(set(wanted)) > 1 and not any(END_OF_TEXT in text for text in wanted):
            rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            assert read_bytes("a.jsonl", rows.encode()) == wanted
    check()


def damaged(content: bytes, cases: range, bit: int) -> list[bytes]:
    """Cut at these positions and at the end, and with one bit flipped there."""
    return [case for at in [*cases, len(content) - 1]
            for case in (content[:at],
                         content[:at] + bytes([content[at] ^ bit]) + content[at + 1:])]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("part", range(4))
def test_a_flipped_or_cut_table(tmp_path, kind, part):
    path = tmp_path / f"a.{kind}"
    write_texts(path, STORIES)
    content = path.read_bytes()
    for case in damaged(content, range(part, len(content), len(content) // 12), 1 << 2 * part):
        path.write_bytes(case)
        read(path)


@pytest.mark.parametrize("part", range(3))
def test_a_damaged_tokenizer_is_refused_or_still_reads_and_writes(tmp_path, part):
    bpe().save_pretrained(tmp_path)
    for path in (tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"):
        content = path.read_bytes()
        for case in damaged(content, range(part, len(content), len(content) // 8 + 1), 1):
            path.write_bytes(case)
            try:
                tokenizer = load_tokenizer(str(tmp_path))
            except PicoError as error:
                assert "\n" not in str(error)
            else:
                assert isinstance(tokenizer("The cat")["input_ids"], list)
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_one_huge_line_and_an_end_of_text_within_a_document(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    huge = ["A cat saw a red ball." * 1_500_000, "Two."]
    write_texts(path, huge)
    assert [text for _, text in load_corpus(str(path)).documents()] == huge
    marked = [f"One {END_OF_TEXT} two.", "Three."]  # to a model, this is three stories
    write_texts(path, marked)
    assert read(path) == marked


@pytest.mark.parametrize("half", ["\ud800", "\udfff", "\ud800\ud800", "a\udc00b"], ids=repr)
def test_half_a_character_in_json_is_refused(tmp_path, half):
    write_texts(tmp_path / "a.jsonl", [half, "Two."])
    assert read(tmp_path / "a.jsonl") is None


@pytest.mark.parametrize("row", [
    {"text": 1}, {"text": [1]}, {"text": ["a"]}, {"text": {"text": "a"}}, {"text": None}, {},
    {"text": True}, {"other": {"text": "a"}}, [], "text", 1, None], ids=repr)
def test_a_table_without_texts_is_refused(tmp_path, row):
    for kind in ("jsonl", "parquet") if isinstance(row, dict) else ("jsonl",):
        write_rows(tmp_path / f"a.{kind}", [row, row])
        assert read(tmp_path / f"a.{kind}") is None


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    (tmp_path / "data").mkdir()
    link, folder = tmp_path / "data" / f"a.{kind}", tmp_path / f"b.{kind}"
    link.symlink_to(tmp_path / "gone")
    folder.mkdir()
    for path in (link, link.parent, folder):
        with refused(path.name):
            list(load_corpus(str(path)).documents())


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch, kind):
    """The refusal is played, since root may read everything."""
    write_texts(tmp_path / f"a.{kind}", STORIES)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(
        PermissionError(13, "Permission denied")))
    with refused(f"a.{kind}", "Permission denied"):
        list(load_corpus(str(tmp_path / f"a.{kind}")).documents())
