"""Whatever a file holds: documents that come back from their tokens, or one line about the file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from helpers import STORIES, bpe, isolate, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picolm_lib.config import PicoError
from picolm_lib.corpus import load_corpus
from picolm_lib.data import prepare
from picolm_lib.tokenizer import END_OF_TEXT, load_tokenizer

SETTINGS = settings(derandomize=True, deadline=None, max_examples=60, database=None,
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


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")


def read(path: Path) -> list[str] | None:
    """The documents, after they have been to the token file and back; None where they are refused.

    Anything but a PicoError of one line fails the test, as does a document that comes back changed.
    """
    try:
        corpus = load_corpus(str(path))
        documents = list(corpus.documents())
        files = prepare(corpus, bpe(), show_progress=False)
    except PicoError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and "\r" not in text, repr(text)
        return None
    for split, file in files.items():
        texts = [text for where, text in documents if where == split]
        assert file.count.documents == len(texts)
        assert file.count.bytes == sum(len(text.encode()) for text in texts)
        told = bpe().decode(file.tokens.tolist(), skip_special_tokens=False)
        assert told == "".join(END_OF_TEXT + text for text in texts) + END_OF_TEXT
    return sorted(text for _, text in documents)


def fuzz(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        documents = read(path)
        assert documents is None or all(text.strip() for text in documents)


# --- bytes of any kind ---------------------------------------------------------------------------

@pytest.mark.parametrize("before", [b"", b"One.\n\nTwo.\n\n"], ids=["alone", "after good text"])
def test_any_bytes_as_text(before):
    SETTINGS(given(BYTES)(lambda content: fuzz("a.txt", before + content)))()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_any_bytes_as_a_table(name):
    settings(SETTINGS, max_examples=15)(given(BYTES)(lambda content: fuzz(name, content)))()


def test_any_json_line_by_line():
    @settings(SETTINGS, max_examples=25)
    @given(st.lists(JSON, max_size=4))
    def check(rows):
        fuzz("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    check()


def test_any_texts_come_back_from_json_as_they_were():
    @settings(SETTINGS, max_examples=25)
    @given(st.lists(st.text(max_size=30), min_size=2, max_size=6))
    def check(texts):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.jsonl"
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
            wanted = sorted(text for text in texts if text.strip())
            if len(set(wanted)) > 1 and not any(END_OF_TEXT in text for text in wanted):
                assert read(path) == wanted
    check()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("part", range(4))
def test_a_flipped_or_cut_table(tmp_path, kind, part):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": STORIES}), path)
    else:
        path.write_text("".join(json.dumps({"text": story}) + "\n" for story in STORIES))
    content = path.read_bytes()
    for position in [*range(part, len(content), len(content) // 12), len(content) - 1 - part]:
        flipped = bytes([content[position] ^ (1 << 2 * part)])
        for case in (content[:position], content[:position] + flipped + content[position + 1:]):
            path.write_bytes(case)
            read(path)


# --- what people really have ---------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_one_huge_line(tmp_path, kind):
    line, path = "A cat saw a red ball. " * 1_500_000, tmp_path / f"a.{kind}"   # 33 MB
    path.write_text(f"{line}\n\nTwo." if kind == "txt" else "".join(
        json.dumps({"text": each}) + "\n" for each in (line, "Two.")))
    documents = [text for _, text in load_corpus(str(path)).documents()]
    assert documents == [line.strip() if kind == "txt" else line, "Two."]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_other_encodings_are_named(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("One café.\n\nTwo cafés.\n".encode(encoding))
    with refused("a.txt", "UTF-8"):
        list(load_corpus(str(tmp_path / "a.txt")).documents())


def test_line_ends_of_all_systems_and_marks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne,\r\nstill.\r\n\r\nTwo\0.\n\n\n\n \t\nThree.")
    assert read(tmp_path / "a.txt") == ["One,\nstill.", "Three.", "Two\0."]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_the_end_of_text_within_a_document(tmp_path, kind):
    """It is written as the mark that it is: a text that holds one is two stories to the model."""
    text = f"One {END_OF_TEXT} two."
    path = tmp_path / f"a.{kind}"
    path.write_text(f"{text}\n\nThree." if kind == "txt" else "".join(
        json.dumps({"text": each}) + "\n" for each in (text, "Three.")))
    assert read(path) == [text, "Three."]


@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\ud800\\ud800", "a\\udc00b"])
def test_half_a_character_in_json(tmp_path, escape):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{escape}"}}\n{{"text": "Two."}}\n')
    assert read(tmp_path / "a.jsonl") is None


@pytest.mark.parametrize("row", [
    {"text": 1}, {"text": [1]}, {"text": ["a"]}, {"text": {"text": "a"}}, {"text": None},
    {"text": True}, {"other": {"text": "a"}}, {}, [], [{"text": "a"}], "text", 1, None])
def test_other_shapes_of_json_are_refused(tmp_path, row):
    (tmp_path / "a.jsonl").write_text((json.dumps(row) + "\n") * 3)
    documents = read(tmp_path / "a.jsonl")
    assert documents is None or row == [{"text": "a"}]


@pytest.mark.parametrize("columns", [
    {"text": [1, 2]}, {"text": [b"a", b"b"]}, {"text": [["a"], ["b"]]}, {"text": [None, None]},
    {"text": [{"text": "a"}]}, {"text": []}, {}])
def test_other_columns_of_parquet_are_refused(tmp_path, columns):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") is None


@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("content", [b"", b"\n", b"  \n \n", b"\0\0\0\0"])
def test_nothing_at_all_is_refused(tmp_path, kind, content):
    (tmp_path / f"a.{kind}").write_bytes(content)
    assert read(tmp_path / f"a.{kind}") is None


# --- what is no file -----------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path, kind):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"a.{kind}").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "data", tmp_path / "data" / f"a.{kind}"):
        with refused(path.name):
            list(load_corpus(str(path)).documents())


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_folder_with_a_files_name_is_refused(tmp_path, kind):
    (tmp_path / f"a.{kind}").mkdir()
    with refused(f"a.{kind}"):
        list(load_corpus(str(tmp_path / f"a.{kind}")).documents())


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch, kind):
    """Root may read all, so the refusal is played."""
    path = tmp_path / f"a.{kind}"
    path.write_text('{"text": "a"}\n')
    path.chmod(0)
    if os.access(path, os.R_OK):
        monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(
            PermissionError(13, "Permission denied")))
        if kind != "txt":
            pytest.skip("this user may read everything")
    with refused(path.name):
        list(load_corpus(str(path)).documents())


# --- tokenizers ----------------------------------------------------------------------------------

@pytest.mark.parametrize("part", range(3))
def test_a_damaged_tokenizer_is_refused_or_still_reads_and_writes(tmp_path, part):
    bpe().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (tmp_path / name).read_bytes()
        for position in [*range(part, len(content), len(content) // 8 + 1), len(content) - 1]:
            flipped = bytes([content[position] ^ 1])
            for case in (content[:position], content[:position] + flipped + content[position + 1:]):
                (tmp_path / name).write_bytes(case)
                try:
                    tokenizer = load_tokenizer(str(tmp_path))
                except PicoError as error:
                    assert "\n" not in str(error)
                    continue
                assert isinstance(tokenizer("The cat")["input_ids"], list)
        (tmp_path / name).write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 2_000])
def test_a_tokenizer_of_nonsense_is_refused(tmp_path, content):
    bpe().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with refused("tokenizer"):
        load_tokenizer(str(tmp_path))
