"""What every destination does with tables: made, given columns, refused; and what is in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from conformance_support import EVENTS, NOON, Target, comparable, events
from conformance_values import CASES, rows_of, table_of
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.write.errors import DestinationError
from millstream.transforms.write.evolution import TableMismatch

from tests.services.destinations import Becomes, Known, Refused


def with_fields(*fields: Field) -> Table:
    """The table of events, with some columns more."""
    return replace(EVENTS, fields=(*EVENTS.fields, *fields))


def without(name: str) -> Table:
    """The table of events, without a column."""
    return replace(EVENTS, fields=tuple(f for f in EVENTS.fields if f.name != name))


def with_type(name: str, **changes: Any) -> Table:
    """The table of events, a column of which is of another type."""
    fields = [replace(f, **changes) if f.name == name else f for f in EVENTS.fields]
    return replace(EVENTS, fields=tuple(fields))


# ------------------------------------------------------------------------------ columns

MORE = (
    Field("score", "number", storage="float64"),
    Field("place", "object", fields=(Field("city", "string"), Field("zip", "integer"))),
    Field("prices", "array", items=Field("item", "decimal", precision=10, scale=2)),
)


@pytest.mark.slow
def test_examining_changes_nothing(target: Target):
    work = target.staged(events(1))
    work.destination.check_tables(work.commit.tables)
    work.destination.check_tables(work.commit.tables)
    assert not work.held
    wider = with_fields(*MORE)
    work.do()
    work.destination.check_tables({"data": wider})
    assert target.read(wider).schema.names == EVENTS.schema.names


@pytest.mark.slow
def test_a_table_gets_the_columns_that_it_lacks(target: Target):
    target.needs("evolve")
    wider = with_fields(*MORE)
    old, new = events(1, 2), events(3, score=1.5, place={"city": "Oslo", "zip": None}, prices=[])
    target.commit(old, run_id="r1")
    work = target.staged(new, table=wider, run_id="r2")
    work.destination.check_tables(work.commit.tables)
    work.do()
    target.assert_holds([*old, *new], wider)
    target.commit(events(4), run_id="r3")
    target.assert_holds([*old, *new, *events(4)], wider)


@pytest.mark.slow
def test_a_new_column_that_is_required_may_be_null_in_old_rows(target: Target):
    target.needs("evolve")
    wider = with_fields(Field("score", "number", storage="float64", required=True))
    target.commit(events(1), run_id="r1")
    target.commit(events(2, score=2.0), table=wider, run_id="r2")
    target.assert_holds([*events(1), *events(2, score=2.0)], wider)


def test_a_column_that_is_written_no_more(target: Target):
    target.needs("evolve")
    target.commit(events(1), run_id="r1")
    target.commit(events(2), table=without("note"), run_id="r2")
    target.assert_holds([*events(1), *events(2, note=None)])


def test_several_commits_make_a_table_wider_by_an_upsert(target: Target):
    target.needs("evolve")
    target.needs_mode("mode=upsert")
    wider = with_fields(*MORE)
    target.commit(events(1, 2), query="mode=upsert", run_id="r1")
    new = events(2, 3, score=0.5, note="new", at=NOON + dt.timedelta(hours=1))
    target.commit(new, table=wider, query="mode=upsert", run_id="r2")
    target.assert_holds([*events(1), *new], wider)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "changes"),
    [
        ("note", {"type": "integer"}),
        ("amount", {"type": "string"}),
        ("at", {"type": "date"}),
        ("tags", {"items": Field("item", "boolean")}),
        ("tags", {"type": "string", "items": None}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("type", "other items"),
)
def test_another_type_is_refused(target: Target, column: str, changes: Mapping[str, Any]):
    target.needs("mismatch")
    if column == "tags" and "items" in changes and "type" not in changes:
        target.needs("inner types")
    target.commit(events(1), run_id="r1")
    other = with_type(column, **changes)
    work = target.staged([{"id": "e2"}], table=other, run_id="r2")
    for attempt in (lambda: work.destination.check_tables({"data": other}), work.do):
        with pytest.raises(TableMismatch) as raised:
            attempt()
        said = [line.strip().split()[:2] for line in str(raised.value).splitlines()]
        changed = {(line[0], line[1].split(".")[0]) for line in said if line[0] in "-+"}
        assert changed == {("-", column), ("+", column)}
    assert not work.held
    target.assert_holds(events(1))


def test_a_required_column_that_is_not_written_is_refused(target: Target):
    target.needs("mismatch")
    strict = with_fields(Field("score", "number", storage="float64", required=True))
    target.commit(events(1, score=1.0), table=strict, run_id="r1")
    work = target.staged(events(2), run_id="r2")
    with pytest.raises(TableMismatch, match="score"):
        work.destination.check_tables({"data": EVENTS})
    with pytest.raises(TableMismatch, match="score"):
        work.do()
    target.assert_holds(events(1, score=1.0), strict)


# ------------------------------------------------------------------------------- values


def plain(known: Known) -> list[str]:
    """The cases whose values come back as they went."""
    return [name for name in CASES if name not in known.values]


def test_the_table_of_values_comes_back_as_it_went(target: Target):
    names = plain(target.known)
    rows = rows_of(*names)
    work = target.staged(rows, table=table_of(*names))
    work.destination.check_tables(work.commit.tables)
    work.do()
    assert [(letter["payloadString"], letter["errorMessage"]) for letter in work.letters()] == []
    went = {name: _column(name, rows) for name in names}
    assert differing(target, names, rows, went) == {}


def test_values_that_do_not_come_back_as_they_went(target: Target):
    for name, otherwise in target.known.values.items():
        table = target.another()
        assert otherwise.reason
        if isinstance(otherwise, Refused):
            assert_values_refused(table, name)
        elif isinstance(otherwise, Becomes):
            assert_values_become(table, name, otherwise)


def assert_values_become(target: Target, name: str, otherwise: Becomes) -> None:
    rows = rows_of(name)
    target.commit(rows, table=table_of(name))
    expected = [otherwise.becomes(value) for value in _column(name, rows)]
    assert differing(target, [name], rows, {name: expected}) == {}
    # Else there would be no need to excuse it.
    assert differing(target, [name], rows, {name: _column(name, rows)})


def assert_values_refused(target: Target, name: str) -> None:
    """With the table, or each with its row: as dead letters, if the destination makes such."""
    rows = rows_of(name)
    work = target.staged(rows, table=table_of(name))
    try:
        work.destination.check_tables(work.commit.tables)
        work.do()
    except DestinationError:
        assert not work.held
        return
    bad = [row for row in rows if row[CASES[name].field.name] is not None]
    good = [row for row in rows if row not in bad]
    assert len(work.letters()) == len(bad), name
    target.assert_holds(good, table_of(name))


def differing(
    target: Target,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    expected: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Case → what was expected and what was found, where the two differ."""
    read = target.read(table_of(*names)).sort_by("n").to_pylist()
    if not target.known.once:
        read = list({row["n"]: row for row in read}.values())
    assert [row["n"] for row in read] == [row["n"] for row in rows]
    found = {}
    for name in names:
        field = CASES[name].field
        ours, theirs = expected[name], _column(name, read)
        if comparable(ours, field) != comparable(theirs, field):
            found[name] = [
                (a, b)
                for a, b in zip(ours, theirs, strict=True)
                if comparable([a], field) != comparable([b], field)
            ]
    return found


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [row.get(CASES[name].field.name) for row in rows]
