"""A disk that counts what a process does to it, and strikes at the n-th time.

What Python writes is seen: opening, writing, fsync, rename and mkdir below some folders. What a
library writes past Python (tokenizers, in Rust) is not; test_full_disk.py has a small real disk for
that.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from pathlib import Path
from typing import Any

FAULTS = ("full", "full once", "kill", "terminate")


class Disk:
    """Watches this process.

    Args:
        folders: what happens elsewhere is none of our business.
        at: number of the event, from 1, that the fault comes with; 0: never.
        fault: "full" (no space from then on), "full once", "kill" (SIGKILL, in the middle of a
            write, before anything else), "terminate" (SIGTERM to ourselves).
    """

    def __init__(self, folders: list[str], at: int = 0, fault: str = "kill") -> None:
        self.folders = tuple(os.path.join(os.path.realpath(f), "") for f in folders)
        self.at, self.fault, self.events = at, fault, []
        self._watch_calls()
        self._watch_streams()

    def event(self, kind: str, path: object, half: Any = None) -> None:
        """Something is about to happen; `half` does the first part of it."""
        self.events.append(f"{kind} {Path(os.fsdecode(path)).name}")
        number = len(self.events)
        if number == self.at or (self.fault == "full" and 0 < self.at < number):
            if self.fault == "kill":
                if half:
                    half()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "terminate":
                os.kill(os.getpid(), signal.SIGTERM)
                return
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def watches(self, path: object) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return os.path.realpath(os.fsdecode(path)).startswith(self.folders)

    def _watch_calls(self) -> None:
        for name, where in (("replace", 1), ("rename", 1), ("mkdir", 0), ("fsync", 0)):
            self._watch_call(name, where)
        real_open = os.open

        def opened(path, flags, *args, **kwargs):
            if flags & os.O_CREAT and not os.path.exists(path) and self.watches(path):
                self.event("create", path)
            return real_open(path, flags, *args, **kwargs)
        os.open = opened

    def _watch_call(self, name: str, where: int) -> None:
        real = getattr(os, name)

        def call(*args, **kwargs):
            path = args[where]
            if self.watches(path) and not (name == "mkdir" and os.path.exists(path)):
                self.event(name, os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int)
                           else path)
            return real(*args, **kwargs)
        setattr(os, name, call)

    def _watch_streams(self) -> None:
        disk, real_open = self, io.open

        class Watched(io.FileIO):
            def write(self, data):
                size = memoryview(data).nbytes
                disk.event("write", self.name, lambda: super(Watched, self).write(
                    memoryview(data).cast("B")[:size // 2]))
                return super().write(data)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None,
                   closefd=True, opener=None):
            if not set(mode) & set("wax+") or isinstance(file, int) or not self.watches(file):
                return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            if not os.path.exists(file):
                self.event("create", file)
            raw = Watched(os.fspath(file), mode.replace("b", "").replace("t", ""))
            stream = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)
        builtins.open = io.open = opened
