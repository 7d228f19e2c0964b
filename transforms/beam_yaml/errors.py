"""What becomes of records that are refused: rows of an output, or the end of the pipeline."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from ...schemas.dead_letters import SCHEMA
from ..schema_rows import ToSchemaRows
from ..stage_result import StageResult
from .options import GOOD


class RefusedRecords(ValueError):
    """Records were refused, and the pipeline names no output for them."""


def outputs(result: StageResult, schema: pa.Schema, errors: str | None) -> Any:
    """The outputs of a stage as rows.

    Args:
        schema: of its records.
        errors: the name of the output for dead letters; without one they fail the pipeline.
    """
    records = result.records | "Rows" >> ToSchemaRows(schema)
    if errors is None:
        _ = result.dead_letters | "Refuse" >> beam.Map(_refuse)
        return records
    return {GOOD: records, errors: result.dead_letters | "DeadLetters" >> ToSchemaRows(SCHEMA)}


def _refuse(letters: pa.RecordBatch) -> None:
    first = letters.column("violations")[0].as_py() or [{"field": "", "code": ""}]
    where = ", ".join(f"{v['code']} of {v['field'] or 'the whole record'}" for v in first)
    raise RefusedRecords(
        f"{letters.num_rows} records of {letters.column('stage')[0]} were refused, the first for "
        f"{where}; what they hold is not told here. To go on without them say "
        "error_handling: {output: NAME}, and write NAME somewhere"
    )
