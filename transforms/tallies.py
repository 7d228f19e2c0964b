"""Counts that travel through the data plane to the ledger, never through runner metrics.

Every stage that takes records in or lets them go another way gives tallies beside its batches; the
ledger adds them up. A tally is emitted with the very bundle that it counts, so a bundle that is
retried is counted once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

TALLIES = "tallies"
"""Tag of the output that carries tallies, the same at every stage."""
DEAD_LETTERS = "dead_letters"
"""Tag of the output that carries dead letters, the same at every stage."""

Outcome = Literal[
    "read", "written", "dead", "duplicate", "filtered", "late", "open_before", "open_after",
    "repaired",
]  # fmt: skip
"""``repaired`` is beside the others: of those that were read, a repair has rescued so many."""


class Tally(NamedTuple):
    """So many records of a source had this outcome.

    ``output`` names the output that the outcome belongs to; empty where it holds for all outputs
    (``read``, ``dead``).
    """

    source: str
    outcome: Outcome
    rows: int
    output: str = ""

    def of_output(self, output: str) -> Tally:
        """The same, of one output alone."""
        return self._replace(output=output)


def count_sources(batch: pa.RecordBatch, column: str) -> dict[str, int]:
    """Rows by source; a null counts under the empty name. Nothing if there is no such column."""
    if column not in batch.schema.names:
        return {}
    counts = pc.value_counts(batch[column])
    return {v["values"] or "": v["counts"] for v in counts.to_pylist()}
