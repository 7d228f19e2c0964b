"""The table of scores: how every check of every run ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa

from ...schemas.contract import Contract
from ...schemas.quality.checks import Verdict
from ...schemas.table import table_of_schema

FORMAT = "millstream.quality/1"
SCORES = "quality"
"""The name of the output that the table goes to."""
_TEXTS = (
    "format", "run_id", "dataset", "contract_id", "contract_version", "check", "metric",
    "dimension", "severity", "population",
)  # fmt: skip

SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
        pa.field("field", pa.string()),
        pa.field("partition", pa.string()),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("said", pa.string(), nullable=False),
        pa.field("threshold", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("action", pa.string()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("judged_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""``records`` is the size of the population; ``value`` what was measured, a number of rows or what
a query gave, null where that is no number; ``said`` the value as it was compared; ``verdict``
``kept``, ``broken``, ``enforced`` or ``unknown``; ``action`` what came of it, null if nothing."""

TABLE = table_of_schema(SCHEMA)


def score_rows(
    verdicts: Iterable[tuple[Verdict, str]], contract: Contract, run_id: str
) -> list[dict[str, Any]]:
    """A row for each verdict and the action that came of it, without the time.

    They hold no values of records but those that a query gives.
    """
    return [
        {
            "format": FORMAT,
            "run_id": run_id,
            "dataset": contract.name,
            "contract_id": contract.id,
            "contract_version": contract.version,
            "check": verdict.check.name,
            "metric": verdict.check.kind,
            "dimension": verdict.check.dimension,
            "severity": verdict.check.severity,
            "population": verdict.check.population,
            "field": verdict.check.field or None,
            "partition": verdict.partition or None,
            "records": verdict.value.population,
            "value": _number(verdict.value.value),
            "said": verdict.shown,
            "threshold": verdict.check.threshold,
            "verdict": verdict.judgement,
            "action": action or None,
            "score": verdict.score,
        }
        for verdict, action in verdicts
    ]


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, str | bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def digest_of(rows: Sequence[dict[str, Any]]) -> str:
    """SHA-256 (hex) of what the rows say, whenever it was said."""
    return hashlib.sha256(msgspec.json.encode(rows, order="sorted")).hexdigest()


def to_batch(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """The rows by :data:`SCHEMA`, judged now."""
    now = datetime.now(UTC)
    return pa.RecordBatch.from_pylist([{**row, "judged_at": now} for row in rows], SCHEMA)
