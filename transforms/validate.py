"""Validate: batches of typed columns to batches that keep every rule of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ..schemas.arrow import record_schema
from ..schemas.contract import Contract
from ..schemas.rules import find_violations
from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .dead_letters import Origin, refused_batch
from .error_handling import HandlesErrors
from .stage_result import StageResult
from .tallies import DEAD_LETTERS


class Validate(HandlesErrors):
    """Hold batches against the rules of a contract.

    Takes and gives batches with the contract's columns and the identity columns; other columns
    pass through. A record that breaks rules is one dead letter with all of them.
    """

    def __init__(self, contract: Contract, *, origin: Origin | None = None) -> None:
        super().__init__()
        self._contract = contract
        self._origin = (origin or Origin("validate")).of(contract)

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> Any:
        outputs = records | "Judge" >> beam.ParDo(
            _ValidateBatches(self._contract, self._origin)
        ).with_outputs(DEAD_LETTERS, main="records")
        return self.handled(StageResult.of(outputs))


class _ValidateBatches(beam.DoFn):
    def __init__(self, contract: Contract, origin: Origin) -> None:
        self._contract = contract
        self._names = record_schema(contract).names
        self._origin = origin

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        columns = [batch.column(name) for name in self._names]
        violations = find_violations(columns, self._contract.fields)
        if not violations:
            yield batch
            return
        good = np.ones(batch.num_rows, bool)
        good[[v.row for v in violations]] = False
        if good.any():
            yield batch.filter(pa.array(good))
        times = None
        if self._contract.event_time:
            times = batch.column(self._contract.event_time).filter(pa.array(~good))
        letters = refused_batch(batch, violations, self._origin, event_times=times)
        yield TaggedOutput(DEAD_LETTERS, letters)
