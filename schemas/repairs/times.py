"""Repairs of dates, times and time stamps: another way to write them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa

from ..contract import Field
from ..json.columns import Number
from ..problems import did_you_mean
from ..temporal import instant_of, parse_column, pieces, rewrite_for
from .spec import RepairError, RepairJob
from .values import Repaired

TEMPORAL = ("date", "time", "timestamp")

_SAMPLE = dt.datetime(2026, 11, 24, 13, 45, tzinfo=dt.UTC)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def written_as(field: Field, repair: RepairJob) -> Repaired:
    """Text of another format as the contract wants it.

    Raises:
        RepairError: the field is no time, the format or zone is none, or a time stamp's zone is
            nowhere said.
    """
    if field.type not in TEMPORAL:
        raise RepairError("date_format", f"is for dates and times, and the field is {field.type}")
    pattern = repair.date_format or ""
    _see_format(pattern, field)
    instant = _placed(field, repair)

    def write(value: Any, is_cell: bool) -> Any:
        if not isinstance(value, str) or isinstance(value, Number):
            return value
        try:
            moment = dt.datetime.strptime(value, pattern)
            return text_at(instant(moment), field)
        except (ValueError, OverflowError):
            return value

    return write


def _see_format(pattern: str, field: Field) -> None:
    """See that a format says what a value of the field is.

    Raises:
        RepairError: it does not.
    """
    try:
        again = dt.datetime.strptime(_SAMPLE.strftime(pattern), pattern)
    except (ValueError, re.error) as error:  # of a part that is there twice, Python says as much
        raise RepairError("date_format", f"cannot be used: {error}") from None
    has_day = again.date() == _SAMPLE.date()
    has_clock = (again.hour, again.minute) == (_SAMPLE.hour, _SAMPLE.minute)
    if field.type == "time" and not has_clock:
        raise RepairError("date_format", "does not say the hour and the minute")
    if field.type != "time" and not has_day:
        raise RepairError("date_format", "does not say the year, the month and the day")


def _placed(field: Field, repair: RepairJob) -> Callable[[dt.datetime], dt.datetime]:
    """What makes an instant of what a text says; of dates and times it stays what it is."""
    if field.type != "timestamp":
        if repair.timezone:
            raise RepairError("timezone", f"is for time stamps, and the field is {field.type}")
        return lambda moment: moment
    name = repair.timezone or _zone_of(field)
    if name is not None and name not in available_timezones():
        raise RepairError("timezone", f"no such zone: {name}{did_you_mean(name, _zones())}")
    if name is None and "%z" not in (repair.date_format or ""):
        said = "says no offset, and nor does the contract: say timezone: UTC, or whichever it is"
        raise RepairError("date_format", said)
    zone = ZoneInfo(name or "UTC")

    def place(moment: dt.datetime) -> dt.datetime:
        if moment.tzinfo is not None:
            return moment.astimezone(dt.UTC)
        return _EPOCH + dt.timedelta(microseconds=instant_of(moment, zone))

    return place


def _zones() -> list[str]:
    return sorted(available_timezones())


def _zone_of(field: Field) -> str | None:
    """The zone of local time stamps by the contract, if it has any."""
    rewrite = rewrite_for(field.type, field.format) if field.format else None
    return field.zone or ("UTC" if rewrite is not None and not rewrite[2] else None)


def moment_of(text: str, field: Field) -> Any:
    """The date, time or instant that text says by the contract; ``None`` if it says none."""
    column, refused = parse_column(pa.array([text], pa.string()), field)
    return None if refused is not None else column[0].as_py()


def text_at(moment: Any, field: Field) -> str:
    """A date, time or instant, written as the contract wants it.

    Args:
        moment: of a time stamp it has the zone UTC; of a date or a time it may be a whole one.
    """
    rewrite = rewrite_for(field.type, field.format) if field.format else None
    if field.format and rewrite:
        if field.type == "timestamp" and not rewrite[2]:
            moment = moment.astimezone(ZoneInfo(_zone_of(field) or "UTC"))
        return "".join(
            _PIECES[text[0]](moment, len(text)) if literal is None else literal
            for text, literal in pieces(field.format)
        )
    if field.type == "timestamp":
        return moment.replace(tzinfo=None).isoformat() + "Z"
    if isinstance(moment, dt.datetime):
        return (moment.date() if field.type == "date" else moment.time()).isoformat()
    return moment.isoformat()


_PIECES: dict[str, Callable[[Any, int], str]] = {
    "y": lambda moment, size: f"{moment.year:04}",
    "u": lambda moment, size: f"{moment.year:04}",
    "M": lambda moment, size: f"{moment.month:02}",
    "d": lambda moment, size: f"{moment.day:02}",
    "H": lambda moment, size: f"{moment.hour:02}",
    "m": lambda moment, size: f"{moment.minute:02}",
    "s": lambda moment, size: f"{moment.second:02}",
    "S": lambda moment, size: f"{moment.microsecond:06}000"[:size],
    # what has an offset is written in UTC
    "Z": lambda moment, size: "+0000",
    "X": lambda moment, size: "Z",
    "x": lambda moment, size: "+00:00",
}
"""Letters of a Java pattern that can be read again → what they write."""
