"""A table of an Iceberg catalog, as its current snapshot is.

Conditions on plain columns are pyiceberg's to judge, which passes over files and row groups by
their statistics; the others are judged here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    LessThan,
    LessThanOrEqual,
)

from ..receipts import Part
from ..write.destination import Output
from ..write.iceberg.catalog import opened
from ..write.iceberg.destination import IcebergDestination
from .filter import Compare, Condition, Filter, IsIn
from .stored import Stored, table_name

_COMPARE: dict[str, Any] = {
    "=": EqualTo,
    "<": LessThan,
    "<=": LessThanOrEqual,
    ">": GreaterThan,
    ">=": GreaterThanOrEqual,
}
_MOST_VALUES = 200
"""How many values a set may have that files are judged by, as in Iceberg's own evaluators; to judge
rows by more of them is ours."""


class StoredIceberg(Stored):
    """The table ``table`` of ``catalog``."""

    pushes = (Compare, IsIn)

    def __init__(self, place: str, asked: pa.Schema | None, catalog: str, table: str) -> None:
        super().__init__(place, asked)
        self._catalog = catalog
        self._table = table

    def can_push(self, condition: Condition) -> bool:
        if isinstance(condition, IsIn):
            return 0 < len(condition.values) <= _MOST_VALUES
        # A name with a dot is the path of an inner field to pyiceberg.
        return super().can_push(condition) and "." not in condition.column

    def find(self) -> pa.Schema | None:
        with opened(self._catalog, self.place) as catalog:
            try:
                return catalog.load_table(self._table).schema().as_arrow()
            except (NoSuchTableError, NoSuchNamespaceError):
                return None

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        with opened(self._catalog, self.place) as catalog:
            table = catalog.load_table(self._table)
            scan = table.scan(row_filter=_expression(where), selected_fields=tuple(names))
            yield from scan.to_arrow_batch_reader()


def _expression(where: Filter) -> BooleanExpression:
    found: BooleanExpression = AlwaysTrue()
    for each in where.conditions:
        said: Any
        if isinstance(each, IsIn):
            make: Any = In
            said = make(each.column, set(map(_literal, each.values)))
        else:
            assert isinstance(each, Compare)
            said = _COMPARE[each.operator](each.column, _literal(each.value))
        found = And(found, said)  # pyright: ignore[reportCallIssue] : pydantic's
    return found


def _literal(value: Any) -> Any:
    """A value as pyiceberg takes it: times as ISO 8601, with the offset that it insists on."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value.isoformat() if isinstance(value, dt.date) else value


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredIceberg:
    """The table of a part."""
    to = output.destination
    assert isinstance(to, IcebergDestination)
    return StoredIceberg(to.place, schema, to.catalog, table_name(to, part))
