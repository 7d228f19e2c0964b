"""The keys of files that other runs have committed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.keys import KeyColumnError, KeyHashes, column_number, hash_keys
from .. import storage
from .gather import GatheredKeys
from .index import Slice
from .spill import SPILL_ROWS

READ_ROWS = 1 << 16
"""Rows whose keys are read and hashed at once."""


class IndexTaken(beam.DoFn):
    """Paths of Parquet files to (shard, slice of an index), when the bundle is finished.

    Of the files only the key's columns are read.
    """

    def __init__(self, key: Sequence[str], folder: str, shards: int) -> None:
        self._key = tuple(key)
        self._folder = folder
        self._shards = shards

    def start_bundle(self) -> None:
        self._keys: GatheredKeys | None = None
        self._origin = ""
        self._slices: list[Slice] = []

    def process(self, path: str) -> None:
        for hashes in read_keys(path, self._key):
            if self._keys and (self._keys.keys >= SPILL_ROWS or self._keys.kinds != hashes.kinds):
                self._write()
            if not self._keys:
                self._keys, self._origin = GatheredKeys(hashes.kinds), path
            self._keys.add(hashes)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        self._write()
        for part in self._slices:
            yield GlobalWindows.windowed_value((part.shard, part))

    def _write(self) -> None:
        if self._keys:
            path = storage.join(self._folder, f"{uuid.uuid4().hex}.taken.index")
            self._slices += self._keys.write(path, "", self._origin, self._shards)
            self._keys = None


def read_keys(path: str, key: Sequence[str]) -> Iterator[KeyHashes]:
    """The hashes of the keys in a Parquet file, some rows at a time.

    Raises:
        KeyColumnError: a column is missing, or is nested.
        StorageError: the file cannot be read.
    """
    with storage.open_read(path) as file:
        for batch in _read_columns(path, file, key):
            try:
                hashes = hash_keys(batch, key)
            except KeyColumnError as exc:
                raise KeyColumnError(f"{path}: {exc}") from None
            yield hashes


def _read_columns(path: str, file: BinaryIO, key: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with _reading(path):
        parquet = pq.ParquetFile(file)
    for name in key:
        try:
            column_number(parquet.schema_arrow, name)
        except KeyColumnError as exc:
            raise KeyColumnError(f"{path}: {exc}") from None
    batches = parquet.iter_batches(READ_ROWS, columns=list(key))
    while True:
        with _reading(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _reading(path: str) -> Iterator[None]:
    with storage.named(path, "read"):
        try:
            yield
        except pa.ArrowInvalid as exc:
            raise storage.StorageError(f"cannot read {path}: {exc}", path) from exc
