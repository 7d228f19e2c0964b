"""Reading back what outputs hold: the same rows from everywhere, filtered there or here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from millstream.schemas.table import table_of_schema
from millstream.transforms.stored import ALL, Compare, Filter, between, is_in, open_stored
from millstream.transforms.write.destination import Output
from millstream.transforms.write.errors import DestinationError
from stored_support import FILTERS, NOON, ROWS, batch, committed, counted, ids, row

from tests.services.destinations import DESTINATIONS, parameters
from tests.services.peers import Peer

N = 120
STATES = pa.schema(
    [
        pa.field("slice_start", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("contribution", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("total", pa.decimal256(76, 10)),
    ]
)
READABLE = [p for p in parameters() if p.values[0] not in ("parquet", "pubsub")]
FILES = [pytest.param(f) for f in ("parquet", "jsonl", "csv", "avro")]


class Place(NamedTuple):
    """Where outputs go."""

    scheme: str
    peer: Peer | None
    folder: Any

    def output(self, table: str, query: str = "", **options: Any) -> Output:
        if self.peer is None:
            uri = f"{self.scheme}:{self.folder}/{table}"
            uri = f"{uri}?{query}" if query else uri
        else:
            uri = self.peer.uri(table, query)
        return Output("rows", uri, state=str(self.folder / "state"), **options)


@pytest.fixture(scope="module", params=[*FILES, *READABLE])
def place(request, tmp_path_factory) -> Iterator[Place]:
    """Each destination in turn."""
    folder = tmp_path_factory.mktemp("stored")
    if request.param in ("parquet", "jsonl", "csv", "avro"):
        yield Place(request.param, None, folder)
        return
    with DESTINATIONS[request.param].running_or_skip() as peer:
        yield Place(request.param, peer, folder)


@pytest.fixture(scope="module")
def rows(place) -> Output:
    """An output with rows of two runs, in three files."""
    output = place.output("rows", tables={"data": ROWS})
    committed(output, {"data": [batch(map(row, range(50))), batch(map(row, range(50, 80)))]}, "r1")
    committed(output, {"data": [batch(map(row, range(80, N)))]}, "r2")
    return output


WHOLE = batch(map(row, range(N)))


def test_all_rows_come_back_as_they_were(rows):
    stored = open_stored(rows)
    assert counted(stored.batches()) == counted([WHOLE])
    assert all(b.schema.types == ROWS.schema.types for b in stored.batches())
    assert all(b.num_rows for b in stored.batches())


def test_only_the_columns_that_are_asked_for(rows):
    (names,) = {tuple(b.schema.names) for b in open_stored(rows).batches(["price", "id"])}
    assert names == ("price", "id")
    with pytest.raises(DestinationError, match="no column 'prise'; did you mean 'price'"):
        next(open_stored(rows).batches(["prise"]))


@settings(max_examples=60)
@given(where=FILTERS)
def test_a_filter_that_is_pushed_down_is_the_filter(rows, where):
    assert ids(open_stored(rows), where) == sorted(where.kept(WHOLE).column("id").to_pylist())


def test_of_many_values_each_is_looked_for(rows):
    wanted = [f"r{n}" for n in range(3, 10_000, 3)]
    assert ids(open_stored(rows), is_in("id", wanted)) == sorted(wanted[: (N - 1) // 3])


def test_what_is_not_there_is_null_and_meets_no_condition(rows):
    wider = ROWS.schema.append(pa.field("more", pa.string()))
    stored = open_stored(rows, schema=wider)
    assert {v for b in stored.batches(["id", "more"]) for v in b["more"].to_pylist()} == {None}
    assert ids(stored, Filter((Compare("more", "=", "x"),))) == []


def test_a_place_that_is_not_there_yet_has_no_rows(place):
    output = place.output(f"none_{uuid.uuid4().hex[:8]}", tables={"data": ROWS})
    assert list(open_stored(output).batches(where=between("n", 1, None))) == []


def test_states_come_back_with_all_of_their_digits(place):
    tables = {"data": ROWS, "states": table_of_schema(STATES)}
    output = place.output("results", tables=tables, kind="aggregates")
    total = Decimal("123456789012345678901234567890123456789012345678901234567890.0123456789")
    states = pa.RecordBatch.from_pylist(
        [
            {
                "slice_start": NOON.replace(hour=h),
                "contribution": "r1",
                "rows": h,
                "total": total * (-1) ** h,
            }
            for h in range(10)
        ],
        STATES,
    )
    committed(output, {"data": [batch([row(1)])], "states": [states]}, "r1")
    stored = open_stored(output, "states", STATES)
    assert counted(stored.batches()) == counted([states])
    some = between("slice_start", NOON.replace(hour=2), NOON.replace(hour=5))
    assert counted(stored.batches(where=some)) == counted([some.kept(states)])
    assert counted(open_stored(output).batches(where=ALL)) == counted([batch([row(1)])])


def test_without_a_schema_columns_are_those_that_are_stored(place, rows):
    untold = place.output("rows")
    if place.scheme in ("jsonl", "csv", "avro", "kafka", "kafka_avro"):
        with pytest.raises(DestinationError, match=r"types of|which columns"):
            _ = open_stored(untold).schema
        return
    stored = open_stored(untold)
    assert set(ROWS.schema.names) <= set(stored.schema.names)
    found = sorted(v for b in stored.batches(["id"]) for v in b["id"].to_pylist())
    assert found == sorted(WHOLE["id"].to_pylist())
