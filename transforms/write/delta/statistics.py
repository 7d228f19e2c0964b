"""Statistics of a Delta table's files: those of a new file, and which files they say nothing is in.

Rules: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics
"""

from __future__ import annotations

import datetime as dt
import math
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
from deltalake import DeltaTable

from ..latest import KeyRange

STATED_TEXT = 32
"""Characters of a text that statistics hold: deltalake's own."""


def outside(table: DeltaTable, within: Mapping[str, KeyRange]) -> set[str]:
    """Paths of the files that have no row in the ranges, by their statistics.

    Not by deltalake's own filters: those of its datasets take statistics that are missing for ones
    that exclude every row, those of its lists of files an empty text for null.
    """
    if not within:
        return set()
    files = pa.table(table.get_add_actions(flatten=True))
    schema = pa.schema(table.schema().to_arrow())
    unread = np.zeros(len(files), bool)
    for name, (least, greatest) in within.items():
        kind = schema.field(name).type
        for bound, value, beyond in (("max", least, pc.less), ("min", greatest, pc.greater)):
            column = f"{bound}.{name}"
            if column not in files.schema.names:
                column = f"partition.{name}"
            if column in files.schema.names:
                stated = files[column].cast(kind)
                if bound == "max" and pt.is_timestamp(kind):
                    stated = pc.add(stated, _MILLISECOND)  # they are rounded down
                answers = pc.fill_null(beyond(stated, pa.scalar(value, kind)), False)
                unread |= answers.to_numpy()
    return {unquote(path) for path in files["path"].filter(pa.array(unread)).to_pylist()}


_MILLISECOND = pa.scalar(1000, pa.duration("us"))


def statistics(metadata: pq.FileMetaData) -> str:
    """A file's statistics as Delta's log has them: rows, nulls, least and greatest values.

    As in deltalake's own, NaN is left out of account, and a long text is cut. Where a single bound
    cannot be said (an infinity), none is: deltalake reads one that is missing as a condition that
    no row fulfils.

    Rules: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics
    """
    bounds = _Bounds()
    schema = metadata.schema.to_arrow_schema()
    complete = all(
        bounds.add(column.name, _chunks(metadata, column.name))
        for column in schema
        if any(holds(column.type) for holds in _BOUNDED)
    )
    said = {"numRecords": metadata.num_rows}
    return msgspec.json.encode({**said, **(bounds.said() if complete else {})}).decode()


_BOUNDED = (
    pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_boolean, pt.is_string, pt.is_date,
    pt.is_timestamp,
)  # fmt: skip


class _Bounds:
    """The least and the greatest values of a file's columns."""

    def __init__(self) -> None:
        self._nulls: dict[str, int] = {}
        self._least: dict[str, Any] = {}
        self._greatest: dict[str, Any] = {}

    def add(self, name: str, chunks: Sequence[Any]) -> bool:
        """Take a column's statistics, one for each row group; whether they are sound."""
        if not all(chunk is not None and chunk.has_null_count for chunk in chunks):
            return False
        self._nulls[name] = sum(chunk.null_count for chunk in chunks)
        filled = [chunk for chunk in chunks if chunk.num_values]  # nulls are not among them
        if not filled:
            return True
        if not all(chunk.has_min_max for chunk in filled):
            return False
        least = _bound(min(chunk.min for chunk in filled), up=False)
        greatest = _bound(max(chunk.max for chunk in filled), up=True)
        self._least[name], self._greatest[name] = least, greatest
        return least is not None and greatest is not None

    def said(self) -> dict[str, Any]:
        return {
            "minValues": self._least,
            "maxValues": self._greatest,
            "nullCount": self._nulls,
        }


def _chunks(metadata: pq.FileMetaData, name: str) -> list[Any]:
    """The statistics of a column that is not nested, of each row group."""
    number = metadata.schema.names.index(name)
    while metadata.schema.column(number).path != name:
        number = metadata.schema.names.index(name, number + 1)
    groups = range(metadata.num_row_groups)
    return [metadata.row_group(group).column(number).statistics for group in groups]


def _bound(value: Any, *, up: bool) -> Any:
    """A bound as the log has it; ``None`` if it cannot be said."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case str() if len(value) > STATED_TEXT:
            return _greater(value[:STATED_TEXT]) if up else value[:STATED_TEXT]
        case Decimal():
            return msgspec.Raw(f"{value:f}".encode())  # every digit
        case dt.datetime():
            return _milliseconds(value.replace(tzinfo=None), up=up)
        case dt.date():
            return value.isoformat()
    return value


def _milliseconds(value: dt.datetime, *, up: bool) -> str | None:
    """A time stamp as the log has it. Readers are to take it for one that was rounded down;
    deltalake does not, in years that are far away."""
    if up and value.microsecond % 1000:
        try:
            value += dt.timedelta(milliseconds=1)
        except OverflowError:
            return None
    return f"{value.isoformat(timespec='milliseconds')}Z"


def _greater(beginning: str) -> str | None:
    """A text that comes after all that begin so; ``None`` if there is none."""
    kept = beginning.rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # over the surrogates
