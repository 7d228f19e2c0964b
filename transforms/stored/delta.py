"""A Delta table, as its newest version is.

Time stamps and whole numbers are deltalake's to judge, which passes over files by their statistics.
It takes conditions as SQL's text alone: texts of users never go there, they are judged here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from ...schemas.forms.ddl import quoted
from ..receipts import Part
from ..write.delta.destination import DeltaDestination
from ..write.delta.errors import explained
from ..write.delta.table import arrow_schema, opened
from ..write.destination import Output
from .filter import Compare, Condition, Filter
from .stored import Stored, table_name


class StoredDelta(Stored):
    """The table at ``path``."""

    pushes = (Compare,)

    def __init__(self, place: str, asked: pa.Schema | None, path: str) -> None:
        super().__init__(place, asked)
        self._path = path

    def can_push(self, condition: Condition) -> bool:
        return isinstance(condition, Compare) and _is_plain(condition.value)

    def find(self) -> pa.Schema | None:
        with explained(self.place):
            table = opened(self._path)
            return table and arrow_schema(table)

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        conditions = [each for each in where.conditions if isinstance(each, Compare)]
        said = " AND ".join(
            f"{quoted(c.column)} {c.operator} {_literal(c.value)}" for c in conditions
        )
        with explained(self.place):
            table = opened(self._path)
            if table is None:
                return
            scan = table.scan(columns=list(names), predicate=said or None)
            yield from pa.RecordBatchReader.from_stream(scan)


def _is_plain(value: Any) -> bool:
    """Whether there is no text in a value that somebody else may have chosen."""
    return isinstance(value, dt.datetime | dt.date | bool | int)


def _literal(value: Any) -> str:
    assert _is_plain(value)
    if isinstance(value, dt.date):
        return f"'{value.isoformat()}'"
    return str(value).lower()


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredDelta:
    """The table of a part."""
    to = output.destination
    assert isinstance(to, DeltaDestination)
    return StoredDelta(to.place, schema, table_name(to, part))
