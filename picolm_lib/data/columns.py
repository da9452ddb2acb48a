"""The column of a table that has the texts: "text", or the only one that has any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from picolm_lib.config import PicoError
from picolm_lib.files import listed

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = "text"


def arrow_column(schema: pa.Schema, path: object) -> str:
    """The name of a table's column of texts; PicoError as of `text_column`."""
    types: dict[str, str] = {}
    for field in schema:
        types[field.name] = ("twice the same name" if field.name in types else
                             TEXT if _is_text(field) else str(field.type))
    return text_column(types, path)


def _is_text(field: pa.Field) -> bool:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    # Some tools store text as bytes; only the name says that it is text.
    return (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
            or field.name == "text" and (types.is_binary(kind) or types.is_large_binary(kind)))


def arrow_texts(column: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """The texts of a column that `arrow_column` has chosen."""
    for value in column.to_pylist():
        yield value.decode() if isinstance(value, bytes) else value or ""


def text_column(types: dict[str, str], path: object) -> str:
    """The column of texts: "text", or else the only one that has texts.

    Args:
        types: of each column; TEXT where it has texts.
        path: of the file, for the message.

    Raises:
        PicoError: there is none, or several and none is called "text".
    """
    texts = [name for name, kind in types.items() if kind == TEXT]
    column = "text" if "text" in types or len(texts) != 1 else texts[0]
    if column not in texts:
        has = listed([f"{name!r} ({kind})" for name, kind in types.items()], 8) or "none"
        raise PicoError(f"{str(path)!r} needs a column 'text', or a single column of texts; it "
                        f"has {has}; name the one to learn from 'text'.")
    return column
