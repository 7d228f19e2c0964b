"""Enrichment from tables, of real services."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.enrich.spec import EnrichJob
from millstream.transforms.enrich.enrich_step import EnrichStep
from millstream.transforms.enrich.references import load, reference_version
from millstream.transforms.enrich.sources import SourceError, Unavailable

from tests.services import delta, duckdb, iceberg, postgres
from tests.services.destinations import DESTINATIONS
from tests.services.serving import free_port

pytestmark = pytest.mark.service

CONTRACT = Contract(
    "orders",
    "1",
    "orders",
    (Field("k", "string"), Field("n", "integer"), Field("ts", "timestamp")),
    event_time="ts",
)
SCHEMA = batch_schema(CONTRACT)
UTC = pa.timestamp("us", "UTC")
YEARS = [dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (2023, 2024, 2025)]
REFERENCE = pa.table(
    {
        "key": ["a", "b", "a", "a", None],
        "number": pa.array([1, 2, 3, 4, 5], pa.int32()),
        "since": pa.array([YEARS[0], YEARS[0], YEARS[1], YEARS[2], YEARS[0]], UTC),
        "till": pa.array([YEARS[1], None, YEARS[2], None, None], UTC),
        "price": pa.array([Decimal("1.50"), None, Decimal("2.00"), 3, 4], pa.decimal128(10, 2)),
        "ok": [True, False, None, True, True],
        "day": pa.array([dt.date(2024, 2, 29)] * 5),
    }
)
ADDED = {"price": "price", "ok": "ok", "day": "day", "number": "number"}


def step_of(source: str, **said: Any) -> EnrichStep:
    said = {"from": source, "on": {"k": "key"}, "add": ADDED} | said
    return EnrichStep(msgspec.convert(said, EnrichJob), SCHEMA, CONTRACT)


def batch_of(*records: dict[str, Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(records), SCHEMA)


def check(uri: str) -> EnrichStep:
    """See that the reference is as it should be."""
    by_number = step_of(uri, on={"n": "number"}, add={"price": "price", "ok": "ok", "day": "day"})
    found, _ = by_number.attempt(batch_of({"n": 3}, {"n": 9}, {"n": 1}, {"n": 2}))
    assert found["price"].to_pylist() == [Decimal("2.00"), None, Decimal("1.50"), None]
    assert found["ok"].to_pylist() == [None, None, True, False]
    assert found["day"].to_pylist() == [dt.date(2024, 2, 29), None, *[dt.date(2024, 2, 29)] * 2]
    assert found.schema.field("price").type == pa.decimal128(10, 2)

    as_of = step_of(uri, valid={"from": "since", "to": "till"})
    day = dt.timedelta(microseconds=1)
    times = [YEARS[0] - day, YEARS[0], YEARS[1] - day, YEARS[1], YEARS[2], None]
    found, _ = as_of.attempt(batch_of(*({"k": "a", "ts": time} for time in times)))
    assert found["number"].to_pylist() == [None, 1, 1, 3, 4, None]
    assert reference_version(as_of.reference) == ""

    with pytest.raises(SourceError, match="no column 'prices'; did you mean 'price'"):
        step_of(uri, add={"x": "prices"})
    with pytest.raises(SourceError, match="there is 1 key in more than one row"):
        step_of(uri).attempt(batch_of({"k": "a"}))
    with pytest.raises(SourceError, match="is larger than max_bytes"):
        step_of(uri, max_bytes=5).attempt(batch_of({"k": "a"}))
    return as_of


def check_missing(uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        step_of(uri)
    assert uri.partition("?")[0] in str(caught.value)


# ----------------------------------------------------------------------------------- DuckDB


@pytest.fixture
def database() -> Iterator[duckdb.Database]:
    with DESTINATIONS["duckdb"].running_or_skip() as found:
        with found.opened() as connection:
            connection.register("given", REFERENCE)
            connection.execute("CREATE TABLE prices AS FROM given")
            connection.execute("CREATE SCHEMA other; CREATE VIEW other.v AS FROM main.prices")
        yield found


def test_a_table_of_duckdb_is_a_reference(database):
    check(database.uri("prices"))
    check(database.uri("other.v"))
    check_missing(database.uri("nothing"))
    check_missing(f"duckdb:{database.file}.other/prices")


def test_duckdb_is_read_while_this_process_writes_to_it(database):
    with database.opened() as connection:
        connection.execute("BEGIN; DELETE FROM prices")
        check(database.uri("prices"))


def test_duckdb_that_another_process_writes_to_is_not_available(database):
    code = f"import duckdb; c = duckdb.connect({str(database.file)!r}); print('x'); input()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(Unavailable, match="another process has the file open"):
            step_of(database.uri("prices"))
        other.communicate(b"\n")
    check(database.uri("prices"))


def test_a_place_in_duckdb_needs_a_table():
    for uri in ("duckdb:file.duckdb", "duckdb:/t", "duckdb:f/t?mode=upsert"):
        with pytest.raises(SourceError, match="write duckdb:FILE/"):
            step_of(uri)


# --------------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with DESTINATIONS["postgresql"].running_or_skip() as found:
        fill(found)
        yield found


def fill(peer: postgres.Postgres) -> None:
    peer.run(
        "CREATE TABLE prices (number int, key text, since timestamptz, till timestamptz, "
        "price numeric(10,2), ok bool, day date, odd numeric, id uuid, j jsonb, small smallint, "
        "naive timestamp, f real, vc varchar(9), forever timestamptz)"
    )
    with peer.connected() as connection, connection.cursor() as cursor:
        for row in REFERENCE.to_pylist():
            cursor.execute(
                "INSERT INTO prices (number, key, since, till, price, ok, day) VALUES "
                "(%(number)s, %(key)s, %(since)s, %(till)s, %(price)s, %(ok)s, %(day)s)",
                row,
            )
    peer.run(
        "UPDATE prices SET odd = 1, id = '00000000-0000-4000-8000-00000000000f', small = 7, "
        "j = '{\"a\": 1}', naive = since AT TIME ZONE 'UTC', f = 1.5, vc = 'v', "
        "forever = coalesce(till, 'infinity')"
    )
    peer.run("CREATE SCHEMA other")
    peer.run('CREATE VIEW other."a view" AS SELECT * FROM prices')


def test_a_table_of_postgresql_is_a_reference(server):
    check(server.uri("prices"))
    check(server.uri("other.a%20view"))
    check_missing(server.uri("nothing"))


def test_types_of_postgresql(server):
    add = {"id": "id", "j": "j", "small": "small", "naive": "naive", "f": "f", "vc": "vc"}
    step = step_of(server.uri("prices"), on={"n": "number"}, add=add)
    found, _ = step.attempt(batch_of({"n": 1}))
    assert {name: found[name][0].as_py() for name in add} == {
        "id": "00000000-0000-4000-8000-00000000000f",
        "j": '{"a": 1}',
        "small": 7,
        "naive": YEARS[0],
        "f": 1.5,
        "vc": "v",
    }
    with pytest.raises(SourceError, match=r"odd is numeric, of any number of digits: give"):
        step_of(server.uri("prices"), add={"x": "odd"})


def test_infinity_is_no_end(server):
    step = step_of(server.uri("prices"), valid={"from": "since", "to": "forever"})
    found, _ = step.attempt(batch_of({"k": "a", "ts": YEARS[2]}, {"k": "b", "ts": YEARS[2]}))
    assert found["number"].to_pylist() == [4, 2]
    # As a value it is none that a field can be.
    step = step_of(server.uri("prices"), on={"n": "number"}, add={"x": "forever"})
    found, failures = step.attempt(batch_of({"n": 1}, {"n": 2}))
    assert [row for row, _ in failures] == [1]
    assert found["n"].to_pylist() == [1]


def test_postgresql_that_is_not_there_is_not_available():
    with pytest.raises(Unavailable):
        step_of(f"postgresql://u@127.0.0.1:{free_port()}/d/t")


def test_a_password_is_not_for_a_place():
    with pytest.raises(SourceError) as caught:
        step_of("postgresql://u:secret@host/d/t")
    assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="are for destinations"):
        step_of("postgresql://u@host/d/t?mode=upsert")


def test_a_connection_that_is_lost_on_the_way_is_not_available(server):
    server.run("CREATE TABLE long AS SELECT g::text AS key, repeat('x', 100) AS pad "
               "FROM generate_series(1, 2000000) g")  # fmt: skip
    step = step_of(server.uri("long"), add={"pad": "pad"}, max_bytes=10**9)
    ended = threading.Event()
    outcome: list[Exception] = []

    def read() -> None:
        try:
            load(step.reference)
        except Exception as error:
            outcome.append(error)
        ended.set()

    threading.Thread(target=read).start()
    reading = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%long%'"
    killed = False
    while not killed and not ended.is_set():
        killed = bool(server.run(reading))
    ended.wait(60)
    assert killed
    assert [type(error) for error in outcome] == [Unavailable]


def test_a_view_that_fails_on_a_row_is_an_error_without_its_value(server):
    server.run(
        "CREATE VIEW broken AS SELECT key, 'secret' || number AS x, "
        "CASE WHEN number = 5 THEN ('secret' || number)::int END AS y FROM prices"
    )
    with pytest.raises(SourceError) as caught:
        step_of(server.uri("broken"), add={"y": "y"}).attempt(batch_of({"k": "a"}))
    assert "PostgreSQL fails on a row" in str(caught.value)
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------ Iceberg


@pytest.fixture(scope="module")
def lake() -> Iterator[iceberg.Lake]:
    with DESTINATIONS["iceberg"].running_or_skip() as found:
        with found.opened() as catalog:
            table = catalog.create_table(f"{iceberg.NAMESPACE}.prices", REFERENCE.schema)
            table.append(REFERENCE.slice(0, 2))
            table.append(REFERENCE.slice(2))
        yield found


def test_a_table_of_iceberg_is_a_reference(lake):
    check(lake.uri("prices"))
    check_missing(lake.uri("nothing"))
    with pytest.raises(SourceError, match="has no catalog 'nowhere'"):
        step_of("iceberg:nowhere/a.b")
    with pytest.raises(SourceError, match="are for destinations"):
        step_of(lake.uri("prices", "mode=upsert"))


# -------------------------------------------------------------------------------------- Delta


@pytest.fixture
def folder() -> Iterator[delta.Lake]:
    with DESTINATIONS["delta"].running_or_skip() as found:
        from deltalake import write_deltalake

        write_deltalake(found.path / "prices", REFERENCE.slice(0, 2))
        write_deltalake(found.path / "prices", REFERENCE.slice(2), mode="append")
        yield found


def test_a_delta_table_is_a_reference(folder):
    check(folder.uri("prices"))
    check_missing(folder.uri("nothing"))
    with pytest.raises(SourceError, match="are for destinations"):
        step_of(folder.uri("prices", "mode=upsert"))


def test_a_delta_table_is_read_as_it_is_now(folder):
    from deltalake import write_deltalake

    step = step_of(folder.uri("prices"), on={"n": "number"}, add={"key": "key"})
    write_deltalake(folder.path / "prices", REFERENCE.slice(0, 1), mode="overwrite")
    found, _ = step.attempt(batch_of({"n": 1}, {"n": 2}))
    assert found["key"].to_pylist() == ["a", None]
