"""Writing files so that nothing is lost: a new file replaces the old one in a single rename.

Files of tensors carry a checksum of their content, and one that does not match it is refused: a
flipped bit in a weight crashes nothing, it only makes a model worse. And a lock keeps two processes
from writing into the same folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from picolm_lib.config import PicoError

# What the system says of a place where nothing can be written.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
              errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOTEMPTY)
ASSETS = Path(__file__).parent / "assets"
CACHE_WAY_OUT = "set PICOLM_CACHE to a folder that can"


def cache_folder() -> Path:
    """Where token files are kept: $PICOLM_CACHE, or ~/.cache/picolm."""
    try:
        return Path(os.environ.get("PICOLM_CACHE") or "~/.cache/picolm").expanduser()
    except RuntimeError:
        raise PicoError("this user has no home folder for the cache; set PICOLM_CACHE to a folder."
                        ) from None


@contextmanager
def atomic_write(path: Path) -> Iterator[BufferedRandom]:
    """A stream to write the new content of `path` to, and to read it back from.

    The content goes to a temporary file beside it, which is synced to the disk and then renamed. A
    crash at any moment leaves the old file or the new one, whole. An error leaves the old one.

    Raises:
        PicoError: the disk is full, or `path` cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        try:
            with part.open("w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and all that caused it, the latest first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def printable(name: str) -> str:
    """A name as it is, or with escapes where it has characters that a terminal cannot show."""
    return name if name.isprintable() else ascii(name)


def listed(names: list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


@contextmanager
def disk_errors(path: Path, way_out: str = "choose another place") -> Iterator[None]:
    """Turns a full disk, or a folder that may not be written, into a PicoError of one line.

    A library may hide the system's error behind one of its own, as torch.save does. So the whole
    chain of causes is searched.

    Args:
        way_out: what to do where the place cannot be written.
    """
    try:
        yield
    except PicoError:
        raise
    except Exception as error:
        for cause in causes(error):
            number = _error_number(cause)
            if number in (errno.ENOSPC, errno.EDQUOT):
                raise PicoError(f"the disk is full: {str(path)!r} could not be written (what was "
                                "there before is intact); free some space, then run the command "
                                "again, with --resume if it was training.") from error
            if number in UNWRITABLE:
                raise PicoError(f"{str(path)!r} cannot be written ({os.strerror(number)}); "
                                f"{way_out}.") from error
        raise


def _error_number(error: BaseException) -> int | None:
    """The system's number; tokenizers, written in Rust, has it in the text of a bare Exception."""
    in_rust = re.search(r"\(os error (\d+)\)$", str(error)) if type(error) is Exception else None
    return int(in_rust[1]) if in_rust else getattr(error, "errno", None)


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a text file, in UTF-8, as `atomic_write` does."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


def save_tensors(path: Path, tensors: dict[str, Tensor], **metadata: str) -> None:
    """Writes CPU tensors as safetensors, with their SHA-256 and with texts that describe them."""
    metadata |= {"format": "pt", "sha256": _sha256(tensors, metadata)}
    with atomic_write(path) as stream:
        stream.write(save(tensors, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads what `save_tensors` wrote, checking its SHA-256: tensors and metadata.

    Raises:
        PicoError: the file is missing or damaged.
    """
    if not path.exists():
        raise PicoError(f"there is no {str(path)!r}; the run has not saved its model yet.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        intact = metadata.get("sha256") == _sha256(tensors, metadata)
    except (SafetensorError, OSError, ValueError) as error:
        raise PicoError(f"{str(path)!r} is damaged ({error}).") from error
    if not intact:
        raise PicoError(f"{str(path)!r} is damaged: its content does not match its checksum.")
    return tensors, metadata


def _sha256(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    sha = hashlib.sha256()
    for name in sorted(metadata.keys() - {"format", "sha256"}):
        sha.update(f"{name} {metadata[name]}".encode())
    for name in sorted(tensors):
        value = tensors[name]
        sha.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def append_sha256(stream: BufferedRandom) -> None:
    """Ends a file with the SHA-256 of all bytes before it; the stream must be readable."""
    stream.seek(0)
    # Hashing reads to the end of the file, which is where the digest goes.
    stream.write(hashlib.file_digest(stream, "sha256").digest())


def ends_with_sha256(path: Path) -> bool:
    """Whether the last bytes of a file are the SHA-256 of all bytes before them."""
    sha = hashlib.sha256()
    left = path.stat().st_size - sha.digest_size
    if left <= 0:
        return False
    with path.open("rb") as stream:
        while left and (block := stream.read(min(left, 2**20))):
            sha.update(block)
            left -= len(block)
        return stream.read() == sha.digest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def lock_run_dir(folder: Path) -> Iterator[None]:
    """Creates a run's folder and locks it, so that one process trains in it; reading is allowed.

    The operating system releases the lock when the process ends, even by kill -9. The file .lock
    stays behind; it does not block later runs.

    Raises:
        PicoError: another process has the lock, or the folder cannot be created.
    """
    is_new = not os.path.exists(folder)
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
        # A command that was refused leaves no folder.
        if is_new and [path.name for path in folder.iterdir()] == [".lock"]:
            shutil.rmtree(folder, ignore_errors=True)
