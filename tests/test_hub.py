"""Data and tokenizers by their Hub names: a small server on this machine speaks the Hub's protocol.

What is asked for by name must be what lies in a local folder, bit for bit, on the same code path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import ROOT, STORIES, bpe
from safetensors.torch import load_file

from picolm_lib.report import read_metrics

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DATA, TOKENIZER = "writer/Stories", "writer/Tokens"


class Hub(BaseHTTPRequestHandler):
    """Serves the folders of `repositories`, as far as loading them asks for it."""

    repositories: dict[str, Path]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        """What is asked of some paths at once: /api/datasets/a/b/paths-info/main."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        kind, repository, _, _ = self._parts()
        folder = self.repositories[f"{kind}/{repository}"]
        self._json([self._entry(folder, folder / path) for path in asked.get("paths", ())
                    if (folder / path).exists()])

    def do_GET(self) -> None:
        kind, repository, what, path = self._parts()
        folder = self.repositories.get(f"{kind}/{repository}")
        if folder is None:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif what == "resolve":
            self._file(folder / path)
        elif what == "tree":
            if not (folder / path).is_dir():
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                files = sorted((folder / path).iterdir())
                self._json([self._entry(folder, file) for file in files])
        else:
            files = [{"rfilename": str(file.relative_to(folder))}
                     for file in sorted(folder.rglob("*")) if file.is_file()]
            self._json({"id": repository, "sha": COMMIT, "siblings": files, "private": False,
                        "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0})

    def _parts(self) -> tuple[str, str, str, str]:
        """Kind, repository, verb and path of /api/datasets/a/b/tree/main/c and others."""
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        words = words[1:] if words[0] == "api" else words
        kind = words.pop(0) if words[0] in ("datasets", "models") else "models"
        return kind, "/".join(words[:2]), "".join(words[2:3]), "/".join(words[4:])

    @staticmethod
    def _entry(folder: Path, file: Path) -> dict:
        path = str(file.relative_to(folder))
        if file.is_dir():
            return {"type": "directory", "path": path, "size": 0, "oid": COMMIT}
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": _etag(file)}

    def _file(self, file: Path) -> None:
        if not file.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        body, status = file.read_bytes(), 200
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first:last + 1], 206
        self._answer(status, body, headers)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


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
def hub(shelf, monkeypatch) -> Iterator[str]:
    """The server's address."""
    handler = type("OneHub", (Hub,), {"repositories": {
        f"datasets/{DATA}": shelf / "stories", f"models/{TOKENIZER}": shelf / "tokens"}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


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
