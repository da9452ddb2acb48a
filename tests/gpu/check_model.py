"""Forward pass, loss and gradients on the GPU, beside the CPU."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any


def part(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """In float32, bfloat16 and the T4's policy."""
    yield from ()
