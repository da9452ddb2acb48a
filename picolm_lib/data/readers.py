"""Documents out of a file: plain text, JSON, Parquet or Arrow.

Nothing is guessed: what a file does not plainly say is refused, in one line that names the place.
A row without text is an empty document, which corpus.py skips and counts.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import GzipFile
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from picolm_lib.config import PicoError
from picolm_lib.data.columns import TEXT, arrow_column, arrow_texts, text_column
from picolm_lib.data.tokenizer import END_OF_TEXT
from picolm_lib.files import first_line

# A file that begins with one of these says its encoding itself.
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32",
                    codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
                    codecs.BOM_UTF16_BE: "utf-16"}
FIRST_BYTES = {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip archive", b"PAR1": "Parquet",
               b"(\xb5/\xfd": "a zstd file", b"ARROW1": "Arrow", b"%PDF": "a PDF"}
LFS_POINTER = b"version https://git-lfs"
JSON_TYPES = {str: TEXT, bool: "true or false", int: "number", float: "number", list: "list",
              dict: "object", type(None): "null"}
# Rows at a time; of JSON, the first ones decide which column has the texts.
ROWS = 1_000
DAMAGES = (OSError, EOFError, zlib.error, ValueError, NotImplementedError, RecursionError)


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, in small letters and without .gz; "" for others."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    kind = Path(plain).suffix
    # Parquet and Arrow are read from their ends, and are compressed inside.
    return kind if kind in READERS and (name == plain or READERS[kind] in (_text, _json)) else ""


def content_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, unpacked, in hexadecimal digits."""
    sha = hashlib.sha256()
    with _opened(path) as stream:
        while block := stream.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def read_documents(path: Path) -> Iterator[str]:
    """The documents of one file, in order.

    Raises:
        PicoError: the file is damaged, or not what its name says.
    """
    return READERS[kind_of(path)](path)


def _text(path: Path) -> Iterator[str]:
    """A line "<|endoftext|>" ends a document. In a file without such a line, an empty one does."""
    end = END_OF_TEXT if any(line.strip() == END_OF_TEXT for line in _lines(path)) else ""
    lines: list[str] = []
    for line in chain(_lines(path), [end]):
        if line.strip() != end:
            lines.append(line)
        elif lines:
            yield "".join(lines).strip("\n")
            lines = []


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as stream:
        for number, line in enumerate(_decoded(stream), start=1):
            if "\0" in line:
                raise _unreadable(path, f"line {number} contains NUL: it is {_nature(path)}")
            yield line


def _json(path: Path) -> Iterator[str]:
    """One object per line, or one list of objects."""
    with _opened(path) as stream:
        text = _decoded(stream)
        is_list = next((line for line in text if line.strip()), "").lstrip().startswith("[")
        text.seek(0)
        yield from _row_texts(_listed(text) if is_list else _line_by_line(text, path), path)


def _listed(text: TextIO) -> Iterator[tuple[str, Any]]:
    rows = json.load(text, object_pairs_hook=_unique)
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _line_by_line(text: TextIO, path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text, start=1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_unique)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "") or first_line(error)
                raise _unreadable(path, f"line {number}: {reason}") from error
            yield f"line {number}", row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("a name comes twice in one object")
    return row


def _row_texts(rows: Iterator[tuple[str, Any]], path: Path) -> Iterator[str]:
    head, types = list(islice(rows, ROWS)), dict[str, str]()
    for where, row in head:
        for name, value in _checked(row, dict, where, path).items():
            # Text in some rows: then those without it are at fault, each in its place.
            if types.get(name) in (None, "null") or isinstance(value, str):
                types[name] = JSON_TYPES[type(value)]
    column = text_column(types, path) if head else ""
    for where, row in chain(head, rows):
        value = _checked(row, dict, where, path).get(column)
        # Its texts are in another column than those of the first rows.
        if column not in row and (column != "text" and any(type(v) is str for v in row.values())):
            raise _unreadable(path, f"{where} has no {column!r}, from which the rows before it "
                                    "were read")
        if column != "text" and "text" in row:
            raise _unreadable(path, f"{where} has a 'text', and the rows before it have none")
        text = _checked("" if value is None else value, str, f"{where}, {column!r},", path)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _unreadable(path, f"{where} contains half of a character") from None
        yield text


def _checked(value: Any, kind: type, where: str, path: Path) -> Any:
    if not isinstance(value, kind):
        raise _unreadable(path, f"{where} is of type {JSON_TYPES[type(value)]}, not "
                                f"{JSON_TYPES[kind]}")
    return value


def _parquet(path: Path) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile

    with _opened(path) as stream:
        file = ParquetFile(stream)
        column = arrow_column(file.schema_arrow, path)
        for batch in file.iter_batches(ROWS, columns=[column]):
            # By its name, since a nested column may have the same path.
            yield from arrow_texts(batch.column(batch.schema.get_field_index(column)))


def _arrow(path: Path) -> Iterator[str]:
    """As `datasets` saves it: a stream of batches, or a file with an index at its end."""
    from pyarrow import ipc

    with _opened(path) as stream:
        has_index = stream.read(6) == b"ARROW1"
        stream.seek(0)
        file = ipc.open_file(stream) if has_index else ipc.open_stream(stream)
        column = file.schema.get_field_index(arrow_column(file.schema, path))
        for batch in map(file.get_batch, range(file.num_record_batches)) if has_index else file:
            # Arrow believes what a file says of itself: a flipped bit there ends the process.
            batch.validate(full=True)
            yield from arrow_texts(batch.column(column))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked; what goes wrong while it is read becomes one line."""
    try:
        with path.open("rb") as packed:
            if packed.read(len(LFS_POINTER)) == LFS_POINTER:
                raise _unreadable(path, "it is the pointer that Git LFS leaves; run: git lfs pull")
            packed.seek(0)
            is_gz = path.name.lower().endswith(".gz")
            yield cast(BinaryIO, GzipFile(fileobj=packed)) if is_gz else packed
    except PicoError:
        raise
    except UnicodeDecodeError as error:
        reason = f"{_line_of(path, error)}it is not valid {error.encoding.upper()}"
        if error.reason == "unexpected end of data":
            reason = "it ends within a character"
        elif error.encoding == "utf-8" and READERS[kind_of(path)] in (_text, _json):
            reason += f", but {_nature(path)}"
        raise _unreadable(path, reason) from error
    except DAMAGES as error:
        raise _unreadable(path, getattr(error, "strerror", "") or first_line(error)) from error


def _decoded(stream: BinaryIO) -> TextIO:
    """Text whose lines end as "\\n", whatever system wrote them; UTF-8 where no mark says else."""
    start = stream.read(4)
    stream.seek(0)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)),
                    "utf-8")
    return TextIOWrapper(stream, encoding)


def _line_of(path: Path, error: UnicodeDecodeError) -> str:
    """Of UTF-8 text the line of the error, which was found in a block of many lines."""
    if error.encoding != "utf-8" or READERS[kind_of(path)] not in (_text, _json):
        return ""
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number}: "
    return ""


def _nature(path: Path) -> str:
    """What a file is that is not UTF-8 text, as far as its first bytes say."""
    with _opened(path) as stream:
        head = stream.read(4_096)
    for begin, name in FIRST_BYTES.items():
        if head.startswith(begin):
            return name
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = head.decode(encoding, errors="replace")
        # Only there have a space and the end of a line bytes that are zero.
        plain = all(sign.isprintable() or sign.isspace() for sign in text[:-1])
        if plain and set(text) & set(" \n"):
            return f"{encoding.upper()} without a byte order mark"
    return "binary data" if 0 in head else "another encoding, such as Windows-1252 or Latin-1"


def _unreadable(path: Path, reason: str) -> PicoError:
    return PicoError(f"{str(path)!r} cannot be read ({reason}); fix it, convert it to text in "
                     "UTF-8, or take it out of --data.")


READERS = {".txt": _text, ".jsonl": _json, ".ndjson": _json, ".json": _json, ".parquet": _parquet,
           ".arrow": _arrow}
