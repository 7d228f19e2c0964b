"""Rows of a span of time that a commit takes the place of, where a destination can do that."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace

import pytest
from conformance_support import EVENTS, NOON, Target, Work, again, events
from millstream.transforms.receipts import Part, Span
from millstream.transforms.write.errors import DestinationError


def second(number: int) -> int:
    """The microsecond of an event."""
    return (NOON - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(
        microseconds=1
    ) + number * 1_000_000


def span(start: int, end: int) -> Span:
    return Span("at", second(start), second(end))


def replacing(work: Work, spans: Mapping[Part, Span]) -> Work:
    return work._replace(commit=replace(work.commit, replaces=dict(spans)))


def needs_spans(target: Target) -> None:
    if not getattr(target.output().destination, "replaces_spans", False):
        pytest.skip(f"{target.scheme} refuses it")


def test_rows_of_a_span_give_way_once(target: Target):
    needs_spans(target)
    target.commit(events(1, 2, 3, 4), events(5, 6, 7), run_id="r1")
    new = events(4, note="new")
    work = replacing(target.staged(new, run_id="r2"), {"data": span(3, 6)})
    work.do()
    again(work)
    target.assert_holds([*events(1, 2), *new, *events(6, 7)])
    assert work.held
    assert target.staged_files() == []


def test_a_span_without_new_rows_is_empty(target: Target):
    needs_spans(target)
    target.commit(events(1, 2, 3), run_id="r1")
    replacing(target.staged(run_id="r2"), {"data": span(2, 4)}).do()
    target.assert_holds(events(1))


def test_a_table_that_is_not_there_is_made(target: Target):
    needs_spans(target)
    replacing(target.staged(events(2), run_id="r1"), {"data": span(1, 4)}).do()
    target.assert_holds(events(2))


def test_results_and_states_give_way_together(target: Target):
    needs_spans(target)
    from conformance_support import batch_of

    table = replace(EVENTS, has_identity=False)
    counted = replace(table, fields=(*table.fields, replace(table.field("amount"), name="rows")))
    tables: dict[Part, object] = {"states": counted, "data": table}

    def work(run_id: str, *numbers: int) -> Work:
        rows = events(*numbers, note=run_id)
        states = [{**row, "rows": 1} for row in rows]
        parts: dict[Part, object] = {
            "states": [batch_of(states, counted)] if rows else [],
            "data": [batch_of(rows, table)] if rows else [],
        }
        return target.staged_parts(tables, parts, run_id=run_id)  # type: ignore[arg-type]

    work("r1", 1, 2, 3, 4).do()
    spans: dict[Part, Span] = {"data": span(2, 3), "states": span(2, 4)}
    second_work = replacing(work("r2", 2), spans)
    second_work.do()
    again(second_work)
    target.assert_holds([*events(1, 3, 4, note="r1"), *events(2, note="r2")], table)
    found = {row[0] for row in target.rows(counted, "states")}
    assert found == {"e1", "e2", "e4"}


def test_it_is_refused_where_it_cannot_be_done(target: Target):
    if getattr(target.output().destination, "replaces_spans", False):
        pytest.skip(f"{target.scheme} does it")
    work = replacing(target.staged(events(1), run_id="r1"), {"data": span(1, 4)})
    with pytest.raises(DestinationError, match="a span of time"):
        work.do()
    assert not work.held
