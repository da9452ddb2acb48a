"""From files of any kind to documents, to one file of token ids, to batches."""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import STORIES, bpe, isolate, refused

from picolm_lib import data
from picolm_lib.batches import Batches, in_order
from picolm_lib.corpus import Corpus, load_corpus
from picolm_lib.data import prepare, tokenizer_for
from picolm_lib.loss import IGNORE

BYTES = 257  # the size of a vocabulary without merges: "!" is 1, and so on in ASCII's order


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path / "caches")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def documents(path: Path) -> list[str]:
    """All texts, sorted: which split they are in is no matter here."""
    return sorted(text for _, text in load_corpus(str(path)).documents())


def write_parquet(path: Path, **columns: list) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def corpus_of(train: list[str], validation: list[str], name: str = "hand-made") -> Corpus:
    told = [("train", text) for text in train] + [("validation", text) for text in validation]
    return Corpus(lambda: iter(told), name)


# --- documents -----------------------------------------------------------------------------------

def test_marks_part_the_documents_of_a_text_file(folder):
    (folder / "a.txt").write_text("One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n")
    assert documents(folder / "a.txt") == ["One.\n\nStill one.", "Two."]


def test_empty_lines_part_the_documents_of_a_file_without_marks(folder):
    (folder / "a.txt").write_text("\n\nOne,\nstill one.\n\n \n\nTwo.\n\n\nThree.")
    assert documents(folder / "a.txt") == ["One,\nstill one.", "Three.", "Two."]


def test_windows_line_ends_and_byte_order_marks_are_no_text(folder):
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfOne,\r\nstill one.\r\n\r\nTwo.\r\n")
    assert documents(folder / "a.txt") == ["One,\nstill one.", "Two."]


def test_a_folders_text_files_are_read_with_their_subfolders(folder):
    (folder / "deeper").mkdir()
    (folder / "a.txt").write_text("One.")
    (folder / "deeper" / "b.txt").write_text("Two.")
    (folder / "notes.md").write_text("Nothing to learn from.")
    assert documents(folder) == ["One.", "Two."]


def test_jsonl_and_parquet_files_and_folders(folder):
    for kind in ("json", "parquet"):
        (folder / kind).mkdir()
    write_jsonl(folder / "json" / "a.jsonl", [{"text": t} for t in STORIES])
    write_parquet(folder / "parquet" / "a.parquet", text=STORIES)
    for path in ("json", "json/a.jsonl", "parquet", "parquet/a.parquet"):
        assert documents(folder / path) == sorted(STORIES), path


def test_the_only_column_of_texts_is_taken_whatever_its_name(folder):
    write_jsonl(folder / "a.jsonl", [{"n": i, "story": t} for i, t in enumerate(STORIES)])
    assert documents(folder / "a.jsonl") == sorted(STORIES)


def test_the_column_text_goes_before_others(folder):
    write_jsonl(folder / "a.jsonl", [{"title": "No.", "text": t} for t in STORIES])
    assert documents(folder / "a.jsonl") == sorted(STORIES)


@pytest.mark.parametrize("row", [{"title": "a", "story": "b"}, {"number": 1}, {"text": 1.5}])
def test_columns_that_leave_a_doubt_are_named(folder, row):
    write_jsonl(folder / "a.jsonl", [row])
    with refused("a.jsonl", "column 'text'", *row):
        load_corpus(str(folder / "a.jsonl"))


def test_empty_documents_count_for_nothing(folder):
    write_jsonl(folder / "a.jsonl", [{"text": t} for t in ("One.", "", " \n", None, "Two.")])
    assert documents(folder / "a.jsonl") == ["One.", "Two."]


def test_mixed_kinds_are_refused(folder):
    (folder / "a.txt").write_text("One.")
    write_jsonl(folder / "b.jsonl", [{"text": "Two."}])
    with refused("mixes", "json", "text", folder.name):
        load_corpus(str(folder))


def test_text_that_is_not_utf8_is_refused_with_its_line(folder):
    (folder / "a.txt").write_bytes(b"One.\n\nTwo.\n" + "Café.\n".encode("latin-1"))
    with refused("a.txt", "UTF-8", "line 4"):
        documents(folder / "a.txt")


def test_jsonl_that_is_not_utf8_is_refused(folder):
    (folder / "a.jsonl").write_bytes('{"text": "Ok."}\n{"text": "Café."}\n'.encode("latin-1"))
    with refused("a.jsonl"):
        documents(folder / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("content", ["", "{broken", '{"text": "a"}\n{"text": it broke here}\n'])
def test_a_damaged_file_is_named_and_not_looked_for_on_the_hub(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(data.PicoError) as caught:
        documents(folder / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert "Hub" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.txt", "./nothing", "/nothing/at/all.jsonl"])
def test_data_that_are_not_there_are_refused(name):
    with refused(name, "--data storybook"):
        load_corpus(name)


def test_a_folder_without_data_is_refused(folder):
    with refused(folder.name, "txt, jsonl or parquet"):
        load_corpus(str(folder))


def test_empty_data_are_refused(folder):
    (folder / "a.txt").write_text("\n \n\n")
    with refused("two different documents"):
        documents(folder / "a.txt")


# --- splits --------------------------------------------------------------------------------------

def split(path: Path) -> tuple[list[str], list[str]]:
    corpus = load_corpus(str(path))
    return list(corpus.split("train")), list(corpus.split("validation"))


def test_no_document_is_in_both_splits_though_it_may_be_there_twice(folder):
    (folder / "a.txt").write_text("\n\n".join(STORIES * 3))
    train, validation = split(folder)
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(STORIES * 3)
    assert len(set(validation)) == 3  # one in ten of 36


def test_large_data_hold_one_in_a_hundred_back(folder):
    (folder / "a.txt").write_text("\n\n".join(f"Story {i}." for i in range(5_000)) * 2)
    train, validation = split(folder)
    assert not set(train) & set(validation)
    assert 2 * 25 < len(validation) < 2 * 100
    assert len(train) + len(validation) == 9_999  # the copies meet without a line between them


@pytest.mark.parametrize("text", ["One.", "One.\n\nOne."])
def test_a_single_document_cannot_be_split(folder, text):
    (folder / "a.txt").write_text(text)
    with refused("two different documents"):
        split(folder)


@pytest.mark.parametrize("name", ["validation", "valid", "dev"])
def test_a_validation_split_of_its_own_is_used(folder, name):
    write_parquet(folder / "train-00000-of-00001.parquet", text=STORIES[:30])
    write_parquet(folder / f"{name}-00000-of-00001.parquet", text=STORIES[30:])
    assert split(folder) == (STORIES[:30], STORIES[30:])


def test_a_train_split_alone_is_split(folder):
    write_parquet(folder / "train-00000-of-00001.parquet", text=STORIES)
    train, validation = split(folder)
    assert len(validation) == 3 and sorted(train + validation) == sorted(STORIES)


# --- fingerprints --------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_changed_file_has_another_fingerprint(folder, name):
    def write(stories: list[str]) -> str:
        if name == "a.txt":
            (folder / name).write_text("\n\n".join(stories))
        elif name == "a.jsonl":
            write_jsonl(folder / name, [{"text": t} for t in stories])
        else:
            write_parquet(folder / name, text=stories)
        os.utime(folder / name, ns=(now := len(stories[0]) * 10**9, now))
        return load_corpus(str(folder / name)).fingerprint

    first = write(STORIES)
    assert write(STORIES) == first
    assert write(["Another story.", *STORIES[1:]]) != first


def test_storybooks_of_other_lengths_have_other_fingerprints():
    prints = [load_corpus("storybook", number).fingerprint for number in (40, 41, 40)]
    assert prints[0] == prints[2] != prints[1]


# --- token files ---------------------------------------------------------------------------------

def test_the_end_of_text_stands_before_between_and_after_stories():
    files = prepare(corpus_of(["ab", "é"], ["c"]), bpe(BYTES), show_progress=False)
    letter = {c: ord(c) - ord("!") + 1 for c in "abc"}
    # é is the bytes C3 A9, written as the letters with these numbers; the alphabet is printable
    # ASCII (94), then A1 to AC and AE to FF.
    accent = [94 + 0xC3 - 0xA1, 94 + 0xA9 - 0xA1 + 1]  # C3 comes one later: AD is left out
    assert files["train"].tokens.tolist() == [0, letter["a"], letter["b"], 0, *accent, 0]
    assert files["validation"].tokens.tolist() == [0, letter["c"], 0]
    assert files["train"].tokens.dtype == np.dtype("<u2")


def test_documents_bytes_and_tokens_are_counted():
    files = prepare(corpus_of(["ab", "é"], ["c"]), bpe(BYTES), show_progress=False)
    count = files["train"].count
    assert (count.documents, count.bytes, count.tokens) == (2, 2 + 2, 7)
    assert files["train"].bytes_per_token == 4 / 7


def test_a_vocabulary_over_uint16_is_refused(monkeypatch):
    tokenizer = tokenizer_for("bundled", corpus_of([], []))
    tokenizer.add_tokens([f"<{i}>" for i in range(2**16 + 1 - len(tokenizer))])
    with refused("65,536", "65,537"):
        prepare(corpus_of(["a"], ["b"]), tokenizer)


def test_a_split_without_documents_is_refused():
    with refused("no validation documents"):
        prepare(corpus_of(["a"], []), bpe(BYTES), show_progress=False)


def test_the_second_time_nothing_is_encoded(monkeypatch):
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    first = prepare(corpus, bpe(), show_progress=False)["train"].tokens.tolist()
    monkeypatch.setattr(data, "encode", lambda *_: pytest.fail("encoded again"))
    assert prepare(corpus, bpe(), show_progress=False)["train"].tokens.tolist() == first


def test_another_tokenizer_or_corpus_has_files_of_its_own():
    sizes = {prepare(corpus_of(STORIES[:n], STORIES[30:], str(n)), bpe(size), show_progress=False)[
        "train"].count.tokens for n in (20, 30) for size in (BYTES, 300)}
    assert len(sizes) == 4


def test_a_split_that_was_prepared_alone_hides_no_other():
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    alone = prepare(corpus, bpe(), splits=("validation",), show_progress=False)
    both = prepare(corpus, bpe(), show_progress=False)
    assert both["validation"].tokens.tolist() == alone["validation"].tokens.tolist()
    assert both["train"].count.documents == 30


def files_of(cache: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in cache.rglob("*") if f.suffix in (".bin", ".json")}


@pytest.mark.parametrize("splits", [("train", "validation"), ("validation",)])
@pytest.mark.parametrize("broken", ["encode", "replace_text"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_preparation_goes_on_to_the_same_files(tmp_path, monkeypatch, splits,
                                                              broken, error):
    told = [("train" if i % 6 else "validation", text) for i, text in enumerate(STORIES)]
    corpus = Corpus(lambda: iter(told), "mixed")
    monkeypatch.setattr(data, "BLOCK", 4)
    prepare(corpus, bpe(), splits, show_progress=False)
    expected = files_of(tmp_path / "caches")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path / "again"))
    original, calls = getattr(data, broken), []

    def breaking(*args):
        calls.append(args)
        if len(calls) in (3, 6):  # after some blocks, and once more
            raise error("the power went")
        return original(*args)

    monkeypatch.setattr(data, broken, breaking)
    for _ in range(2):
        with pytest.raises(error):
            prepare(corpus, bpe(), splits, show_progress=False)
    again = prepare(corpus, bpe(), splits, show_progress=False)
    assert files_of(tmp_path / "again") == expected
    assert sum(file.count.documents for file in again.values()) == (36 if len(splits) > 1 else 6)


@pytest.mark.parametrize("lost", [1, 40, 10**6])
def test_what_a_power_cut_took_from_the_files_is_encoded_again(tmp_path, monkeypatch, lost):
    """The files may be shorter than progress.json says, or gone."""
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    monkeypatch.setattr(data, "BLOCK", 4)
    prepare(corpus, bpe(), show_progress=False)
    expected = files_of(tmp_path / "caches")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path / "again"))
    calls = []

    def breaking(*args):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return replace_text(*args)

    replace_text = data.replace_text
    monkeypatch.setattr(data, "replace_text", breaking)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, bpe(), show_progress=False)
    path, = (tmp_path / "again").rglob("train.bin")
    counted = json.loads(path.with_name("progress.json").read_text())["counts"]["train"]["tokens"]
    left = 2 * counted - lost
    if left > 0:
        os.truncate(path, left)
    else:
        path.unlink()
    prepare(corpus, bpe(), show_progress=False)
    assert files_of(tmp_path / "again") == expected


DAMAGES = {"cut": lambda content: content[:len(content) // 2], "empty": lambda content: b"",
           "longer": lambda content: content + b"\0\0", "other": lambda content: b"[1]",
           "gone": None}


def damage(path: Path, kind: str) -> None:
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[kind](path.read_bytes()))


@pytest.mark.parametrize("name", ["counts.json", "train.bin", "validation.bin"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_token_file_is_made_anew(tmp_path, name, kind):
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    prepare(corpus, bpe(), show_progress=False)
    expected = files_of(tmp_path / "caches")
    path, = (tmp_path / "caches").rglob(name)
    damage(path, kind)
    prepare(corpus, bpe(), show_progress=False)
    assert files_of(tmp_path / "caches") == expected


@pytest.mark.parametrize("name", ["progress.json", "train.bin"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_half_of_a_preparation_is_made_anew(tmp_path, monkeypatch, name, kind):
    corpus = corpus_of(STORIES[:30], STORIES[30:])
    monkeypatch.setattr(data, "BLOCK", 4)
    prepare(corpus, bpe(), show_progress=False)
    expected = files_of(tmp_path / "caches")
    monkeypatch.setenv("PICOLM_CACHE", str(tmp_path / "again"))
    with monkeypatch.context() as broken:
        calls, encode = [], data.encode
        broken.setattr(data, "encode", lambda *args: calls.append(1) or (
            encode(*args) if len(calls) < 6 else [][0]))
        with pytest.raises(IndexError):
            prepare(corpus, bpe(), show_progress=False)
    path, = (tmp_path / "again").rglob(name)
    damage(path, kind)
    prepare(corpus, bpe(), show_progress=False)
    assert files_of(tmp_path / "again") == expected


@pytest.mark.parametrize(("block", "characters"), [(10_000, 10**6), (7, 10**6), (10_000, 100)])
def test_the_file_is_that_of_one_document_after_another(monkeypatch, block, characters):
    texts = [*STORIES, "", "é" * 300, "🦊", "<|endoftext|>"] * 3
    monkeypatch.setattr(data, "BLOCK", block)
    monkeypatch.setattr(data, "BLOCK_CHARACTERS", characters)
    told = [("validation" if i % 5 == 2 else "train", text) for i, text in enumerate(texts)]
    files = prepare(Corpus(lambda: iter(told), "mixed"), bpe(), show_progress=False)
    for name, file in files.items():
        ids = [0]
        for text in (text for split, text in told if split == name):
            ids += [*bpe().backend_tokenizer.encode(text, add_special_tokens=False).ids, 0]
        assert file.tokens.tolist() == ids
        assert file.count.tokens == len(ids)


def test_few_documents_are_in_memory_at_once(monkeypatch):
    """Reading stays at most as far ahead of writing as the blocks that are under way."""
    read, written = 0, []
    monkeypatch.setattr(data, "BLOCK", 10)

    def documents():
        nonlocal read
        for number in range(400):
            read += 1
            yield "validation" if number % 9 == 0 else "train", STORIES[number % 36]

    def noting(path, text):
        written.append((json.loads(text).get("done", read), read))
        return replace_text(path, text)

    replace_text = data.replace_text
    monkeypatch.setattr(data, "replace_text", noting)
    prepare(Corpus(documents, "long"), bpe(), show_progress=False)
    assert len(written) == 41
    assert max(read - done for done, read in written) <= 10 * (data.AHEAD - 1)


def test_a_tokenizer_of_ones_own_is_trained_once_on_the_training_documents(monkeypatch):
    corpus = corpus_of(STORIES, ["zzzz zzzz zzzz zzzz"] * 50)
    tokenizer = tokenizer_for("bpe:300", corpus)
    assert len(tokenizer) == 300
    assert not [token for token in tokenizer.get_vocab() if "zz" in token]
    monkeypatch.setattr(data, "train_bpe", lambda *_: pytest.fail("trained again"))
    assert tokenizer_for("bpe:300", corpus).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["bpe:", "bpe:many", "bpe:-5", "bpe:4_096"])
def test_a_size_that_is_no_number_is_refused(name):
    with refused(name, "bpe:4096"):
        tokenizer_for(name, corpus_of(STORIES, []))


# --- batches -------------------------------------------------------------------------------------

TOKENS = np.arange(1_003, dtype=np.uint16)  # a token is its own position, so a window says where


def test_targets_are_inputs_shifted_by_one_and_equal_the_file():
    tokens = np.random.default_rng(0).integers(0, 300, 500).astype(np.uint16)
    cuts = {tuple(tokens[i:i + 9]) for i in range(len(tokens) - 8)}
    batches = Batches(tokens, seq_len=8, batch_size=5)
    for _ in range(30):
        inputs, targets = batches.next()
        assert inputs.shape == targets.shape == (5, 8) and inputs.dtype == torch.int64
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        rows = torch.cat((inputs, targets[:, -1:]), dim=1)
        assert all(tuple(row) in cuts for row in rows.numpy())


def test_inputs_and_targets_of_a_batch_of_one_share_no_memory():
    inputs, targets = Batches(TOKENS, seq_len=8, batch_size=1).next()
    before = inputs.clone()
    targets.view(-1)[:] = IGNORE
    assert torch.equal(inputs, before)


def epoch_starts(batches: Batches) -> list[int]:
    """Where the windows of the epoch that begins now begin."""
    epoch, starts = batches.epoch, []
    while True:
        start = batches.next()[0][0, 0].item()
        if batches.epoch != epoch and starts:
            return starts
        epoch, starts = batches.epoch, [*starts, start]


@pytest.mark.parametrize("seed", range(4))
def test_every_window_comes_once_per_epoch(seed):
    starts = epoch_starts(Batches(TOKENS, seq_len=10, batch_size=1, seed=seed))
    first = min(starts)
    assert first < 10  # at most one window's worth is left out at either end
    assert sorted(starts) == list(range(first, len(TOKENS) - 10, 10))
    assert starts != sorted(starts)


def take(batches: Batches, number: int) -> list[list[int]]:
    return [batches.next()[0][:, 0].tolist() for _ in range(number)]


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    one, same, other = (Batches(TOKENS, 10, 1, seed) for seed in (1, 1, 2))
    first = take(one, 50)
    assert take(same, 50) == first != take(other, 50)
    later = Batches(TOKENS, 10, 1, seed=1)
    later.load_state_dict({"epoch": 1, "window": 0})
    assert take(later, 50) != first


@pytest.mark.parametrize("before", [0, 1, 32, 33, 34, 70])  # an epoch is about 33 batches
def test_the_position_of_a_run_is_two_integers(before):
    batches = Batches(TOKENS, seq_len=10, batch_size=3, seed=5)
    take(batches, before)
    state = json.loads(json.dumps(batches.state_dict()))
    assert len(state) == 2 and all(type(value) is int for value in state.values())
    expected = take(batches, 50)
    other = Batches(TOKENS, seq_len=10, batch_size=3, seed=5)
    take(other, 7)
    other.load_state_dict(state)
    assert take(other, 50) == expected


def test_data_shorter_than_the_context_are_refused():
    with refused("15 tokens", "16", "--max-seq-len"):
        Batches(TOKENS[:15], seq_len=16, batch_size=1)


@pytest.mark.parametrize(("length", "seq_len", "batch_size"), [
    (41, 8, 2), (42, 8, 2), (40, 8, 3), (9, 8, 4), (2, 8, 4), (1_003, 64, 5)])
def test_in_order_predicts_every_token_once(length, seq_len, batch_size):
    seen, ignored = [], 0
    for inputs, targets in in_order(TOKENS[:length], seq_len, batch_size):
        assert inputs.shape == targets.shape and inputs.shape[1] == seq_len
        assert len(inputs) <= batch_size
        counts = targets != IGNORE
        assert torch.equal(inputs[counts] + 1, targets[counts])
        seen += targets[counts].tolist()
        ignored += (~counts).sum().item()
    assert seen == list(range(1, length))
    assert ignored == -(length - 1) % seq_len


@pytest.mark.parametrize("limit", [1, 7, 8, 20, 10**6])
def test_in_order_stops_at_its_limit(limit):
    targets = torch.cat([t.flatten() for _, t in in_order(TOKENS, 8, 3, limit)])
    assert targets[targets != IGNORE].tolist() == list(range(1, min(limit, 1_002) + 1))


def test_the_windows_of_the_next_batch_are_announced(tmp_path, monkeypatch):
    """The system may fetch them from the disk while the model learns from the batch before."""
    np.arange(60_000, dtype="<u2").tofile(tmp_path / "train.bin")
    batches = Batches(np.memmap(tmp_path / "train.bin", dtype="<u2", mode="r"), 100, 8)
    announced, mapped = [], batches._file

    class Noting:
        def __len__(self) -> int:
            return len(mapped)

        def madvise(self, advice: int, start: int, length: int) -> None:
            mapped.madvise(advice, start, length)                    # refuses what is no whole page
            announced.append((start, start + length))

    batches._file = Noting()
    batches.next()
    ranges, announced[:] = list(announced), []
    inputs, targets = batches.next()
    starts, ends = 2 * inputs[:, 0], 2 * targets[:, -1] + 2          # a token is its own place
    assert len(ranges) == 8 and len(inputs) == 8
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        assert any(low <= start and end <= high for low, high in ranges)
    assert isinstance(mapped, mmap.mmap)


def test_batches_of_an_array_need_no_file():
    inputs, _ = Batches(np.arange(500, dtype=np.uint16), 16, 4).next()
    assert inputs.shape == (4, 16)
