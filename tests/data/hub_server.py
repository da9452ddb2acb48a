"""A local Hub: it serves folders as the Hugging Face Hub does, and fails on purpose.

    with Hub({"datasets/roneneldan/TinyStories": folder}) as hub:
        hub.fail("GET *.parquet", ["drop"])              # once, in the middle of the file
        hub.fail("*", ["503", "503"])                     # the first two requests of all
        hub.fail("* /api/*", repeat("401 GatedRepo"))     # always
        ...                                               # a process with HF_ENDPOINT=hub.address
        assert hub.asked("GET *.parquet *") == 2

A fault is an HTTP status, perhaps with the Hub's X-Error-Code, or one of two words: "drop" closes
the connection after half of the body, or before a HEAD is answered; "hang" never answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# /api/KIND/OWNER/NAME/WHAT/REVISION/PATH; of files, KIND/OWNER/NAME/resolve/REVISION/PATH, where
# "models" is left out.
ROUTE = re.compile(r"(?:/api)?/(datasets|models)?/?([^/]+/[^/]+)(?:/(\w+)/[^/]+/?(.*))?")


class Hub(ThreadingHTTPServer):
    """Serves `repositories`: kind and name, such as "models/me/mine", -> folder."""

    request_queue_size = 64

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.log: list[str] = []
        """Every request and how it ended: "GET /api/models/me/mine 200"."""
        self.sent = Counter[str]()
        """Bytes of content, by the file's path in its repository."""
        self.faults: list[tuple[str, Iterator[str]]] = []
        self.commit = COMMIT
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on nothing listens at the address."""
        self.closing.set()
        self.shutdown()
        self.server_close()

    def fail(self, pattern: str, faults: Iterable[str]) -> None:
        """Requests that match `pattern`, such as "GET /api/*", get these faults, one each."""
        self.faults.append((pattern, iter(faults)))

    def asked(self, pattern: str) -> int:
        """How many lines of the log match `pattern`, such as "GET *.parquet 503"."""
        return sum(fnmatchcase(line, pattern) for line in self.log)

    def next_fault(self, request: str) -> str:
        for pattern, faults in self.faults:
            if fnmatchcase(request, pattern) and (fault := next(faults, "")):
                return fault
        return ""


def _blob(file: Path) -> str:
    """What identifies the content of a file; of a folder, anything."""
    return hashlib.sha1(file.read_bytes() if file.is_file() else b"").hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked = f"{self.command} {path}"
        self.fault = self.server.next_fault(self.asked)
        if self.fault == "hang":
            self.server.log.append(f"{self.asked} hang")
            self.server.closing.wait()
            self.close_connection = True
        elif self.fault not in ("", "drop"):
            self._refuse(*self.fault.split())
        else:
            self._serve(*ROUTE.fullmatch(path).groups(""))

    do_HEAD = do_GET

    def _serve(self, kind: str, name: str, what: str, path: str) -> None:
        folder = self.server.repositories.get(f"{kind or 'models'}/{name}")
        # Without a login, the Hub does not say whether a repository is missing or private.
        if not folder:
            self._refuse("401", "RepoNotFound")
        elif what == "resolve":
            self._serve_file(folder / path)
        elif what == "tree" and not (folder / path).is_dir():
            self._refuse("404", "EntryNotFound")
        elif what == "tree":
            pattern = "**/*" if "recursive=true" in self.path.lower() else "*"
            self._json([{"type": "directory" if file.is_dir() else "file", "oid": _blob(file),
                         "path": str(file.relative_to(folder)), "size": file.stat().st_size}
                        for file in sorted((folder / path).glob(pattern))])
        else:
            files = [{"rfilename": str(file.relative_to(folder))}
                     for file in sorted(folder.rglob("*")) if file.is_file()]
            self._json({"id": name, "sha": self.server.commit, "siblings": files})

    def _serve_file(self, file: Path) -> None:
        if not file.is_file():
            self._refuse("404", "EntryNotFound")
            return
        body = file.read_bytes()
        headers = {"ETag": f'"{_blob(file)}"', "Accept-Ranges": "bytes"}
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            self._answer(206, body[first:last + 1], headers)
        else:
            self._answer(200, body, headers)

    def _refuse(self, status: str, code: str = "") -> None:
        self._answer(int(status), b"", {"X-Error-Code": code})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, object]) -> None:
        self.server.log.append(f"{self.asked} {self.fault or status}")
        self.close_connection |= self.fault == "drop"
        if self.fault == "drop" and self.command == "HEAD":
            return
        self.send_response(status)
        headers = {**headers, "X-Repo-Commit": self.server.commit, "Content-Length": len(body)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            body = body[:len(body) // 2] if self.fault == "drop" else body
            path = self.asked.rpartition(f"/resolve/{self.server.commit}/")[2]
            self.server.sent[path] += len(body)
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
