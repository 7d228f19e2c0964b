"""Values that a contract names (bounds, valid values) → values of the field's own type."""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa

from ..contract import Field
from ..integers import integer_range
from ..problems import Place, did_you_mean, say
from ..temporal import parse_column
from .types import Draft

_LONGEST = 324  # digits before or after the point, as doubles have them
_GREATEST_FLOAT32 = 3.4028234663852886e38

LOWER = ("minimum", "exclusiveMinimum")
UPPER = ("maximum", "exclusiveMaximum")
_INCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


def bound(draft: Draft, kind: str, value: Any, place: Place) -> tuple[str, Any] | None:
    """A bound as a rule's kind and value, or ``None`` if the field's type implies it.

    Integers and decimals are a grid: a bound between two of their values becomes the next value
    inside (``minimum: 0.5`` of an integer is ``minimum: 1``).

    Raises:
        ContractError: it is not of the field's type, or no value of the type can keep it.
    """
    if draft.type not in ("integer", "decimal"):
        converted = CONVERTERS[draft.type](draft, value, place)
        return None if converted is None else (kind, converted)
    units = _exact(draft, value, place) * 10 ** _scale(draft)
    step = math.ceil(units) if kind in LOWER else math.floor(units)
    if units != step:
        kind = _INCLUSIVE.get(kind, kind)
    least, greatest = _range(draft)
    strict = kind in _INCLUSIVE
    inside = (step - least) if kind in LOWER else (greatest - step)
    room = (greatest - step) if kind in LOWER else (step - least)
    if room < strict:
        raise place.error(f"no {_type_name(draft)} can be {_WORDS[kind]} {say(value)}")
    return None if inside < 0 else (kind, _of_units(draft, step))


_WORDS = {
    "minimum": "at least", "exclusiveMinimum": "more than",
    "maximum": "at most", "exclusiveMaximum": "less than",
}  # fmt: skip


def multiple(draft: Draft, value: Any, place: Place) -> Any:
    """The number that all of a field's values must be multiples of.

    Of an integer or decimal it is the least common multiple with the type's own step: what is a
    whole number and a multiple of 2.5 is a multiple of 5.

    Raises:
        ContractError: it is no number above zero.
    """
    step = _exact(draft, value, place)
    if step <= 0:
        raise place.error(f"expected a number above 0, found {say(value)}")
    if draft.type == "number":
        return float(step)
    units = step * 10 ** _scale(draft)
    return _of_units(draft, units.numerator)


def zone(name: Any, place: Place) -> str:
    """The name of a time zone.

    Raises:
        ContractError: there is no such zone.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):  # what ZoneInfo raises
        hint = did_you_mean(name, available_timezones()) if isinstance(name, str) else ""
        raise place.error(
            f"no time zone {say(name)}{hint or '; expected a name such as Europe/Berlin'}"
        ) from None
    return name


def _exact(draft: Draft, value: Any, place: Place) -> Fraction:
    text = value
    if isinstance(value, float):
        text = place.text or repr(value)
    elif isinstance(value, bool) or not isinstance(value, int | str):
        text = ""
    if isinstance(value, str) and draft.type != "decimal":
        text = ""
    try:
        exact = Decimal(text)
    except InvalidOperation:
        exact = Decimal("NaN")
    if not exact.is_finite() or abs(exact.adjusted()) > _LONGEST or math.isinf(exact):
        raise place.error(f"expected {_a(draft)}, found {say(value)}")
    return Fraction(exact)


def _scale(draft: Draft) -> int:
    return draft.scale if draft.type == "decimal" else 0


def _range(draft: Draft) -> tuple[int, int]:
    if draft.type == "integer":
        return integer_range(draft.storage)
    return 1 - 10**draft.precision, 10**draft.precision - 1


def _of_units(draft: Draft, units: int) -> int | Decimal:
    if draft.type == "integer":
        return units
    # the constructor is exact, whatever the context's precision
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -draft.scale))


def _type_name(draft: Draft) -> str:
    if draft.type == "decimal":
        return f"decimal({draft.precision},{draft.scale})"
    return draft.storage if draft.type == "integer" else draft.type


def _a(draft: Draft) -> str:
    return _EXPECTED.get(draft.type) or f"a {_type_name(draft)}"


_EXPECTED = {
    "integer": "an integer",
    "number": "a finite number",
    "string": "a string",
    "boolean": "true or false",
    "date": "a date such as 2026-11-24",
    "timestamp": "a time stamp such as 2026-11-24T13:45:00Z",
    "time": "a time of day such as 13:45:00",
}


def _to_number(draft: Draft, value: Any, place: Place) -> int | Decimal:
    units = _exact(draft, value, place) * 10 ** _scale(draft)
    least, greatest = _range(draft)
    if units.denominator != 1 or not least <= units <= greatest:
        raise place.error(f"{say(value)} is no {_type_name(draft)}")
    return _of_units(draft, units.numerator)


def _to_float(draft: Draft, value: Any, place: Place) -> float:
    number = float(_exact(draft, value, place))
    if draft.storage == "float32" and abs(number) <= _GREATEST_FLOAT32:
        return struct.unpack("f", struct.pack("f", number))[0]  # 0.1 as the records hold it
    return number


def _as_is(python: type) -> Callable[[Draft, Any, Place], Any]:
    def convert(draft: Draft, value: Any, place: Place) -> Any:
        if not isinstance(value, python):
            quote = "; write it in quotes" if python is str else ""
            raise place.error(f"expected {_a(draft)}, found {say(value)}{quote}")
        return value

    return convert


def _temporal(from_iso: Callable[[Draft, str, Place], Any]) -> Callable[[Draft, Any, Place], Any]:
    def convert(draft: Draft, value: Any, place: Place) -> Any:
        if isinstance(value, str):
            if draft.format and (found := _in_format(draft, value)) is not None:
                return found
            try:
                return from_iso(draft, value, place)
            except (ValueError, OverflowError):
                pass
        pattern = f" or in the format {draft.format}" if draft.format else ""
        raise place.error(f"expected {_a(draft)}{pattern}, found {say(value)}")

    return convert


def _in_format(draft: Draft, text: str) -> Any:
    """A value written as records write it, or ``None``."""
    as_records = Field(draft.name, draft.type, format=draft.format, zone=draft.zone)
    value = parse_column(pa.array([text]), as_records)[0][0].as_py()
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value


def _iso_date(draft: Draft, text: str, place: Place) -> dt.date:
    return dt.date.fromisoformat(text)


def _iso_timestamp(draft: Draft, text: str, place: Place) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    if value.tzinfo is None:
        if draft.zone is None:
            place.find(f"{text} has no offset: read as UTC")
        value = value.replace(tzinfo=ZoneInfo(draft.zone) if draft.zone else dt.UTC)
    return value.astimezone(dt.UTC)


def _iso_time(draft: Draft, text: str, place: Place) -> dt.time | None:
    value = dt.time.fromisoformat(text)
    if value.tzinfo is not None:
        place.find(f"{text} has an offset, which a time of day does not keep: not enforced")
        return None
    return value


CONVERTERS: dict[str, Callable[[Draft, Any, Place], Any]] = {
    "string": _as_is(str),
    "boolean": _as_is(bool),
    "integer": _to_number,
    "decimal": _to_number,
    "number": _to_float,
    "date": _temporal(_iso_date),
    "timestamp": _temporal(_iso_timestamp),
    "time": _temporal(_iso_time),
}
"""By field type: a value of the document as one of the field's own type. ``None`` where it cannot
be compared; a finding says why.

Raises:
    ContractError: it is not of the type.
"""
