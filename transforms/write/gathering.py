"""What encoders of rows share: small batches are gathered, large ones are written in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

PIECE_ROWS = 16 * 1024
"""Rows that are written at a time: the texts of more columns than fit the cache are dear."""
PIECE_BYTES = 128 << 20
"""Bytes that are written at a time: Arrow's strings end at 2 GiB a column."""
GATHERED_ROWS = 4 * 1024
GATHERED_BYTES = 16 << 20
"""Rows and bytes that small batches are gathered to: each write costs some milliseconds."""


class GatheringEncoder(ABC):
    """Writes rows to a file object that somebody else opened and closes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    @abstractmethod
    def encoded(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """The bytes of some rows, at most a piece of them."""

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= GATHERED_ROWS or self._bytes >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the batches that wait."""
        if self._waiting:
            gathered = pa.concat_batches(self._waiting)
            self._waiting, self._rows, self._bytes = [], 0, 0
            for piece in _pieces(gathered):
                for data in self.encoded(piece):
                    self._file.write(data)

    def close(self) -> None:
        """Write what still waits. No format of rows has an end of its own."""
        self.flush()


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = batch.num_rows
    step = max(1, min(PIECE_ROWS, rows * PIECE_BYTES // max(1, batch.nbytes)))
    for start in range(0, rows, step):
        yield batch.slice(start, step)
