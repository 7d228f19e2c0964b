"""References in Delta tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from deltalake import DeltaTable

from ...schemas.contract import Field
from ..write.delta.destination import DeltaDestination, open_destination
from ..write.delta.errors import explained
from ..write.delta.table import arrow_schema, opened
from .sources import SourceError, as_source, fields_of
from .spec import ReferenceSpec


class DeltaSource:
    """A table, as its newest version is."""

    def __init__(self, spec: ReferenceSpec, table: DeltaDestination) -> None:
        self._spec = spec
        self._target = table.target

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with as_source(), explained(self._spec.place):
            return fields_of(arrow_schema(self._opened()), self._spec)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with as_source(), explained(self._spec.place):
            scan = self._opened().scan(columns=list(self._spec.columns))
            yield from pa.RecordBatchReader.from_stream(scan)

    def version(self) -> str:
        return ""

    def _opened(self) -> DeltaTable:
        table = opened(self._target)
        if table is None:
            raise SourceError(f"{self._spec.place}: there is no Delta table")
        return table


def open_source(spec: ReferenceSpec) -> DeltaSource:
    """The source of ``delta:PATH``.

    Raises:
        SourceError: the path cannot be used.
    """
    with as_source():
        table = open_destination("delta", spec.uri.partition(":")[2], "reference")
    if table.uri != table.place:
        raise SourceError(f"from: {table.place}: options are for destinations")
    return DeltaSource(spec, table)
