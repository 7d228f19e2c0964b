"""The same rows are alike wherever they lie, and one that is other is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from millstream.transforms.reconcile import By, Reconciled, reconcile
from millstream.transforms.reconcile.places import Place, open_places
from millstream.transforms.write.destination import Output
from stored_support import ROWS, batch, committed, row

from tests.services.destinations import DESTINATIONS, parameters

pytestmark = pytest.mark.slow

N = 60
FILES = [pytest.param(f) for f in ("parquet", "jsonl", "csv", "avro")]
READABLE = [p for p in parameters() if p.values[0] not in ("parquet", "pubsub")]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Output:
    """Rows in files that lie in folders."""
    folder = tmp_path_factory.mktemp("source")
    output = Output("rows", f"parquet:{folder}?partition_by=flag", tables={"data": ROWS})
    committed(output, {"data": [batch(map(row, range(N)))]}, "r1")
    return output


@pytest.fixture(scope="module", params=[*FILES, *READABLE])
def place(request, tmp_path_factory) -> Iterator[Any]:
    """What gives outputs of each destination in turn."""
    folder = tmp_path_factory.mktemp("destination")

    def output(uri: str) -> Output:
        return Output("rows", uri, tables={"data": ROWS}, state=str(folder / "state"))

    if request.param in ("parquet", "jsonl", "csv", "avro"):
        yield lambda: output(f"{request.param}:{folder}/{uuid.uuid4().hex}")
        return
    with DESTINATIONS[request.param].running_or_skip() as peer:
        yield lambda: output(peer.uri(f"rows_{uuid.uuid4().hex[:8]}"))


def held_against(source: Output, destination: Output, folder: Any) -> Reconciled:
    opened = open_places(Place(source), Place(destination), typed=ROWS.schema)
    how = opened.compared
    assert set(how.schema.names) == set(ROWS.schema.names)
    how = replace(how, key=("id",), by=(By("at", "day"), By("small")))
    return reconcile(opened.source, opened.destination, how, str(folder))


def test_the_same_rows_are_alike(source, place, tmp_path):
    there = place()
    halves: list[pa.RecordBatch] = [batch(map(row, range(n, N, 2))) for n in (1, 0)]
    committed(there, {"data": halves}, "r1")
    found = held_against(source, there, tmp_path)
    assert found.named == []
    assert all(partition.is_alike for partition in found.partitions)
    assert found.destination_rows == N


def test_rows_that_differ_are_named(source, place, tmp_path):
    there = place()
    rows = [row(n) for n in range(N) if n != 8]
    rows[20] |= {"text": "other"}
    committed(there, {"data": [batch(rows)]}, "r1")
    found = held_against(source, there, tmp_path)
    assert found.kinds == {"missing": 1, "changed": 1}
    named = {row.kind: (dict(row.key), list(row.changes)) for row in found.named}
    assert named == {"missing": ({"id": "r8"}, []), "changed": ({"id": "r21"}, ["text"])}
