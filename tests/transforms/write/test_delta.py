"""Delta tables: what the suite of all destinations does not ask."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from arrow_support import same
from conformance_support import EVENTS, NOON, Row, Target, Work, event, events
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.storage import StorageError
from millstream.transforms.write.destination import destination
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable
from millstream.transforms.write.evolution import TableMismatch
from millstream.transforms.write.latest import KeyRange

from tests.services.delta import Lake
from tests.services.destinations import Known
from tests.services.object_stores import object_store

deltalake = pytest.importorskip("deltalake")

from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake  # noqa: E402
from deltalake.exceptions import CommitFailedError, DeltaError  # noqa: E402
from deltalake.schema import Field as DeltaField  # noqa: E402
from deltalake.schema import PrimitiveType  # noqa: E402
from millstream.transforms.write.delta import files as delta_files  # noqa: E402
from millstream.transforms.write.delta import statistics as delta_statistics  # noqa: E402
from millstream.transforms.write.delta import tokens as delta_tokens  # noqa: E402
from millstream.transforms.write.delta import types as delta_types  # noqa: E402
from millstream.transforms.write.delta.commit import TableCommit  # noqa: E402
from millstream.transforms.write.delta.errors import explained  # noqa: E402

UPSERT = "mode=upsert"
DELETE = "mode=upsert&deleted=gone"
GONE = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))


@pytest.fixture
def lake(tmp_path) -> Target:
    """A table that nobody has used."""
    peer: Any = Lake(tmp_path / "lake")
    return Target("delta", Known("delta"), peer, str(tmp_path / "state"))


def opened(target: Target, suffix: str = "") -> DeltaTable:
    return DeltaTable(place(target, suffix))


def place(target: Target, suffix: str = "") -> str:
    return target.peer.uri(target.table).removeprefix("delta:") + suffix


def files(target: Target) -> set[str]:
    """The data files of the newest version."""
    return {os.path.basename(path) for path in opened(target).file_uris()}


def again(work: Work) -> None:
    """Commit as a process does that knows nothing of the first attempt; the staged files stay."""
    destination: Any = pickle.loads(pickle.dumps(work.destination))
    commit = work.commit
    destination.load(commit, destination._loads(commit.tables, commit.receipts))


def at(hours: float) -> dt.datetime:
    return NOON + dt.timedelta(hours=hours)


# --------------------------------------------------------------------------------- URIs


@pytest.mark.parametrize(
    ("uri", "place", "target", "service"),
    [
        ("delta:/d/t", "delta:/d/t", "/d/t", "delta:/d/t"),
        ("delta:file:///d/t/", "delta:/d/t", "/d/t", "delta:/d/t"),
        ("delta:s3://b/x/t?mode=upsert", "delta:s3://b/x/t", "s3://b/x/t", "s3://b"),
        ("delta:gs://b/t", "delta:gs://b/t", "gs://b/t", "gs://b"),
    ],
)
def test_uris(uri, place, target, service):
    found: Any = destination(uri, "events", "/state")
    assert (found.place, found.target, found.service) == (place, target, service)
    assert destination(found.uri, "events", "/state") == found


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("delta:s3://key:hunter2@b/t", "take the password out of it"),
        ("delta:s3://b/t?aws_secret_access_key=hunter2", "no option 'aws_secret_access_key'"),
        ("delta:/d/100%/t", "no local path with a %"),
        ("delta:/d/[t]", "no local path with a ["),
        ("delta:/d/t?mode=merge", "delta: no mode 'merge'"),
    ],
)
def test_uris_that_cannot_be_used(uri, message):
    with pytest.raises(DestinationError) as raised:
        destination(uri, "events")
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


# -------------------------------------------------------------------------------- token


@pytest.mark.slow
def test_a_token_outlives_the_log(lake):
    """Checkpoints keep transactions; what else a commit says is deleted with its entry."""
    work = lake.commit(events(1))
    for n in range(3):
        lake.commit(events(n + 2), run_id=f"r{n + 2}")
    table = opened(lake)
    table.create_checkpoint()
    for entry in Path(place(lake), "_delta_log").glob("*.json"):
        if int(entry.stem) < table.version():
            entry.unlink()
    assert opened(lake).transaction_version(delta_tokens.app_id("r1")) is not None
    assert work.held
    work.do()
    lake.assert_holds(events(1, 2, 3, 4))
    with pytest.raises(CommitConflict, match="r1 with other content"):
        lake.commit(events(9))


def test_vacuuming_a_table_keeps_its_tokens(lake):
    work = lake.commit(events(1), query=UPSERT)
    lake.commit(events(1, note="new"), query=UPSERT, run_id="r2")
    gone = opened(lake).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    assert len(gone) == 1
    assert work.held


def test_a_token_whose_file_is_missing_is_no_other_run(lake):
    work = lake.commit(events(1))
    (held,) = Path(place(lake), "_millstream", "commits").iterdir()
    held.unlink()
    with pytest.raises(DestinationError, match=r"holds run r1, but _millstream/commits/r1-.*json"):
        work.do()


def test_who_reads_the_history_finds_the_token(lake):
    work = lake.commit(events(1))
    said = json.loads(opened(lake).history(1)[0]["millstream"])
    assert (said["token"], said["rows"]) == (str(work.commit.token), 1)


def test_a_transaction_that_is_there_is_a_conflict(lake):
    """What everything rests upon, of deltalake itself."""
    lake.commit(events(1), run_id="r0")
    rows = lake.read().select(["id"]).cast(pa.schema([pa.field("id", pa.string(), False)]))
    first, second = opened(lake), opened(lake)
    for table, version in ((first, 1), (second, 2)):
        properties = CommitProperties(app_transactions=[Transaction("someone", version)])
        if table is second:
            with pytest.raises(CommitFailedError, match="Concurrent transaction"):
                write_deltalake(table, rows, mode="append", schema_mode="merge",
                                commit_properties=properties)  # fmt: skip
        else:
            write_deltalake(table, rows, mode="append", schema_mode="merge",
                            commit_properties=properties)  # fmt: skip
    assert opened(lake).transaction_version("someone") == 1
    assert lake.read().num_rows == 2


@pytest.mark.parametrize("query", ["", UPSERT, "mode=replace&partition_by=note"])
def test_a_run_that_is_committed_by_another_process_meanwhile(lake, monkeypatch, query):
    """Both have read the table before either commits."""
    lake.commit(events(0), query=query, run_id="r0")
    work = lake.staged(events(1, 2), query=query)
    original = TableCommit.make_visible

    def overtaken(self, act):
        monkeypatch.setattr(TableCommit, "make_visible", original)
        again(work)
        original(self, act)

    monkeypatch.setattr(TableCommit, "make_visible", overtaken)
    work.do()
    assert work.held
    lake.assert_holds(events(0, 1, 2))


@pytest.mark.parametrize("query", [UPSERT, "mode=replace&partition_by=note"])
def test_a_table_that_changes_while_it_is_rewritten(lake, monkeypatch, query):
    lake.commit(events(1, 2), query=query, run_id="r0")
    new = [event(1, note="note 1", amount=7, at=at(1))]
    work = lake.staged(new, query=query)
    original = TableCommit.make_visible

    def overtaken(self, act):
        monkeypatch.setattr(TableCommit, "make_visible", original)
        lake.commit(events(3), query=query, run_id="r3")
        original(self, act)

    monkeypatch.setattr(TableCommit, "make_visible", overtaken)
    with pytest.raises(Unavailable, match="somebody else changes the table"):
        work.do()
    lake.assert_holds(events(1, 2, 3))
    work.do()
    lake.assert_holds([*new, *events(2, 3)])


def test_appends_do_not_get_in_each_others_way(lake, monkeypatch):
    lake.commit(events(1), run_id="r0")
    work = lake.staged(events(2))
    original = TableCommit.make_visible

    def overtaken(self, act):
        monkeypatch.setattr(TableCommit, "make_visible", original)
        lake.commit(events(3), run_id="r3")
        original(self, act)

    monkeypatch.setattr(TableCommit, "make_visible", overtaken)
    work.do()
    lake.assert_holds(events(1, 2, 3))


# -------------------------------------------------------------------------------- types

EVERY = Table(
    (
        Field("text", "string", required=True, description='what is "said"'),
        *(Field(f"i{n}", "integer", storage=f"int{n}") for n in (8, 16, 32, 64)),
        *(Field(f"u{n}", "integer", storage=f"uint{n}") for n in (8, 16, 32, 64)),
        Field("single", "number", storage="float32"),
        Field("double", "number", storage="float64"),
        Field("price", "decimal", precision=10, scale=2),
        Field("flag", "boolean"),
        Field("day", "date"),
        Field("at", "timestamp"),
        Field("clock", "time"),
        Field("doc", "json"),
        Field("raw", "binary"),
        Field("place", "object", fields=(Field("zip", "integer", storage="uint8"),)),
        Field("times", "array", items=Field("item", "time")),
    )
)


def test_the_types_of_columns():
    said = {str(column) for column in delta_types.columns_of(delta_types.delta_schema(EVERY))}
    assert said == {
        "text string NOT NULL", "i8 byte", "i16 short", "i32 integer", "i64 long", "u8 short",
        "u16 integer", "u32 long", "u64 decimal(20,0)", "single float", "double double",
        "price decimal(10,2)", "flag boolean", "day date", "at timestamp", "clock long",
        "doc string", "raw binary", "place struct<zip: short>", "times array<long>",
    }  # fmt: skip


def test_descriptions_are_comments(lake):
    described = [replace(f, description=f"the {f.name}") for f in EVENTS.fields]
    lake.commit(events(1), table=replace(EVENTS, fields=tuple(described[:3])))
    lake.commit(events(2), table=replace(EVENTS, fields=tuple(described)), run_id="r2")
    comments = {f.name: f.metadata.get("comment") for f in opened(lake).schema().fields}
    assert comments == {f.name: f"the {f.name}" for f in EVENTS.fields}


def test_decimals_of_states_are_kept_as_text(lake):
    """A sum can have 76 digits while it is a state, and 38 when it is a result."""
    values = [Decimal("-0.0000000001"), Decimal(10) ** 65, Decimal(0), None]
    wide = Table((Field("sum", "decimal", precision=76, scale=10), Field("rows", "integer")))
    column = pa.array(values, pa.decimal256(76, 10))
    batch = pa.RecordBatch.from_arrays([column, pa.array([1] * 4)], schema=wide.schema)
    data = Table((Field("sum", "decimal", precision=38, scale=10),))
    work = lake.staged_parts({"states": wide, "data": data}, {"states": [batch]})
    work.destination.check_tables(work.commit.tables)
    work.do()
    read = opened(lake, "__states").to_pyarrow_table()["sum"]
    assert read.type == pa.string()
    assert read.cast(pa.decimal256(76, 10)).combine_chunks().equals(column)
    with pytest.raises(DestinationError, match="sum: Delta's decimals have at most 38 digits"):
        work.destination.check_tables({"data": wide})


@pytest.mark.parametrize("name", ["two words", "a,b", "a;b", "a{}", "(a)", "a\nb", "a\tb", "a=b"])
def test_names_that_delta_has_not(lake, name):
    for field in (Field(name, "string"), Field("o", "object", fields=(Field(name, "string"),))):
        table = replace(EVENTS, fields=(*EVENTS.fields, field))
        with pytest.raises(DestinationError, match="Delta's columns have none of"):
            lake.output().destination.check_tables({"data": table})


def test_names_that_differ_in_case_alone(lake):
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("Note", "string")))
    with pytest.raises(DestinationError, match="note and Note: Delta tells no columns apart"):
        lake.output().destination.check_tables({"data": table})


@pytest.mark.parametrize(
    ("wanted", "held", "does"),
    [
        ("byte", "long", True), ("long", "integer", False), ("float", "double", True),
        ("double", "float", False), ("decimal(10,2)", "decimal(12,4)", True),
        ("decimal(10,2)", "decimal(11,4)", False), ("date", "timestamp", False),
        ("array<byte>", "array<long>", False), ("string", "string", True),
    ],
)  # fmt: skip
def test_what_wider_columns_hold(wanted, held, does):
    assert delta_types.fits(wanted, held) is does


def test_wider_columns_are_written(lake):
    schema = pa.schema(
        [("i8", pa.int64()), ("u64", pa.decimal128(30, 2)), ("single", pa.float64()),
         ("price", pa.decimal128(20, 5)), ("more", pa.string())]
    )  # fmt: skip
    DeltaTable.create(place(lake), schema)
    fields = tuple(f for f in EVERY.fields if f.name in schema.names)
    row = {"i8": -5, "u64": 2**64 - 1, "single": 0.5, "price": Decimal("1.25")}
    for mode in ("", "mode=replace&partition_by=i8"):
        lake.commit(
            [row], table=Table(fields), kind="aggregates", query=mode, run_id=f"r{mode[:4]}"
        )
    assert lake.read(Table(fields)).to_pylist() == [row]
    assert opened(lake).to_pyarrow_table()["more"].null_count == 1


# -------------------------------------------------------------------- columns of others


def made_by_delta(target: Target, **properties: str) -> None:
    """A table whose owner has it count something itself."""
    fields = deltalake.Schema.from_arrow(delta_types.delta_schema(EVENTS)).fields
    twice = DeltaField(
        "twice", PrimitiveType("long"), metadata={"delta.generationExpression": "amount * 2"}
    )
    schema = deltalake.Schema([*fields, twice])
    DeltaTable.create(place(target), schema, configuration=properties)


def test_a_column_that_the_table_makes_itself(lake):
    made_by_delta(lake)
    work = lake.staged(events(1, 2))
    work.destination.check_tables(work.commit.tables)
    work.do()
    lake.assert_holds(events(1, 2))
    assert sorted(opened(lake).to_pyarrow_table()["twice"].to_pylist()) == [2, 4]
    with pytest.raises(DestinationError, match="makes values of twice itself: mode=upsert cannot"):
        lake.output(UPSERT).destination.check_tables(work.commit.tables)


def test_a_table_that_takes_no_changes(lake):
    schema = delta_types.delta_schema(EVENTS)
    DeltaTable.create(place(lake), schema, configuration={"delta.appendOnly": "true"})
    lake.commit(events(1))
    with pytest.raises(DestinationError, match=r"append-only \(delta.appendOnly\): mode=upsert"):
        lake.commit(events(1), query=UPSERT, run_id="r2")


# --------------------------------------------------------------------------- partitions


def test_columns_become_partitions(lake):
    rows = [event(n, note=["NO", "a/b c%20=é", None][n % 3], amount=n % 2) for n in range(12)]
    query = "partition_by=note,amount"
    lake.commit(rows[:6], query=query)
    lake.commit(rows[6:], query=query, run_id="r2")
    assert opened(lake).metadata().partition_columns == ["note", "amount"]
    lake.assert_holds(rows)
    with pytest.raises(TableMismatch, match="is partitioned by note, amount, not by note;"):
        lake.output("partition_by=note").destination.check_tables({"data": EVENTS})


@pytest.mark.slow
def test_a_partitioned_table_is_upserted_and_replaced(lake):
    """In the table's own partitions, whatever their values look like."""
    notes = ["NO", "a/b c%20=é", None, "..", "__HIVE_DEFAULT", "q\"'\n", "null"]
    days = [dt.date(2026, 1, 1), None, dt.date(1, 1, 1)]
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("day", "date"), Field("b", "boolean")))

    def row(n: int, **values: Any) -> Row:
        return event(n, note=notes[n % 7], day=days[n % 3], b=[None, True, False][n % 3], **values)

    query = "partition_by=note,day,b"
    rows = [row(n) for n in range(20)]
    lake.commit(rows, query=query, table=table)
    lake.assert_holds(rows, table)
    newer = [row(n, amount=-n, at=at(1)) for n in range(7, 30, 3)]
    lake.commit(newer, query=f"{UPSERT}&{query}", table=table, run_id="r2")
    rows = [*(r for r in rows if r["id"] not in {n["id"] for n in newer}), *newer]
    lake.assert_holds(rows, table)
    other = [event(99, note=notes[1], day=days[1], b=True)]
    lake.commit(other, query="mode=replace&partition_by=note", table=table, run_id="r3")
    lake.assert_holds([*(r for r in rows if r["note"] != notes[1]), *other], table)
    assert opened(lake).metadata().partition_columns == ["note", "day", "b"]


@pytest.mark.parametrize("note", ["", "__HIVE_DEFAULT_PARTITION__"])
def test_texts_that_are_no_partition(lake, note):
    rows = [event(1, note=note), event(2, note="x"), event(3, note=None)]
    work = lake.commit(rows, query="partition_by=note")
    lake.assert_holds(rows[1:])
    (letter,) = work.letters()
    assert letter["errorMessage"] == "note is a text that partitions of Delta take for null"
    work = lake.commit(events(1, note=note), query=f"{UPSERT}&partition_by=note", run_id="r2")
    assert len(work.letters()) == 1
    lake.assert_holds(rows[1:])


@pytest.mark.parametrize("mode", ["", "mode=upsert&"])
def test_an_hour_is_no_partition_column(lake, mode):
    found = lake.output(f"{mode}partition_by=hour(at)").destination
    with pytest.raises(DestinationError, match="a field that has the hour, or leave it out"):
        found.check_tables({"data": EVENTS})


def test_files_that_hold_no_replaced_row_stay(lake):
    query = "mode=replace&partition_by=date(at)"
    days = [[event(24 * d + n, at=at(24 * d + n / 10)) for n in range(10)] for d in range(4)]
    lake.commit([row for day in days for row in day], query=query)
    assert opened(lake).metadata().partition_columns == []
    before = files(lake)
    assert len(before) == 4
    new = [event(1000, at=at(25))]
    lake.commit(new, query=query, run_id="r2")
    assert len(files(lake) & before) == 3
    lake.assert_holds([*days[0], *new, *days[2], *days[3]])


def test_more_partitions_than_files_that_are_open(lake, monkeypatch):
    monkeypatch.setattr(delta_files, "OPEN_FILES", 3)
    rows = [event(n, note=f"note {n % 9}") for n in range(90)]
    query = "mode=replace&partition_by=note"
    lake.commit(rows, query=query)
    assert len(files(lake)) == 4
    lake.commit(rows[:1], query=query, run_id="r2")
    lake.assert_holds([row for row in rows if row["note"] != "note 0"] + rows[:1])
    other = lake.another()
    other.commit(events(0), query="partition_by=note")
    other.commit(rows[1:], query=f"{UPSERT}&partition_by=note", run_id="r2")
    other.assert_holds([*events(0), *rows[1:]])


# -------------------------------------------------------------------------------- files


def test_files_without_rows_that_change_are_left_alone(lake):
    for n in range(3):
        lake.commit(events(*range(10 * n, 10 * n + 10)), query=UPSERT, run_id=f"r{n}")
    before = files(lake)
    lake.commit([event(14, amount=0, at=at(5))], query=UPSERT, run_id="r9")
    assert len(before & files(lake)) == 2
    lake.assert_holds([*events(*(n for n in range(30) if n != 14)), event(14, amount=0, at=at(5))])


def test_an_upsert_of_new_keys_alone_rewrites_nothing(lake):
    lake.commit(events(1, 2), query=UPSERT)
    before = files(lake)
    lake.commit(events(3), query=UPSERT, run_id="r2")
    assert before < files(lake)


def test_large_files_are_cut(lake, monkeypatch):
    monkeypatch.setattr(delta_files, "FILE_BYTES", 1)
    monkeypatch.setattr("millstream.transforms.write.parquet.GROUP_ROWS", 1)
    lake.commit(events(1), events(2), events(3), query=UPSERT)
    assert len(files(lake)) == 3
    lake.assert_holds(events(1, 2, 3))


def test_staged_files_that_are_missing_are_named(lake):
    for query in ("", UPSERT):
        work = lake.another().staged(events(1), query=query)
        path = work.commit.receipts[0].path
        os.unlink(path)
        with pytest.raises(StorageError, match=f"cannot read {path}"):
            work.do()


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
    pa.float64(): st.floats(),
    pa.decimal128(38, 2): st.decimals(places=2, min_value=-(10**30), max_value=10**30),
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=9),
}


PRUNED = [pa.int64(), pa.int8(), pa.string(), pa.date32(), pa.timestamp("us", "UTC")]


@settings(max_examples=150)
@given(st.sampled_from(sorted(VALUES, key=str)), st.data())
def test_statistics_hold_what_a_file_holds(tmp_path_factory, kind, data):
    """Nothing lies outside of them, as deltalake reads them: else readers would miss rows."""
    drawn = data.draw(st.lists(st.none() | VALUES[kind], max_size=12))
    place = str(tmp_path_factory.mktemp("stats"))
    schema = pa.schema([("a.b", kind), ("o", pa.struct([("x", kind)]))])
    batches = [
        pa.RecordBatch.from_pylist([{"a.b": v, "o": {"x": v}} for v in some], schema)
        for some in (drawn[:5], drawn[5:])
        if some
    ]
    table = DeltaTable.create(place, schema)
    added: list[Any] = delta_files.DataFiles(place, schema, []).write(batches)
    table.create_write_transaction(added, mode="append", schema=table.schema())
    dataset = DeltaTable(place).to_pyarrow_dataset()
    assert sum(json.loads(add.stats)["numRecords"] for add in added) == len(drawn)
    for value in drawn:
        if value is None or value != value:
            continue  # NaN is equal to nothing
        wanted = pc.field("a.b") == pa.scalar(value, kind)
        found = dataset.to_table(filter=wanted)["a.b"].to_pylist()
        assert any(same(value, one) or value == one for one in found)
    nulls = dataset.to_table(filter=pc.field("a.b").is_null())
    assert nulls.num_rows == drawn.count(None)


@settings(max_examples=100)
@given(st.sampled_from(sorted(PRUNED, key=str)), st.booleans(), st.data())
def test_files_that_are_not_read_hold_no_row(tmp_path_factory, kind, partitioned, data):
    """Whoever wrote their statistics."""
    value = st.just("") | VALUES[kind] if kind == pa.string() else VALUES[kind]
    drawn = data.draw(st.lists(st.lists(st.none() | value, min_size=1, max_size=4), max_size=6))
    least, greatest = sorted([data.draw(value), data.draw(value)])
    place = str(tmp_path_factory.mktemp("pruned"))
    schema = pa.schema([("k", kind), ("other", pa.string())])
    by = ["k"] if partitioned and not pa.types.is_timestamp(kind) else []
    DeltaTable.create(place, schema, partition_by=by)
    for n, values in enumerate(drawn):
        rows = pa.Table.from_pylist([{"k": v, "other": "x" * 50} for v in values], schema)
        if n % 2:
            write_deltalake(place, rows, mode="append")
        else:
            table = DeltaTable(place)
            added: Any = delta_files.DataFiles(place, schema, by).write(rows.to_batches())
            table.create_write_transaction(added, "append", table.schema(), by)
    table = DeltaTable(place)
    unread = delta_statistics.outside(table, {"k": KeyRange(least, greatest)})
    fragments: list[Any] = list(table.to_pyarrow_dataset().get_fragments())
    assert unread <= {fragment.path for fragment in fragments}
    for fragment in fragments:
        if fragment.path in unread:
            found = fragment.to_table(schema, columns=["k"])["k"].to_pylist()
            assert not [v for v in found if v is not None and least <= v <= greatest]


def test_files_are_told_apart(tmp_path):
    schema = pa.schema([("k", pa.int64()), ("other", pa.int64())])
    for by in ([], ["k"]):
        table = DeltaTable.create(f"{tmp_path}/{len(by)}", schema, partition_by=by)
        for k in (1, 5, 9):
            write_deltalake(table, pa.table({"k": [k], "other": [5]}), mode="append")
        unread = delta_statistics.outside(table, {"k": KeyRange(2, 8)})
        assert len(unread) == 2


# -------------------------------------------------------------------------- constraints


@pytest.mark.parametrize("query", ["", UPSERT, "mode=replace&partition_by=id"])
def test_which_constraint_a_row_breaks(lake, query):
    lake.commit(events(0), query=query, run_id="r0")
    table = opened(lake)
    table.alter.add_constraint({"positive": "amount >= 0"})
    DeltaTable(place(lake)).alter.add_constraint({"polite": "note <> 'rude'"})
    rows = [*events(1), event(2, amount=-4711), event(3, note="rude"), event(4, amount=None)]
    work = lake.commit(rows, query=query)
    lake.assert_holds(events(0, 1))
    said = {json.loads(x["payloadBytes"])["id"]: x["errorMessage"] for x in work.letters()}
    assert said == {
        "e2": "breaks the table's constraint positive (amount >= 0)",
        "e3": "breaks the table's constraint polite (note != 'rude')",
        # A constraint has to be true, says Delta: that it is not false will not do.
        "e4": "breaks the table's constraint positive (amount >= 0)",
    }


def test_a_constraint_that_cannot_be_judged(lake):
    lake.commit(events(0), run_id="r0")
    opened(lake).alter.add_constraint({"odd": "amount >= 0"})
    entry = max(Path(place(lake), "_delta_log").glob("*.json"))
    entry.write_text(entry.read_text().replace("amount >= 0", "no_such_function(amount)"))
    for query in ("", UPSERT):
        with pytest.raises(DestinationError, match="no_such_function"):
            lake.commit([event(1, amount=4711)], query=query)


def test_rows_are_not_quoted():
    said = "Invalid data found: 1 rows failed validation check.\nPreview of invalid data:\n| 4711 |"
    with pytest.raises(DestinationError) as raised, explained("delta:/t"):
        raise DeltaError(said)
    assert str(raised.value) == ("delta:/t: Invalid data found: 1 rows failed validation check.")
    assert raised.value.__cause__ is None


# ---------------------------------------------------------------------------- deletions


@pytest.mark.slow
def test_what_is_older_than_a_deletion_stays_deleted(lake):
    def row(n: int, hour: float, gone: bool | None = None) -> Row:
        return event(n, at=at(hour), gone=gone)

    def commit(run_id: str, *rows: Row) -> None:
        lake.commit(rows, query=DELETE, table=GONE, run_id=run_id)

    commit("r1", row(1, 1), row(2, 1), row(3, 1))
    commit("r2", row(1, 5, True), row(2, 0, True), row(4, 5, True))
    lake.assert_holds([row(2, 1), row(3, 1)], GONE)
    commit("r3", row(1, 4), row(4, 6), row(3, 2, False))
    lake.assert_holds([row(2, 1), row(3, 2, False), row(4, 6)], GONE)
    commit("r4", row(4, 5.5, True), row(1, 6))
    lake.assert_holds([row(1, 6), row(2, 1), row(3, 2, False), row(4, 6)], GONE)
    graves = opened(lake, "__deleted").to_pyarrow_table().to_pylist()
    assert {(grave["id"], grave["at"]) for grave in graves} == {
        ("e1", at(5)), ("e2", at(0)), ("e4", at(5.5)),
    }  # fmt: skip


def test_the_deleted_keys_of_rows_without_a_key(lake):
    table = replace(GONE, fields=tuple(replace(f, required=False) for f in GONE.fields))
    rows = [event(1, id=None), event(2, id=None, gone=True), event(3, gone=True)]
    lake.commit(rows, query=DELETE, table=table)
    lake.assert_holds(rows[:1], table)
    assert opened(lake, "__deleted").to_pyarrow_table()["id"].to_pylist() == ["e3"]


@pytest.mark.parametrize("name", ["at", 'b"a"d', "UPPER"])
def test_rows_expire(lake, name):
    fields = [replace(f, name=name) if f.name == "at" else f for f in EVENTS.fields]
    table = Table(tuple(fields), has_identity=True)
    rows = [{**event(n), name: at(n)} for n in range(5)] + [{**event(9), name: None}]
    found: Any = lake.output().destination
    before = at(2).timestamp()
    assert found.expire(found.target, name, before) == 0
    lake.commit(rows, table=table)
    assert found.expire(found.target, name, before, dry_run=True) == 2
    lake.assert_holds(rows, table)
    assert found.expire(found.target, name, before) == 2
    assert found.expire(f"{found.target}__states", "slice", before) == 0
    lake.assert_holds(rows[2:], table)


# ------------------------------------------------------------------------------- places


def test_a_place_that_is_no_folder(lake, tmp_path):
    (tmp_path / "file").write_text("")
    found = destination(f"delta:{tmp_path}/file/table", "events", lake.state)
    with pytest.raises(DestinationError, match=f"{tmp_path}/file is no folder"):
        found.check_tables({"data": EVENTS})


def test_a_place_that_cannot_be_written_to(lake, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DestinationError, match="cannot be written to"):
        lake.output().destination.check_tables({"data": EVENTS})


def test_a_nested_key_is_refused_before_the_run(lake):
    table = replace(EVENTS, key=("tags",))
    with pytest.raises(DestinationError, match="'tags' is of type list"):
        lake.output(UPSERT).destination.check_tables({"data": table})


S3 = (
    "Generic S3 error\n     \x1b[31m↳\x1b[0m Error performing GET https://k:s3cr3t@h/b?X-Sig=s3cr3t"
)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(f"{S3}\n \x1b[31m↳\x1b[0m error sending request\n \x1b[31m↳\x1b[0m tcp connect "
                 "error\n \x1b[31m↳\x1b[0m Connection refused (os error 111)"), Unavailable,
         r"does not answer \(Generic S3 error: Connection refused \(os error 111\)\)"),
        (OSError(f"{S3} - 503 Service Unavailable: SlowDown"), Unavailable, "does not answer"),
        (OSError(f"{S3} - 403 Forbidden: AccessDenied"), DestinationError, "no permission"),
        (OSError(f"{S3} - 403 Forbidden: SignatureDoesNotMatch"), DestinationError,
         "does not accept the credentials"),
        (OSError("loading credentials"), DestinationError, "in the environment"),
        (OSError(f"{S3} - 404 Not Found: NoSuchBucket"), DestinationError, "no such bucket"),
        (OSError("Unable to write: No space left on device (os error 28)"), DestinationError,
         "the disk is full"),
        (OSError("Unable to open: Permission denied (os error 13)"), DestinationError,
         "no permission"),
        (OSError(f"{S3} something new"), DestinationError, "something new"),
        (CommitFailedError("Concurrent append"), Unavailable, "somebody else"),
        (DeltaError("Generic error: 500 rows are odd"), DestinationError, "500 rows are odd"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(error, kind, message):
    with pytest.raises(kind, match=message) as raised, explained("delta:/t"):
        raise error
    assert str(raised.value).startswith("delta:/t: ")
    assert "s3cr3t" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


# ----------------------------------------------------------------------------------- s3


@pytest.fixture
def bucket(monkeypatch):
    """An S3 of our own with a bucket; deltalake speaks to it by its own client."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with object_store("s3", "lake") as address:
        yield address


@pytest.fixture
def remote(bucket, tmp_path) -> Target:
    peer: Any = RemoteLake(Path("lake"))
    return Target("delta", Known("delta"), peer, str(tmp_path / "state"))


class RemoteLake(Lake):
    """A bucket's tables."""

    def uri(self, table: str, query: str = "") -> str:
        return super().uri(table, query).replace("delta:lake", "delta:s3://lake")

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        read = DeltaTable(f"s3://lake/{table}").to_pyarrow_table()
        return read.select(schema.names).cast(schema)


@pytest.mark.cloud
@pytest.mark.parametrize("query", ["", UPSERT, "mode=replace&partition_by=note"])
def test_tables_in_a_bucket(remote, query):
    work = remote.staged(events(1, 2), events(3), query=query)
    work.destination.check_tables(work.commit.tables)
    work.do()
    work.do()
    assert work.held
    remote.commit(events(3, 4, at=at(1)), query=query, run_id="r2")
    rows = events(3, 4, at=at(1))
    remote.assert_holds([*events(1, 2, *([] if query else [3])), *rows])


@pytest.mark.cloud
def test_buckets_that_cannot_be_used(remote, monkeypatch):
    nowhere = destination("delta:s3://nowhere/t", "events", remote.state)
    with pytest.raises(DestinationError, match="s3://nowhere/t: there is no such bucket"):
        nowhere.check_tables({"data": EVENTS})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    with pytest.raises(DestinationError, match="no credentials were found"):
        remote.output().destination.check_tables({"data": EVENTS})


@pytest.mark.cloud
def test_a_store_that_does_not_answer(remote, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="the store does not answer"):
        remote.output().destination.committed("r1")
