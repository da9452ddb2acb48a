"""A Hub on this machine: it serves folders as the Hugging Face Hub does, and fails when told to.

    with Hub({"datasets/roneneldan/TinyStories": folder}) as hub:
        hub.fail("GET /cdn/*.parquet", "drop")            # once, in the middle of the file
        hub.fail("*", "503", "503")                       # the first two requests of all
        hub.fail("* /api/*", "401 GatedRepo", always=True)
        ...                                               # a process with HF_ENDPOINT=hub.address
        assert hub.asked("GET /cdn/*.parquet *") == 2

A fault is an HTTP status, perhaps with the Hub's X-Error-Code, or one of two words: "drop" closes
the connection after half of the body, or before a HEAD is answered; "hang" never answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)
LARGE = (".parquet", ".safetensors")  # the Hub keeps these elsewhere and sends a redirect


class Hub:
    """Serves `repositories`: kind and name, such as "models/me/mine", -> folder."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.log: list[str] = []
        """Every request and how it ended: "GET /api/models/me/mine 200"."""
        self._faults: list[tuple[str, Iterator[str]]] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}"  # to clients another host
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on nothing listens at the address."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, pattern: str, *faults: str, always: bool = False) -> None:
        """Requests like `pattern`, as in "GET /api/*", meet these faults, one each, in turn.

        Args:
            always: begin again with the first fault after the last one.
        """
        self._faults.append((pattern, cycle(faults) if always else iter(faults)))

    def heal(self) -> None:
        """No faults any more, and an empty log."""
        self._faults.clear()
        self.log.clear()

    def asked(self, pattern: str) -> int:
        """How many lines of the log are like `pattern`, such as "GET /cdn/* 503"."""
        return sum(fnmatchcase(line, pattern) for line in self.log)

    def fault(self, request: str) -> str:
        """What this request shall meet: "" is nothing."""
        with self._lock:
            for pattern, faults in self._faults:
                if fnmatchcase(request, pattern) and (fault := next(faults, "")):
                    return fault
        return ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fault = self.hub.fault(f"{self.command} {path}")
        if self.fault == "hang":
            self._note("hang")
            self.hub.closing.wait()
            self.close_connection = True
        elif self.fault == "drop" and self.command == "HEAD":
            self._note("drop")
            self.close_connection = True
        elif self.fault and self.fault != "drop":
            status, _, code = self.fault.partition(" ")
            self._refuse(int(status), code)
        else:
            self._serve(path, parse_qs(body.decode()))

    def _serve(self, path: str, form: dict[str, list[str]]) -> None:
        """Paths are /api/KIND/OWNER/NAME/WHAT/REVISION/FILE; those of files begin with KIND.

        There "models" is left out. /cdn is where the Hub sends for large files.
        """
        words = path.strip("/").split("/")
        place = words.pop(0) if words[0] in ("api", "cdn") else ""
        kind = words.pop(0) if words[0] in ("datasets", "models") else "models"
        name, (what, revision, *rest) = "/".join(words[:2]), [*words[2:], "", ""]
        folder, file = self.hub.repositories.get(f"{kind}/{name}"), "/".join(rest).strip("/")
        if not folder:  # whether it is private is not told to those who are not logged in
            self._refuse(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        elif revision and revision not in REVISIONS:
            self._refuse(404, "RevisionNotFound")
        elif what == "resolve":
            self._file(folder / file, place)
        elif what == "tree":
            self._tree(folder, folder / file)
        elif what == "paths-info":
            self._json([_entry(folder, folder / path) for path in form.get("paths", ())
                        if (folder / path).exists()])
        elif what in ("", "revision"):
            files = [{"rfilename": str(path.relative_to(folder))}
                     for path in sorted(folder.rglob("*")) if path.is_file()]
            self._json({"id": name, "sha": COMMIT, "siblings": files, "private": False,
                        "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0})
        else:
            self._refuse(404, "")

    def _tree(self, folder: Path, branch: Path) -> None:
        if not branch.is_dir():
            self._refuse(404, "EntryNotFound")
            return
        files = branch.rglob("*") if "recursive=true" in self.path.lower() else branch.iterdir()
        self._json([_entry(folder, file) for file in sorted(files)])

    def _file(self, file: Path, place: str) -> None:
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        body = file.read_bytes()
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if file.suffix in LARGE and place != "cdn":
            headers |= {"Location": f"{self.hub.elsewhere}/cdn{self.path}",
                        "X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(body))}
            self._answer(302, b"", headers)
            return
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            self._answer(206, body[first:last + 1], headers)
        else:
            self._answer(200, body, headers)

    def _refuse(self, status: int, code: str) -> None:
        commit = {"X-Repo-Commit": COMMIT} if code == "EntryNotFound" else {}
        self._answer(status, b"", {"X-Error-Code": code, **commit} if code else {})

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._note("drop" if self.fault == "drop" else str(status))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.fault == "drop":
            body, self.close_connection = body[:len(body) // 2], True
        if self.command != "HEAD":
            self.wfile.write(body)

    def _note(self, ending: str) -> None:
        self.hub.log.append(f"{self.command} {unquote(urlsplit(self.path).path)} {ending}")

    def log_message(self, *_: object) -> None:
        pass


def _entry(folder: Path, file: Path) -> dict:
    path = str(file.relative_to(folder))
    if file.is_dir():
        return {"type": "directory", "path": path, "size": 0, "oid": COMMIT}
    return {"type": "file", "path": path, "size": file.stat().st_size, "oid": _etag(file)}


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
