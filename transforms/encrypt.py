"""Encrypt: dead letters to dead letters with payloads that only a key opens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .encryption import encrypted, keys_of


class Encrypt(beam.PTransform):
    """Encrypt payloads, and what messages carried: ``PCollection[pa.RecordBatch]`` → the same.

    Batches are dead letters, by ``millstream.schemas.dead_letters.SCHEMA``. What is encrypted
    already stays as it is.

    Args:
        variable: the environment variable of the workers that holds the keys; nothing else of
            them is in the pipeline.

    Raises:
        EncryptionError: in the pipeline, if the keys cannot be used.
    """

    def __init__(self, variable: str) -> None:
        super().__init__()
        self._encrypt = _EncryptFn(variable)

    def expand(self, pcoll: beam.PCollection) -> Any:
        return pcoll | "Payloads" >> beam.ParDo(self._encrypt).with_output_types(pa.RecordBatch)


class _EncryptFn(beam.DoFn):
    def __init__(self, variable: str) -> None:
        self._variable = variable

    def setup(self) -> None:
        self._keys = keys_of(self._variable)

    def process(self, letters: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield encrypted(letters, self._keys)
