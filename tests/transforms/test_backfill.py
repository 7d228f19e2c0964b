"""Backfills: where parts begin and end, how results are compared, how work is spread and held
back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.pipelines.backfill_command import instant
from millstream.pipelines.job import JobError
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.aggregates.states import visible_schema
from millstream.schemas.aggregates.windows import Window, parse_window
from millstream.schemas.contract import Contract, Field
from millstream.transforms.backfill.chunks import chunks_of
from millstream.transforms.backfill.compare import Differs, compare, total
from millstream.transforms.backfill.parts import (
    DAY_US,
    PartError,
    closed_before,
    default_partition,
    edge_before,
    iso,
    parts,
    zone_of,
)
from millstream.transforms.backfill.spread import Processes
from millstream.transforms.backfill.units import Pace
from millstream.transforms.plan import InputFile
from millstream.transforms.write.garbage import find_leftovers

MINUTE = 60_000_000
KINDS = [
    {"fixed": "7m"},
    {"sliding": "10m", "every": "4m"},
    {"daily": "Europe/Berlin"},
    {"session": "5m"},
]
FIXED, SLIDING, DAILY, SESSION = map(parse_window, KINDS)


@given(
    window=st.sampled_from([FIXED, SLIDING, DAILY, SESSION]),
    watermark=st.integers(0, 60 * 365 * DAY_US),
)
def test_windows_before_the_latest_end_are_closed(window: Window, watermark: int) -> None:
    end = closed_before(window, watermark)
    assert edge_before(window, end) == end
    if window is SESSION:
        return
    import numpy as np

    (last,) = window.ends(np.array([edge_before(window, end - 1)])).tolist()
    assert last <= watermark
    (next_one,) = window.ends(np.array([end])).tolist()
    assert next_one > watermark


def test_parts_follow_each_other_and_hold_whole_windows() -> None:
    found = parts([FIXED, SESSION], 0, 70 * MINUTE, 21 * MINUTE)
    assert [part.start // MINUTE for part in found] == [0, 21, 42, 63]
    assert found[-1].end == 70 * MINUTE
    berlin = instant("2026-03-28", "--from", "Europe/Berlin")
    days = parts([DAILY], berlin, instant("2026-03-31", "--to", "Europe/Berlin"), DAY_US)
    assert [(part.end - part.start) // (60 * MINUTE) for part in days] == [24, 23, 24]
    assert default_partition([parse_window({"fixed": "7d"})]) == 7 * DAY_US


@pytest.mark.parametrize(
    ("windows", "start", "end", "length", "said"),
    [
        ([FIXED], 1, 70 * MINUTE, DAY_US, "--from .* the nearest edges are 1970-01-01 and"),
        ([FIXED], 0, 71 * MINUTE, DAY_US, "--to .* the nearest edges are 1970-01-01T01:10:00Z"),
        ([FIXED], 0, 70 * MINUTE, 10 * MINUTE, "--partition: it is not a multiple"),
        ([FIXED], 70 * MINUTE, 70 * MINUTE, DAY_US, "is not after"),
        ([SESSION], 0, 365 * DAY_US, 1000, "there would be 31,536,000,000 parts"),
        ([DAILY], 23 * 60 * MINUTE, 47 * 60 * MINUTE, DAY_US // 2, "whole days"),
    ],
)
def test_parts_that_cannot_be(windows, start, end, length, said) -> None:
    with pytest.raises(PartError, match=said):
        parts(windows, start, end, length)


def test_days_of_two_zones_are_not_made_together() -> None:
    with pytest.raises(PartError, match="one by one"):
        zone_of([DAILY, parse_window({"daily": "Asia/Tokyo"})])
    assert zone_of([FIXED]) == "UTC"


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-01-01", "UTC", "2026-01-01"),
        ("2026-01-01", "Europe/Berlin", "2025-12-31T23:00:00Z"),
        ("2026-07-01", "America/New_York", "2026-07-01T04:00:00Z"),
        ("2026-07-01", "Pacific/Kiritimati", "2026-06-30T10:00:00Z"),
        ("2026-01-01T06:00", "Europe/Berlin", "2026-01-01T06:00:00Z"),
        ("2026-01-01T06:00+02:00", "UTC", "2026-01-01T04:00:00Z"),
    ],
)
def test_times_as_flags_say_them(text: str, zone: str, expected: str) -> None:
    assert iso(instant(text, "--from", zone)) == expected


def test_what_is_no_time_is_said() -> None:
    for text in ("yesterday", "0001-01-01", "9999-12-31T23:30"):
        with pytest.raises(JobError, match="--to: expected a date"):
            instant(text, "--to", "Europe/Berlin")
    with pytest.raises(JobError, match="2011-12-30 was left out of the calendar of Pacific/Apia"):
        instant("2011-12-30", "--from", "Pacific/Apia")


CONTRACT = Contract(
    "c",
    "1",
    "c",
    (Field("at", "timestamp"), Field("page", "string"), Field("amount", "number")),
    event_time="at",
)
SPEC = aggregate_spec(
    "views",
    window={"fixed": "1m"},
    by=["page"],
    metrics={"n": "count()", "s": "sum(amount)"},
    contract=CONTRACT,
)


def table(*rows: tuple[int, str | None, int, float | None]) -> pa.Table:
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    minute = dt.timedelta(minutes=1)
    values = [
        {
            "window_start": start + at * minute,
            "window_end": start + (at + 1) * minute,
            "page": page,
            "n": n,
            "s": s,
        }
        for at, page, n, s in rows
    ]
    return pa.Table.from_pylist(values, visible_schema(SPEC))


def test_old_is_held_against_new() -> None:
    old = table((0, "a", 1, 0.1), (0, None, 2, None), (1, "a", 3, 1.0), (2, "a", 4, 5.0))
    new = table((0, "a", 1, 0.1 + 1e-17), (0, None, 2, None), (2, "a", 4, 2.0), (3, "b", 5, 1.0))
    found = compare(old, new, SPEC)
    assert (found.old, found.new, found.equal) == (4, 4, 2)
    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.metrics["n"].changed == 0
    differs = found.metrics["s"]
    assert (differs.changed, differs.biggest) == (1, -3.0)
    assert differs.old == pytest.approx(6.1)
    assert not found.is_equal
    whole = total([found, compare(old, old, SPEC)])
    assert (whole.old, whole.equal, whole.metrics["s"].biggest) == (8, 6, -3.0)


@pytest.mark.parametrize("metric", ["max(amount)", "max(amount + 0)"])
def test_sums_of_classified_fields_are_not_told(metric: str) -> None:
    """Over one record they are its value."""
    fields = (*CONTRACT.fields[:2], Field("amount", "number", classification="sensitive"))
    spec = aggregate_spec(
        "views",
        window={"fixed": "1m"},
        by=["page"],
        metrics={"n": "count(amount)", "s": metric},
        contract=dataclasses.replace(CONTRACT, fields=fields),
    )
    found = compare(table((0, "a", 1, 0.5)), table((0, "a", 2, 4242.0)), spec).metrics
    assert found["s"] == Differs(changed=1)
    assert found["n"] == Differs(changed=1, old=1.0, new=2.0, biggest=1.0)


def test_several_old_rows_of_a_window_are_a_change() -> None:
    found = compare(table((0, "a", 1, 1.0), (0, "a", 1, 1.0)), table((0, "a", 1, 1.0)), SPEC)
    assert (found.old, found.new, found.changed, found.equal) == (2, 1, 1, 0)


def test_infinity_is_like_itself_alone() -> None:
    inf, nan = float("inf"), float("nan")
    old = table((0, "a", 1, inf), (1, "a", 1, inf), (2, "a", 1, inf), (3, "a", 1, nan))
    new = table((0, "a", 1, inf), (1, "a", 1, -inf), (2, "a", 1, 1.0), (3, "a", 1, nan))
    found = compare(old, new, SPEC)
    assert (found.changed, found.equal) == (2, 2)


def test_a_pace_is_kept() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(100, lambda: now[0], sleep)
    for rows in (50, 100, 10):
        pace.take(rows)
    assert slept == [0.5, 1.0]
    now[0] += 60  # time that was not used is not saved up
    pace.take(100)
    pace.take(1)
    assert slept == [0.5, 1.0, 1.0]
    Pace(None, lambda: now[0], sleep).take(10**9)
    assert len(slept) == 3


def test_files_are_read_in_chunks() -> None:
    files = [InputFile(f"f{n}", 30 << 20, "1") for n in range(5)]
    assert [len(chunk) for chunk in chunks_of(reversed(files), whole=False)] == [3, 2]
    assert [len(chunk) for chunk in chunks_of(files, whole=True)] == [5]
    assert chunks_of([], whole=False) == []


@pytest.mark.slow
def test_work_is_done_by_other_processes() -> None:
    with Processes(2) as processes:
        found = dict(processes.each(partial(max, 3), [1, 5, 7]))
        assert found == {1: 3, 5: 5, 7: 7}
        pids = {pid for _, pid in processes.each(_pid, list(range(8)))}
        with pytest.raises(ZeroDivisionError):
            list(processes.each(_fail, [1, 2]))
    assert os.getpid() not in pids


def _pid(item: int) -> int:
    return os.getpid()


def _fail(item: int) -> float:
    return item / 0


def test_what_was_given_up_is_garbage(tmp_path: Path) -> None:
    folder = tmp_path / "_millstream" / "backfills"
    kept = [("old/report.json", 10), ("new/units/b", 99)]
    for name, modified in [("old/units/a", 10), ("old/units/b.json", 10), *kept]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (modified, modified))
    (folder / "new/units/a").write_bytes(b"x")
    os.utime(folder / "new/units/a", (10, 10))
    found = [Path(garbage.path).name for garbage in find_leftovers(str(tmp_path), {}, 50)]
    assert found == ["b.json", "a"], "what says that a unit is done goes first"
