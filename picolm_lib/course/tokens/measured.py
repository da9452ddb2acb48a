"""The stored measurements of notebook 01: real data and tokenizers that need the Hub, long runs.

tests/benchmarks/tokenizers.py and tests/benchmarks/vocabulary.py write the asset. Each part has an
"about" that says how, on what and when it was measured.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any

from picolm_lib.files import ASSETS, atomic_write_text

FILE = ASSETS / "tokenizers.json"


def read(part: str) -> Any:
    """One part of the asset, such as "kinds"."""
    return json.loads(FILE.read_text(encoding="utf-8"))[part]


def about(part: str) -> str:
    """How a part was measured: data, command, date."""
    return textwrap.fill(read(part)["about"], 100)


def store(**parts: Any) -> None:
    """Writes parts of the asset, and keeps the others."""
    found = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    text = json.dumps({**found, **parts}, indent=1, ensure_ascii=False)
    atomic_write_text(FILE, text + "\n")
