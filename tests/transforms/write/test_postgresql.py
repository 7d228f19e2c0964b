"""PostgreSQL's own: its types and constraints, tables that others made, connections, passwords.

What all destinations promise is asked of it by the conformance suite.
"""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from conformance_support import EVENTS, Target, Work, batch_of, event, events
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import arrow_type
from millstream.schemas.contract import Contract, Field
from millstream.schemas.table import Table, table_of_contract
from millstream.transforms.storage import StorageError
from millstream.transforms.write.destination import Output, destination
from millstream.transforms.write.errors import DestinationError, Unavailable
from millstream.transforms.write.evolution import TableMismatch
from millstream.transforms.write.postgresql.session import not_connected

from tests import strategies
from tests.services import postgres
from tests.services.destinations import DESTINATIONS
from tests.services.postgres import PASSWORD, Postgres
from tests.services.serving import free_port

pytestmark = pytest.mark.service

UPSERT = "mode=upsert"
ON_ONE_SERVER = settings(
    max_examples=30,
    # Each example talks to the server: to look for a smaller one would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def peer() -> Iterator[Postgres]:
    with DESTINATIONS["postgresql"].running_or_skip() as found:
        yield found


@dataclass(frozen=True)
class PgTarget(Target):
    """A table of PostgreSQL."""

    peer: Postgres


@pytest.fixture
def target(peer, tmp_path) -> PgTarget:
    """A table that nobody has used."""
    return PgTarget("postgresql", DESTINATIONS["postgresql"], peer, str(tmp_path / "state"))


def reasons(work: Work) -> dict[str, str]:
    """Why each row is a dead letter, by its id."""
    return {
        json.loads(letter["payloadBytes"])["id"]: letter["errorMessage"]
        for letter in work.letters()
    }


def columns_of(peer: Postgres, table: str) -> list[tuple[str, str, bool]]:
    found = peer.run(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return [(name, kind, required) for name, kind, required in found]


def indexes_of(peer: Postgres, table: str) -> list[str]:
    found = peer.run(
        f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{table}'::regclass"
    )
    return [text.partition(" USING ")[2] for (text,) in found]


# ------------------------------------------------------------------------------- values


def holdable(value: Any, *, inner: bool = False) -> Any:
    """The value with another in place of what PostgreSQL cannot hold: NUL in texts, also where JSON
    escapes it; and -0.0 within JSONB, where a number has no sign if it is none."""
    if isinstance(value, str):
        return value.replace("\0", "0").replace("\\u0000", "0")
    if isinstance(value, float) and inner:
        return value or 0.0
    if isinstance(value, dict):
        return {holdable(k): holdable(v, inner=True) for k, v in value.items()}
    return [holdable(item, inner=True) for item in value] if isinstance(value, list) else value


@st.composite
def tables_with_rows(draw: st.DrawFn) -> tuple[Table, list[dict[str, Any]]]:
    """A contract's table, and records of it that PostgreSQL can hold."""
    contract: Contract = draw(strategies.contracts(rules=False))
    table = table_of_contract(contract)
    record = st.fixed_dictionaries({f.name: strategies.values(f) for f in contract.fields})
    rows = draw(st.lists(record, min_size=1, max_size=4))
    return table, [{name: holdable(value) for name, value in row.items()} for row in rows]


@pytest.mark.slow
@ON_ONE_SERVER
@given(tables_with_rows())
def test_records_of_any_contract_come_back_as_they_went(target: PgTarget, drawn):
    table, rows = drawn
    fresh = target.another()
    work = fresh.commit(rows, table=table)
    assert work.letters() == []
    fresh.assert_holds(rows, table)


@pytest.mark.slow
@ON_ONE_SERVER
@given(tables_with_rows())
def test_they_do_so_by_way_of_the_staged_table_too(target: PgTarget, drawn):
    """And where there is a row that is refused, for which JSON goes as text."""
    table, rows = drawn
    fresh = target.another()
    table = replace(table, fields=(*table.fields, Field("refused", "string")))
    fresh.commit(table=table, run_id="r0")
    target.peer.run(f"ALTER TABLE {fresh.table} ADD CHECK (refused IS NULL)")
    work = fresh.commit([*rows, {**rows[0], "refused": "yes"}], table=table)
    assert len(work.letters()) == 1
    fresh.assert_holds(rows, table)


def test_the_types_of_a_new_table(target: PgTarget):
    integers = [
        Field(name, "integer", storage=name) for name in ("int8", "int16", "int32", "int64")
    ]
    unsigned = [replace(f, name=f"u{f.name}", storage=f"u{f.storage}") for f in integers]
    table = Table(
        (
            *integers, *unsigned,
            Field("text", "string", required=True), Field("yes", "boolean"), Field("day", "date"),
            Field("at", "timestamp"), Field("clock", "time"), Field("any", "json"),
            Field("bytes", "binary"), Field("real", "number", storage="float32"),
            Field("double", "number", storage="float64"),
            Field("price", "decimal", precision=10, scale=2),
            Field("wide", "decimal", precision=76, scale=40),
            Field("object", "object", fields=(Field("a", "string"),)),
            Field("array", "array", items=Field("item", "string")),
        )
    )  # fmt: skip
    target.commit(table=table)
    assert columns_of(target.peer, target.table) == [
        ("int8", "smallint", False), ("int16", "smallint", False), ("int32", "integer", False),
        ("int64", "bigint", False), ("uint8", "smallint", False), ("uint16", "integer", False),
        ("uint32", "bigint", False), ("uint64", "numeric(20,0)", False), ("text", "text", True),
        ("yes", "boolean", False), ("day", "date", False),
        ("at", "timestamp with time zone", False), ("clock", "time without time zone", False),
        ("any", "jsonb", False), ("bytes", "bytea", False), ("real", "real", False),
        ("double", "double precision", False), ("price", "numeric(10,2)", False),
        ("wide", "numeric(76,40)", False), ("object", "jsonb", False), ("array", "jsonb", False),
    ]  # fmt: skip


# ----------------------------------------------------------- tables that others have made


def test_columns_that_hold_all_values_are_written_to(target: PgTarget):
    small, real = Field("n", "integer", storage="int16"), Field("f", "number", storage="float32")
    price = Field("p", "decimal", precision=6, scale=2)
    table = Table((small, real, price, Field("j", "json"), Field("t", "string")), has_identity=True)
    target.peer.run(
        f"CREATE TABLE {target.table} (t VARCHAR, p NUMERIC(10,4), j JSON, f DOUBLE PRECISION, "
        "n NUMERIC, more TEXT DEFAULT 'more')"
    )
    row = {"n": -32768, "f": 0.5, "p": 12, "j": '{"a": 1}', "t": "ü"}
    work = target.staged([row], table=table)
    work.destination.check_tables(work.commit.tables)
    work.do()
    found = target.peer.run(f"SELECT n, f, p, j::text, t, more FROM {target.table}")
    assert found == [(-32768, 0.5, 12, '{"a": 1}', "ü", "more")]


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ("VARCHAR(20)", Field("v", "string")),
        ("SMALLINT", Field("v", "integer", storage="uint16")),
        ("BIGINT", Field("v", "integer", storage="uint64")),
        ("NUMERIC(18,0)", Field("v", "integer")),
        ("NUMERIC(10,2)", Field("v", "decimal", precision=10, scale=3)),
        ("NUMERIC(10,4)", Field("v", "decimal", precision=9, scale=2)),
        ("REAL", Field("v", "number", storage="float64")),
        ("TIMESTAMP", Field("v", "timestamp")),
        ("TIMESTAMPTZ(3)", Field("v", "timestamp")),
        ("TEXT[]", Field("v", "array", items=Field("item", "string"))),
        ("BIGINT GENERATED ALWAYS AS IDENTITY", Field("v", "integer")),
        ("BIGINT GENERATED ALWAYS AS (1) STORED", Field("v", "integer")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_that_hold_less_are_refused(target: PgTarget, held: str, wanted: Field):
    target.peer.run(f"CREATE TABLE {target.table} (v {held})")
    work = target.staged(table=Table((wanted,)))
    for attempt in (lambda: work.destination.check_tables(work.commit.tables), work.do):
        with pytest.raises(TableMismatch, match=r"(?s)  - v .*\n  \+ v "):
            attempt()


def test_a_view_is_refused(target: PgTarget):
    target.peer.run(f"CREATE VIEW {target.table} AS SELECT 1 AS amount")
    with pytest.raises(TableMismatch, match="is no table"):
        target.commit(events(1))


def test_a_name_that_postgresql_would_cut_is_refused(target: PgTarget):
    name = "é" * 32
    with pytest.raises(DestinationError, match="longer than 63 bytes"):
        target.commit(table=Table((Field(name, "string"),)))
    with pytest.raises(DestinationError, match="longer than 63 bytes"):
        replace(target, table="t" * 64).commit(events(1))


def test_a_schema_is_written_to_and_never_made(target: PgTarget):
    other = replace(target, table=f"s_{target.table}.t")
    work = other.staged(events(1))
    for attempt in (lambda: work.destination.check_tables(work.commit.tables), work.do):
        with pytest.raises(DestinationError, match=f"there is no schema s_{target.table}"):
            attempt()
    target.peer.run(f"CREATE SCHEMA s_{target.table}")
    work.do()
    assert work.held
    other.assert_holds(events(1))
    assert target.peer.run(f"SELECT table_name FROM s_{target.table}._millstream_commits") == [
        ("t",)
    ]


def test_a_table_further_along_the_search_path(target: PgTarget):
    """It is found where it is; a new one is made in the first schema."""
    target.commit(events(1), run_id="r0")
    target.peer.run(f"CREATE SCHEMA IF NOT EXISTS {postgres.USER}")
    try:
        work = target.commit(events(2))
        assert work.held
        target.assert_holds(events(1, 2))
        other = target.another()
        other.commit(events(3))
        replace(other, table=f"{postgres.USER}.{other.table}").assert_holds(events(3))
    finally:
        target.peer.run(f"DROP SCHEMA {postgres.USER} CASCADE")


def test_any_name(target: PgTarget):
    name = "we ird\"'x $1 ü"
    output = Output("o", target.peer.uri("we%20ird%22'x%20$1%20%C3%BC"), state=target.state)
    assert output.destination.uri == output.uri
    other = replace(target, table="we%20ird%22'x%20$1%20%C3%BC")
    other.commit(events(1), query=UPSERT)
    other.commit(events(1), query=UPSERT, run_id="r2")
    assert target.peer.read(name, EVENTS.schema)["id"].to_pylist() == ["e1"]


def test_examining_changes_nothing(target: PgTarget):
    before = target.peer.run("SELECT oid, relname FROM pg_class ORDER BY oid")
    for query in ("", f"{UPSERT}&deleted=gone", "mode=replace&partition_by=date(at)"):
        table = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
        work = target.staged(table=table, query=query)
        work.destination.check_tables(work.commit.tables)
    assert target.peer.run("SELECT oid, relname FROM pg_class ORDER BY oid") == before


# ------------------------------------------------------------------------------- upserts


def test_a_new_table_has_its_key(target: PgTarget):
    target.commit(query=UPSERT)
    assert indexes_of(target.peer, target.table) == ["btree (id)"]
    query = "SELECT collation_name FROM information_schema.columns WHERE table_name = '{}'"
    assert target.peer.run(f"{query} AND column_name = 'id'".format(target.table)) == [("C",)]
    assert ("id", "text", True) in columns_of(target.peer, target.table)


def test_a_key_that_may_be_null_is_unique_all_the_same(target: PgTarget):
    table = Table((Field("id", "integer"), Field("at", "timestamp")), ("id",), "at", True)
    target.commit([{"id": None}, {"id": None}, {"id": 1}, {"id": 1}], table=table, query=UPSERT)
    assert indexes_of(target.peer, target.table) == ["btree (id)"]
    target.assert_holds([{"id": None}, {"id": None}, {"id": 1}], table)


def test_a_table_without_a_unique_key_is_refused(target: PgTarget):
    target.commit(events(1), run_id="r0")
    work = target.staged(events(1), query=UPSERT)
    statement = f'CREATE UNIQUE INDEX ON "public"."{target.table}" ("id")'
    with pytest.raises(TableMismatch) as raised:
        work.destination.check_tables(work.commit.tables)
    assert statement in str(raised.value)
    target.peer.run(f"CREATE UNIQUE INDEX ON {target.table} (id) WHERE amount > 0")
    target.peer.run(f"CREATE UNIQUE INDEX ON {target.table} (id, amount)")
    target.peer.run(f"ALTER TABLE {target.table} ADD UNIQUE (id) DEFERRABLE")
    with pytest.raises(TableMismatch):
        work.do()
    target.peer.run(statement)
    work.do()
    target.assert_holds(events(1))


@pytest.mark.parametrize("collation", ["", 'COLLATE "C"', 'COLLATE "de-x-icu"'])
def test_a_key_of_any_collation_is_looked_up_by_its_index(target: PgTarget, collation: str):
    target.peer.run(
        f"CREATE TABLE {target.table} (id TEXT {collation} PRIMARY KEY, at TIMESTAMPTZ, "
        "gone BOOLEAN, _source TEXT, _position BIGINT)"
    )
    fields = (Field("id", "string", True), Field("at", "timestamp"), Field("gone", "boolean"))
    table = Table(fields, ("id",), "at", True)
    query = f"{UPSERT}&deleted=gone"
    rows = [{"id": f"{n}", "_position": n} for n in range(5000)]
    target.commit(rows, table=table, query=query, run_id="r0")
    again = [{"id": f"{n}", "_position": n, "_source": "t", "gone": n % 2 > 0} for n in range(10)]
    target.peer.run(f"ALTER ROLE {postgres.USER} SET enable_seqscan = off")
    before = _scans(target)
    target.commit(again, table=table, query=query)
    target.peer.run(f"ALTER ROLE {postgres.USER} RESET enable_seqscan")
    read, looked_up = (after - then for after, then in zip(_scans(target), before, strict=True))
    assert read == 0
    assert looked_up
    left = [row for row in (*again, *rows[10:]) if not row.get("gone")]
    target.assert_holds(left, table)


def _scans(target: PgTarget) -> tuple[int, int]:
    """How often all of the table was read, and how often its index was used."""
    target.peer.run("SELECT pg_stat_force_next_flush()")
    query = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = '{}'"
    return target.peer.run(query.format(target.table))[0]  # type: ignore[return-value]


def test_upserts_into_one_table_wait_for_each_other(target: PgTarget):
    target.commit(events(1), query=UPSERT, run_id="r0")
    work = target.staged([event(1, note="new", _position=9)], query=UPSERT)
    with target.peer.connected() as other:
        other.execute("BEGIN")
        name = f'millstream "public"."{target.table}"'
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
        writer = threading.Thread(target=work.do)
        writer.start()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while target.peer.run(waits) == [(0,)] and writer.is_alive():
            time.sleep(0.02)
        assert writer.is_alive()
        other.execute("COMMIT")
        writer.join()
    assert work.held


# -------------------------------------------------------------------------- refused rows

CUSTOMERS = Table(
    (
        Field("id", "string"),
        Field("country", "string"),
        Field("amount", "integer"),
        Field("note", "string"),
        Field("any", "json"),
        Field("inner", "object", fields=(Field("text", "string"),)),
    ),
    has_identity=True,
)


@pytest.fixture
def customers(target: PgTarget) -> PgTarget:
    """A table with constraints of every sort."""
    name = target.table
    target.peer.run(f"CREATE TABLE {name}_countries (country TEXT PRIMARY KEY)")
    target.peer.run(f"INSERT INTO {name}_countries VALUES ('NO')")
    target.peer.run(
        f"CREATE TABLE {name} (id TEXT NOT NULL DEFAULT 'x' CONSTRAINT {name}_once UNIQUE "
        "DEFERRABLE INITIALLY DEFERRED, country TEXT CONSTRAINT known "
        f"REFERENCES {name}_countries, "
        'amount BIGINT CONSTRAINT positive CHECK (amount > 0), note TEXT, "any" JSONB, '
        '"inner" JSONB)'
    )
    target.peer.run(
        f"CREATE FUNCTION {name}() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'no %', NEW.note; END $$"
    )
    target.peer.run(
        f"CREATE TRIGGER picky BEFORE INSERT ON {name} FOR EACH ROW "
        f"WHEN (NEW.note = 'secret') EXECUTE FUNCTION {name}()"
    )
    return target


GOOD = [
    {"id": "1", "country": "NO", "amount": 1, "any": '{"a": [1, null]}', "inner": {"text": "ü"}},
    {"id": "2"},
    {"id": "3", "any": "null", "inner": {"text": None}, "note": "not so secret"},
]
BAD = {
    "check": ({"id": "check", "amount": -5}, "it breaks the check constraint positive"),
    "foreign": ({"id": "foreign", "country": "XX"}, "it breaks the foreign key known"),
    "unique": ({"id": "1", "note": "again"}, "it breaks the unique constraint t_"),
    "null": ({"id": None}, "column id takes no null"),
    "nul": ({"id": "nul", "note": "a\0b"}, "a text in column note has a NUL character"),
    "inner nul": ({"id": "n", "inner": {"text": "\0"}}, "JSON has a character that JSONB cannot"),
    "json nul": ({"id": "j", "any": '"\\u0000"'}, "JSON has a character that JSONB cannot hold"),
    "surrogate": ({"id": "s", "any": '"\\ud800"'}, "is not what its column's type takes"),
    "number": ({"id": "e", "any": "1e999999"}, "a number is out of its column's range"),
    "trigger": ({"id": "t", "note": "secret"}, "a trigger refuses it"),
}
"""What is wrong → a row, and why it is refused."""


@pytest.mark.parametrize("wrong", BAD)
def test_a_row_that_is_refused(customers: PgTarget, wrong: str):
    row, reason = BAD[wrong]
    work = customers.commit([*GOOD[:2], row, *GOOD[2:]], table=CUSTOMERS)
    (said,) = reasons(work).values()
    assert reason in said
    assert "secret" not in said
    customers.assert_holds(GOOD, CUSTOMERS)


def test_many_rows_that_are_refused(customers: PgTarget):
    bad = [
        {**row, "id": row["id"] and f"{row['id']}{n}"} for row, _ in BAD.values() for n in range(30)
    ]
    bad = [row for row in bad if row.get("note") != "again"]
    good = [{"id": f"good{n}", "amount": n + 1} for n in range(1000)]
    rows = [row for n, row in enumerate(good) for row in [row, *bad[n : n + 1]]]
    work = customers.commit(rows, table=CUSTOMERS)
    assert len(work.letters()) == len(bad)
    customers.assert_holds(good, CUSTOMERS)


@pytest.mark.slow
def test_a_tenth_of_a_hundred_thousand_rows_is_refused(target: PgTarget):
    table = Table((Field("n", "integer"), Field("tags", "json")), has_identity=True)
    target.commit(table=table, run_id="r0")
    target.peer.run(f"ALTER TABLE {target.table} ADD CHECK (n % 10 <> 3)")
    work = target.commit([{"n": n, "tags": "[]"} for n in range(100_000)], table=table)
    letters = work.letters()
    assert len(letters) == 10_000
    assert all(letter["position"].endswith("3") for letter in letters)
    query = f"SELECT count(*), count(DISTINCT n), sum(n) FROM {target.table}"
    left = [n for n in range(100_000) if n % 10 != 3]
    assert target.peer.run(query) == [(90_000, 90_000, sum(left))]


JUDGED = Table(
    (Field("n", "integer"), Field("d", "decimal", precision=8, scale=2), Field("any", "json")),
    has_identity=True,
)


@pytest.mark.parametrize(
    "rule",
    [
        "CHECK (n / 2 <> 1.5)",  # of the column's type, which is not the load's
        "CHECK (n % 2 = 0) NO INHERIT",
        "CHECK (d > 1.5 AND n IS NOT NULL)",
        "CHECK (6 / n > 1)",  # divides by zero
        """CHECK (("any"->>'a')::int = 1)""",
        "CHECK ((judged_by.*) IS NOT NULL)",  # looks at the row as a whole
        "CHECK (mine > 0)",  # of a column that the load does not have
        "ALTER n SET DEFAULT 1, ALTER n SET NOT NULL",
        "UNIQUE (d)",
    ],
)
@pytest.mark.parametrize("trigger", [False, True])
def test_what_is_found_at_once_is_what_the_table_refuses(
    target: PgTarget, rule: str, trigger: bool, monkeypatch
):
    rows = [
        {"n": n, "d": Decimal(n or 7) / 2, "any": text}
        for n, text in enumerate([None, '{"a": 1}', '{"a": 2}', "[]", '{"a": "x"}', "1", "null"])
    ]
    rows += [{"n": None, "d": None, "any": None}, {"n": 2, "d": Decimal(1), "any": None}]
    found = []
    for at_once in (True, False):
        fresh = target.another()
        name = fresh.table
        target.peer.run(
            f'CREATE TABLE {name} (n NUMERIC, d NUMERIC(9,3), "any" JSONB, mine INT DEFAULT 1)'
        )
        said = rule.replace("judged_by", name)
        target.peer.run(f"ALTER TABLE {name} {said if said.startswith('ALTER') else f'ADD {said}'}")
        if trigger:
            target.peer.run(
                f"CREATE FUNCTION {name}() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN "
                "NEW.n := coalesce(NEW.n, 0) + 1; RETURN NEW; END $$"
            )
            target.peer.run(
                f"CREATE TRIGGER mends BEFORE INSERT ON {name} "
                f"FOR EACH ROW EXECUTE FUNCTION {name}()"
            )
        if not at_once:
            monkeypatch.setattr(
                "millstream.transforms.write.postgresql.rows.take_broken", lambda *_: {}
            )
        work = fresh.commit(rows, table=JUDGED)
        letters = work.letters()
        said = {one["position"]: one["errorMessage"].replace(name, "T") for one in letters}
        found.append((said, sorted(map(str, fresh.rows(JUDGED)))))
    assert found[0] == found[1]
    mended = trigger and rule.startswith("ALTER")
    assert bool(found[0][0]) == (rule != "CHECK (mine > 0)" and not mended)


def test_a_refused_row_does_not_stand_before_an_older_one(target: PgTarget):
    target.commit(query=UPSERT, run_id="r0")
    target.peer.run(f"ALTER TABLE {target.table} ADD CHECK (amount >= 0)")
    newer, older = event(1, amount=-1, _position=2), event(1, amount=1, _position=1)
    work = target.commit([older, newer], query=UPSERT)
    assert len(work.letters()) == 1
    target.assert_holds([older])


def test_rows_that_are_refused_of_a_partition_that_is_replaced(target: PgTarget):
    query = "mode=replace&partition_by=note"
    target.commit([event(1, note="a"), event(2, note="b")], query=query, run_id="r0")
    target.peer.run(f"ALTER TABLE {target.table} ADD CHECK (amount < 100)")
    work = target.commit([event(3, note="a"), event(100, note="a")], query=query)
    assert len(work.letters()) == 1
    target.assert_holds([event(3, note="a"), event(2, note="b")])


def test_partitions_are_compared_as_what_they_are(target: PgTarget):
    """Of whatever type the table's column is; null is not the empty text."""
    fields = (
        Field("n", "integer", storage="uint64"), Field("t", "string"), Field("v", "integer"),
    )  # fmt: skip
    table = Table(fields, has_identity=True)
    target.peer.run(f"CREATE TABLE {target.table} (n NUMERIC(22,2), t VARCHAR, v BIGINT)")
    query = "mode=replace&partition_by=n,t"
    partitions = [(n, t) for n in (None, 1, 2**64 - 1) for t in (None, "", "(,)", '"')]
    rows = [{"n": n, "t": t, "v": 1} for n, t in partitions]
    target.commit(rows, table=table, query=query, run_id="r0")
    for i, row in enumerate(rows):
        rows[i] = {**row, "v": 2}
        target.commit([rows[i]], table=table, query=query, run_id=f"r{i + 1}")
        target.assert_holds(rows, table)


def test_a_key_that_is_too_long_for_an_index(target: PgTarget):
    long = "".join(f"{n:x}" for n in range(50_000))
    work = target.commit([event(1), event(2, id=long)], query=UPSERT)
    (said,) = reasons(work).values()
    assert "larger than PostgreSQL can hold or index" in said
    target.assert_holds([event(1)])


def test_policies_of_rows_are_kept(target: PgTarget):
    """COPY cannot: it refuses such tables."""
    target.commit(run_id="r0")
    target.peer.run(f"ALTER TABLE {target.table} ENABLE ROW LEVEL SECURITY")
    target.peer.run(f"CREATE POLICY small ON {target.table} USING (amount < 100)")
    with as_user(target, f"INSERT, SELECT ON {target.table}", *_TOKENS) as user:
        user.commit(events(1))
        with pytest.raises(DestinationError, match="violates row-level security policy"):
            user.commit(events(100), run_id="r2")
    target.assert_holds(events(1))


def test_no_error_has_values(target: PgTarget):
    """Results come from no record: one that is refused fails the commit."""
    table = Table(EVENTS.fields)
    target.commit(table=table, kind="aggregates", run_id="r0")
    target.peer.run(f"ALTER TABLE {target.table} ADD CHECK (note <> 'restricted')")
    with pytest.raises(DestinationError, match="refuses 1 rows") as raised:
        target.commit([event(1, note="restricted")], table=table, kind="aggregates")
    assert "Failing row" not in "".join(traceback.format_exception(raised.value))


# ---------------------------------------------------------------------- when things fail


def test_a_connection_that_is_cut(target: PgTarget, monkeypatch):
    """Nothing is visible, and another attempt may help."""
    from millstream.transforms.write.tables import Load

    target.commit(run_id="r0")
    work = target.staged(events(1, 2))
    batches = Load.batches
    cut = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'millstream' AND datname = '{postgres.DATABASE}'"""

    def cutting(self: Load, **options: Any) -> Iterator[pa.RecordBatch]:
        target.peer.run(cut)
        yield from batches(self, **options)

    monkeypatch.setattr(Load, "batches", cutting)
    with pytest.raises(Unavailable, match=r"connection|terminating"):
        work.do()
    monkeypatch.undo()
    os.environ["PGPASSWORD"] = PASSWORD
    target.assert_holds([])
    work.do()
    target.assert_holds(events(1, 2))


def test_a_staged_file_that_cannot_be_read(target: PgTarget):
    target.commit(run_id="r0")
    work = target.staged(events(1))
    os.remove(work.commit.receipts[0].path)
    with pytest.raises(StorageError, match="cannot read"):
        work.do()
    target.assert_holds([])


@pytest.mark.parametrize("query", ["", UPSERT])
def test_a_lock_that_is_held_is_waited_for_a_while_only(target: PgTarget, query: str, monkeypatch):
    """Where a table gets a column, before a run."""
    from millstream.transforms.write.postgresql import destination as postgresql

    monkeypatch.setattr(postgresql, "_PATIENCE", "100ms")
    target.commit(events(1), query=query, run_id="r0")
    wider = replace(EVENTS, fields=(*EVENTS.fields, Field("new", "string")))
    work = target.staged(table=wider, query=query)
    with target.peer.connected() as other:
        other.execute("BEGIN")
        other.execute(f"SELECT * FROM {target.table}")
        with pytest.raises(Unavailable, match="lock timeout"):
            work.destination.check_tables(work.commit.tables)
    work.destination.check_tables(work.commit.tables)


class as_user:
    """A target seen by a user who has few rights."""

    def __init__(self, target: PgTarget, *grants: str) -> None:
        self._target = target
        self._grants = grants
        self._name = f"u_{target.table}"
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> PgTarget:
        run = self._target.peer.run
        run(f"CREATE ROLE {self._name} LOGIN PASSWORD '{PASSWORD}'")
        for grant in self._grants:
            run(f"GRANT {grant} TO {self._name}")
        uri = Postgres.uri

        def uri_of(peer: Postgres, table: str, query: str = "") -> str:
            return uri(peer, table, query).replace(postgres.USER, self._name, 1)

        self._patch.setattr(Postgres, "uri", uri_of)
        return self._target

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
        self._target.peer.run(f"DROP OWNED BY {self._name}")
        self._target.peer.run(f"DROP ROLE {self._name}")


_TOKENS = ("INSERT, SELECT, UPDATE ON _millstream_commits",)


@pytest.mark.parametrize(
    ("query", "grants"),
    [
        ("", ("INSERT ON {}", *_TOKENS)),
        (UPSERT, ("INSERT, SELECT, UPDATE ON {}", *_TOKENS)),
        ("mode=replace&partition_by=note", ("INSERT, SELECT, DELETE ON {}", *_TOKENS)),
    ],
)
def test_the_rights_that_are_needed(target: PgTarget, query: str, grants: tuple[str, ...]):
    target.commit(query=query, run_id="r0")
    allowed = [grant.format(target.table) for grant in grants]
    for n in range(len(allowed)):
        with as_user(target, *allowed[:n], *allowed[n + 1 :]) as user:
            work = user.staged(events(1), query=query)
            with pytest.raises(DestinationError, match=r"permission denied .*; grant it"):
                work.destination.check_tables(work.commit.tables)
            with pytest.raises(DestinationError, match=r"permission denied .*; grant it"):
                work.do()
    with as_user(target, *allowed) as user:
        work = user.staged(events(1), query=query)
        work.destination.check_tables(work.commit.tables)
        work.do()
    target.assert_holds(events(1))


def test_a_table_that_may_not_be_made(target: PgTarget):
    target.another().commit(run_id="r0")
    with as_user(target, *_TOKENS) as user:
        work = user.staged(events(1))
        with pytest.raises(DestinationError, match="permission denied for schema public"):
            work.destination.check_tables(work.commit.tables)


def test_a_database_that_is_read_only(target: PgTarget):
    target.peer.run(f"ALTER DATABASE {postgres.DATABASE} SET default_transaction_read_only = on")
    try:
        with pytest.raises(DestinationError, match="takes no writes"):
            target.staged().destination.check_tables({"data": EVENTS})
    finally:
        with target.peer.connected() as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(
                f"ALTER DATABASE {postgres.DATABASE} RESET default_transaction_read_only"
            )


def test_a_database_that_cannot_hold_all_text(target: PgTarget):
    name = f"latin_{target.table}"
    target.peer.run(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' "
        "LOCALE_PROVIDER libc"
    )
    uri = target.peer.uri(target.table).replace(postgres.DATABASE, name)
    with pytest.raises(DestinationError, match="keeps text as LATIN1"):
        Output("events", uri, state=target.state).destination.check_tables({"data": EVENTS})


def test_a_server_that_does_not_answer(target: PgTarget):
    uri = target.peer.uri("t").replace(str(target.peer.port), str(free_port()))
    with pytest.raises(Unavailable, match="Connection refused"):
        destination(uri, "events", target.state).committed("r1")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://loader@127.0.0.1:{}/nope/t", 'database "nope" does not exist'),
        ("postgresql://nobody@127.0.0.1:{}/warehouse/t", "password authentication failed"),
        ("postgresql://loader@127.0.0.1:{}/warehouse/t?sslmode=require", "SSL was required"),
        ("postgresql://loader@127.0.0.1:{}/warehouse/t?sslmode=often", "invalid sslmode value"),
    ],
)
def test_a_server_that_refuses(target: PgTarget, uri: str, said: str):
    with pytest.raises(DestinationError, match=said):
        destination(uri.format(target.peer.port), "events", target.state).committed("r1")


_AT = 'IO: [libpq] Failed to connect: connection to server at "h", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"{_AT}Connection refused\n\tIs the server running on that host?\n", Unavailable),
        (f"{_AT}timeout expired\n", Unavailable),
        (f"{_AT}SSL SYSCALL error: Connection reset by peer\n", Unavailable),
        (f"{_AT}FATAL:  the database system is starting up\n", Unavailable),
        (f"{_AT}FATAL:  sorry, too many clients already\n", Unavailable),
        (f'{_AT}FATAL:  role "x" does not exist\n', DestinationError),
        (f'{_AT}FATAL:  no pg_hba.conf entry for host "h"\n', DestinationError),
        (f"{_AT}SSL error: certificate verify failed\n", DestinationError),
        (
            'IO: [libpq] Failed to connect: could not translate host name "h" to address: '
            "Name or service not known\n",
            DestinationError,
        ),
        (
            'IO: [libpq] Failed to connect: could not translate host name "h" to address: '
            "Temporary failure in name resolution\n",
            Unavailable,
        ),
        ('IO: [libpq] Failed to connect: definition of service "s" not found\n', DestinationError),
    ],
)
def test_whether_trying_again_may_help(said: str, kind: type[Exception]):
    error = not_connected(said, "the place")
    assert type(error) is kind
    assert str(error).startswith("the place: ")
    assert "\n" not in str(error)


# ----------------------------------------------------------------------------- passwords


def test_a_wrong_password(target: PgTarget, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "wröng")
    with pytest.raises(DestinationError, match=r"failed for user .*; set PGPASSWORD") as raised:
        target.commit(events(1))
    assert "wröng" not in "".join(traceback.format_exception(raised.value))


def test_no_password(target: PgTarget, monkeypatch):
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(DestinationError, match="no password supplied; set PGPASSWORD, write it"):
        target.commit(events(1))


def test_a_password_of_a_file(target: PgTarget, monkeypatch, tmp_path):
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pass word"
    file.write_text(f"{PASSWORD}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    work = target.staged(events(1), query="password_file=pass+word")
    assert str(file).replace(" ", "+") in work.destination.uri
    monkeypatch.chdir("/")
    for stored in (repr(work), work.destination.uri, pickle.dumps(work)):
        assert (
            PASSWORD not in stored if isinstance(stored, str) else PASSWORD.encode() not in stored
        )
    work.do()
    target.assert_holds(events(1))


@pytest.mark.parametrize("held", ["", "\n", "two\nlines", "nul\0", "other than %00 it is"])
def test_a_file_without_the_password(target: PgTarget, tmp_path, held: str):
    file = tmp_path / "password"
    file.write_text(held, "utf-8")
    with pytest.raises(DestinationError) as raised:
        target.commit(events(1), query=f"password_file={file}")
    said = "".join(traceback.format_exception(raised.value))
    assert "password_file" in said
    assert not held.strip() or held.strip() not in said


def test_a_file_that_is_not_there(target: PgTarget):
    with pytest.raises(DestinationError, match=r"password_file=/nowhere: cannot be read"):
        target.commit(events(1), query="password_file=/nowhere")


@pytest.mark.parametrize(
    "rest",
    [
        "", "//", "//host", "//host/db", "//host/db/", "//host//t", "//host/db/t/u", "host/db/t",
        "//host:x/db/t", "//host/db/a.b.c", "//host/db/.t", "//host/db/t#f", "//host/db/t%00",
        "//user:hunter2@host/db/t", "//user:@host/db/t", "//user:hun/ter2@host/db/t",
        "//user:hun@ter2@host/db/t", "//user:1/hunter2@host/t", "//user:hun?ter2@host/db/t",
        "//user:1?hunter2@host/db/t", "//user:hun#ter2@host/db/t", "//:hunter2@host/db/t",
    ],
)  # fmt: skip
def test_a_uri_that_is_not_understood_is_not_repeated(rest: str):
    with pytest.raises(DestinationError) as raised:
        destination(f"postgresql:{rest}")
    said = "".join(traceback.format_exception(raised.value))
    assert "hun" not in said
    assert "ter2" not in said


@pytest.mark.parametrize("option", ["password=hunter2", "sslpassword=hunter2", "options=-chunter2"])
def test_options_that_are_not_taken(option: str):
    with pytest.raises(DestinationError, match="no option") as raised:
        destination(f"postgresql://host/db/t?{option}")
    assert "hunter2" not in str(raised.value)


def test_what_a_uri_says():
    found: Any = destination(
        "postgresql://me%40x@h1:1,[::1]:2/my%20db/s.t?mode=replace&partition_by=date(at)"
        "&sslmode=require&sslrootcert=/ca.pem",
        "events",
        "/state",
    )
    assert (found.server, found.database) == ("me%40x@h1:1,[::1]:2", "my%20db")
    assert (found.target, found.options.mode) == ("s.t", "replace")
    assert found.service == "postgresql://h1:1,[::1]:2"
    assert destination(found.uri, "events", "/state") == found
    assert pickle.loads(pickle.dumps(found)) == found


# --------------------------------------------------------------------------------- tidying


def test_old_tokens_and_rows(target: PgTarget):
    found: Any = target.output().destination
    assert found.old_tokens(time.time()) == []
    assert found.forget(time.time(), []) == 0
    assert found.expire(target.table, "at", time.time()) == 0
    for n in (1, 2, 3):
        target.commit(events(n), run_id=f"r{n}")
    target.another().commit(events(1), run_id="r1")
    assert found.old_tokens(time.time() + 60) == ["r1", "r2", "r3"]
    assert found.old_tokens(time.time() - 60) == []
    assert found.forget(time.time() + 60, ["r2"]) == 2
    assert found.old_tokens(time.time() + 60) == ["r2"]
    at = event(2)["at"].timestamp() + 0.5
    assert found.expire(target.table, "at", at, dry_run=True) == 2
    target.assert_holds(events(1, 2, 3))
    assert found.expire(target.table, "at", at) == 2
    target.assert_holds(events(3))
    assert found.expire(f"{target.table}__states", "slice", at) == 0


def test_the_service_reads_what_it_wrote(target: PgTarget):
    """Columns that a test does not ask for are left out."""
    target.commit(events(1))
    some = pa.schema([("amount", pa.int32()), ("id", pa.string()), ("nope", pa.string())])
    assert target.peer.read(target.table, some).to_pylist() == [{"amount": 1, "id": "e1"}]
    assert arrow_type(EVENTS.field("at")) == batch_of(events(1))["at"].type
