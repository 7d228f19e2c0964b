"""Dates, times and time stamps: what is accepted, what is refused, and that it means the same."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Field
from millstream.schemas.temporal import expected, iso_rewrite, parse_column

DATE, TIME, TIMESTAMP = Field("v", "date"), Field("v", "time"), Field("v", "timestamp")
REFUSED = object()


def parse(field: Field, *texts: str | None) -> list[Any]:
    """The values of texts; ``REFUSED`` where one was."""
    column, refused = parse_column(pa.array(texts, pa.string()), field)
    assert len(column) == len(texts)
    values = column.to_pylist()
    for i in [] if refused is None else refused.tolist():
        assert values[i] is None
        values[i] = REFUSED
    return values


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # pyright: ignore[reportArgumentType]


# ----------------------------------------------------------------------------------- tables

ACCEPTED = {
    DATE: {
        "2026-11-24": dt.date(2026, 11, 24),
        "2024-02-29": dt.date(2024, 2, 29),
        "2000-02-29": dt.date(2000, 2, 29),
        "0001-01-01": dt.date.min,
        "9999-12-31": dt.date.max,
    },
    TIME: {
        "00:00": dt.time(0),
        "23:59:59.999999": dt.time.max,
        "12:30:15.5": dt.time(12, 30, 15, 500_000),
        "12:30:15.123456789": dt.time(12, 30, 15, 123_456),
        "12:30:15.999999999": dt.time(12, 30, 15, 999_999),  # cut off, not rounded up
    },
    TIMESTAMP: {
        "2026-11-24T13:45:00Z": utc(2026, 11, 24, 13, 45),
        "2026-11-24 13:45:00Z": utc(2026, 11, 24, 13, 45),
        "2026-11-24T13:45Z": utc(2026, 11, 24, 13, 45),
        "2026-11-24T13:45:00+05:30": utc(2026, 11, 24, 8, 15),
        "2026-11-24T13:45:00+0530": utc(2026, 11, 24, 8, 15),
        "2026-11-24T13:45-05": utc(2026, 11, 24, 18, 45),
        "2026-11-24T00:00:00-00:00": utc(2026, 11, 24),
        "2026-11-24T00:00:00+23:59": utc(2026, 11, 23, 0, 1),
        "2026-11-24T00:00:00.1Z": utc(2026, 11, 24, 0, 0, 0, 100_000),
        "2026-11-24T00:00:00.123456789Z": utc(2026, 11, 24, 0, 0, 0, 123_456),
        "1969-12-31T23:59:59.999999999Z": utc(1969, 12, 31, 23, 59, 59, 999_999),
        "0001-01-01T00:00:00Z": utc(1, 1, 1),
        "0001-01-01T05:00:00+05:00": utc(1, 1, 1),
        "9999-12-31T23:59:59.999999Z": utc(9999, 12, 31, 23, 59, 59, 999_999),
        "9999-12-31T18:59:59-05:00": utc(9999, 12, 31, 23, 59, 59),
    },
}
NO_DATES = [
    "", " ", "2026", "2026-11", "2026-1-1", "20261124", "2026-W48-2", "2026-328", "+2026-11-24",
    "-2026-11-24", "02026-11-24", "2026-00-01", "2026-13-01", "2026-01-00", "2026-01-32",
    "2026-04-31", "2026-02-29", "1900-02-29", "2100-02-29", "0000-01-01", "0000-02-29",
    " 2026-11-24", "2026-11-24 ", "2026-11-24\n", "2026-11-24Z", "2026/11/24", "24.11.2026",
    "2026-11-24T00:00:00Z", "2026-11-24T00:00", "２０２６-11-24", "2026−11−24", "today", "0",
]  # fmt: skip
NO_TIMES = [
    "", "12", "1:00", "12:0", "24:00", "24:00:00", "12:60", "12:00:60", "23:59:60", "12:00:00.",
    "12:00:00,5", "12:00.5", "12:00:00.1234567890", "12:00Z", "12:00+01:00", "T12:00", "1200",
    "12:00\n", " 12:00", "12:00:00 PM", "noon",
]  # fmt: skip
NO_TIMESTAMPS = [
    "", "2026-11-24", "2026-11-24T13:45:00", "2026-11-24T13:45", "2026-11-24T13Z",
    "2026-11-24T24:00:00Z", "2026-11-24T23:59:60Z", "2026-11-24T13:60:00Z", "2026-02-29T00:00:00Z",
    "2026-11-24t13:45:00Z", "2026-11-24T13:45:00z", "2026-11-24  13:45:00Z", "2026-11-24_13:45:00Z",
    "2026-11-24T13:45:00 Z", "2026-11-24T13:45:00UTC", "2026-11-24T13:45:00+5",
    "2026-11-24T13:45:00+5:30",
    "2026-11-24T13:45:00+24:00", "2026-11-24T13:45:00+05:60", "2026-11-24T13:45:00+05:3",
    "2026-11-24T13:45:00+05:30:00", "2026-11-24T13:45:00Z+01:00", "2026-11-24T13:45:00.Z",
    "2026-11-24T13:45:00,5Z", "2026-11-24T13:45:00.1234567890Z", "2026-11-24T13:45:00Z\n",
    " 2026-11-24T13:45:00Z", "2026-11-24T13:45:00Z[Europe/Berlin]", "1764000000", "now",
    "0000-12-31T23:00:00-05:00", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01",
    "10000-01-01T00:00:00Z", "20261124T134500Z", "2026-W48-2T00:00:00Z",
]  # fmt: skip


@pytest.mark.parametrize("field", [DATE, TIME, TIMESTAMP], ids=lambda f: f.type)
def test_what_is_accepted(field):
    table = ACCEPTED[field]
    assert parse(field, *table) == list(table.values())


@pytest.mark.parametrize(
    ("field", "texts"),
    [(DATE, NO_DATES), (TIME, NO_TIMES), (TIMESTAMP, NO_TIMESTAMPS)],
    ids=lambda v: v.type if isinstance(v, Field) else "",
)
def test_what_is_refused(field, texts):
    for text in texts:
        assert parse(field, text) == [REFUSED], text


@pytest.mark.parametrize("field", [DATE, TIME, TIMESTAMP], ids=lambda f: f.type)
def test_nulls_and_refusals_keep_their_places(field):
    text, value = next(iter(ACCEPTED[field].items()))
    assert parse(field) == []
    assert parse(field, None) == [None]
    assert parse(field, None, "no", text, None, "") == [None, REFUSED, value, None, REFUSED]


def test_one_far_year_among_others():
    """It has a check of its own, which must not take its neighbours along."""
    field = Field("v", "timestamp", zone="Asia/Tokyo")
    texts = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00", "no", "2026-01-01T09:00:00", None]
    assert parse(field, *texts) == [utc(1, 1, 1), REFUSED, REFUSED, utc(2026, 1, 1), None]
    assert parse(TIMESTAMP, "0001-01-01T00:00+01", "no", None) == [REFUSED, REFUSED, None]


# ------------------------------------------------------------- the same as Python's datetime

_offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)


@given(st.datetimes(timezones=_offsets), st.sampled_from("T "))
@example(utc(1, 1, 1), "T")
@example(dt.datetime.max.replace(tzinfo=dt.UTC), " ")
def test_aware_datetimes_are_read_as_they_are_written(value, separator):
    try:
        expected = value.astimezone(dt.UTC)
    except OverflowError:
        expected = REFUSED  # before year 1 or after year 9999, seen from Greenwich
    assert parse(TIMESTAMP, value.isoformat(separator)) == [expected]


@given(st.dates(), st.times())
def test_dates_and_times_are_read_as_they_are_written(date, time):
    assert parse(DATE, date.isoformat()) == [date]
    assert parse(TIME, time.isoformat()) == [time]


_PIECES = ("2026", "0000", "1900", "01", "02", "13", "29", "31", "24", "59", "60", "123456789")
_near_misses = st.lists(st.sampled_from((*_PIECES, *"-- T::.Z+z")), max_size=14).map("".join)


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A right text with one character changed, taken away or put in."""
    text = draw(st.sampled_from([t for table in ACCEPTED.values() for t in table]))
    at = draw(st.integers(0, len(text)))
    new = draw(st.sampled_from(["", *"0123456789TZ:-+. \n\x00tz"]))
    return text[:at] + new + text[at + draw(st.integers(0, 1)) :]


@settings(max_examples=300)
@given(st.text("0123456789-:.TZ+ ", max_size=32) | _near_misses | _mutated())
def test_any_text_is_judged_as_python_would(text):
    """The grammar, written down once more, decides on the shape; Python on the calendar."""
    assert parse(DATE, text) == [_reference_date(text)]
    assert parse(TIME, text) == [_reference_time(text)]
    assert parse(TIMESTAMP, text) == [_reference_timestamp(text)]


def _reference_date(text: str) -> Any:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return REFUSED
    try:
        return dt.date(*map(int, text.split("-")))
    except ValueError:
        return REFUSED


def _reference_time(text: str) -> Any:
    match = re.fullmatch(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?", text)
    if not match:
        return REFUSED
    hour, minute, second, fraction = (part or "0" for part in match.groups())
    try:
        return dt.time(int(hour), int(minute), int(second), int(fraction.ljust(6, "0")[:6]))
    except ValueError:
        return REFUSED


def _reference_timestamp(text: str) -> Any:
    match = re.fullmatch(
        r"([^ T]+)[ T]([0-9:.]+)(?:Z|([+-])([0-9]{2})(?::?([0-9]{2}))?)", text, re.DOTALL
    )
    if not match:
        return REFUSED
    date, time = _reference_date(match[1]), _reference_time(match[2])
    if REFUSED in (date, time) or int(match[4] or 0) > 23 or int(match[5] or 0) > 59:
        return REFUSED
    offset = dt.timedelta(hours=int(match[4] or 0), minutes=int(match[5] or 0))
    try:
        there = dt.datetime.combine(date, time, dt.UTC)
        return there + offset if match[3] == "-" else there - offset
    except OverflowError:
        return REFUSED


# ----------------------------------------------------------------------------------- zones

BERLIN = Field("v", "timestamp", zone="Europe/Berlin")


def test_without_an_offset_a_time_is_of_the_zone():
    assert parse(BERLIN, "2026-07-01T12:00:00", "2026-01-01 12:00") == [
        utc(2026, 7, 1, 10),
        utc(2026, 1, 1, 11),
    ]


def test_with_an_offset_the_zone_does_not_matter():
    texts = list(ACCEPTED[TIMESTAMP])
    assert parse(BERLIN, *texts) == parse(TIMESTAMP, *texts)


def test_a_date_alone_is_no_time_stamp_of_a_zone():
    assert parse(BERLIN, "2026-07-01") == [REFUSED]


FOLDS_AND_GAPS = [
    ("Europe/Berlin", "2026-10-25T02:30:00", utc(2026, 10, 25, 0, 30)),  # twice: the earlier
    ("Europe/Berlin", "2026-10-25T03:00:00", utc(2026, 10, 25, 2)),
    ("Europe/Berlin", "2026-03-29T01:59:59", utc(2026, 3, 29, 0, 59, 59)),
    ("Europe/Berlin", "2026-03-29T02:00:00", utc(2026, 3, 29, 1)),  # never: the next that is
    ("Europe/Berlin", "2026-03-29T02:30:00", utc(2026, 3, 29, 1)),
    ("Europe/Berlin", "2026-03-29T02:59:59.999999", utc(2026, 3, 29, 1)),
    ("Europe/Berlin", "2026-03-29T03:00:00", utc(2026, 3, 29, 1)),
    ("Australia/Lord_Howe", "2026-10-04T02:15:00", utc(2026, 10, 3, 15, 30)),  # half an hour
    ("Pacific/Apia", "2011-12-30T12:00:00", utc(2011, 12, 30, 10)),  # a day that never was
    ("America/New_York", "2026-11-01T01:30:00", utc(2026, 11, 1, 5, 30)),
]


@pytest.mark.parametrize(("zone", "text", "instant"), FOLDS_AND_GAPS)
def test_folds_and_gaps(zone, text, instant):
    assert parse(Field("v", "timestamp", zone=zone), text) == [instant]


def _unknown_zone(*_: Any, **__: Any) -> None:
    """Arrow without a time zone database, as on Windows."""
    raise pa.ArrowInvalid("Cannot locate timezone")


@pytest.mark.parametrize(("zone", "text", "instant"), FOLDS_AND_GAPS)
def test_folds_and_gaps_without_arrow_zones(zone, text, instant, monkeypatch):
    monkeypatch.setattr(pc, "assume_timezone", _unknown_zone)
    assert parse(Field("v", "timestamp", zone=zone), text, None) == [instant, None]


@settings(max_examples=50)
@given(
    st.lists(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2037, 1, 1)), max_size=5),
    st.sampled_from(["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Tokyo"]),
)
def test_arrow_and_python_agree_on_local_times(values, zone):
    field = Field("v", "timestamp", zone=zone)
    texts = [v.isoformat() for v in values]
    by_arrow = parse(field, *texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pc, "assume_timezone", _unknown_zone)
        assert parse(field, *texts) == by_arrow


# -------------------------------------------------------------------------- Java's formats

FORMATS = [
    ("date", None, "dd.MM.yyyy", "24.11.2026", dt.date(2026, 11, 24)),
    ("date", None, "yyyyMMdd", "20261124", dt.date(2026, 11, 24)),
    ("date", None, "uuuu/MM/dd", "2026/11/24", dt.date(2026, 11, 24)),
    ("date", None, "'day' dd''MM''yyyy", "day 24'11'2026", dt.date(2026, 11, 24)),
    ("date", None, "yyyy.MM.dd", "2026x11x24", REFUSED),  # a dot is a dot
    ("date", None, "dd.MM.yyyy", "2026-11-24", REFUSED),  # ISO is another format
    ("date", None, "dd.MM.yyyy", "30.02.2026", REFUSED),
    ("date", None, "dd.MM.yyyy", "1.2.2026", REFUSED),
    ("date", None, "dd.MM.yyyy", "24.11.2026\n", REFUSED),
    ("date", None, "dd.MM.yyyy", "24.11.0000", REFUSED),
    ("date", None, "dd.MM.yyyy", "٢٤.11.2026", REFUSED),  # digits, but not those
    ("time", None, "HHmm", "1345", dt.time(13, 45)),
    ("time", None, "HH.mm.ss", "13.45.10", dt.time(13, 45, 10)),
    ("time", None, "HH:mm:ss.SSS", "13:45:10.123", dt.time(13, 45, 10, 123_000)),
    ("time", None, "HH:mm:ss.SSS", "13:45:10", REFUSED),
    ("time", None, "HHmm", "2400", REFUSED),
    ("timestamp", None, "yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2026-11-24T13:45:10.5+01:00", REFUSED),
    (
        "timestamp", None, "yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2026-11-24T13:45:10.500+01:00",
        utc(2026, 11, 24, 12, 45, 10, 500_000),
    ),
    ("timestamp", None, "yyyy-MM-dd'T'HH:mmXXX", "2026-11-24T13:45Z", utc(2026, 11, 24, 13, 45)),
    ("timestamp", None, "yyyyMMddHHmmssXX", "20261124134500-0100", utc(2026, 11, 24, 14, 45)),
    ("timestamp", None, "dd/MM/yyyy HH:mm Z", "24/11/2026 13:45 +0100", utc(2026, 11, 24, 12, 45)),
    ("timestamp", None, "dd/MM/yyyy HH:mm X", "24/11/2026 13:45 +01", utc(2026, 11, 24, 12, 45)),
    ("timestamp", None, "dd/MM/yyyy HH:mm xxx", "24/11/2026 13:45 Z", REFUSED),
    ("timestamp", None, "dd/MM/yyyy HH:mm", "24/11/2026 13:45", utc(2026, 11, 24, 13, 45)),
    (
        "timestamp", "Europe/Berlin", "dd/MM/yyyy HH:mm", "24/11/2026 13:45",
        utc(2026, 11, 24, 12, 45),
    ),
    ("timestamp", "Asia/Tokyo", "dd/MM/yyyy HH:mm", "01/01/0001 00:00", REFUSED),
    (
        "timestamp", None, "yyyy-MM-dd HH:mm:ss.SSSSSSSSS", "2026-11-24 13:45:10.123456789",
        utc(2026, 11, 24, 13, 45, 10, 123_456),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "zone", "pattern", "text", "value"), FORMATS)
def test_java_formats(kind, zone, pattern, text, value):
    field = Field("v", kind, format=pattern, zone=zone)
    assert parse(field, text, None) == [value, None]
    assert pattern in expected(field)


@pytest.mark.parametrize(
    "pattern",
    [
        "EEE, d MMM yyyy",
        "dd-MMM-yyyy",
        "yy-MM-dd",
        "yyyy-M-d",
        "hh:mm a",
        "yyyy-MM-dd HH:mm z",
        "yyyy-MM-dd VV",
        "YYYY-MM-dd",  # a week-based year
        "yyyy-DDD",
        "yyyy-MM-dd['T'HH:mm]",  # an optional section
        "yyyy-MM-dd'T",  # a quote without an end
        "yyyy-MM",
        "HH",
        "dd dd.MM.yyyy",
        "",
    ],
)
def test_formats_that_cannot_be_rewritten_leave_iso(pattern):
    """``contract check`` tells so; here it must not refuse all, or worse, misread."""
    assert iso_rewrite(pattern) is None
    field = Field("v", "date", format=pattern)
    assert parse(field, "2026-11-24", "24.11.2026") == [dt.date(2026, 11, 24), REFUSED]
    assert "2026-11-24" in expected(field)


@settings(max_examples=60)
@given(
    st.datetimes().map(lambda v: v.replace(microsecond=v.microsecond // 1000 * 1000)),
    st.permutations(["yyyy", "MM", "dd", "HH", "mm", "ss", "SSS"]),
    st.lists(st.sampled_from(["", "-", " ", "/", ".", "'T'", "''"]), min_size=7, max_size=7),
)
def test_parts_may_stand_in_any_order(value, parts, separators):
    written = {
        "yyyy": f"{value.year:04}", "MM": f"{value:%m}", "dd": f"{value:%d}", "HH": f"{value:%H}",
        "mm": f"{value:%M}", "ss": f"{value:%S}", "SSS": f"{value.microsecond // 1000:03}",
    }  # fmt: skip
    said = {"'T'": "T", "''": "'"}
    pattern = "".join(p + s for p, s in zip(parts, separators, strict=True))
    text = "".join(written[p] + (said.get(s) or s) for p, s in zip(parts, separators, strict=True))
    field = Field("v", "timestamp", format=pattern)
    assert parse(field, text) == [value.replace(tzinfo=dt.UTC)]


def test_a_zone_means_what_python_says():
    """A contract may name any zone that Python has."""
    for zone in ("UTC", "Etc/GMT+5", "US/Pacific", "Asia/Kathmandu", "Europe/Kyiv"):
        local = dt.datetime(2026, 7, 1, 12, tzinfo=ZoneInfo(zone))
        field = Field("v", "timestamp", zone=zone)
        assert parse(field, "2026-07-01T12:00:00") == [local.astimezone(dt.UTC)]


# ------------------------------------------------------------------------- columns of one layout

_LAYOUTS = ("0000-00-00", "00:00", "00:00:00", "00:00:00.0", "0000-00-00T00:00Z",
            "0000-00-00 00:00:00", "0000-00-00T00:00:00.000Z", "0000-00-00 00:00:00.000000Z",
            "0000-00-00T00:00:00.0000000Z", "0000-00-00T00:00:00+00:00")  # fmt: skip


@st.composite
def alike(draw: st.DrawFn) -> list[str | None]:
    """Texts of one layout, most of them right; or nearly."""
    layout = draw(st.sampled_from(_LAYOUTS))
    good = st.datetimes().map(lambda t: _filled(layout, t))
    digits = st.text("0123456789:;?", min_size=len(layout), max_size=len(layout))
    near = digits.map(
        lambda d: "".join(a if b == "0" else b for a, b in zip(d, layout, strict=True))
    )
    year_0 = good.map(lambda text: "0000" + text[4:])
    odd = good.flatmap(lambda t: st.integers(0, len(t) - 1).map(lambda i: t[:i] + "x" + t[i + 1 :]))
    texts = draw(st.lists(good, min_size=1, max_size=100))
    return texts + draw(st.lists(st.one_of(good, near, year_0, odd, st.none()), max_size=3))


def _filled(layout: str, value: dt.datetime) -> str:
    text = value.isoformat("T", "microseconds") + "0"
    text = text if layout.startswith("0000") else text[11:]
    return "".join(text[i] if c == "0" and i < len(text) else c for i, c in enumerate(layout))


@settings(max_examples=300)
@given(
    alike(), st.sampled_from((DATE, TIME, TIMESTAMP, Field("v", "timestamp", zone="Asia/Tokyo")))
)
def test_a_column_of_one_layout_is_judged_like_any_other(texts, field):
    """A look at all of its texts at once tells what a regular expression would tell of each."""
    odd_one = "x"  # with which a column has no layout
    assert parse(field, *texts) == parse(field, *texts, odd_one)[:-1]


@settings(max_examples=30)
@given(
    alike(), alike(), st.randoms(use_true_random=False), st.sampled_from((DATE, TIME, TIMESTAMP))
)
def test_a_column_of_mostly_one_layout_is_judged_like_any_other(most, some, rng, field):
    most = [text for text in most if text is not None]
    some = [text for text in some if text is not None][:20]
    column = (most * 200)[:200] + some
    rng.shuffle(column)
    assert parse(field, *column) == [parse(field, text, "x")[0] for text in column]
