"""Data and tokenizers by their Hub names: a small server on this machine speaks the Hub's protocol.

What is asked for by name must be what lies in a local folder, bit for bit, on the same code path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import ROOT, STORIES, bpe
from hub_server import Hub
from safetensors.torch import load_file

from picolm_lib.report import read_metrics

DATA, TOKENIZER = "writer/Stories", "writer/Tokens"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A data set with a validation split of its own, and a tokenizer."""
    shelf = tmp_path_factory.mktemp("shelf")
    for split, texts in (("train", STORIES[:30]), ("validation", STORIES[30:])):
        file = shelf / "stories" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts}), file)
    bpe().save_pretrained(shelf / "tokens")
    return shelf


@pytest.fixture
def hub(shelf) -> Iterator[str]:
    """The server's address."""
    folders = {f"datasets/{DATA}": shelf / "stories", f"models/{TOKENIZER}": shelf / "tokens"}
    with Hub(folders) as hub:
        yield hub.address


def python(folder: Path, run: str, hub: str, *arguments: str) -> subprocess.CompletedProcess:
    """A Python process of its own, with caches of its own."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, cwd=folder,
        env={**kept, "HF_ENDPOINT": hub, "HF_HOME": str(folder / f"{run}-hf"),
             "PICOLM_CACHE": str(folder / f"{run}-cache"), "OMP_NUM_THREADS": "1"})


def train(folder: Path, run: str, hub: str, data: object, tokenizer: object,
          ) -> subprocess.CompletedProcess:
    """A run of two steps."""
    return python(
        folder, run, hub, str(ROOT / "run_train.py"), "--preset", "smoke", "--max-seq-len", "16",
        "--d-model", "16", "--prompt", "The", "--max-steps", "2", "--device", "cpu", "--data",
        str(data), "--tokenizer", str(tokenizer), "--run", str(folder / run))


def test_names_on_the_hub_train_as_the_local_folders_do(hub, shelf, tmp_path):
    runs = {"named": (DATA, TOKENIZER), "local": (shelf / "stories", shelf / "tokens")}
    for run, (data, tokenizer) in runs.items():
        done = train(tmp_path, run, hub, data, tokenizer)
        assert done.returncode == 0, done.stderr
    named, local = (load_file(tmp_path / run / "model.safetensors") for run in runs)
    assert named.keys() == local.keys()
    assert all(torch.equal(named[name], local[name]) for name in local)
    evaluations = [m for m in read_metrics(tmp_path / "named") if m["kind"] == "evaluation"]
    assert evaluations[-1]["step"] == 2


@pytest.mark.parametrize(("data", "tokenizer", "name"), [
    ("writer/Nothing", TOKENIZER, "writer/Nothing"), (DATA, "writer/Nobody", "writer/Nobody")])
def test_a_name_that_the_hub_does_not_know_is_one_line(hub, tmp_path, data, tokenizer, name):
    done = train(tmp_path, "run", hub, data, tokenizer)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr


def test_stories_come_as_a_stream(hub, tmp_path):
    done = python(tmp_path, "stream", hub, "-c",
                  "from picolm_lib.course.tokens import sources\n"
                  f"print(sources.tinystories(3, {DATA!r}), len(sources.smollm({TOKENIZER!r})))")
    assert done.stdout.strip() == f"{STORIES[30:33]} {len(bpe())}", done.stderr
