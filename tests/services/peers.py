"""What a real service offers to the tests of destinations.

A module of this package that starts one has ``why_not() -> str`` (why it cannot be had here; empty
if it can) and ``running() -> ContextManager[Peer]``. :mod:`.destinations` lists them.

Where a row may arrive twice, its peer has ``read_distinct`` beside ``read``: what a reader has who
drops what was there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa


class Peer(Protocol):
    """A running service, seen from a test.

    ``environment`` is what a process needs to reach it (addresses, passwords). It is set in the
    test's own process too.
    """

    environment: Mapping[str, str]

    def uri(self, table: str, query: str = "") -> str:
        """The destination's URI of a table (topic), which need not exist yet. ``query`` holds
        options, as ``mode=upsert``."""
        ...

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        """The visible rows, in any order, read by a client that is not ours, as columns of
        ``schema``: names that the table lacks are left out, others are cast to its types."""
        ...

    def refuse_negative(self, table: str, column: str) -> None:
        """Have the existing table refuse rows whose ``column`` is below zero.

        Raises:
            NotImplementedError: the service has no such constraints.
        """
        ...

    def interrupt_commit(self) -> tuple[str, str]:
        """``module:Class`` and attribute of the client's call that makes a load visible, to be
        patched by tests: before it nothing is visible, after it everything is."""
        ...
