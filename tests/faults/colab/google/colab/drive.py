"""Google Drive: the folder $DRIVE, or a Drive that the learner declines."""

from __future__ import annotations

import os
from pathlib import Path


class MessageError(Exception):
    """As Colab has it."""


def mount(path: str) -> None:
    """Makes Drive's folder appear as path/MyDrive."""
    if not os.environ.get("DRIVE"):
        raise MessageError("Error: credential propagation was unsuccessful")
    place = Path(path) / "MyDrive"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(os.environ["DRIVE"])
    print(f"Mounted at {path}")
