"""Records of one batch that were decoded in parts, put together in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..decoded import TIME, Decoded
from ..drift.facts import Found, extend, renumbered
from ..rules import Violation

Part = tuple[np.ndarray, Decoded]
"""The row numbers in the batch of some rows, ascending, and what became of them."""


def merged(
    parts: Sequence[Part], found: Sequence[Violation], size: int, schema: pa.Schema
) -> Decoded:
    """What became of a batch of ``size`` rows.

    Args:
        parts: of the same ``schema`` all; no row is in two.
        found: what is wrong with all other rows, as a whole.
    """
    if len(parts) == 1 and len(parts[0][0]) == size:
        return parts[0][1]
    whole = sorted({v.row for v in found})
    refused = [rows[decoded.refused] for rows, decoded in parts if decoded.refused]
    every = np.concatenate([*refused, np.array(whole, np.int64)])
    order = np.argsort(every)
    well_typed = [good for _, decoded in parts for good in decoded.well_typed]
    well_typed += [False] * len(whole)
    times = [decoded.event_times for _, decoded in parts if decoded.refused]
    records, kept = _records(parts, schema)
    return Decoded(
        records,
        kept if len(every) else None,
        every[order].tolist(),
        sorted([*found, *_violations(parts)], key=lambda v: v.row),
        [well_typed[i] for i in order.tolist()],
        pa.concat_arrays([*times, pa.nulls(len(whole), TIME)]).take(pa.array(order)),
        noticed=_noticed(parts),
    )


def _noticed(parts: Sequence[Part]) -> Found | None:
    found: Found = {}
    for rows, decoded in parts:
        if decoded.noticed:
            extend(found, renumbered(decoded.noticed, rows))
    return found or None


def _records(parts: Sequence[Part], schema: pa.Schema) -> tuple[pa.RecordBatch, np.ndarray]:
    """The records that are fine, and their row numbers."""
    if not parts:
        columns = [pa.nulls(0, field.type) for field in schema]
        return pa.RecordBatch.from_arrays(columns, schema=schema), np.zeros(0, np.int64)
    rows = np.concatenate([r if d.kept is None else r[d.kept] for r, d in parts])
    records = pa.concat_batches([decoded.records for _, decoded in parts])
    if len(parts) == 1:
        return records, rows
    order = np.argsort(rows, kind="stable")
    return records.take(pa.array(order)), rows[order]


def _violations(parts: Sequence[Part]) -> list[Violation]:
    return [
        violation._replace(row=int(rows[violation.row]))
        for rows, decoded in parts
        for violation in decoded.violations
    ]
