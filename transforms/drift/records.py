"""What records that are kept with their unknown fields hold, by the column ``_unknown``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
import pyarrow as pa

from ...schemas.arrow import POSITION, SOURCE, UNKNOWN
from ...schemas.contract import Contract
from ...schemas.drift.facts import Drift, Found, Rows, drift_of
from ...schemas.drift.unknown import note_unknown
from ...schemas.masking import Masking

_INDEX = re.compile(r"\[\d+\]")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NoticeKept(beam.PTransform):
    """Count unknown fields of records that have a column ``_unknown``: batches of them →
    ``PCollection[Drift]``."""

    def __init__(self, contract: Contract) -> None:
        super().__init__()
        self._contract = contract

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        look = beam.FlatMap(_noticed, self._contract)
        return pcoll | "Look" >> look.with_output_types(Any)


def _noticed(records: pa.RecordBatch, contract: Contract) -> Iterator[Drift]:
    found: Found = {}
    masking = Masking(contract)
    for row, text in enumerate(records.column(UNKNOWN).to_pylist()):
        for path, value in _fields(text).items() if text is not None else ():
            note_unknown(found, _INDEX.sub("[]", path), row, bytes(value), masking)
    drift = drift_of(found, Rows(records.column(SOURCE), records.column(POSITION)))
    if drift is not None:
        yield drift
