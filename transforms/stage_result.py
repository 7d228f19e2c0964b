"""What a stage gives: its records, and beside them what went another way."""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from .tallies import DEAD_LETTERS, TALLIES, Tally


class StageResult(NamedTuple):
    """The outputs of a stage that takes records in.

    ``records`` are batches that go on; ``dead_letters`` are batches by
    ``millstream.schemas.dead_letters.SCHEMA``; ``tallies`` are counts for the ledger, of those
    stages that have any to give.
    """

    records: beam.PCollection[pa.RecordBatch]
    dead_letters: beam.PCollection[pa.RecordBatch]
    tallies: beam.PCollection[Tally] | None = None

    @classmethod
    def of(cls, outputs: Any, *, tallies: bool = False) -> StageResult:
        """From the tagged outputs of a ParDo whose main output is ``records``."""
        records, dead_letters = outputs.records, outputs[DEAD_LETTERS]
        records.element_type = dead_letters.element_type = pa.RecordBatch
        return cls(records, dead_letters, outputs[TALLIES] if tallies else None)
