"""Files of documents, as people have them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_rows(path: Path, rows: list) -> None:
    """Rows as Parquet, Arrow, a list of JSON, or JSON line by line, as the name's end asks for."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "arrow":
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    else:
        lines = json.dumps(rows, indent=1) if kind == "json" else "".join(
            json.dumps(row) + "\n" for row in rows)
        _write(path, lines)


def write_texts(path: Path, texts: list[str]) -> None:
    """Documents in any kind of file."""
    if path.name.lower().removesuffix(".gz").endswith(".txt"):
        _write(path, "\n\n".join(texts))
    else:
        write_rows(path, [{"text": text} for text in texts])


def _write(path: Path, text: str) -> None:
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
