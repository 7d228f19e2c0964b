"""Batches as Beam's dataframes, and back."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from millstream.transforms.schema_rows import FromSchemaRows, ToSchemaRows

from tests.running import rows, run
from tests.transforms.test_schema_rows import BATCH, ORDERS, RECORDS

pytestmark = pytest.mark.cloud


def test_dataframes_there_and_back() -> None:
    from apache_beam.dataframe.convert import to_dataframe, to_pcollection

    def build(pipeline: Any) -> dict[str, Any]:
        frame: Any = to_dataframe(pipeline | beam.Create([BATCH]) | ToSchemaRows(ORDERS))
        return {"found": to_pcollection(frame[frame["id"] > 0]) | FromSchemaRows(ORDERS)}

    found = pa.concat_batches(run(build)["found"]).sort_by("id")
    assert found.schema == BATCH.schema
    assert found.to_pylist() == RECORDS


def test_a_sum_in_a_dataframe() -> None:
    schema = pa.schema([("page", pa.string()), ("spent", pa.float64())])
    visits = [
        {"page": "a", "spent": 1.5},
        {"page": "b", "spent": 2.0},
        {"page": "a", "spent": None},
    ]
    batch = pa.RecordBatch.from_pylist(visits, schema)

    from apache_beam.dataframe.convert import to_dataframe, to_pcollection

    def build(pipeline: Any) -> dict[str, Any]:
        frame: Any = to_dataframe(pipeline | beam.Create([batch]) | ToSchemaRows(schema))
        sums = to_pcollection(frame.groupby("page").sum(), include_indexes=True)
        return {"found": sums | FromSchemaRows(schema)}

    found = sorted(rows(run(build)["found"]), key=str)
    assert found == [{"page": "a", "spent": 1.5}, {"page": "b", "spent": 2.0}]
