"""What the modes promise: the greatest row of each key stands; partitions are replaced as a whole.

A few lines of plain Python say what the table must hold, whatever the order of the loads.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from conformance_support import NOON, Row, Target, event, events
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Field
from millstream.schemas.table import Table

FEW = settings(
    max_examples=6,
    # Each example talks to a service: to look for a smaller one would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# ------------------------------------------------------------------------------- upsert

UPSERT = "mode=upsert"
DELETING = "mode=upsert&deleted=gone"
CUSTOMERS = Table(
    (
        Field("country", "string", required=True),
        Field("id", "integer", required=True),
        Field("at", "timestamp"),
        Field("gone", "boolean"),
        Field("tags", "array", items=Field("item", "string")),
    ),
    ("country", "id"),
    "at",
    has_identity=True,
)
"""Rows with a key of two columns, an event time, and a mark that deletes."""

SOURCES = ("", "B.jsonl", "a.jsonl", "a_.jsonl", "ä.jsonl", "Ä.jsonl", "\U0001f600", "\ufb00")
"""Names whose order by code points is not that of any language, nor that of UTF-16."""


def order(row: Row) -> Any:
    """What the greatest of has the key: null comes first, strings go by their code points."""
    at = row["at"]
    return (at is not None, at or NOON, row["_source"], row["_position"])


def upserted(loads: Sequence[Sequence[Row]], *, any_order: bool = True) -> list[Row]:
    """What the table must hold. No two rows have one source and position.

    Args:
        any_order: the greatest of all rows stands; else that of the last load that has any.
    """
    best: dict[Any, Row] = {}
    for row in sorted((row for load in loads for row in load), key=order):
        best[row["country"], row["id"]] = row
    if not any_order:
        for load in loads:
            for row in sorted(load, key=order):
                best[row["country"], row["id"]] = row
    return [row for row in best.values() if not row["gone"]]


def drawn_loads(deleting: bool) -> st.SearchStrategy[list[list[Row]]]:
    """Up to four loads of rows with few keys, times and sources, so that they meet."""
    rows = st.fixed_dictionaries(
        {
            "country": st.sampled_from(["NO", "no", ""]),
            "id": st.sampled_from([1, 2]),
            "at": st.sampled_from([None, NOON, NOON + dt.timedelta(microseconds=1)]),
            "gone": st.sampled_from([None, False, True] if deleting else [None, False]),
            "tags": st.lists(st.sampled_from(["x", ""]), max_size=2),
            "_source": st.sampled_from(SOURCES),
            "_position": st.integers(0, 9),
        }
    )
    loads = st.lists(st.lists(rows, max_size=12), min_size=1, max_size=4)
    return loads.map(_each_position_once)


def _each_position_once(loads: list[list[Row]]) -> list[list[Row]]:
    seen: set[Any] = set()
    found = []
    for load in loads:
        found.append([])
        for row in load:
            if (row["_source"], row["_position"]) not in seen:
                seen.add((row["_source"], row["_position"]))
                found[-1].append(row)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("query", [UPSERT, DELETING])
def test_any_order_and_split_of_loads_gives_the_same_table(target: Target, query: str):
    target.needs_mode(query)

    @FEW
    @given(drawn_loads(query == DELETING), st.booleans())
    def check(loads: list[list[Row]], split: bool) -> None:
        table = target.another()
        for n, load in enumerate(loads):
            files = [load[: len(load) // 2], load[len(load) // 2 :]] if split else [load]
            table.commit(*files, table=CUSTOMERS, query=query, run_id=f"r{n}")
        any_order = "any order" not in target.known.lacks
        table.assert_holds(upserted(loads, any_order=any_order), CUSTOMERS)

    check()


def customer(id: int, seconds: int | None, position: int = 0, **values: Any) -> Row:
    at = None if seconds is None else NOON + dt.timedelta(seconds=seconds)
    common = {"country": "NO", "id": id, "at": at, "gone": False, "tags": []}
    return {**common, "_source": "s", "_position": position, **values}


def committed(target: Target, query: str, *loads: Sequence[Row]) -> Target:
    for n, load in enumerate(loads):
        target.commit(load, table=CUSTOMERS, query=query, run_id=f"r{n}")
    return target


@pytest.mark.slow
def test_a_late_row_does_not_undo_a_newer_one(target: Target):
    target.needs_mode(UPSERT)
    target.needs("any order")
    old, new = customer(1, 1, tags=["old"]), customer(1, 2, tags=["new"])
    committed(target, UPSERT, [new], [old])
    target.assert_holds([new], CUSTOMERS)


@pytest.mark.slow
def test_a_late_row_does_not_bring_back_what_was_deleted(target: Target):
    target.needs_mode(UPSERT)
    target.needs("any order")
    first, late = customer(1, 1), customer(1, 2)
    gone = customer(1, 3, gone=True)
    other = customer(2, 1)
    committed(target, DELETING, [first, other], [gone], [late])
    target.assert_holds([other], CUSTOMERS)
    newer = customer(1, 4)
    target.commit([newer], table=CUSTOMERS, query=DELETING, run_id="r9")
    target.assert_holds([newer, other], CUSTOMERS)


@pytest.mark.slow
def test_a_deletion_that_comes_before_its_row(target: Target):
    target.needs_mode(UPSERT)
    target.needs("any order")
    committed(target, DELETING, [customer(1, 3, gone=True)], [customer(1, 2)])
    target.assert_holds([], CUSTOMERS)


def test_a_late_deletion_deletes_nothing_newer(target: Target):
    target.needs_mode(UPSERT)
    target.needs("any order")
    row = customer(1, 3)
    committed(target, DELETING, [row], [customer(1, 2, gone=True)])
    target.assert_holds([row], CUSTOMERS)


@pytest.mark.slow
def test_of_rows_that_are_equally_new_the_later_load_stands(target: Target):
    target.needs_mode(UPSERT)
    first, second = customer(1, 1, tags=["first"]), customer(1, 1, tags=["second"])
    committed(target, UPSERT, [first], [second])
    target.assert_holds([second], CUSTOMERS)


@pytest.mark.slow
def test_without_an_order_the_later_load_stands(target: Target):
    """As of results: they have a key, and neither event time nor position."""
    target.needs_mode(UPSERT)
    table = Table(CUSTOMERS.fields, CUSTOMERS.key)
    for n, tag in enumerate(["first", "second"]):
        rows = [customer(1, 5 - n, tags=[tag]), customer(n + 2, 0)]
        target.commit(rows, table=table, query=UPSERT, run_id=f"r{n}", kind="aggregates")
    expected = [customer(1, 4, tags=["second"]), customer(2, 0), customer(3, 0)]
    target.assert_holds(expected, table)


def test_where_the_row_that_stands_came_from_is_stored(target: Target):
    target.needs_mode(UPSERT)
    rows = [customer(1, 1, 3), customer(1, 2, 7, _source="t"), customer(2, None, 5)]
    committed(target, UPSERT, rows)
    target.assert_holds(rows[1:], CUSTOMERS.ordered())


@pytest.mark.slow
def test_rows_with_a_null_in_their_key_are_like_no_other(target: Target):
    target.needs_mode(UPSERT)
    target.needs("null key")
    fields = tuple(
        Field(f.name, f.type, items=f.items, storage=f.storage) for f in CUSTOMERS.fields
    )
    table = Table(fields, CUSTOMERS.key, "at", has_identity=True)
    loads = [
        [customer(1, 1, n, country=None) for n in range(2)] + [customer(1, 1, 2)],
        [customer(1, 2, 3, country=None), customer(1, 2, 4)],
        [{**customer(1, 2, 5), "id": None, "country": None}],
    ]
    for n, load in enumerate(loads):
        target.commit(load, table=table, query=UPSERT, run_id=f"r{n}")
    target.assert_holds([*loads[0][:2], *loads[1], *loads[2]], table)


@pytest.mark.slow
def test_an_upsert_of_a_hundred_thousand_rows(target: Target):
    target.needs_mode(UPSERT)
    rows = 50_000
    old = [customer(n, 1) for n in range(rows)]
    mixed = [customer(n, 2 if n % 2 else 0, tags=["new"]) for n in range(rows // 2, rows * 3 // 2)]
    committed(target, UPSERT, old, mixed)
    any_order = "any order" not in target.known.lacks
    target.assert_holds(upserted([old, mixed], any_order=any_order), CUSTOMERS)


# ------------------------------------------------------------------------------ replace


def by_note(row: Row) -> Any:
    return row["note"]


def by_day(row: Row) -> Any:
    return row["at"] and row["at"].date()


def by_hour(row: Row) -> Any:
    return row["at"] and row["at"].replace(minute=0, second=0, microsecond=0)


PARTITIONS: dict[str, Callable[[Row], Any]] = {
    "note": by_note,
    "date(at)": by_day,
    "hour(at)": by_hour,
    "note,date(at)": lambda row: (by_note(row), by_day(row)),
}


def replaced(loads: Sequence[Sequence[Row]], partition: Callable[[Row], Any]) -> list[Row]:
    """What the table must hold."""
    held: list[Row] = []
    for load in loads:
        touched = {partition(row) for row in load}
        held = [row for row in held if partition(row) not in touched] + list(load)
    return held


def drawn_events() -> st.SearchStrategy[list[list[Row]]]:
    """Up to three loads of rows in few partitions, some of them null."""
    hours = [None, 0, 0.001, 11.5, 12, 13]
    rows = st.builds(
        lambda note, hour: (note, None if hour is None else NOON + dt.timedelta(hours=hour)),
        st.sampled_from([None, "", "NO", "no", "it's"]),
        st.sampled_from(hours),
    )
    loads = st.lists(st.lists(rows, max_size=8), min_size=1, max_size=3)
    return loads.map(lambda drawn: list(_numbered(drawn)))


def _numbered(drawn: list[list[Any]]) -> Iterator[list[Row]]:
    n = 0
    for load in drawn:
        found = []
        for note, at in load:
            found.append(event(n, note=note, at=at))
            n += 1
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("by", PARTITIONS)
def test_partitions_that_a_load_has_rows_of_are_replaced(target: Target, by: str):
    query = f"mode=replace&partition_by={by}"
    target.needs_mode(query)

    @FEW
    @given(drawn_events())
    def check(loads: list[list[Row]]) -> None:
        table = target.another()
        for n, load in enumerate(loads):
            table.commit(load, query=query, run_id=f"r{n}")
        table.assert_holds(replaced(loads, PARTITIONS[by]))

    check()


@pytest.mark.slow
def test_a_null_is_a_partition_too(target: Target):
    query = "mode=replace&partition_by=note"
    target.needs_mode(query)
    old = [*events(1, 2, note=None), *events(3, note="null"), *events(4, note="")]
    new = events(5, note=None)
    target.commit(old, query=query, run_id="r1")
    target.commit(new, query=query, run_id="r2")
    target.assert_holds([*old[2:], *new])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["note", "date(at)", "hour(at)"])
def test_a_null_partition_stays_while_others_are_replaced(target: Target, by: str):
    query = f"mode=replace&partition_by={by}"
    target.needs_mode(query)
    tomorrow = NOON + dt.timedelta(days=1)
    kept = event(1, note=None, at=None)
    target.commit([kept, *events(2, 3, note="NO", at=NOON)], query=query, run_id="r1")
    new = [event(4, note="NO", at=NOON), event(5, note="SE", at=tomorrow)]
    target.commit(new, query=query, run_id="r2")
    target.assert_holds([kept, *new])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["note", "date(at)", "hour(at)"])
def test_a_null_partition_is_replaced_together_with_others(target: Target, by: str):
    query = f"mode=replace&partition_by={by}"
    target.needs_mode(query)
    kept = event(1, note="SE", at=NOON - dt.timedelta(days=1))
    old = [event(2, note=None, at=None), event(3, note="NO", at=NOON)]
    target.commit([kept, *old], query=query, run_id="r1")
    new = [event(4, note=None, at=None), event(5, note="NO", at=NOON)]
    target.commit(new, query=query, run_id="r2")
    target.assert_holds([kept, *new])


@pytest.mark.slow
def test_partitions_are_replaced_in_a_table_that_was_appended_to(target: Target):
    query = "mode=replace&partition_by=date(at)"
    target.needs_mode(query)
    other_day = event(9, at=NOON - dt.timedelta(days=1))
    target.commit([*events(1, 2, 3), other_day], run_id="r1")
    target.commit(events(4, 5), query=query, run_id="r2")
    target.assert_holds([other_day, *events(4, 5)])


@pytest.mark.slow
def test_partitions_are_replaced_once(target: Target):
    query = "mode=replace&partition_by=note"
    target.needs_mode(query)
    target.commit(events(1, 2, note="NO"), query=query, run_id="r1")
    work = target.commit(events(3, note="NO"), query=query, run_id="r2")
    target.commit(events(4, note="NO"), run_id="r3")
    work.do()
    target.assert_holds(events(3, 4, note="NO"))
