"""Writing files so that nothing is ever lost: a new file takes the old one's place in one move.

And a lock, so that two processes do not write the same ones.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from picolm_lib.config import PicoError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream to write the new content of `path` to.

    It goes to a temporary name, is forced to the disk, and is renamed when all of it is there. A
    crash at any moment leaves the old file or the new one. An error leaves the old one.

    Raises:
        PicoError: the disk is full.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        try:
            with part.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Says in one line that a disk is full or a folder is closed to us."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise PicoError(f"the disk is full: {str(path)!r} could not be written (what was there "
                            "before is unharmed); free some space, then go on with --resume."
                            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
            raise PicoError(f"{str(path)!r} cannot be written ({os.strerror(number)}); choose "
                            "another place.") from error
        raise


def _error_number(error: Exception) -> int | None:
    """The system's number; tokenizers, written in Rust, has it in the text of a bare Exception."""
    in_rust = re.search(r"\(os error (\d+)\)$", str(error)) if type(error) is Exception else None
    return int(in_rust[1]) if in_rust else getattr(error, "errno", None)


def replace_text(path: Path, text: str) -> None:
    """Replaces a text file as `replacing` does."""
    with replacing(path) as stream:
        stream.write(text.encode())


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes a run's folder and keeps other processes from training in it; reading stays allowed.

    The kernel holds the lock for the process and drops it when that ends, even by kill -9, so the
    file .lock that stays behind locks nobody out.

    Raises:
        PicoError: another process is there already, or the folder cannot be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise PicoError(f"another process is training in {str(folder)!r}; wait until it ends, "
                            "or choose another --run.") from None
    try:
        yield
    finally:
        lock.release()
