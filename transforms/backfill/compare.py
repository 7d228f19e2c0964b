"""Old results against new ones: which windows are there, and by how much metrics differ."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...schemas.aggregates.open_windows import PANE, PANES, REVISION
from ...schemas.aggregates.spec import WINDOW_END, WINDOW_START, AggregateSpec
from ...schemas.aggregates.states import group_rows, visible_schema
from ..receipts import moment
from ..stored import between, open_stored
from ..write.destination import Output
from .parts import Part

TOLERANCE = 1e-9
"""Relative difference up to which floating-point numbers are the same: sums depend on their
order."""


class Differs(msgspec.Struct, frozen=True, kw_only=True):
    """How a metric differs, over the windows that are there before and after.

    ``old`` and ``new`` are its sums over all windows, if it has any; ``biggest`` is the difference,
    new less old, whose absolute value is the greatest. Of classified fields none of these is
    told: over few records they are the values themselves.
    """

    changed: int = 0
    old: float | None = None
    new: float | None = None
    biggest: float | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """An aggregate's results of some part, old against new, in rows."""

    old: int = 0
    new: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    equal: int = 0
    metrics: dict[str, Differs] = {}

    @property
    def is_equal(self) -> bool:
        """Whether nothing would change."""
        return self.old == self.new == self.equal


def standing(output: Output, spec: AggregateSpec, part: Part) -> pa.Table:
    """The rows of an output that stand, of windows that begin in a part.

    Of rows of one window and keys the greatest revision stands, unless it takes a session back.

    Raises:
        DestinationError, Unavailable, StorageError: they cannot be read.
    """
    schema = visible_schema(spec)
    revised = has_revisions(output)
    columns = pa.schema([*schema, *PANES]) if revised else schema
    stored = open_stored(output, "data", columns)
    where = between(WINDOW_START, moment(part.start), moment(part.end))
    batches = [batch.cast(_nullable(columns)) for batch in stored.batches(None, where)]
    table = pa.Table.from_batches(batches, _nullable(columns))
    if revised and len(table):
        groups, _ = group_rows([_one(table[name]) for name in names_of(spec)])
        revisions = pc.fill_null(_one(table[REVISION]), 0).to_numpy()
        latest = np.full(groups.count, -1)
        np.maximum.at(latest, groups.ids, revisions)
        taken_back = pc.fill_null(pc.equal(table[PANE], "retracted"), False).to_numpy()
        table = table.filter(pa.array((revisions == latest[groups.ids]) & ~taken_back))
    return table.select(schema.names)


def has_revisions(output: Output) -> bool:
    """Whether rows of an output may say which of them stands.

    Raises:
        DestinationError, Unavailable, StorageError: it cannot be read.
    """
    stored = open_stored(output, "data", pa.schema([(REVISION, pa.int64())]))
    return stored.found is not None and stored.has(REVISION)


def names_of(spec: AggregateSpec) -> list[str]:
    """The columns of results that tell windows apart."""
    return [WINDOW_START, WINDOW_END, *(key.name for key in spec.keys)]


def compare(old: pa.Table, new: pa.Table, spec: AggregateSpec) -> Compared:
    """Hold results against each other. Several old rows of one window are a change of it: they are
    of several runs, each of which gave its own."""
    new = new.cast(old.schema)
    both = pa.concat_tables([old, new])
    groups, _ = group_rows([_one(both[name]) for name in names_of(spec)])
    of_old, of_new = groups.ids[: len(old)], groups.ids[len(old) :]
    counts = [np.bincount(ids, minlength=groups.count) for ids in (of_old, of_new)]
    was, now = counts[0] > 0, counts[1] > 0
    row_before = np.zeros(groups.count, np.int64)
    row_before[of_old] = np.arange(len(old))
    row_after = np.zeros(groups.count, np.int64)
    row_after[of_new] = np.arange(len(new))
    shared = np.flatnonzero(was & now)
    differs = counts[0][shared] > 1
    metrics = {}
    for metric in spec.metrics:
        before = _one(old[metric.name]).take(pa.array(row_before[shared]))
        after = _one(new[metric.name]).take(pa.array(row_after[shared]))
        other = ~_same(before, after)
        differs = differs | other
        if metric.is_hidden:
            metrics[metric.name] = Differs(changed=int(other.sum()))
            continue
        metrics[metric.name] = _difference(old[metric.name], new[metric.name], before, after, other)
    return Compared(
        old=len(old),
        new=len(new),
        added=int((now & ~was).sum()),
        removed=int((was & ~now).sum()),
        changed=int(differs.sum()),
        equal=len(shared) - int(differs.sum()),
        metrics=metrics,
    )


def _same(before: pa.Array, after: pa.Array) -> np.ndarray:
    if pt.is_nested(before.type):
        pairs = zip(before.to_pylist(), after.to_pylist(), strict=True)
        return np.fromiter((a == b for a, b in pairs), bool, len(before))
    same = pc.equal(before, after)
    if pt.is_floating(before.type):
        same = pc.or_(same, pa.array(_near(before, after)))
    both_null = pc.and_(before.is_null(), after.is_null())
    return pc.or_(pc.fill_null(same, False), both_null).to_numpy(zero_copy_only=False)


def _near(before: pa.Array, after: pa.Array) -> np.ndarray:
    a, b = (values.fill_null(0).to_numpy() for values in (before, after))
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= TOLERANCE * np.maximum(np.abs(a), np.abs(b))
    near &= np.isfinite(a) & np.isfinite(b)  # infinity is next to nothing
    return near | (np.isnan(a) & np.isnan(b))


def _difference(
    old: pa.ChunkedArray, new: pa.ChunkedArray, before: pa.Array, after: pa.Array, other: np.ndarray
) -> Differs:
    changed = int(other.sum())
    if not _is_number(old.type):
        return Differs(changed=changed)
    gaps = [values.filter(pa.array(other)) for values in (before, after)]
    a, b = (pc.fill_null(pc.cast(gap, pa.float64(), safe=False), 0).to_numpy() for gap in gaps)
    apart = b - a
    biggest = float(apart[np.abs(apart).argmax()]) if changed else None
    return Differs(changed=changed, old=_sum(old), new=_sum(new), biggest=biggest)


def _is_number(type: pa.DataType) -> bool:
    return pt.is_integer(type) or pt.is_floating(type) or pt.is_decimal(type)


def _sum(values: Any) -> float | None:
    found = pc.sum(pc.cast(values, pa.float64(), safe=False)).as_py()
    return None if found is None else float(found)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _one(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def total(found: list[Compared]) -> Compared:
    """The comparisons of several parts as one."""
    names = dict.fromkeys(name for each in found for name in each.metrics)
    rows = {
        name: sum(getattr(each, name) for each in found)
        for name in ("old", "new", "added", "removed", "changed", "equal")
    }
    metrics = {name: _all([each.metrics[name] for each in found]) for name in names}
    return Compared(**rows, metrics=metrics)


def _all(found: list[Differs]) -> Differs:
    biggest = [each.biggest for each in found if each.biggest is not None]
    return Differs(
        changed=sum(each.changed for each in found),
        old=_added(each.old for each in found),
        new=_added(each.new for each in found),
        biggest=max(biggest, key=abs, default=None),
    )


def _added(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
