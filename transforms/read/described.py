"""What files say of how their records are read, for dead letters that are made later.

A record that is refused where its file is read has that in its dead letter. It does not travel with
records; so what a later stage refuses gets it from the file once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from ..dead_letters import with_attributes
from .files import match_files
from .records import RecordReader


class Described:
    """What files say of how their records are read, each asked once."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader
        self._said: dict[str, dict[str, str] | None] = {}

    def __getitem__(self, source: str) -> dict[str, str] | None:
        """As attributes of dead letters; ``None`` if the file is gone, or another one by now."""
        if source not in self._said:
            try:
                (file,) = match_files([source])
                self._said[source] = self._reader.attributes(self._reader.ranges([file])[0])
            except (OSError, ValueError, IndexError):
                self._said[source] = None
        return self._said[source]


class Describe(beam.PTransform):
    """Dead letters of a later stage with what it takes to read their payloads again.

    ``PCollection[pa.RecordBatch]`` of dead letters → the same. Those of files that are gone stay as
    they are.
    """

    def __init__(self, reader: RecordReader) -> None:
        super().__init__()
        self._describe = _Describe(reader)

    def expand(self, pcoll: beam.PCollection) -> Any:
        return pcoll | "Files" >> beam.ParDo(self._describe).with_output_types(pa.RecordBatch)


class _Describe(beam.DoFn):
    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader

    def setup(self) -> None:
        self._described = Described(self._reader)

    def process(self, letters: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        said = [self._described[source] or {} for source in letters.column("source").to_pylist()]
        yield with_attributes(letters, [list(pairs.items()) for pairs in said])
