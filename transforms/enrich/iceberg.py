"""References in tables of an Iceberg catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table

from ...schemas.contract import Field
from ..write.iceberg.catalog import opened
from ..write.iceberg.destination import IcebergDestination, open_destination
from .sources import SourceError, as_source, chosen, fields_of
from .spec import ReferenceSpec


class IcebergSource:
    """A table, as its current snapshot is."""

    def __init__(self, spec: ReferenceSpec, table: IcebergDestination) -> None:
        self._spec = spec
        self._catalog = table.catalog
        self._target = table.target

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with self._opened() as table:
            return fields_of(table.schema().as_arrow(), self._spec)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with self._opened() as table:
            chosen(table.schema().as_arrow(), self._spec)
            scan = table.scan(selected_fields=self._spec.columns)
            yield from scan.to_arrow_batch_reader()

    def version(self) -> str:
        return ""

    @contextmanager
    def _opened(self) -> Iterator[Table]:
        place = self._spec.place
        with as_source(), opened(self._catalog, place) as catalog:
            try:
                table = catalog.load_table(self._target)
            except (NoSuchTableError, NoSuchNamespaceError):
                raise SourceError(f"{place}: the catalog has no such table") from None
            yield table


def open_source(spec: ReferenceSpec) -> IcebergSource:
    """The source of ``iceberg:CATALOG/NAMESPACE.TABLE``.

    Raises:
        SourceError: no catalog or no table is named.
    """
    with as_source():
        table = open_destination("iceberg", spec.uri.partition(":")[2], "reference")
    if table.uri != table.place:
        raise SourceError(f"from: {table.place}: options are for destinations")
    return IcebergSource(spec, table)
