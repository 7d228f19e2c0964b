"""What becomes of records that are decoded, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from .arrow import record_schema
from .codes import Code
from .contract import Contract
from .rules import DIFFERING, Violation, find_violations

if TYPE_CHECKING:
    from .drift.facts import Drift, Found

UnknownFields = Literal["ignore", "keep", "reject", "notice"]
"""What to do with fields that the contract does not name. ``notice`` is to ignore them, and to tell
of them in ``Decoded.noticed``."""

TIME = pa.timestamp("us", "UTC")


class Decoded(NamedTuple):
    """What became of a batch of records.

    ``records`` holds those that are fine, in their order; ``kept`` are their row numbers in the
    input. ``refused`` are the row numbers of all others, ascending, and ``violations`` is
    everything that is wrong with them, at least one each (``Violation.row`` is the row number in
    the input). Every input row is in exactly one of ``kept`` and ``refused``.

    ``event_times`` has the event time of those refused rows that are well typed and only break
    rules (the others are null; ``well_typed`` tells them apart). ``letters`` are the dead letters
    that whoever had this decoded made of the refused; ``violations`` is empty then.

    ``noticed`` are unknown fields of ``records``, where the decoder tells of them (rows are those
    of the input); ``drift`` is what whoever had this decoded made of that.
    """

    records: pa.RecordBatch
    kept: np.ndarray | None  # None: all of them
    refused: list[int]
    violations: list[Violation]
    well_typed: list[bool]
    event_times: pa.Array
    letters: pa.RecordBatch | None = None
    noticed: Found | None = None
    drift: Drift | None = None


def settle(
    columns: Sequence[pa.Array],
    contract: Contract,
    found: Sequence[Violation],
    *,
    judge: bool,
    unknown: pa.Array | None = None,
) -> Decoded:
    """Tell the good rows of typed columns from the others.

    Args:
        columns: one a field of the contract, of its Arrow type; null where a value is not of it.
        found: what is wrong already, with the type of values or with whole rows.
        judge: hold well-typed rows against the contract's rules too. Rows that are refused anyway
            are told all that is wrong with them in either case.
        unknown: the column ``_unknown``, where the job keeps what the contract does not name.
    """
    size = len(columns[0])
    wrong: dict[int, set[str]] = {}
    for violation in found:
        wrong.setdefault(violation.row, set()).add(violation.field)
    broken = []
    if judge or wrong:
        for v in find_violations(columns, contract.fields):
            places = wrong.get(v.row)
            # A row without a place is wrong as a whole: nothing more can be said of it.
            if judge if places is None else "" not in places and not is_doubtful(v, places):
                broken.append(v)
    every = sorted({v.row for v in broken} | wrong.keys())
    kept = None
    if every:
        keep = np.ones(size, bool)
        keep[every] = False
        kept = np.flatnonzero(keep)
    fields = [*columns, unknown] if unknown is not None else columns
    records = pa.RecordBatch.from_arrays(
        [c.take(pa.array(kept)) for c in fields] if kept is not None else list(fields),
        schema=record_schema(contract, keep_unknown=unknown is not None),
    )
    well_typed = [row not in wrong for row in every]
    return Decoded(
        records,
        kept,
        every,
        sorted([*found, *broken], key=lambda v: v.row),  # stable: types first, then rules
        well_typed,
        _event_times(columns, contract, every, well_typed),
    )


def _event_times(
    columns: Sequence[pa.Array], contract: Contract, rows: list[int], well_typed: list[bool]
) -> pa.Array:
    names = [field.name for field in contract.fields]
    if not rows or contract.event_time is None:
        return pa.nulls(len(rows), TIME)
    places = [row if good else None for row, good in zip(rows, well_typed, strict=True)]
    return columns[names.index(contract.event_time)].take(pa.array(places, pa.int64()))


def is_doubtful(violation: Violation, wrong: set[str]) -> bool:
    """Whether a rule may only seem broken because of values that are wrong at the ``wrong`` paths
    and so have become null, with or without what is around them: wrong items are alike then, and
    wrong properties missing."""
    path, code, message = violation.field, violation.code, violation.message
    if code is Code.REQUIRED:
        return path in wrong or any(place.startswith((f"{path}.", f"{path}[")) for place in wrong)
    if code is not Code.ITEMS or "at most" in message:
        return path in wrong
    inside = path + ("[" if DIFFERING in message else ".")
    return path in wrong or any(place.startswith(inside) for place in wrong)
