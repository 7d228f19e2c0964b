"""What only an Iceberg table has: snapshots that hold tokens, data files, partitions, a catalog.

What it shares with all destinations is in the conformance suite.
"""

from __future__ import annotations

import datetime as dt
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conformance_support import (
    EVENTS,
    NOON,
    ROOT,
    Interrupted,
    Target,
    Work,
    again,
    batch_of,
    counted,
    event,
    events,
    interrupted,
    raising,
)
from millstream.schemas.contract import Field
from millstream.schemas.forms.iceberg import iceberg_table_schema
from millstream.schemas.table import Table
from millstream.transforms.receipts import Part
from millstream.transforms.write.destination import destination
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable
from millstream.transforms.write.evolution import TableMismatch

from tests.services import iceberg
from tests.services.destinations import DESTINATIONS
from tests.services.serving import free_port

if reason := iceberg.why_not():
    pytest.skip(reason, allow_module_level=True)

from millstream.transforms.write.iceberg import changes as iceberg_changes
from millstream.transforms.write.iceberg import destination as module
from millstream.transforms.write.iceberg import files as iceberg_files
from millstream.transforms.write.iceberg import stored as iceberg_stored
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Transaction
from pyiceberg.transforms import BucketTransform, IdentityTransform, MonthTransform, YearTransform
from pyiceberg.types import LongType, NestedField, StringType, TimestamptzType

UPSERT = "mode=upsert"


@pytest.fixture(scope="module")
def lake() -> Iterator[iceberg.Lake]:
    with iceberg.running() as peer:
        yield peer


@pytest.fixture
def target(lake, tmp_path) -> Target:
    return Target("iceberg", DESTINATIONS["iceberg"], lake, str(tmp_path / "state"))


@contextmanager
def catalog_of(target: Target) -> Iterator[Any]:
    """The table's catalog, as pyiceberg has it."""
    assert isinstance(target.peer, iceberg.Lake)
    with target.peer.opened() as catalog:
        yield catalog


@contextmanager
def opened(target: Target, suffix: str = "") -> Iterator[Any]:
    """The table, or one beside it, as pyiceberg has it."""
    with catalog_of(target) as catalog:
        yield catalog.load_table(f"{iceberg.NAMESPACE}.{target.table}{suffix}")


def data_files(target: Target) -> set[str]:
    """Paths of the data files that the table is made of."""
    with opened(target) as table:
        return {task.file.file_path for task in table.scan().plan_files()}


def files_on_disk(target: Target) -> set[str]:
    """Paths of all data files of the table, also of those that no snapshot has."""
    with opened(target) as table:
        folder = table.location().removeprefix("file://")
    return {
        f"file://{place}/{name}"
        for place, _, names in os.walk(f"{folder}/data")
        for name in names
        if name.endswith(".parquet")
    }


# ------------------------------------------------------------------------------ the token


@pytest.mark.slow
def test_the_token_is_a_property_of_the_snapshot(target: Target):
    target.commit(events(1, 2), run_id="r1")
    target.commit(run_id="r2")
    with opened(target) as table:
        held = [
            {key: value for key, value in snapshot.summary.additional_properties.items()
             if key.startswith("millstream.")}
            for snapshot in table.snapshots()
        ]  # fmt: skip
    assert [list(one) for one in held] == [["millstream.held.r1"], ["millstream.held.r2"]]
    assert '"rows":2' in held[0]["millstream.held.r1"]


@pytest.mark.slow
def test_rolled_back_rows_are_not_held(target: Target):
    target.commit(events(1), run_id="r1")
    work = target.commit(events(2), run_id="r2")
    with opened(target) as table:
        first, _ = table.snapshots()
        table.manage_snapshots().rollback_to_snapshot(first.snapshot_id).commit()
    assert not work.held
    again(target.staged(events(2), run_id="r2"))
    target.assert_holds(events(1, 2))
    assert work.held


@pytest.mark.slow
def test_a_gap_of_expired_snapshots_hides_no_older_token(target: Target):
    for n in (1, 2, 3):
        target.commit(events(n), run_id=f"r{n}")
    with opened(target) as table:
        middle = table.snapshots()[1]
        table.maintenance.expire_snapshots().by_id(middle.snapshot_id).commit()
    held = target.output().destination.committed
    assert [n for n in (1, 2, 3) if held(f"r{n}")] == [1, 3]


def test_states_of_a_run_with_other_content_are_a_conflict(target: Target):
    """They were committed by an attempt that died before the results were."""
    fields = (Field("rows", "integer"), Field("n", "integer"))
    tables: Mapping[Part, Table] = {"data": Table(fields[1:]), "states": Table(fields)}

    def results(n: int) -> Work:
        row = {"n": n, "rows": 1}
        parts: Mapping[Part, Any] = {p: [batch_of([row], table)] for p, table in tables.items()}
        return target.staged_parts(tables, parts)

    where = target.peer.interrupt_commit()
    with interrupted(where, "before", raising(Interrupted()), 1), pytest.raises(Interrupted):
        results(1).do()
    with pytest.raises(CommitConflict, match=f"{target.table}__states already holds this run"):
        results(2).do()
    results(1).do()
    target.assert_holds([{"n": 1}], tables["data"])


# ---------------------------------------------------------------------- conflicts, dead attempts


@contextmanager
def another_first(target: Target, *works: Work) -> Iterator[list[int]]:
    """Works that are committed just before others are, one for each attempt."""
    left = list(works)
    attempts: list[int] = []
    original = Transaction.commit_transaction

    def patched(self: Transaction) -> Any:
        if any("millstream" in str(update) for update in self._updates):
            attempts.append(len(left))
            if left:
                work, left[:] = left[0], left[1:]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Transaction, "commit_transaction", original)
                    work.do()
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "commit_transaction", patched)
        yield attempts


@pytest.mark.slow
def test_data_files_of_an_append_outlive_a_conflict(target: Target):
    target.commit(events(0), run_id="r0")
    work = target.staged(events(1, 2), run_id="r1")
    others = [target.staged(events(10 + n), run_id=f"o{n}") for n in range(3)]
    with another_first(target, *others) as attempts:
        work.do()
    assert attempts == [3, 2, 1, 0]
    target.assert_holds(events(0, 1, 2, 10, 11, 12))
    assert files_on_disk(target) == data_files(target)
    assert len(data_files(target)) == 5


@pytest.mark.slow
def test_data_files_are_written_anew_for_other_columns(target: Target):
    """Both add a column, and both would give it the same field id."""
    target.commit(events(0), run_id="r0")
    mine = replace(EVENTS, fields=(*EVENTS.fields, Field("mine", "string")))
    theirs = replace(EVENTS, fields=(*EVENTS.fields, Field("theirs", "string")))
    both = replace(EVENTS, fields=(*mine.fields, Field("theirs", "string")))
    work = target.staged(events(1, mine="m"), table=mine, run_id="r1")
    other = target.staged(events(2, theirs="t"), table=theirs, run_id="r2")
    with another_first(target, other):
        work.do()
    target.assert_holds([*events(0), *events(1, mine="m"), *events(2, theirs="t")], both)
    assert files_on_disk(target) == data_files(target)


@pytest.mark.slow
def test_an_upsert_is_planned_anew_after_a_conflict(target: Target):
    target.commit(events(1), query=UPSERT, run_id="r0")
    work = target.staged([event(2, note="mine"), event(3, note="mine")], query=UPSERT, run_id="r1")
    newer = NOON + dt.timedelta(days=1)
    other = target.staged([event(2, note="newer", at=newer)], query=UPSERT, run_id="r2")
    with another_first(target, other) as attempts:
        work.do()
    assert attempts == [1, 0]
    expected = [event(1), event(2, note="newer", at=newer), event(3, note="mine")]
    target.assert_holds(expected)


@pytest.mark.slow
def test_who_never_is_first_says_so(target: Target, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    target.commit(events(0), run_id="r0")
    work = target.staged(events(1), run_id="r1")
    others = [target.staged(events(10 + n), run_id=f"o{n}") for n in range(2)]
    with another_first(target, *others), pytest.raises(Unavailable, match="committed before us 2"):
        work.do()
    assert files_on_disk(target) == data_files(target)
    work = target.staged(events(1), run_id="r1")
    work.do()
    target.assert_holds(events(0, 1, 10, 11))


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", UPSERT, "mode=replace&partition_by=note"])
def test_a_failing_attempt_takes_its_data_files_along(target: Target, monkeypatch, query: str):
    target.commit(events(1, 2, note="n"), query=query, run_id="r0")
    before = files_on_disk(target)
    work = target.staged(events(2, 3, note="n"), query=query, run_id="r1")

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_stage", fail)
        with pytest.raises(DestinationError, match=r"warehouse refuses: .* No space left"):
            work.do()
    assert files_on_disk(target) == before
    work.do()
    assert work.held


@pytest.mark.slow
def test_files_of_a_dead_attempt_can_be_told_by_their_run(target: Target):
    target.commit(events(0), run_id="r0")
    work = target.staged(events(1), run_id="some-run")
    where = target.peer.interrupt_commit()
    with interrupted(where, "before", raising(Interrupted())), pytest.raises(Interrupted):
        work.do()
    (orphan,) = files_on_disk(target) - data_files(target)
    assert "/00000-some-run-" in orphan
    target.assert_holds(events(0))
    again(work)
    target.assert_holds(events(0, 1))


# ------------------------------------------------------------------------------ data files


@pytest.mark.slow
def test_rows_are_written_in_row_groups_and_files_of_bounded_size(target: Target, monkeypatch):
    monkeypatch.setattr(iceberg_files, "GROUP_ROWS", 100)
    table = Table((Field("n", "integer"), Field("note", "string")), has_identity=True)
    target.commit(table=table, run_id="r0")
    with opened(target) as made, made.transaction() as transaction:
        transaction.set_properties({"write.target-file-size-bytes": "4000"})
    rows = [{"n": n, "note": "x" * 10} for n in range(1000)]
    files = [rows[n : n + 50] for n in range(0, 1000, 50)]
    target.commit(*files, table=table, run_id="r1")
    target.assert_holds(rows, table)
    with opened(target) as made:
        found = [task.file for task in made.scan().plan_files()]
        counts = [pq.ParquetFile(f.file_path.removeprefix("file://")).metadata for f in found]
    assert {m.num_row_groups for m in counts} == {2}
    assert sum(m.num_rows for m in counts) == 1000
    assert all(m.row_group(g).num_rows == 100 for m in counts for g in range(2))


def test_statistics_tell_what_a_file_holds(target: Target):
    target.commit([*events(3, 1, 2), event(4, amount=None)])
    with opened(target) as table:
        (file,) = table.inspect.files().to_pylist()
    metrics = file["readable_metrics"]
    assert file["record_count"] == 4
    assert (metrics["amount"]["lower_bound"], metrics["amount"]["upper_bound"]) == (1, 3)
    assert metrics["amount"]["null_value_count"] == 1
    assert metrics["at"]["lower_bound"] == NOON + dt.timedelta(seconds=1)


def test_names_that_parquet_files_write_otherwise(target: Target):
    names = ("user-id", "a.b", "1st", "ü ber", 'say "hi"')
    fields = [Field(name, "integer") for name in names]
    table = Table((*fields, Field("o-o", "object", fields=(Field("i-i", "string"),))))
    rows = [{**dict.fromkeys(names, n), "o-o": {"i-i": str(n)}} for n in range(3)]
    target.commit(rows, table=table, kind="aggregates")
    target.assert_holds(rows, table)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["country,date(at)", "hour(at)", "u,b,d"])
def test_partitions_of_a_table_that_is_made(target: Target, by: str):
    table = Table(
        (
            Field("country", "string"), Field("at", "timestamp"), Field("n", "integer"),
            Field("u", "integer", storage="uint64"), Field("b", "boolean"), Field("d", "date"),
        ),
    )  # fmt: skip
    times = [None, dt.datetime(1969, 12, 31, 23, 59, tzinfo=dt.UTC), NOON]
    rows = [
        {"country": country, "at": at, "n": n, "u": n and 2**64 - n, "b": n and n > 1,
         "d": at and at.date()}
        for country in (None, "", "NO", "a/b=c%")
        for at in times
        for n in (None, 1, 2)
    ]  # fmt: skip
    target.commit(rows[:20], rows[20:], table=table, query=f"partition_by={by}", kind="aggregates")
    target.assert_holds(rows, table)
    with opened(target) as made:
        said = [(field.name, str(field.transform)) for field in made.spec().fields]
        parts = made.inspect.partitions().to_pylist()
        some = made.scan("n = 2").to_arrow()
    assert said == {
        "country,date(at)": [("country", "identity"), ("at_date", "day")],
        "hour(at)": [("at_hour", "hour")],
        "u,b,d": [("u", "identity"), ("b", "identity"), ("d", "identity")],
    }[by]  # fmt: skip
    assert len(parts) == {"country,date(at)": 12, "hour(at)": 3, "u,b,d": 9}[by]
    assert sum(part["record_count"] for part in parts) == len(rows)
    assert some.num_rows == 12


@pytest.mark.slow
def test_more_partitions_than_files_are_open(target: Target, monkeypatch):
    monkeypatch.setattr(iceberg_files, "OPEN_FILES", 2)
    monkeypatch.setattr(iceberg_files, "GATHERED_BYTES", 2000)
    rows = [event(n, note=f"note {n % 7}") for n in range(700)]
    files = [rows[n : n + 70] for n in range(0, 700, 70)]
    target.commit(*files, query="partition_by=note")
    target.assert_holds(rows)


def test_two_functions_of_one_column(target: Target):
    work = target.staged(events(1), query="partition_by=date(at),hour(at)")
    with pytest.raises(DestinationError, match="of at, say the finer one alone"):
        work.destination.check_tables(work.commit.tables)


def make(target: Target, schema: Schema, spec: PartitionSpec | None = None) -> None:
    with catalog_of(target) as catalog:
        named = {"partition_spec": spec} if spec else {}
        catalog.create_table(f"{iceberg.NAMESPACE}.{target.table}", schema, **named)


def events_schema() -> Schema:
    return Schema.model_validate(iceberg_table_schema(EVENTS))


def partitioned(transform: Any, column: str) -> PartitionSpec:
    schema = events_schema()
    return PartitionSpec(
        PartitionField(schema.find_field(column).field_id, 1000, transform, f"{column}_part")
    )


@pytest.mark.parametrize("transform", [YearTransform(), MonthTransform()], ids=str)
def test_the_partitions_of_a_table_that_is_there(target: Target, transform: Any):
    make(target, events_schema(), partitioned(transform, "at"))
    times = [None, NOON, dt.datetime(1969, 1, 31, 23, tzinfo=dt.UTC), NOON + dt.timedelta(90)]
    rows = [event(n, at=at) for n, at in enumerate(times)]
    target.commit(rows)
    target.assert_holds(rows)
    with opened(target) as table:
        parts = {task.file.partition[0] for task in table.scan().plan_files()}
        found = table.scan("at < '1970-01-01T00:00:00+00:00'").to_arrow()
    years = isinstance(transform, YearTransform)
    assert parts == ({None, 56, -1, 57} if years else {None, 682, -12, 685})
    assert found["id"].to_pylist() == ["e2"]


def test_partitions_that_need_more_than_is_installed(target: Target, monkeypatch):
    make(target, events_schema(), partitioned(BucketTransform(4), "id"))
    monkeypatch.setattr("millstream.transforms.write.iceberg.schema.find_spec", lambda name: None)
    work = target.staged(events(1))
    with pytest.raises(DestinationError, match=r"id_part \(bucket\[4\]\): pip install"):
        work.destination.check_tables(work.commit.tables)


# ------------------------------------------------------------------------------ columns


@pytest.mark.slow
def test_columns_within_columns_are_added(target: Target):
    place = Field("place", "object", fields=(Field("city", "string"),))
    lines = Field("lines", "array", items=Field("item", "object", fields=(Field("a", "integer"),)))
    narrow = Table((Field("n", "integer"), place, lines))
    wide = Table(
        (
            Field("n", "integer"),
            replace(place, fields=(Field("zip", "string"), *place.fields)),
            Field("new", "object", fields=(Field("x", "integer", required=True),)),
            replace(lines, items=replace(
                Field("item", "object"), fields=(Field("b", "date"), Field("a", "integer"))
            )),
        )
    )  # fmt: skip
    old = [{"n": 1, "place": {"city": "Oslo"}, "lines": [{"a": 1}, None]}]
    new = [{
        "n": 2, "place": {"city": None, "zip": "0150"}, "new": {"x": 1},
        "lines": [{"a": 2, "b": dt.date(2026, 1, 1)}, {"a": None, "b": None}],
    }]  # fmt: skip
    target.commit(old, table=narrow, kind="aggregates", run_id="r1")
    work = target.staged(new, table=wide, kind="aggregates", run_id="r2")
    work.destination.check_tables(work.commit.tables)
    work.do()
    older = {"n": 1, "place": {"city": "Oslo", "zip": None}, "new": None,
             "lines": [{"a": 1, "b": None}, None]}  # fmt: skip
    target.assert_holds([older, *new], wide)
    target.commit(old, table=narrow, kind="aggregates", run_id="r3")
    target.assert_holds([older, *new, older], wide)


def test_a_difference_within_a_column_is_printed(target: Target):
    place = Field("place", "object", fields=(Field("zip", "string"), Field("n", "integer")))
    target.commit(table=Table((place,)), kind="aggregates")
    other = replace(place, fields=(Field("zip", "integer", storage="int32"), Field("n", "decimal")))
    work = target.staged(table=Table((other,)), kind="aggregates")
    with pytest.raises(TableMismatch) as raised:
        work.destination.check_tables(work.commit.tables)
    assert str(raised.value).splitlines()[1:5] == [
        "  - place.zip string",
        "  + place.zip int",
        "  - place.n long",
        "  + place.n decimal(38, 0)",
    ]


def test_what_is_required_within_a_column_that_is_not_written(target: Target):
    place = Field("place", "object", fields=(Field("zip", "string", required=True),))
    target.commit(table=Table((Field("n", "integer"), place)), kind="aggregates", run_id="r1")
    table = Table((Field("n", "integer"),))
    target.commit([{"n": 1}], table=table, kind="aggregates", run_id="r2")
    target.assert_holds([{"n": 1, "place": None}], Table((Field("n", "integer"), place)))


def test_what_is_required_within_an_object_that_is_null(target: Target):
    inner = (Field("zip", "string", required=True), Field("n", "integer"))
    place = Field("place", "object", fields=inner)
    lines = Field("lines", "array", items=replace(place, name="item", required=True))
    table = Table((Field("k", "integer", required=True), place, lines), ("k",))
    full = {"zip": "0150", "n": None}
    rows = [
        {"k": 1, "place": None, "lines": None}, {"k": 2, "place": full, "lines": [full]},
        {"k": 3, "place": None, "lines": []},
    ]  # fmt: skip
    target.commit(rows, table=table, query=UPSERT, kind="aggregates", run_id="r1")
    new = [{"k": 3, "place": full, "lines": [full, full]}]
    target.commit(new, table=table, query=UPSERT, kind="aggregates", run_id="r2")
    assert sorted(stored_rows(target), key=lambda row: row["k"]) == [*rows[:2], *new]


def test_a_wider_table_takes_the_values(target: Target):
    narrow = Table(
        (
            Field("i", "integer", storage="int32"), Field("f", "number", storage="float32"),
            Field("d", "decimal", precision=6, scale=2),
        )
    )  # fmt: skip
    wide = Table(
        (
            Field("i", "integer"), Field("f", "number", storage="float64"),
            Field("d", "decimal", precision=20, scale=4),
        )
    )  # fmt: skip
    target.commit(table=wide, kind="aggregates", run_id="r1")
    rows = [{"i": 2**31 - 1, "f": 0.5, "d": Decimal("9999.99")}]
    target.commit(rows, table=narrow, kind="aggregates", run_id="r2")
    target.assert_holds(rows, wide)
    lossy = replace(narrow, fields=(Field("d", "decimal", precision=19, scale=2),))
    work = target.staged(table=lossy, kind="aggregates")
    with pytest.raises(TableMismatch, match=r"\+ d decimal\(19, 2\)"):
        work.destination.check_tables({"data": lossy})


@pytest.mark.slow
def test_identifiers_of_a_table_that_is_made(target: Target):
    other, third = target.another(), target.another()
    target.commit(events(1), query=UPSERT)
    other.commit(events(1))
    loose = replace(EVENTS, fields=tuple(replace(f, required=False) for f in EVENTS.fields))
    third.commit(events(1), table=loose, query=UPSERT)
    found = []
    for one in (target, other, third):
        with opened(one) as table:
            found.append(table.schema().identifier_field_names())
    assert found == [{"id"}, set(), set()]


def test_wide_decimals_of_states_are_text(target: Target):
    """No type of Iceberg holds them: they are their digits, which cast back to what they were."""
    fields = tuple(
        Field(f"d{scale}", "decimal", precision=76, scale=scale) for scale in (0, 2, 40, 76)
    )
    states = Table((Field("rows", "integer"), *fields))
    data = Table((Field("n", "integer"),))
    most = (9,) * 76
    digits = [(0, most), (1, most), (0, (1,)), (0, (0,)), None]
    rows = [
        {"n": n, "rows": n, **{f.name: some and Decimal((*some, -f.scale)) for f in fields}}
        for n, some in enumerate(digits)
    ]
    tables: Mapping[Part, Table] = {"data": data, "states": states}
    parts: Mapping[Part, Any] = {"data": [batch_of(rows, data)], "states": [batch_of(rows, states)]}
    work = target.staged_parts(tables, parts)
    work.destination.check_tables(tables)
    work.do()
    assert target.rows(states, "states") == counted(rows, states)
    with opened(target, "__states") as table:
        stored = table.scan().to_arrow()
    assert stored["d2"].to_pylist()[2:] == ["0.01", "0.00", None]
    with pytest.raises(DestinationError, match="d0: Iceberg's decimals have at most 38 digits"):
        work.destination.check_tables({"data": states})


def test_schema_of_a_table():
    table = Table(
        (
            Field("payload", "binary", required=True),
            Field("wide", "decimal", precision=76, scale=2),
            Field("part", "number"),
        ),
        ("payload",),
    )
    said = iceberg_table_schema(table, ["payload"], wide_as_text=True)
    assert [(f["name"], f["type"], f["required"]) for f in said["fields"]] == [
        ("payload", "binary", True), ("wide", "string", False), ("part", "double", False),
    ]  # fmt: skip
    assert said["identifier-field-ids"] == [1]
    assert iceberg_table_schema(table, ["part"], wide_as_text=True)["identifier-field-ids"] == []
    with pytest.raises(ValueError, match=r"^wide: Iceberg's decimals have at most 38 digits"):
        iceberg_table_schema(table)


# ------------------------------------------------------------------------------ upserts


@pytest.fixture
def read_files(monkeypatch) -> list[str]:
    """Paths of data files that are read."""
    found: list[str] = []
    original = iceberg_stored.read_stored

    def read(metadata: Any, io: Any, task: Any, shape: Any) -> Any:
        found.append(task.file.file_path)
        return original(metadata, io, task, shape)

    monkeypatch.setattr(iceberg_changes, "read_stored", read)
    monkeypatch.setattr("millstream.transforms.write.iceberg.replace.read_stored", read)
    return found


def ordered_events(*numbers: int, **values: Any) -> list[dict[str, Any]]:
    return [event(n, **{"id": f"{n:04d}", **values}) for n in numbers]


@pytest.mark.slow
def test_only_files_that_have_a_key_are_written_anew(target: Target, read_files: list[str]):
    for n in range(4):
        rows = ordered_events(*range(10 * n, 10 * n + 10))
        target.commit(rows, query=UPSERT, run_id=f"r{n}")
    before = data_files(target)
    read_files.clear()
    newer = NOON + dt.timedelta(days=1)
    new = ordered_events(14, 99, at=newer, note="new")
    target.commit(new, query=UPSERT, run_id="new")
    kept = before & data_files(target)
    assert len(before) == 4
    assert len(kept) == 3
    # The file of 0 to 9 cannot have them; those of 20 to 39 could, and have not.
    assert set(read_files) == {path for path in before if "/00000-r0-" not in path}
    rows = [r for r in ordered_events(*range(40)) if r["id"] != "0014"]
    target.assert_holds([*rows, *new])


@pytest.mark.slow
def test_a_file_of_which_nothing_stands_just_goes(target: Target):
    target.commit(ordered_events(1, 2), query=UPSERT, run_id="r1")
    newer = NOON + dt.timedelta(days=1)
    new = ordered_events(1, 2, 3, at=newer)
    target.commit(new, query=UPSERT, run_id="r2")
    target.assert_holds(new)
    assert len(data_files(target)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("null", [None, [], [None], [{"a": None}, None]], ids=str)
def test_rows_that_are_written_anew_are_the_same(target: Target, null: Any):
    """pyiceberg's own reader makes an empty array of a null one."""
    item = Field("item", "object", fields=(Field("a", "integer"),))
    nested = Field("nested", "array", items=item)
    table = Table((Field("k", "integer", required=True), nested), ("k",))
    rows = [{"k": 1, "nested": null}, {"k": 2, "nested": [{"a": 1}]}]
    target.commit(rows, table=table, query=UPSERT, kind="aggregates", run_id="r1")
    (before,) = data_files(target)
    new = [{"k": 2, "nested": None}]
    target.commit(new, table=table, query=UPSERT, kind="aggregates", run_id="r2")
    assert before not in data_files(target)
    found = [
        row
        for path in data_files(target)
        for row in pq.read_table(path.removeprefix("file://")).to_pylist()
    ]
    assert sorted(found, key=lambda row: row["k"]) == [rows[0], *new]


def test_a_key_that_iceberg_has_no_type_for(target: Target):
    key = Field("k", "integer", storage="uint64", required=True)
    table = Table((key, Field("v", "string")), ("k",))
    for n, value in enumerate(["old", "new"]):
        rows = [{"k": 2**64 - 1, "v": value}, {"k": n, "v": "other"}]
        target.commit(rows, table=table, query=UPSERT, kind="aggregates", run_id=f"r{n}")
    expected = [{"k": 2**64 - 1, "v": "new"}, {"k": 0, "v": "other"}, {"k": 1, "v": "other"}]
    target.assert_holds(expected, table)


def test_an_upsert_into_a_table_that_was_appended_to(target: Target):
    """It has no column that orders rows by their source, and a key twice."""
    target.commit([*events(1, 2), event(1, note="twice")], run_id="r1")
    with opened(target) as table:
        assert "_source" not in table.schema().column_names
    new = [event(1, note="new", at=NOON + dt.timedelta(days=1))]
    target.commit(new, query=UPSERT, run_id="r2")
    target.assert_holds([*new, *events(2)])


@pytest.mark.slow
def test_a_key_that_partitions_the_table_and_may_be_null(target: Target):
    loose = replace(EVENTS, fields=tuple(replace(f, required=False) for f in EVENTS.fields))
    query = "mode=upsert&partition_by=id"
    old = [event(1, id=None), event(2, id="b"), event(3, id="c")]
    target.commit(old, table=loose, query=query, run_id="r1")
    new = [event(9, id="c", note="new"), event(9, id=None)]
    target.commit(new, table=loose, query=query, run_id="r2")
    target.assert_holds([*old[:2], *new], loose)


@pytest.mark.slow
def test_deletions_are_remembered_beside_the_table(target: Target):
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
    query = f"{UPSERT}&deleted=gone"
    target.commit(events(1, 2), table=table, query=query, run_id="r1")
    with catalog_of(target) as catalog:
        assert not catalog.table_exists(f"{iceberg.NAMESPACE}.{target.table}__deleted")
    gone = [event(2, gone=True, _position=7), event(3, gone=True, id=None)]
    loose = replace(table, fields=tuple(replace(f, required=False) for f in table.fields))
    with pytest.raises(TableMismatch, match=r"\+ id string \(may be null\)"):
        target.commit(gone, table=loose, query=query, run_id="r2")
    with catalog_of(target) as catalog:
        assert not catalog.table_exists(f"{iceberg.NAMESPACE}.{target.table}__deleted")
    target.commit(gone[:1], table=table, query=query, run_id="r2")
    with opened(target, "__deleted") as graves:
        found = graves.scan().to_arrow().to_pylist()
    assert found == [{"id": "e2", "at": event(2)["at"], "_source": "s", "_position": 7}]
    target.commit(events(2, note="late"), table=table, query=UPSERT, run_id="r3")
    target.assert_holds(events(1), table)


@pytest.mark.slow
def test_a_deletion_whose_commit_died_is_carried_out_by_the_next(target: Target):
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
    query = f"{UPSERT}&deleted=gone"
    target.commit(events(1, 2), table=table, query=query, run_id="r1")
    gone = events(2, gone=True, _position=9)
    work = target.staged(gone, table=table, query=query, run_id="r2")
    where = target.peer.interrupt_commit()
    for call in (1, 0):
        with interrupted(where, "before", raising(Interrupted()), call), pytest.raises(Interrupted):
            work.do()
        target.assert_holds(events(1, 2), table)
    again(work)
    target.assert_holds(events(1), table)


@pytest.mark.slow
def test_deletions_that_were_noted_for_another_plan_are_added_to(target: Target):
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
    query = f"{UPSERT}&deleted=gone"
    target.commit(events(1, 2, 3), table=table, query=query, run_id="r1")
    where = target.peer.interrupt_commit()
    dying = target.staged(events(1, gone=True, _position=9), table=table, query=query, run_id="r2")
    with interrupted(where, "before", raising(Interrupted()), 1), pytest.raises(Interrupted):
        dying.do()
    gone = events(2, gone=True, _position=9)
    target.commit(gone, table=table, query=query, run_id="r2", plan="other")
    target.assert_holds(events(1, 3), table)
    with opened(target, "__deleted") as graves:
        assert sorted(graves.scan().to_arrow()["id"].to_pylist()) == ["e1", "e2"]


# ------------------------------------------------------------------------------ reading anew


def stored_rows(target: Target, names: list[str] | None = None) -> list[dict[str, Any]]:
    """The table's rows, as those are read that are written anew."""
    with opened(target) as table:
        schema = table.schema()
        shape = iceberg_files.Shape(schema.select(*names) if names else schema)
        return [
            row
            for task in table.scan().plan_files()
            for batch in iceberg_stored.read_stored(table.metadata, table.io, task, shape)
            for row in batch.to_pylist()
        ]


def test_columns_are_known_by_their_field_ids(target: Target):
    inner = Field("o", "object", fields=(Field("a", "integer"), Field("b", "string")))
    items = Field("l", "array", items=Field("item", "object", fields=inner.fields))
    table = Table((Field("n", "integer"), inner, items, Field("left", "string")))
    rows = [
        {"n": 1, "o": {"a": 1, "b": "x"}, "l": [{"a": 2, "b": None}], "left": "l"},
        {"n": 2, "o": None, "l": None, "left": None},
    ]
    target.commit(rows, table=table, kind="aggregates")
    with opened(target) as made, made.update_schema() as update:
        update.rename_column("n", "number")
        update.rename_column("o.a", "renamed")
        update.delete_column("left")
        update.delete_column("l.element.b")
        update.add_column("left", LongType())
        update.update_column("l.element.a", doc="of a line")
    assert stored_rows(target) == [
        {"number": 1, "o": {"renamed": 1, "b": "x"}, "l": [{"a": 2}], "left": None},
        {"number": 2, "o": None, "l": None, "left": None},
    ]
    assert stored_rows(target, ["left"]) == [{"left": None}, {"left": None}]


def test_files_that_were_not_written_for_iceberg(target: Target, tmp_path):
    """They have no field ids, and not the column that their folder is named by."""
    schema = Schema(
        NestedField(1, "n", LongType()), NestedField(2, "country", StringType()),
        NestedField(3, "at", TimestamptzType()),
    )  # fmt: skip
    make(target, schema, PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "country")))
    foreign = pa.table({"n": pa.array([1, 2], pa.int32()), "at": pa.array([NOON] * 2)})
    path = tmp_path / "foreign.parquet"
    pq.write_table(foreign, path)
    with opened(target) as table, table.transaction() as transaction:
        names = '[{"field-id": 1, "names": ["n"]}, {"field-id": 3, "names": ["at"]}]'
        transaction.set_properties({"schema.name-mapping.default": names})
        from pyiceberg.io.pyarrow import parquet_file_to_data_file
        from pyiceberg.typedef import Record

        file = parquet_file_to_data_file(table.io, transaction.table_metadata, path.as_uri())
        file[3] = Record("NO")
        append = transaction.update_snapshot().fast_append()
        append.append_data_file(file)
        append.commit()
    expected = [{"n": n, "country": "NO", "at": NOON} for n in (1, 2)]
    assert stored_rows(target) == expected


def test_rows_that_delete_files_name_are_gone(target: Target, tmp_path):
    from pyiceberg.manifest import DataFile, DataFileContent, FileFormat

    target.commit(events(0, 1, 2, 3))
    path = tmp_path / "deletes.parquet"
    with opened(target) as table:
        (task,) = table.scan().plan_files()
        data = task.file.file_path
        pq.write_table(pa.table({"file_path": [data] * 2, "pos": [0, 2]}), path)
        task.delete_files.add(
            DataFile.from_args(
                content=DataFileContent.POSITION_DELETES,
                file_path=path.as_uri(),
                file_format=FileFormat.PARQUET,
            )
        )
        shape = iceberg_files.Shape(table.schema())
        for size in (iceberg_stored.BATCH_ROWS, 3, 1):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(iceberg_stored, "BATCH_ROWS", size)
                read = iceberg_stored.read_stored(table.metadata, table.io, task, shape)
                found = [row["id"] for batch in read for row in batch.to_pylist()]
            assert found == ["e1", "e3"]


# ------------------------------------------------------------------------------ replacing


@pytest.mark.slow
def test_partitions_that_the_table_has_are_not_read(target: Target, read_files: list[str]):
    query = "mode=replace&partition_by=note,date(at)"
    days = [None, NOON - dt.timedelta(days=30_000), NOON]
    rows = [event(n, note=note, at=at) for n, (note, at) in enumerate(
        (note, at) for note in (None, "NO") for at in days
    )]  # fmt: skip
    target.commit(rows, query=query, run_id="r1")
    new = [event(10, note="NO", at=NOON), event(11, note=None, at=days[1])]
    target.commit(new, query=query, run_id="r2")
    kept = [row for row in rows if (row["note"], row["at"]) not in [("NO", NOON), (None, days[1])]]
    target.assert_holds([*kept, *new])
    assert read_files == []


@pytest.mark.slow
def test_partitions_that_the_table_has_not_are_looked_for(target: Target, read_files: list[str]):
    target.commit(events(1, 2, note="NO"), query="partition_by=date(at)", run_id="r1")
    target.commit(events(3, note="SE"), run_id="r2")
    target.commit(events(4, note="XX"), run_id="r3")
    new = events(5, note="NO") + events(6, note="SE")
    target.commit(new, query="mode=replace&partition_by=note", run_id="r4")
    target.assert_holds([*events(4, note="XX"), *new])
    assert len(read_files) == 2


@pytest.mark.slow
def test_the_last_day_that_there_is(target: Target):
    query = "mode=replace&partition_by=date(at)"
    last = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    target.commit([event(1, at=last), event(2)], query=query, run_id="r1")
    target.commit([event(3, at=last)], query=query, run_id="r2")
    target.assert_holds([event(2), event(3, at=last)])


# ------------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("lake", "names no table; write iceberg:CATALOG/NAMESPACE.TABLE"),
        ("cat/table", "names no table"),
        ("cat/ns.", "names no table"),
        ("/ns.t", "names no table"),
        ("cat/ns/t.u", "names no table"),
        ("cat/ns.t?mode=merge", "no mode 'merge'"),
        ("cat/ns.t?partitions=a", "no option 'partitions'"),
    ],
)
def test_a_uri_that_cannot_be_used(rest: str, said: str):
    with pytest.raises(DestinationError, match=said):
        destination(f"iceberg:{rest}")


def test_an_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(DestinationError, match="names a catalog, not its address") as raised:
        destination("iceberg:postgresql://me:geheim@host/db/ns.t")
    assert "geheim" not in str(raised.value)


def test_the_uri_says_all(target: Target):
    uri = "iceberg:cat/a.b.t?mode=replace&partition_by=country,date(ts)"
    found = pickle.loads(pickle.dumps(destination(uri, "out", "/state")))
    assert found.uri == uri
    assert (found.catalog, found.target, found.service) == ("cat", "a.b.t", "iceberg:cat")


def attempts(target: Target, uri: str) -> list[Any]:
    """Everything that talks to the service."""
    found = destination(uri, "events", target.state)
    work = replace_destination(target.staged(events(1)), found)
    return [
        lambda: found.check_tables(work.commit.tables),
        lambda: found.committed("r1"),
        work.do,
    ]


def replace_destination(work: Work, found: Any) -> Work:
    return Work(found, work.commit)


def test_an_unknown_catalog(target: Target):
    for attempt in attempts(target, "iceberg:millstream-tset/lake.t"):
        with pytest.raises(DestinationError) as raised:
            attempt()
        assert str(raised.value) == (
            "iceberg:millstream-tset/lake.t: pyiceberg's configuration has no catalog "
            "'millstream-tset'; did you mean 'millstream-test'?. Name it in .pyiceberg.yaml, or "
            "set PYICEBERG_CATALOG__MILLSTREAM_TSET__URI"
        )


def test_a_catalog_that_cannot_be_made_and_its_password(target: Target, monkeypatch):
    for uri in ("cockroach://me:geheim@host/db", "postgresql+nodriver://me:geheim@host/db", "://"):
        monkeypatch.setenv("PYICEBERG_CATALOG__BROKEN__URI", uri)
        for attempt in attempts(target, "iceberg:broken/lake.t"):
            with pytest.raises(DestinationError, match="cannot make a catalog of what") as raised:
                attempt()
            assert raised.value.__cause__ is None
            assert "geheim" not in str(raised.value)


def test_a_catalog_that_does_not_answer(target: Target, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__AWAY__URI", f"http://127.0.0.1:{free_port()}")
    for attempt in attempts(target, "iceberg:away/lake.t"):
        with pytest.raises(Unavailable, match=r"^iceberg:away/lake\.t: it does not answer"):
            attempt()


def test_a_catalog_whose_file_cannot_be(target: Target, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__NOWHERE__URI", "sqlite:////nowhere/at/all.db")
    for attempt in attempts(target, "iceberg:nowhere/lake.t"):
        with pytest.raises(DestinationError, match="refuses: unable to open database file"):
            attempt()


def test_a_namespace_that_is_not_there(target: Target):
    first, second, third = attempts(target, f"iceberg:{iceberg.NAME}/no.t")
    assert second() is None
    for attempt in (first, third):
        with pytest.raises(DestinationError, match=r"no namespace 'no'; make it with: pyiceberg"):
            attempt()


def test_a_warehouse_that_cannot_be_written_to(target: Target, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(
        "PYICEBERG_CATALOG__MILLSTREAM_TEST__WAREHOUSE", (tmp_path / "file" / "lake").as_uri()
    )
    work = target.staged(events(1))
    with pytest.raises(DestinationError, match=r"^iceberg:.*: the warehouse refuses: "):
        work.do()
    assert not work.held


@pytest.mark.slow
def test_a_busy_database_is_asked_again(target: Target):
    target.commit(events(0), run_id="r0")
    work = target.staged(events(1), run_id="r1")
    with catalog_of(target) as catalog, catalog.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="busy: database is locked"):
            work.do()
        connection.rollback()
    work.do()
    target.assert_holds(events(0, 1))


@pytest.mark.slow
def test_without_pyiceberg(tmp_path):
    """The façade says what to install."""
    script = (
        "import sys; sys.modules['pyiceberg'] = None\n"
        "from millstream.transforms.write.destination import destination\n"
        "try: destination('iceberg:c/n.t')\n"
        "except ValueError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "pip install 'millstream[iceberg]'" in ran.stdout
