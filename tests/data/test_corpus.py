"""From files of any kind to documents, and to the two splits."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import ROOT, STORIES, refused
from tables import write_rows, write_texts

from picolm_lib.data.corpus import Corpus, load_corpus

KINDS = ["txt", "jsonl", "ndjson", "json", "parquet", "arrow", "TXT", "txt.gz", "jsonl.gz",
         "JSON.GZ"]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def documents(path: Path) -> list[str]:
    """All texts, sorted, whatever their split."""
    return sorted(text for _, text in load_corpus(str(path)).documents())


def split(path: Path) -> tuple[list[str], list[str]]:
    corpus = load_corpus(str(path))
    return list(corpus.split("train")), list(corpus.split("validation"))


def noted(corpus: Corpus, *words: str) -> bool:
    """Whether one of its notes contains all of these words."""
    return any(all(word in note for word in words) for note in corpus.notes)


# --- which files ---------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_a_file_or_a_folder_with_its_subfolders_is_read(folder, kind):
    (folder / "deeper").mkdir()
    write_texts(folder / f"a.{kind}", STORIES[:20])
    write_texts(folder / "deeper" / f"b.{kind}", STORIES[20:])
    assert documents(folder) == sorted(STORIES)
    assert documents(folder / f"a.{kind}") == sorted(STORIES[:20])


def test_all_kinds_beside_each_other_are_read(folder):
    kinds = [kind for kind in KINDS if "json" not in kind.lower().split(".")]
    for number, kind in enumerate(kinds):
        write_texts(folder / f"{number}.{kind}", STORIES[number::len(kinds)])
    assert documents(folder) == sorted(STORIES)


@pytest.mark.parametrize(("name", "reason"), [
    ("notes.csv", "not txt"), ("picture.png", "not txt"), ("a.parquet.gz", "not txt"),
    ("data.tar.gz", "not txt"), ("a.jsonl.part", "not txt"), (".hidden.jsonl", "hidden"),
    ("._a.jsonl", "hidden"), (".git/a.jsonl", "hidden"), ("LICENSE.txt", "a note"),
    ("readme.TXT", "a note"), ("dataset_info.json", "metadata"), ("empty.jsonl", "empty"),
    ("test.jsonl", "testing"), ("test/a.jsonl", "testing"), ("stories-test.jsonl", "testing"),
    ("the copy.jsonl", "the same as stories.jsonl"), ("the copy.JSONL.GZ", "the same as")])
def test_what_is_left_out_is_named_with_its_reason(folder, name, reason):
    write_texts(folder / "stories.jsonl", STORIES)
    (folder / name).parent.mkdir(exist_ok=True)
    content = (folder / "stories.jsonl").read_bytes() if "copy" in name else (
        b"" if "empty" in name else b'{"text": "Not this."}\n')
    (folder / name).write_bytes(gzip.compress(content) if "GZ" in name else content)
    corpus = load_corpus(str(folder))
    assert sorted(text for _, text in corpus.documents()) == sorted(STORIES)
    assert noted(corpus, "left out", name if name != ".git/a.jsonl" else ".git", reason)


def test_links_are_followed_once(folder, tmp_path):
    write_texts(folder / "a.txt", STORIES[:20])
    write_texts(tmp_path / "b.txt", STORIES[20:])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "b.txt").rename(tmp_path / "elsewhere" / "b.txt")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "z.txt").symlink_to("a.txt")
    (folder / "circle").symlink_to("..")
    (folder / "self").symlink_to(folder)
    corpus = load_corpus(str(folder))
    assert sorted(text for _, text in corpus.documents()) == sorted(STORIES)
    assert noted(corpus, "left out", "self", "read already")
    assert noted(corpus, "left out", "z.txt", "the same as a.txt")


def test_a_fifo_is_left_out_and_nobody_waits_for_it(folder):
    write_texts(folder / "a.txt", STORIES)
    os.mkfifo(folder / "pipe.txt")
    corpus = load_corpus(str(folder))
    assert documents(folder) == sorted(STORIES)
    assert noted(corpus, "pipe.txt", "not a regular file")
    with refused("pipe.txt"):
        load_corpus(str(folder / "pipe.txt"))


@pytest.mark.parametrize("name", ["nothing.txt", "./nothing", "/nothing/at/all.jsonl", "", "a b",
                                  r"C:\stories", "one/two/three", "nothing/", "*.txt", "a\0b"])
def test_data_that_are_not_there_are_refused(name):
    with refused(repr(name), "no file or folder", "--data storybook"):
        load_corpus(name)


def test_what_may_be_a_name_on_the_hub_is_looked_for_in_both_places():
    with refused("'stories/mine'", "no local file", "Hub cannot be reached"):
        load_corpus("stories/mine")


@pytest.mark.parametrize("name", ["a.csv", "a", "a.gz", "a.tar.gz", "a.parquet.gz"])
def test_a_file_of_another_kind_is_refused(folder, name):
    (folder / name).write_text("One.\n\nTwo.")
    with refused(name, "jsonl"):
        load_corpus(str(folder / name))
    with refused("data", "jsonl", name):
        load_corpus(str(folder))


# --- documents -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("content", "expected"), [
    (b"One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n", ["One.\n\nStill one.", "Two."]),
    (b"\n\nOne,\nstill one.\n\n \n\nTwo.\n\n\nThree.", ["One,\nstill one.", "Three.", "Two."]),
    (b"\xef\xbb\xbfOne,\r\nstill.\r\n\r\nTwo.\n\n \t\n3.", ["3.", "One,\nstill.", "Two."]),
    (b"One.\r\rTwo.\r", ["One.", "Two."]),
    (b"  One. \n\nTwo\xe2\x80\xa8lines.", ["  One. ", "Two\u2028lines."]),
    (b"One <|endoftext|> still.\n\nTwo <s>.", ["One <|endoftext|> still.", "Two <s>."]),
    ("One é.\n\nTwo.".encode("utf-16"), ["One é.", "Two."]),
    ("One é.\n\nTwo.".encode("utf-32"), ["One é.", "Two."]),
], ids=["marks", "empty lines", "Windows", "old Mac", "spaces", "marks in lines", "16", "32"])
def test_the_documents_of_a_text_file(folder, content, expected):
    (folder / "a.txt").write_bytes(content)
    assert documents(folder / "a.txt") == expected


@pytest.mark.parametrize("rows", [
    [{"n": number, "story": text} for number, text in enumerate(STORIES)],
    [{"title": "No.", "text": text} for text in STORIES],
    [{"text": text} for text in (*STORIES, "", " \n", None)],
    [{"text": text, "tags": ["a"], "of": {"text": "No."}, "date": "2020"} for text in STORIES],
], ids=["the only column of texts", "the column text", "empty documents", "nested"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow"])
def test_columns_and_rows_that_count(folder, rows, kind):
    write_rows(folder / f"a.{kind}", rows)
    corpus = load_corpus(str(folder / f"a.{kind}"))
    assert sorted(text for _, text in corpus.documents()) == sorted(STORIES)
    assert corpus.skipped["empty"] == len(rows) - len(STORIES)


TEXTS = pa.array(STORIES)
COLUMNS = {"large": TEXTS.cast(pa.large_string()), "view": TEXTS.cast(pa.string_view()),
           "categories": TEXTS.dictionary_encode(), "bytes": TEXTS.cast(pa.binary()),
           "large bytes": TEXTS.cast(pa.large_binary())}


@pytest.mark.parametrize("kind", COLUMNS)
def test_texts_of_all_types_that_arrow_has(folder, kind):
    # Arrow, since not every release of Parquet has them all.
    table = pa.table({"id": STORIES, "text": COLUMNS[kind]})
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as stream:
        stream.write_table(table)
    assert documents(folder / "a.arrow") == sorted(STORIES)


@pytest.mark.parametrize(("column", "said"), [
    ([["a"]], "list"), ([1], "int64"), ([{"text": "a"}], "struct"), ([None], "null")])
def test_a_column_that_has_no_texts_is_named_with_its_type(folder, column, said):
    pq.write_table(pa.table({"text": column, "title": ["a"]}), folder / "a.parquet")
    with refused("a.parquet", "'text'", said):
        documents(folder / "a.parquet")


def test_texts_that_change_their_column_are_refused_with_their_line(folder):
    for first, later in (({"title": "a"}, {"title": "b", "text": "c"}),
                         ({"story": "a"}, {"content": "b"}), ({"text": "a"}, {"text": 5})):
        write_rows(folder / "a.jsonl", [first] * 1_500 + [later])
        with refused("a.jsonl", "line 1501"):
            documents(folder / "a.jsonl")


def test_a_nested_column_of_the_same_path_is_not_taken(folder):
    nested = pa.array([{"b": text.upper()} for text in STORIES])
    pq.write_table(pa.table({"a": nested, "a.b": STORIES}), folder / "a.parquet")
    assert documents(folder / "a.parquet") == sorted(STORIES)


def test_a_flipped_byte_of_arrow_ends_no_process(folder):
    """Python would not live to tell, so it is done in a process of its own."""
    write_texts(folder / "a.arrow", STORIES)
    code = ("import sys; from pathlib import Path; from picolm_lib.config import PicoError\n"
            "from picolm_lib.data.readers import read_documents; path = Path(sys.argv[1])\n"
            "content = path.read_bytes()\n"
            "for place in range(0, len(content), 9):\n"
            "    flipped = bytes([content[place] ^ 0x41])\n"
            "    path.write_bytes(content[:place] + flipped + content[place + 1:])\n"
            "    try: list(read_documents(path))\n"
            "    except PicoError: pass")
    done = subprocess.run([sys.executable, "-c", code, folder / "a.arrow"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("row", [{"title": "a", "story": "b"}, {"number": 1}, {"text": 1.5}])
def test_ambiguous_columns_are_named(folder, row):
    write_rows(folder / "a.jsonl", [row])
    with refused("a.jsonl", "column 'text'", *row):
        documents(folder / "a.jsonl")


@pytest.mark.parametrize(("encoding", "words"), [
    ("latin-1", ("line 4", "Latin-1")), ("cp1252", ("line 4", "Windows-1252")),
    ("utf-16-le", ("UTF-16-LE",)), ("utf-16-be", ("UTF-16-BE",)), ("utf-32-le", ("UTF-32",)),
    ("koi8-r", ("line 4", "encoding"))])
@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl"])
def test_other_encodings_are_named(folder, kind, encoding, words):
    word = "Кофе" if encoding == "koi8-r" else "Cafés"
    content = f"One.\n\nTwo.\n{word} are here.\n".encode(encoding)
    if kind == "jsonl":
        content = f'{{"text": "a"}}\n\n\n{{"text": "{word}"}}\n'.encode(encoding)
    (folder / f"a.{kind}").write_bytes(gzip.compress(content) if "gz" in kind else content)
    with refused(f"a.{kind}", *(words if kind != "jsonl" or "line 4" in words else ())):
        documents(folder / f"a.{kind}")


@pytest.mark.parametrize(("content", "words"), [
    (gzip.compress(b"One.", mtime=0), "gzip"), (b"PK\x03\x04" + bytes(9), "zip"),
    (b"PAR1\0\0", "Parquet"), (b"One.\n\nTwo\0.", "line 3 contains NUL"),
    (bytes(5_000), "binary data"), ("One.\n\nДва слова.".encode("utf-16-le"), "UTF-16-LE without"),
    ("One.\n\nÉtés.".encode()[:-3], "within a character"),
    ("One.\n\nTwo.".encode("utf-16")[:-1], "not valid UTF-16"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4\nsize 9\n", "git lfs pull")])
def test_what_is_no_text_is_named_as_what_it_is(folder, content, words):
    (folder / "a.txt").write_bytes(content)
    with refused("a.txt", words):
        documents(folder / "a.txt")


@pytest.mark.parametrize(("name", "content"), [
    *[(name, content) for name in ("a.jsonl", "a.parquet", "a.arrow") for content in (
        "{broken", '{"text": "a"}\n{"text": it broke here}\n', '{"text": "a"}\n{"text": "é"}\n')],
    ("a.jsonl", '{"text": ' + "[" * 100_000), ("a.jsonl", "null\n"), ("a.json", "[1, 2]"),
    ("a.jsonl", '{"text": "a", "text": "b"}'), ("a.jsonl", '["a"]\n["b"]'),
    ("a.jsonl", '{"text": ' + "9" * 5_000 + "}"), ("a.txt.gz", "not packed"), ("a.json", "{\n}")])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    with refused(name):
        documents(folder / name)


def test_a_packed_file_that_was_cut_or_damaged_is_refused(folder):
    packed = gzip.compress("\n\n".join(STORIES).encode())
    for content in (packed[:-20], packed[:len(packed) // 2], packed[:-8] + b"12345678"):
        (folder / "a.txt.gz").write_bytes(content)
        with refused("a.txt.gz"):
            documents(folder / "a.txt.gz")


# --- splits --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "train-00000-of-00001.parquet"])
def test_no_document_is_in_both_splits_though_it_may_be_there_twice(folder, name):
    write_texts(folder / name, STORIES * 3)
    train, validation = split(folder)
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(STORIES * 3)
    assert len(set(validation)) == 3  # one in ten of 36


def test_one_in_a_hundred_of_large_data_is_for_validation(folder):
    write_texts(folder / "a.txt", [f"Story {i}." for i in range(5_000)] * 2)
    train, validation = split(folder)
    assert not set(train) & set(validation)
    assert 2 * 25 < len(validation) < 2 * 100
    assert len(train) + len(validation) == 10_000


@pytest.mark.parametrize(("texts", "said"), [
    ([" "], "no document"), (["One."], "one document"), (["One.", "One."], "one document"),
    (["One.<|endoftext|>Two."], "inside of a line it is text")])
def test_fewer_than_two_documents_cannot_be_split(folder, texts, said):
    write_texts(folder / "a.txt", texts)
    with refused("a.txt", "two different documents", said):
        split(folder / "a.txt")


@pytest.mark.parametrize(("train", "validation"), [
    ("train.txt", "validation.txt"), ("train.txt", "valid.txt"), ("train.jsonl", "val.jsonl.gz"),
    ("stories.txt", "dev.txt"), ("Train.TXT", "Validation.TXT"), ("a/train.txt", "a/valid.txt"),
    ("TinyStories-train.txt", "TinyStories-valid.txt"), ("stories.txt", "stories_val.txt"),
    ("train/part1.txt", "validation/part1.txt"), ("train.parquet", "validation.jsonl"),
    ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
     "data/validation-00000-of-00001-869c898b519ad725.parquet")])
def test_a_validation_split_of_its_own_is_used(folder, train, validation):
    for name, texts in ((train, STORIES[:30]), (validation, STORIES[30:])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_texts(folder / name, texts)
    assert split(folder) == (STORIES[:30], STORIES[30:])


@pytest.mark.parametrize("name", [
    "test-drive.jsonl", "more.jsonl", "latest.jsonl", "invalid.jsonl", "developers.jsonl",
    "valid-points.jsonl", "train.jsonl", "train_2.jsonl", "my-dev.jsonl",
    "testing grounds/one.txt.jsonl", "chapter-1-of-1.jsonl"])
def test_what_only_looks_like_a_split_is_read(folder, name):
    write_texts(folder / "stories.jsonl", STORIES[:30])
    (folder / name).parent.mkdir(exist_ok=True)
    write_texts(folder / name, STORIES[30:])
    train, validation = split(folder)
    assert sorted(train + validation) == sorted(STORIES) and len(validation) == 3


@pytest.mark.parametrize("names", [
    ["validation.txt"], ["test.txt"], ["dev/a.txt", "test/b.txt"], ["train.txt", "train.jsonl"],
    ["train-00000-of-00002.txt"], ["train-1-of-99999999999.txt"], ["a-2-of-2.txt"],
    ["train-00000-of-00001.txt", "train-00001-of-00002.txt"],
    ["train-00000-of-00001.txt", "train-00000-of-00001-a09b74b3ef9c3b56.txt"],
    ["train.txt", "train-00000-of-00001.txt"], ["a-0-of-3.txt", "a-2-of-3.txt", "a-3-of-3.txt"]],
    ids=" ".join)
def test_a_split_that_is_missing_or_there_twice_is_refused(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        write_texts(folder / name, STORIES[number::max(len(names), 2)])
    with refused(folder.name):
        load_corpus(str(folder))
    # But a file that is named is what the user wants.
    assert documents(folder / names[0]) == sorted(STORIES[::max(len(names), 2)])


def test_no_document_is_in_both_splits_where_there_are_two(folder):
    write_texts(folder / "train.txt", STORIES)
    write_texts(folder / "valid.txt", STORIES[::4])
    corpus = load_corpus(str(folder))
    assert list(corpus.split("validation")) == STORIES[::4]
    assert list(corpus.split("train")) == [s for s in STORIES if s not in STORIES[::4]]
    assert corpus.skipped == {"in the validation split, too": 9}


def test_the_name_of_a_file_counts_before_that_of_its_folder(folder):
    (folder / "train").mkdir()
    for name, part in (("train", STORIES[:24]), ("valid", STORIES[24:30]), ("test", STORIES[30:])):
        write_texts(folder / "train" / f"{name}.txt", part)
    assert split(folder) == (STORIES[:24], STORIES[24:30])
    assert noted(load_corpus(str(folder)), "left out", "train/test.txt")


def test_a_file_that_changes_while_it_is_read_is_refused(folder):
    write_texts(folder / "a.txt", STORIES)
    corpus = load_corpus(str(folder))
    write_texts(folder / "a.txt", [*STORIES, "Another one."])
    with refused("a.txt", "has changed"):
        list(corpus.documents())


def test_an_empty_validation_file_is_refused(folder):
    write_texts(folder / "train.txt", STORIES)
    (folder / "validation.txt").touch()
    with refused("validation.txt", "empty"):
        load_corpus(str(folder))


@pytest.mark.parametrize("dictionary", [False, True])
def test_what_save_to_disk_wrote_is_read(folder, dictionary):
    data = datasets.Dataset.from_dict({"text": STORIES, "n": range(36)})
    if dictionary:
        parts = datasets.DatasetDict(train=data.select(range(30)), test=data.select([0]),
                                     validation=data.select(range(30, 36)))
        parts.save_to_disk(folder)
        assert split(folder) == (STORIES[:30], STORIES[30:])
        (folder / "validation").rename(folder.parent / "away")
        with refused("validation", "copy the folder again"):
            load_corpus(str(folder))
    else:
        data.save_to_disk(folder, num_shards=3)
        # What `map` leaves beside the data.
        write_texts(folder / "cache-1234.arrow", ["Not this."])
        assert documents(folder) == sorted(STORIES)
        assert noted(load_corpus(str(folder)), "left out", "cache-1234.arrow")
        (folder / "data-00001-of-00003.arrow").unlink()
        with refused("00001-of-00003"):
            load_corpus(str(folder))


def test_a_clone_from_the_hub_is_read_by_its_files(folder, tmp_path):
    """Not by its README, which could name files outside of it."""
    write_texts(tmp_path / "secret.txt", ["A secret.", "Another."])
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: "
                                      f"{tmp_path}/secret.txt\n---\n")
    (folder / "stories.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    write_texts(folder / "train.jsonl", STORIES)
    assert documents(folder) == sorted(STORIES)
    assert not (tmp_path / "ran").exists()


# --- the fingerprint -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_the_fingerprint_is_that_of_the_content(folder, tmp_path, name):
    def fingerprint() -> str:
        os.utime(folder / name, ns=(10**9, 10**9))
        return load_corpus(str(folder)).fingerprint

    write_texts(folder / name, STORIES)
    first = fingerprint()
    # Of the same size, and at the same time.
    write_texts(folder / name, [*STORIES[:-1], STORIES[-1][::-1]])
    assert fingerprint() != first
    write_texts(folder / name, STORIES)
    assert fingerprint() == first
    other = folder / ("b.jsonl" if name == "a.txt" else "b.txt")
    (folder / name).rename(other)
    assert load_corpus(str(folder)).fingerprint != first  # read in another way
    other.rename(folder / name)
    folder.rename(tmp_path / "moved")
    assert load_corpus(str(tmp_path / "moved")).fingerprint == first
