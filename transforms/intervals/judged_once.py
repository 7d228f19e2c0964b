"""Whether records were judged by one that knew all that was kept before them."""

from __future__ import annotations

from collections import OrderedDict

from ..carry import NewKeys
from .chain import Overtaken

_REMEMBERED = 10_000
"""Versions of states, of which it is known what keys they gave."""


class JudgedOnce:
    """Sees, by the keys that were kept, that no two judged at once."""

    def __init__(self) -> None:
        self._memories: set[str] = set()
        self._kept: OrderedDict[bytes, int] = OrderedDict()
        self._is_forked = False

    def add(self, new: NewKeys) -> None:
        """Take in keys that were kept. The same may come again."""
        if new.memory:
            self._memories.add(new.memory)
            return
        if not new.version:
            return
        digest = hash(new.keys)
        self._is_forked |= self._kept.setdefault(new.version, digest) != digest
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)

    def check(self) -> None:
        """See that all is well.

        Raises:
            Overtaken: two have judged that knew nothing of each other.
        """
        if self._is_forked or len(self._memories) > 1:
            raise Overtaken(
                "two workers have looked for duplicates at once, and neither knew what the other "
                "had kept: nothing of it is committed, go on by the same command"
            )
