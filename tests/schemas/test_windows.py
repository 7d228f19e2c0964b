"""Windows: what a job file may say, where each begins and ends, and which sessions are one."""

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates import windows
from millstream.schemas.aggregates.functions import AggregateError
from millstream.schemas.aggregates.windows import (
    Daily,
    Fixed,
    Session,
    Sliding,
    join_overlapping,
    parse_duration,
    parse_window,
)

SECOND, MINUTE, HOUR, DAY = 10**6, 60 * 10**6, 3600 * 10**6, 86400 * 10**6
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999


# What a job file may say


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("30s", 30_000_000),
        ("1m", 60_000_000),
        ("2h", 7_200_000_000),
        ("1d", 86_400_000_000),
        ("250ms", 250_000),
        ("PT1M", 60_000_000),
        ("PT0.5S", 500_000),
    ],
)
def test_a_duration_is_read(text, us):
    assert parse_duration(text, "window.fixed") == us


@pytest.mark.parametrize(
    "text", ["", "1", "1 minute", 60, None, "0s", "-1m", "P", "100001d", "1w", "9" * 5000 + "s"]
)
def test_a_duration_is_refused(text):
    with pytest.raises(AggregateError, match=r"window\.fixed: expected a duration such as 30s"):
        parse_duration(text, "window.fixed")


@pytest.mark.parametrize(
    ("given", "window", "described"),
    [
        ({"fixed": "1m"}, Fixed(MINUTE), {"window_us": MINUTE, "slice_us": MINUTE}),
        (
            {"every": "4m", "sliding": "10m"},
            Sliding(10 * MINUTE, 4 * MINUTE),
            {
                "window": "sliding",
                "window_us": 10 * MINUTE,
                "every_us": 4 * MINUTE,
                "slice_us": 2 * MINUTE,
            },
        ),
        ({"session": "30m"}, Session(30 * MINUTE), {"window": "session", "gap_us": 30 * MINUTE}),
        (
            {"daily": "Europe/Berlin"},
            Daily("Europe/Berlin"),
            {"window": "daily", "zone": "Europe/Berlin"},
        ),
    ],
)
def test_a_window_is_read(given, window, described):
    assert parse_window(given) == window
    assert window.described() == described


ALL = "'fixed', 'sliding', 'session' or 'daily'"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, f"window: expected {ALL}, such as fixed: 1m, got {{}}"),
        ("1m", f"window: expected {ALL}, such as fixed: 1m, got '1m'"),
        ({"fixd": "1m"}, "window: no such kind: 'fixd'; did you mean 'fixed'?"),
        ({"slidng": "1m"}, "window: no such kind: 'slidng'; did you mean 'sliding'?"),
        ({"tumbling": "1m"}, f"window: no such kind: 'tumbling'; expected {ALL}"),
        ({1: "1m"}, f"window: no such kind: '1'; expected {ALL}"),
        (
            {"session": "1m", "fixed": "1m"},
            "window: 'fixed' and 'session' are two kinds of windows; give one",
        ),
        (
            {"fixed": "1m", "every": "1m"},
            "window: no such key: 'every'; beside 'fixed' expected nothing",
        ),
        (
            {"sliding": "1m", "evry": "1m"},
            "window: no such key: 'evry'; did you mean 'every'?",
        ),
        (
            {"sliding": "1m", "period": "1m"},
            "window: no such key: 'period'; beside 'sliding' expected 'every'",
        ),
        ({"fixed": "a minute"}, "window.fixed: expected a duration such as 30s, "),
        ({"session": None}, "window.session: expected a duration such as 30s, "),
        ({"sliding": 10, "every": "1m"}, "window.sliding: expected a duration such as 30s, "),
        ({"sliding": "1m", "every": ""}, "window.every: expected a duration such as 30s, "),
        (
            {"sliding": "10m"},
            "window.every: expected how often a window of 10m begins, such as every: 1m",
        ),
        (
            {"sliding": "1m", "every": "2m"},
            "window.every: expected at most the size 1m, so that every record is in a window, "
            "got '2m'",
        ),
        (
            {"sliding": "1d", "every": "7s"},
            "window: 1d every 7s makes 86400 slices a window, each as long as their greatest "
            "common divisor; at most 10000",
        ),
        (
            {"daily": "Europe/Berln"},
            "window.daily: no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?",
        ),
        (
            {"daily": "home"},
            "window.daily: no time zone 'home'; expected a name such as Europe/Berlin",
        ),
        (
            {"daily": None},
            "window.daily: no time zone None; expected a name such as Europe/Berlin",
        ),
        ({"daily": "../etc"}, "window.daily: no time zone '../etc'; expected a name"),
    ],
)
def test_a_window_is_refused(given, message):
    with pytest.raises(AggregateError) as caught:
        parse_window(given)
    assert str(caught.value).startswith(message)


def test_a_system_without_time_zones(monkeypatch):
    monkeypatch.setattr(windows, "available_timezones", set)
    with pytest.raises(AggregateError, match="this system has no time zones: pip install tzdata"):
        parse_window({"daily": "Europe/Berlin?"})


def test_as_many_slices_as_allowed():
    assert parse_window({"sliding": "10000s", "every": "1s"}) == Sliding(10**10, 10**6)


# Where each begins and ends

anytime = st.integers(-(10**9), 10**9) | st.integers(FIRST, LAST)


@given(st.lists(anytime), st.integers(1, 10**8))
def test_fixed_windows(times, size):
    window, array = Fixed(size), np.array(times, np.int64)
    starts = window.slices(array)
    assert (starts % size == 0).all()
    assert (starts <= array).all()
    assert (array < window.ends(starts)).all()
    assert (window.ends(starts) - starts == size).all()


@given(st.lists(anytime), st.integers(1, 12), st.integers(1, 12))
def test_no_window_begins_or_ends_within_a_slice(times, size, every):
    window, array = Sliding(size * MINUTE, every * MINUTE), np.array(times, np.int64)
    slices = window.slices(array)
    assert (slices <= array).all()
    assert (array < slices + window.slice_us).all()
    for edge in (0, window.size_us):  # starts, then ends, are at the edge and every period after
        gone = (slices - edge) % window.every_us
        assert ((gone == 0) | (gone + window.slice_us <= window.every_us)).all()


def instant(text, zone):
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)


def micros(at):
    return (at - EPOCH) // dt.timedelta(microseconds=1)


def day_of(zone, at):
    """The daily window of an instant."""
    window = Daily(zone)
    start = window.slices(np.array([micros(at)], np.int64))
    ends = window.ends(start)
    return tuple(EPOCH + dt.timedelta(microseconds=int(us[0])) for us in (start, ends))


@pytest.mark.parametrize(
    ("zone", "at", "start", "hours"),
    [
        ("UTC", "2026-03-29T12:00", "2026-03-29T00:00", 24),
        ("Europe/Berlin", "2026-03-28T12:00", "2026-03-28T00:00", 24),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00", 25),
        ("Europe/Berlin", "1969-07-20T00:00", "1969-07-20T00:00", 24),
        ("Asia/Kathmandu", "2026-03-29T23:59", "2026-03-29T00:00", 24),
        # Midnight does not exist, and the day begins at one o'clock.
        ("America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T01:00", 23),
        ("America/Sao_Paulo", "2018-11-03T12:00", "2018-11-03T00:00", 24),
        ("Africa/Cairo", "2023-04-28T12:00", "2023-04-28T01:00", 23),
        ("Asia/Beirut", "2024-03-31T12:00", "2024-03-31T01:00", 23),
        # The hour before midnight is there twice.
        ("America/Sao_Paulo", "2018-02-17T12:00", "2018-02-17T00:00", 25),
        ("Africa/Cairo", "2023-10-26T12:00", "2023-10-26T00:00", 25),
        # The clock jumped from 23:30 over midnight.
        ("America/Toronto", "1919-03-31T12:00", "1919-03-31T00:30", 23.5),
        ("America/Toronto", "1919-03-30T12:00", "1919-03-30T00:00", 23.5),
        # A minute after midnight it went back to 23:01, which is the new day's still.
        ("America/St_Johns", "2010-11-07T12:00", "2010-11-07T00:00", 25),
        ("America/St_Johns", "2010-11-06T12:00", "2010-11-06T00:00", 24),
        # 30 December was left out.
        ("Pacific/Apia", "2011-12-29T12:00", "2011-12-29T00:00", 24),
        ("Pacific/Apia", "2011-12-31T12:00", "2011-12-31T00:00", 24),
        # 18 October was there twice: behind the date line, and after it was moved.
        ("America/Juneau", "1867-10-19T23:00", "1867-10-19T00:00", 48),
        # A time zone of seconds.
        ("Europe/Amsterdam", "1880-06-01T12:00", "1880-06-01T00:00", 24),
    ],
)
def test_a_day_of_a_zone(zone, at, start, hours):
    begin = instant(start, zone)
    end = begin + dt.timedelta(hours=hours)
    inside = instant(at, zone)
    last = end - dt.timedelta(microseconds=1)
    for moment in (inside, begin, last):
        assert day_of(zone, moment) == (begin, end)
    assert day_of(zone, end)[0] == end
    assert day_of(zone, begin - dt.timedelta(microseconds=1))[1] == begin


ZONES = [
    "UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "Pacific/Apia",
    "Pacific/Kiritimati", "Etc/GMT+12", "America/St_Johns", "Asia/Kathmandu", "Australia/Lord_Howe",
]  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from(ZONES), st.lists(anytime, min_size=1, max_size=20))
@example("Etc/GMT+12", [FIRST, LAST])
@example("Pacific/Kiritimati", [FIRST, LAST])
@example("America/Sao_Paulo", [-(1 << 62), 1 << 62])
def test_days_are_days_whatever_else_there_is(zone, times):
    """Each time is in its day, alone or among others."""
    window, array = Daily(zone), np.array(times, np.int64)
    starts = window.slices(array)
    ends = window.ends(starts)
    assert (starts <= array).all()
    assert (array < ends).all()
    assert (ends - starts <= 48 * HOUR).all()  # in Apia in 1892
    assert (ends - starts >= 22 * HOUR).all()
    assert (window.slices(ends - 1) == starts).all()
    for time, start, end in zip(times, starts.tolist(), ends.tolist(), strict=True):
        assert window.slices(np.array([time])).tolist() == [start]
        turned_back = zone == "America/St_Johns" or end - start > 25 * HOUR
        if FIRST + DAY < start < LAST - DAY and not turned_back:
            dates = {
                (EPOCH + dt.timedelta(microseconds=us)).astimezone(ZoneInfo(zone)).date()
                for us in (time, start)
            }
            assert len(dates) == 1


# Which sessions are one


def joined(intervals):
    """Groups by their definition: intervals that overlap, until no two groups do."""
    groups = [([i], id, start, end) for i, (id, start, end) in enumerate(intervals)]
    while True:
        for i, (some, id, start, end) in enumerate(groups):
            for j, (others, other, begin, stop) in enumerate(groups[:i]):
                if id == other and start < stop and begin < end:
                    del groups[i], groups[j]
                    groups.append((some + others, id, min(start, begin), max(end, stop)))
                    break
            else:
                continue
            break
        else:
            return {frozenset(members): (id, start, end) for members, id, start, end in groups}


def found(intervals):
    ids, starts, ends = np.array(intervals, np.int64).reshape(-1, 3).T
    groups, firsts, lasts = join_overlapping(ids, starts, ends)
    assert len(firsts) == len(lasts) == groups.count
    order = [(ids[first], starts[first]) for first in firsts.tolist()]
    assert order == sorted(order)
    return {
        frozenset(np.flatnonzero(groups.ids == i).tolist()): (ids[first], starts[first], lasts[i])
        for i, first in enumerate(firsts.tolist())
    }


lengths = st.integers(1, 8) | st.integers(1, 10**15)
intervals = st.tuples(
    st.integers(0, 3), st.integers(-20, 20) | st.integers(-(2**61), 2**61), lengths
).map(lambda i: (i[0], i[1], i[1] + i[2]))


@settings(max_examples=200)
@given(st.lists(intervals, max_size=12) | st.lists(intervals.filter(lambda i: abs(i[1]) < 21)))
@example([(0, 0, 10), (0, 10, 20), (1, 5, 15)])  # they only touch
@example([(0, 0, 10), (0, 20, 30), (0, 9, 21)])  # the last one is a bridge
@example([(0, 0, 100), (0, 1, 2), (0, 50, 60), (0, 99, 101)])  # one holds others
@example([(0, 5, 6)] * 3 + [(2, 5, 6)])
@example([(3, 0, 5), (0, -(2**61), 4), (1, 3, 2**61), (3, 4, 7)])  # too long for one line
def test_overlapping_intervals_are_joined(intervals):
    assert found(intervals) == joined(intervals)


def test_no_intervals():
    nothing = np.array([], np.int64)
    groups, firsts, ends = join_overlapping(nothing, nothing, nothing)
    assert (groups.count, len(groups.ids), len(firsts), len(ends)) == (0, 0, 0, 0)
