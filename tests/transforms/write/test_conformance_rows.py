"""What every destination does with rows that it refuses, and with results and their states."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from conformance_support import (
    DIED,
    EVENTS,
    Interrupted,
    Moment,
    Process,
    Target,
    Work,
    again,
    batch_of,
    counted,
    event,
    events,
    interrupted,
    payload,
    raising,
)
from millstream.schemas.aggregates.spec import AggregateSpec, aggregate_spec
from millstream.schemas.aggregates.states import (
    finalise,
    merge_states,
    partial_states,
    state_schema,
    visible_schema,
)
from millstream.schemas.contract import Contract
from millstream.schemas.table import Table, table_of_schema
from millstream.transforms.receipts import Part
from millstream.transforms.write.errors import DestinationError

# ------------------------------------------------------------------------- refused rows


@pytest.fixture
def picky(target: Target) -> Target:
    """A table with one row, which refuses rows whose amount is below zero."""
    target.commit(events(0), run_id="r0")
    try:
        target.peer.refuse_negative(target.table, "amount")
    except NotImplementedError:
        pytest.skip(f"{target.scheme}: {target.known.lacks['refuse']}")
    assert target.output().destination.refuses
    assert "refuse" not in target.known.lacks
    return target


@pytest.mark.slow
@pytest.mark.parametrize("bad", [[], [2], [1, 2, 5, 9], list(range(1, 10))], ids=len)
def test_refused_rows_become_dead_letters(picky: Target, bad: list[int]):
    rows = [event(n, amount=-n if n in bad else n, _position=n) for n in range(1, 10)]
    work = picky.commit(rows[:4], rows[4:])
    assert_refused(picky, work, rows, [event(0)])
    again(work)
    assert_refused(picky, work, rows, [event(0)])


@pytest.mark.slow
def test_a_null_is_not_below_zero(picky: Target):
    rows = [*events(1, 2, amount=None), event(3, amount=-3), *events(4, amount=None)]
    work = picky.commit(rows)
    assert_refused(picky, work, rows, [event(0)])


@pytest.mark.slow
def test_a_tenth_of_fifty_thousand_rows_is_refused(picky: Target):
    rows = [event(n, amount=-n if n % 10 == n // 10 % 10 else n) for n in range(1, 50_001)]
    work = picky.commit(rows)
    assert len(work.letters()) == 5000
    assert_refused(picky, work, rows, [event(0)])


@pytest.mark.slow
def test_refused_rows_of_an_upsert(picky: Target):
    rows = [event(n, amount=-n if n % 2 else n, note="upserted") for n in range(8)]
    picky.needs_mode("mode=upsert")
    other = picky.another()
    other.commit(events(0), run_id="r0", query="mode=upsert")
    other.peer.refuse_negative(other.table, "amount")
    work = other.commit(rows, query="mode=upsert")
    assert_refused(other, work, rows)


@pytest.mark.slow
def test_a_process_that_dies_after_it_refused_rows(picky: Target, tmp_path):
    rows = [event(n, amount=-n if n % 3 == 0 else n) for n in range(1, 100)]
    work = picky.staged(rows)
    code, said = Process(work, picky, moment="before", folder=tmp_path).run()
    assert code == DIED, said
    assert not work.held
    picky.assert_holds(events(0))
    again(work)
    assert_refused(picky, work, rows, [event(0)])


@pytest.mark.slow
def test_results_are_refused_as_a_whole(picky: Target):
    """They come from no record: there is nothing that a dead letter could hold."""
    table = Table(EVENTS.fields)
    work = picky.staged(events(1, 2), [event(3, amount=-3)], table=table, kind="aggregates")
    with pytest.raises(DestinationError, match="refuses 1 rows"):
        work.do()
    assert not work.held
    picky.assert_holds(events(0))


def assert_refused(
    target: Target, work: Work, rows: list[dict[str, Any]], before: Sequence[dict[str, Any]] = ()
) -> None:
    """Rows below zero are dead letters, with the bytes that they came from; all others landed."""
    bad = [row for row in rows if (row["amount"] or 0) < 0]
    good = [row for row in rows if (row["amount"] or 0) >= 0]
    assert work.held
    target.assert_holds([*before, *good])
    letters = work.letters()
    assert sorted(letter["payloadBytes"] for letter in letters) == sorted(map(payload, bad))
    for letter in letters:
        said = json.loads(letter["payloadBytes"])
        assert letter["codes"] == ["DESTINATION"]
        assert (letter["source"], letter["stage"]) == ("s", "write")
        assert letter["position"] == str(said.get("_position", letter["position"]))
        assert letter["errorMessage"]
        assert said["note"] not in letter["errorMessage"]
        assert str(said["amount"]) not in letter["errorMessage"]
    found = work.destination.committed(work.commit.token.run_id)
    assert found is not None
    assert found.rows == len(good)


# ------------------------------------------------------------------------------- results


def visits() -> AggregateSpec:
    """Results with states of every sort: counts, decimals, floats and sketches."""
    contract = Contract("c", "1.0.0", "events", EVENTS.fields, event_time="at")
    return aggregate_spec(
        "visits",
        window={"fixed": "1m"},
        by=["note"],
        metrics={
            "events": "count()",
            "total": "sum(amount)",
            "mean": "mean(amount)",
            "ids": "approx_distinct(id)",
        },
        contract=contract,
    )


def results(target: Target, *numbers: int, query: str = "", run_id: str = "r1") -> Work:
    """Results and partial states of some records, ready to be committed."""
    spec = visits()
    batch = batch_of([event(n, note=f"note {n % 2}") for n in numbers], Table(EVENTS.fields))
    states = merge_states([partial_states(batch, spec, run_id)], spec)
    visible = finalise(states, spec, merged=True)
    tables: dict[Part, Table] = {
        "data": table_of_schema(visible_schema(spec), ("window_start", "note")),
        "states": table_of_schema(state_schema(spec)),
    }
    parts: dict[Part, Any] = {"data": visible.to_batches(), "states": states.to_batches()}
    return target.staged_parts(tables, parts, query, run_id)


@pytest.mark.slow
def test_results_and_their_states(target: Target):
    target.needs("states")
    work = results(target, *range(100))
    work.destination.check_tables(work.commit.tables)
    work.do()
    again(work)
    assert_results(target, [work], range(100))
    more = results(target, *range(1000, 1100), run_id="r2")
    more.do()
    assert_results(target, [work, more], range(100), range(1000, 1100))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_results_are_never_without_their_states(target: Target, moment: Moment):
    target.needs("states")
    where = target.peer.interrupt_commit()
    for call in itertools.count():
        target = target.another()
        first = results(target, *range(1000, 1100), run_id="r0")
        first.do()
        work = results(target, *range(100))
        with (
            interrupted(where, moment, raising(Interrupted()), call) as calls,
            suppress(Interrupted),
        ):
            work.do()
        if calls() <= call:
            assert call, "nothing was interrupted"
            return
        if target.known.once:
            tables = work.commit.tables
            data, states = target.rows(tables["data"]), target.rows(tables["states"], "states")
            assert len(states) >= len(data)
        again(work)
        assert_results(target, [first, work], range(1000, 1100), range(100))


@pytest.mark.slow
def test_results_that_are_upserted(target: Target):
    """A window's result is replaced; the states that it is made of add up."""
    target.needs("states")
    target.needs_mode("mode=upsert")
    first = results(target, *range(0, 60, 3), query="mode=upsert")
    first.do()
    second = results(target, *range(60), query="mode=upsert", run_id="r2")
    second.do()
    tables = second.commit.tables
    expected = _expected(range(60))
    assert target.rows(tables["data"]) == counted(expected, tables["data"])
    assert sum(target.rows(tables["states"], "states").values()) == 4


def _expected(*numbers: range) -> list[dict[str, Any]]:
    spec = visits()
    found = []
    for some in numbers:
        rows = [event(n, note=f"note {n % 2}") for n in some]
        states = partial_states(batch_of(rows, Table(EVENTS.fields)), spec)
        found += finalise(states, spec).to_pylist()
    return found


def assert_results(target: Target, works: list[Work], *numbers: range) -> None:
    """Both tables hold what was committed, each row once, and the one follows from the other."""
    tables = works[0].commit.tables
    expected = counted(_expected(*numbers), tables["data"])
    assert all(work.held for work in works)
    found = target.rows(tables["data"])
    assert found == expected if target.known.once else found.keys() == expected.keys()
    if target.known.once:
        read = target.read(tables["states"], "states").cast(state_schema(visits()))
        made = finalise(read, visits()).to_pylist()
        assert counted(made, tables["data"]) == expected
