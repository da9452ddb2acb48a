"""A dictionary that counts how often something is looked up in it."""

from __future__ import annotations

from collections.abc import KeysView
from typing import Any


class Counted(dict):
    """Every look-up counts one; going through all entries counts each of them."""

    looked_up = 0

    def _count(self, times: int = 1) -> None:
        self.looked_up += times

    def __getitem__(self, key: Any) -> Any:
        self._count()
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._count()
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._count()
        return super().__contains__(key)

    def __iter__(self) -> Any:
        self._count(len(self))
        return super().__iter__()

    def keys(self) -> Any:
        # It looks up in this dictionary, as the built-in one would not.
        return KeysView(self)

    def items(self) -> Any:
        self._count(len(self))
        return super().items()

    def values(self) -> Any:
        self._count(len(self))
        return super().values()

    def copy(self) -> Any:
        self._count(len(self))
        return super().copy()
