"""A home for the commands of a file: data of every kind, a tokenizer, and a finished run."""

from __future__ import annotations

import json

import pytest
from calls import train
from helpers import STORIES, bpe, isolate


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A folder with caches, data of every kind and a tokenizer, for all tests of this file."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, folder / "caches")
        (folder / "stories.txt").write_text("\n\n".join(STORIES))
        (folder / "stories.jsonl").write_text(
            "".join(json.dumps({"text": story}) + "\n" for story in STORIES))
        pyarrow.parquet.write_table(pyarrow.table({"text": STORIES}), folder / "stories.parquet")
        bpe().save_pretrained(folder / "tokenizer")
        yield folder


@pytest.fixture(scope="module")
def trained(home):
    """A finished run of six steps."""
    code, _, errors = train(home, home / "trained", "--checkpoint-minutes", "1e-9")
    assert code == 0, errors
    return home / "trained"
