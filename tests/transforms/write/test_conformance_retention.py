"""Conformance: rows and tokens that are older than their owner keeps them go, and no others."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

import pytest
from conformance_support import EVENTS, NOON, Target, event, events
from millstream.schemas.table import Table
from millstream.transforms.write.tables import TableDestination


def hour(n: float) -> dt.datetime:
    return NOON + dt.timedelta(hours=n)


def table_of(target: Target) -> TableDestination:
    found = target.output().destination
    if not isinstance(found, TableDestination):
        pytest.skip(f"{target.scheme}: files go by what their manifest says")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("column", ["at", "UPPER"])
def test_rows_expire(target: Target, column: str):
    fields = [replace(f, name=column) if f.name == "at" else f for f in EVENTS.fields]
    table = Table(tuple(fields), has_identity=True)
    rows = [{**event(n), column: hour(n)} for n in range(5)] + [{**event(9), column: None}]
    found = table_of(target)
    before = hour(2).timestamp()
    if found.expire(found.target, column, before) is None:
        pytest.skip(f"{target.scheme}: it deletes no rows by their age")
    assert found.expire(found.target, column, before) == 0, "there is no table yet"
    target.commit(rows, table=table)
    assert found.expire(found.target, column, before, dry_run=True) == 2
    target.assert_holds(rows, table)
    assert found.expire(found.target, column, before) == 2
    target.assert_holds(rows[2:], table)
    assert found.expire(found.target, column, before) == 0


@pytest.mark.slow
def test_tokens_are_forgotten(target: Target):
    found = table_of(target)
    later = time.time() + 60
    if found.old_tokens(later) is None:
        pytest.skip(f"{target.scheme}: it cannot say how old its tokens are")
    for n in (1, 2, 3):
        target.commit(events(n), run_id=f"r{n}")
    other = target.another()
    other.commit(events(4), run_id="r1")
    assert sorted(found.old_tokens(later) or ()) == ["r1", "r2", "r3"]
    assert found.old_tokens(time.time() - 3600) == []
    assert found.forget(time.time() - 3600, []) == 0
    assert found.forget(later, ["r2"]) == 2
    assert [n for n in (1, 2, 3) if found.held(f"r{n}")] == [2]
    assert found.old_tokens(later) == ["r2"]
    assert other.output().destination.committed("r1"), "other tables have tokens of their own"
    target.assert_holds(events(1, 2, 3))
