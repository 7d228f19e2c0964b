"""Summaries of partitions: rows, a checksum, and of each column what can be added up.

They can be merged in any order: those of parts make that of the whole, exactly but for sums of
floats, which are compensated. Whether two partitions are alike is told by their checksums alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .hashes import Hashes

_BITS = 64
_MASK = (1 << _BITS) - 1
_EXACT = Context(prec=200)


class _Beyond:
    def __str__(self) -> str:
        return "(cannot be shown)"


BEYOND = _Beyond()
"""In the place of what Python has no value for: a time after the year 9999, or of nanoseconds."""


def value_of(scalar: Any) -> Any:
    """A value of Arrow's as one of Python's."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        return BEYOND


@dataclass(frozen=True)
class ColumnSummary:
    """What a column of a partition holds.

    ``total`` is the sum of numbers (of booleans, how many are true), ``None`` of other types and
    where there is no value; ``lost`` is what has been rounded away of a sum of floats. ``least``
    and ``most`` are ``None`` where values have no order, and :data:`BEYOND` where one of them is.
    """

    nulls: int = 0
    total: int | Decimal | float | None = None
    least: Any = None
    most: Any = None
    lost: float = 0.0

    def __add__(self, other: ColumnSummary) -> ColumnSummary:
        total, lost = _added(self.total, other.total, self.lost + other.lost)
        return ColumnSummary(
            self.nulls + other.nulls,
            total,
            _extreme(min, self.least, other.least),
            _extreme(max, self.most, other.most),
            lost,
        )

    @property
    def sum(self) -> int | Decimal | float | None:
        """The sum; of floats to 12 digits, to which it does not depend on their order."""
        if not isinstance(self.total, float):
            return self.total
        return float(f"{self.total + self.lost:.12g}")


def _added(a: Any, b: Any, lost: float) -> tuple[Any, float]:
    if a is None or b is None:
        return (b if a is None else a), lost
    if isinstance(a, Decimal):
        return _EXACT.add(a, b), lost
    total = a + b
    if isinstance(total, float) and math.isfinite(total):
        large, small = (a, b) if abs(a) >= abs(b) else (b, a)
        lost += (large - total) + small
    return total, lost


def _extreme(choose: Any, a: Any, b: Any) -> Any:
    if a is BEYOND or b is BEYOND:
        return BEYOND
    return (b if a is None else a) if a is None or b is None else choose(a, b)


@dataclass(frozen=True)
class Summary:
    """A partition. ``high`` and ``low`` are the sums of the halves of its rows' hashes, modulo
    2^64: the same for the same rows in any order, and a row that is there twice counts twice."""

    rows: int = 0
    high: int = 0
    low: int = 0
    columns: Mapping[str, ColumnSummary] = field(default_factory=dict)

    def __add__(self, other: Summary) -> Summary:
        names = dict.fromkeys((*self.columns, *other.columns))
        none = ColumnSummary()
        return Summary(
            self.rows + other.rows,
            (self.high + other.high) & _MASK,
            (self.low + other.low) & _MASK,
            {n: self.columns.get(n, none) + other.columns.get(n, none) for n in names},
        )

    @property
    def checksum(self) -> str:
        """128 bits, as hexadecimal digits."""
        return f"{self.high << _BITS | self.low:032x}"

    def is_like(self, other: Summary) -> bool:
        """Whether they are of the same rows."""
        return (self.rows, self.high, self.low) == (other.rows, other.high, other.low)


def summarise(batch: pa.RecordBatch, partitions: np.ndarray, hashes: Hashes) -> dict[int, Summary]:
    """Summaries of a batch's rows, by the numbers of their partitions.

    Args:
        batch: the columns that are compared.
    """
    found, groups, counts = np.unique(partitions, return_inverse=True, return_counts=True)
    order = np.argsort(groups, kind="stable")
    starts = np.cumsum(counts) - counts
    high = np.add.reduceat(hashes.high[order], starts)
    low = np.add.reduceat(hashes.low[order], starts)
    columns = _columns(batch, groups, len(found))
    return {
        int(number): Summary(
            int(counts[i]), int(high[i]), int(low[i]), {n: c[i] for n, c in columns.items()}
        )
        for i, number in enumerate(found)
    }


def _columns(
    batch: pa.RecordBatch, groups: np.ndarray, count: int
) -> dict[str, list[ColumnSummary]]:
    """Of each column a summary for each group."""
    arrays: dict[str, Any] = {"group": pa.array(groups)}
    asked: list[tuple[str, str]] = []
    for i, column in enumerate(batch.columns):
        arrays[f"v{i}"] = column
        asked.append((f"v{i}", "count"))
        if _has_order(column.type):
            asked += [(f"v{i}", "min"), (f"v{i}", "max")]
        for part, values in _addends(column).items():
            arrays[f"{part}{i}"] = values
            asked.append((f"{part}{i}", "sum"))
    table = pa.table(arrays).group_by("group", use_threads=False).aggregate(asked)
    order = np.argsort(table["group"].to_numpy())
    rows = np.bincount(groups, minlength=count)
    told = {n: _values(table[n].take(pa.array(order))) for n in table.column_names}
    nothing = [None] * count
    found = {}
    for i, name in enumerate(batch.schema.names):
        held = told[f"v{i}_count"]
        least, most = (told.get(f"v{i}_{end}", nothing) for end in ("min", "max"))
        found[name] = [
            ColumnSummary(int(rows[g]) - held[g], _total(told, i, g), least[g], most[g])
            for g in range(count)
        ]
    return found


def _has_order(type: pa.DataType) -> bool:
    return not (pt.is_nested(type) or pt.is_null(type) or pt.is_duration(type))


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):
        return [value_of(scalar) for scalar in column]


def _addends(column: Any) -> dict[str, Any]:
    """What is added up: of wide integers their halves, of which no batch's sums overflow."""
    type = column.type
    if pt.is_integer(type) and type.bit_width == 64:
        shift = pa.scalar(32, type)
        mask = pa.scalar(0xFFFFFFFF, type)
        return {"h": pc.shift_right(column, shift), "l": pc.bit_wise_and(column, mask)}
    if pt.is_decimal(type):
        return {"l": column.cast(pa.decimal256(76, type.scale))}
    if pt.is_integer(type) or pt.is_boolean(type):
        return {"l": column}
    if pt.is_floating(type):
        return {"l": column.cast(pa.float64())}
    return {}


def _total(told: Mapping[str, list[Any]], i: int, group: int) -> Any:
    sums = told.get(f"l{i}_sum")
    if sums is None or sums[group] is None:
        return None
    high = told[f"h{i}_sum"][group] << 32 if f"h{i}_sum" in told else 0
    return sums[group] + high if high else sums[group]
