"""What checks count of a batch of records: one number each, which add up over batches.

The counts of pieces, added, are the counts of the whole, however records are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..characters import keeps_surely
from ..codes import Code
from ..contract import Contract, Field, Rule
from ..rules import among, find_violations
from .checks import Check

NEVER = -(1 << 63)
"""The newest event time of no records."""
_COUNTED = ("nullValues", "missingValues", "invalidValues", "records")


class Measured(NamedTuple):
    """What was counted of some records that keep the contract.

    ``counts`` has a number for each check, 0 for what is not counted by record; ``newest`` is the
    greatest event time, in microseconds since 1970-01-01 UTC. ``partition`` is the folder of an
    output that all of them go to, where that matters.
    """

    rows: int
    counts: tuple[int, ...]
    newest: int = NEVER
    partition: str = ""


class Refusals(NamedTuple):
    """What was counted of some dead letters: for each check, those that are bad by it."""

    rows: int
    counts: tuple[int, ...]


def merged(measured: Iterable[Measured], checks: int, partition: str = "") -> Measured:
    """The counts of all: those of none are 0."""
    rows, newest, totals = 0, NEVER, [0] * checks
    for part in measured:
        rows += part.rows
        newest = max(newest, part.newest)
        totals = [a + b for a, b in zip(totals, part.counts, strict=True)]
    return Measured(rows, tuple(totals), newest, partition)


def merged_refusals(refusals: Iterable[Refusals], checks: int) -> Refusals:
    """The counts of all dead letters."""
    whole = merged((Measured(found.rows, found.counts) for found in refusals), checks)
    return Refusals(whole.rows, whole.counts)


_Count = Callable[[pa.RecordBatch], int]


class Measure:
    """Counts by compiled checks. Not picklable: made where it works.

    Args:
        schema: of the batches that will come.

    Raises:
        SqlError: an expression is refused, or DuckDB is not installed.
    """

    def __init__(self, checks: Sequence[Check], contract: Contract, schema: pa.Schema) -> None:
        self._event_time = contract.event_time if contract.event_time in schema.names else None
        self._counts = [self._count_of(check, contract) for check in checks]
        self._expressions = _Expressions(checks, schema)

    def of(self, batch: pa.RecordBatch, partition: str = "") -> Measured:
        """What is counted of a batch."""
        counts = [count(batch) if count else 0 for count in self._counts]
        for number, rows in self._expressions.broken(batch):
            counts[number] = rows
        return Measured(batch.num_rows, tuple(counts), self._newest(batch), partition)

    def _newest(self, batch: pa.RecordBatch) -> int:
        if self._event_time is None:
            return NEVER
        times = batch.column(self._event_time)
        newest = pc.max(times.cast(pa.timestamp("us", "UTC")).view(pa.int64())).as_py()
        return NEVER if newest is None else newest

    def _count_of(self, check: Check, contract: Contract) -> _Count | None:
        # Of what the contract enforces, no record is left that breaks it.
        if check.is_enforced or check.kind not in _COUNTED or check.kind == "records":
            return None
        path = check.field.split(".")
        field = contract.field(check.field)
        if check.kind == "nullValues":
            return lambda batch: values_at(batch, path).null_count
        if check.kind == "missingValues":
            is_missing = _among(check.values, field)
            return lambda batch: _missing(values_at(batch, path), is_missing)
        return _invalid(path, field, check)


def values_at(batch: pa.RecordBatch, path: Sequence[str]) -> pa.Array:
    """The values at a path, null where what is around them is."""
    values = batch.column(path[0])
    return pc.struct_field(values, list(path[1:])) if len(path) > 1 else values


def _missing(values: pa.Array, is_missing: Callable[[pa.Array], pa.Array] | None) -> int:
    return values.null_count + (_true(is_missing(values)) if is_missing else 0)


def _true(mask: pa.Array) -> int:
    return pc.sum(mask).as_py() or 0


def _among(values: Sequence[object], field: Field) -> Callable[[pa.Array], pa.Array] | None:
    """A judgement that says of each value whether it is one of those; of null it says no."""
    if not values:
        return None

    def judge(array: pa.Array) -> pa.Array:
        set_of = pa.array([v for v in values if _fits(v, array.type)], array.type)
        return among(array, set_of)

    return judge


def _fits(value: object, type: pa.DataType) -> bool:
    try:
        pa.scalar(value, type)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _invalid(path: Sequence[str], field: Field, check: Check) -> _Count:
    is_valid = _among(check.values, field)
    patterns = [(pattern, keeps_surely(pattern)) for pattern in check.patterns]

    def count(batch: pa.RecordBatch) -> int:
        values = values_at(batch, path)
        bad: pa.Array | None = None
        if is_valid is not None:
            bad = pc.and_(pc.invert(is_valid(values)), values.is_valid())
        for pattern, surely in patterns:
            if surely is not None and surely(values):
                continue
            wrong = _not_matching(values, pattern)
            bad = wrong if bad is None else pc.or_(bad, wrong)
        return 0 if bad is None else _true(bad)

    return count


def _not_matching(values: pa.Array, pattern: str) -> pa.Array:
    """Which values do not match; of null it says no."""
    try:
        return pc.invert(pc.match_substring_regex(values, pattern)).fill_null(False)
    except pa.ArrowInvalid:  # look-around and back-references, which RE2 does not have
        field = Field("value", "string", rules=(Rule("pattern", pattern),))
        mask = np.zeros(len(values), bool)
        mask[[violation.row for violation in find_violations([values], [field])]] = True
        return pa.array(mask)


class _Expressions:
    """Counts records that break expressions which make no dead letters."""

    def __init__(self, checks: Sequence[Check], schema: pa.Schema) -> None:
        self._numbers = [
            i for i, c in enumerate(checks) if c.kind == "records" and not c.is_enforced
        ]
        self._rules = None
        if self._numbers:
            from .row_rules import RowRules

            self._rules = RowRules([checks[i] for i in self._numbers], schema)

    def broken(self, batch: pa.RecordBatch) -> Iterable[tuple[int, int]]:
        """The number of a check, and how many records break it."""
        if self._rules is None:
            return []
        return zip(self._numbers, self._rules.counts(batch), strict=True)


_WHOLE = frozenset({Code.MALFORMED, Code.ENCODING, Code.OVERSIZE, Code.UNREADABLE})
"""Codes of what is no record at all: none of its values is valid."""


def refusals_of(letters: pa.RecordBatch, checks: Sequence[Check]) -> Refusals:
    """What checks count of dead letters that came of parsing, and of the contract's rules.

    ``nullValues`` and ``missingValues`` are letters that lack the field; ``invalidValues`` are
    those with any other violation at the field or inside of it, and those that are no record;
    ``records`` those that break this very expression.
    """
    lists = letters.column("violations")
    rows = pc.list_parent_indices(lists).to_numpy()
    flat = lists.flatten()
    encoded = [flat.field(name).dictionary_encode() for name in ("field", "code", "message")]
    found = _Violations(letters.num_rows, rows, *encoded)
    return Refusals(letters.num_rows, tuple(found.count(check) for check in checks))


class _Violations(NamedTuple):
    letters: int
    rows: np.ndarray
    fields: pa.DictionaryArray
    codes: pa.DictionaryArray
    messages: pa.DictionaryArray

    def count(self, check: Check) -> int:
        if check.kind in ("nullValues", "missingValues") and check.population == "read":
            mask = self._at(lambda f: f == check.field) & self._of(lambda c: c == Code.REQUIRED)
        elif check.kind == "invalidValues":
            inside = (f"{check.field}.", f"{check.field}[")
            mask = self._at(lambda f: f == check.field or f.startswith(inside))
            mask &= self._of(lambda c: c != Code.REQUIRED)
            mask |= self._of(lambda c: c in _WHOLE)
        elif check.kind == "records" and check.is_enforced:
            from .row_rules import says

            mask = _each(self.messages, lambda message: says(message, check))
        else:
            return 0
        return len(np.unique(self.rows[mask]))

    def _at(self, holds: Callable[[str], bool]) -> np.ndarray:
        return _each(self.fields, holds)

    def _of(self, holds: Callable[[str], bool]) -> np.ndarray:
        return _each(self.codes, holds)


def _each(encoded: pa.DictionaryArray, holds: Callable[[str], bool]) -> np.ndarray:
    """A judgement of strings, made once for each."""
    verdicts = np.array([holds(v or "") for v in encoded.dictionary.to_pylist()] + [False], bool)
    return verdicts[encoded.indices.fill_null(len(verdicts) - 1).to_numpy(zero_copy_only=False)]
