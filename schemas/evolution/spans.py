"""The values that a field of an ordered type can take, as an interval and a step.

Integers, decimals, dates, times of day and time stamps are grids: their values are whole numbers
of units (a decimal's last digit, a day, a microsecond), and every bound becomes one of them.
Numbers are no grid.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from ..contract import Field
from ..integers import integer_range
from ..samples import as_json
from ..temporal import FIRST_INSTANT, LAST_INSTANT, rewrite_for

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = 86_400_000_000  # microseconds

GRIDS = frozenset({"integer", "decimal", "date", "time", "timestamp"})
ORDERED = GRIDS | {"number"}


@dataclass(frozen=True)
class Span:
    """An interval of values. Of a grid, ``low`` and ``high`` are values that are taken."""

    low: Fraction
    high: Fraction
    low_open: bool = False
    high_open: bool = False
    step: Fraction | None = None  # what all values are multiples of; of a number, None if nothing

    @property
    def count(self) -> int | None:
        """How many values there are; ``None`` if it is no grid."""
        if self.step is None:
            return None
        return max(0, int((self.high - self.low) / self.step) + 1)


def span_of(field: Field) -> Span:
    """The interval that the type and the rules leave."""
    return _grid_span(field) if field.type in GRIDS else _number_span(field)


def _grid_span(field: Field) -> Span:
    low, high, step = type_range(field)
    unit = step
    for rule in field.rules:
        match rule.kind:
            case "minimum":
                low = max(low, in_units(rule.value))
            case "exclusiveMinimum":
                low = max(low, in_units(rule.value) + unit)
            case "maximum":
                high = min(high, in_units(rule.value))
            case "exclusiveMaximum":
                high = min(high, in_units(rule.value) - unit)
            case "multipleOf":
                step = _common_multiple(step, Fraction(Decimal(str(rule.value))))
            case "enum":
                low = max(low, min(map(in_units, rule.value)))
                high = min(high, max(map(in_units, rule.value)))
    return Span(math.ceil(low / step) * step, math.floor(high / step) * step, step=step)


def _number_span(field: Field) -> Span:
    low, high, _ = type_range(field)
    low_open = high_open = False
    step = None
    for rule in field.rules:
        if rule.kind == "multipleOf":
            step = Fraction(Decimal(str(rule.value)))
            continue
        if rule.kind == "enum":
            low = max(low, min(map(in_units, rule.value)))
            high = min(high, max(map(in_units, rule.value)))
            continue
        if rule.kind not in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
            continue
        limit = rounded(Fraction(rule.value), field)
        is_open = rule.kind.startswith("exclusive")
        if rule.kind.lower().endswith("minimum"):
            if (limit, is_open) > (low, low_open):
                low, low_open = limit, is_open
        elif limit < high or (limit == high and is_open):
            high, high_open = limit, is_open
    if step is None:
        return Span(low, high, low_open, high_open)
    # A value is what the type holds of a multiple: the first inside may be one just outside.
    first, last = math.ceil(low / step) - 1, math.floor(high / step) + 1
    while not _inside(rounded(first * step, field), low, low_open):
        first += 1
    while not _inside(-rounded(last * step, field), -high, high_open):
        last -= 1
    return Span(rounded(first * step, field), rounded(last * step, field), step=step)


def _inside(value: Fraction, low: Fraction, is_open: bool) -> bool:
    return value > low or (value == low and not is_open)


def _common_multiple(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(
        math.lcm(a.numerator * b.denominator, b.numerator * a.denominator),
        a.denominator * b.denominator,
    )


def float_storage(field: Field) -> str:
    """How a number is held: ``float32`` or ``float64``."""
    return "float32" if field.storage == "float32" else "float64"


def type_range(field: Field) -> tuple[Fraction, Fraction, Fraction]:
    """The least and the greatest value of a type, and its unit (of a number, 0)."""
    match field.type:
        case "integer":
            low, high = integer_range(field.storage)
            return Fraction(low), Fraction(high), Fraction(1)
        case "decimal":
            unit = Fraction(1, 10**field.scale)
            most = (10**field.precision - 1) * unit
            return -most, most, unit
        case "number":
            most = Fraction(float(np.finfo(np.dtype(float_storage(field))).max))
            return -most, most, Fraction(0)
        case "date":
            return Fraction(1), Fraction(dt.date.max.toordinal()), Fraction(1)
        case "time":
            return Fraction(0), Fraction(_DAY - 1), Fraction(1)
    return Fraction(FIRST_INSTANT), Fraction(LAST_INSTANT), Fraction(1)


def in_units(value: Any) -> Fraction:
    """A value of a rule as a number."""
    if isinstance(value, dt.datetime):
        return Fraction((value - _EPOCH) // _MICROSECOND)
    if isinstance(value, dt.date):
        return Fraction(value.toordinal())
    if isinstance(value, dt.time):
        clock = (value.hour * 60 + value.minute) * 60 + value.second
        return Fraction(clock * 1_000_000 + value.microsecond)
    return Fraction(value)


def rounded(value: Fraction, field: Field) -> Fraction:
    """A value as a number field holds it; what is beyond the type stays as it is."""
    try:
        double = float(value)
    except OverflowError:
        return value
    if field.storage == "float32":
        with np.errstate(over="ignore"):
            double = float(np.float32(double))
    return Fraction(double) if math.isfinite(double) else value


def neighbour(value: Fraction, field: Field, towards: float) -> Fraction:
    """The next value that a number field holds."""
    kind = np.dtype(float_storage(field)).type
    with np.errstate(over="ignore", under="ignore"):
        found = float(np.nextafter(kind(float(value)), kind(towards)))
    return Fraction(found) if math.isfinite(found) else value


def written(value: Fraction, field: Field) -> Any:
    """A number of :class:`Span` as JSON writes it for a field."""
    match field.type:
        case "integer":
            return _integer(int(value))
        case "decimal":
            return _exact(value, field.scale)
        case "number":
            return float(np.float32(float(value))) if field.storage == "float32" else float(value)
        case "date":
            return as_json(dt.date.fromordinal(int(value)), field)
        case "time":
            return _clock((_EPOCH + int(value) * _MICROSECOND).time(), field)
    return _clock(_EPOCH + int(value) * _MICROSECOND, field)


def _integer(value: int) -> Any:
    return value if -(2**63) <= value < 2**64 else Decimal(value)  # more than msgspec writes


def _exact(value: Fraction, scale: int) -> Decimal:
    units = int(value * 10**scale)
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -scale))


def _clock(value: Any, field: Field) -> Any:
    if field.format:
        rewrite = rewrite_for(field.type, field.format)
        if rewrite and not rewrite[2] and field.zone and field.type == "timestamp":
            value = value.astimezone(ZoneInfo(field.zone))
        return as_json(value, field)
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


def near(old: Field, new: Field) -> Iterator[Any]:
    """Values of ``old`` at its own ends and around those of ``new``, as JSON writes them."""
    mine = span_of(old)
    theirs = span_of(new) if new.type in ORDERED and _alike(old, new) else mine
    ends = (mine.low, mine.high, theirs.low, theirs.high, Fraction(0))
    around: Callable[[Fraction], Iterator[Fraction]] = (
        (lambda end: _floats_near(end, old, mine.step))
        if mine.step is None or old.type == "number"
        else (lambda end: _steps_near(end, mine.step or Fraction(1)))
    )
    low, high, _ = type_range(old)
    found = [v for end in ends for v in around(end) if low <= v <= high]
    if old.type == "number" and not mine.step:
        found += [(mine.low + mine.high) / 2, Fraction(1, 2), Fraction(1, 3)]
    for value in dict.fromkeys(found):
        yield written(value, old)


def _alike(old: Field, new: Field) -> bool:
    clocks = ("date", "time", "timestamp")
    return old.type == new.type or (old.type not in clocks and new.type not in clocks)


def _steps_near(end: Fraction, step: Fraction) -> Iterator[Fraction]:
    middle = math.floor(end / step)
    yield from ((middle + k) * step for k in (0, 1, -1, 2, -2, 3, -3))


def _floats_near(end: Fraction, field: Field, step: Fraction | None) -> Iterator[Fraction]:
    if step:
        yield from _steps_near(end, step)
    middle = rounded(end, field)
    yield middle
    for towards in (-math.inf, math.inf):
        one = neighbour(middle, field, towards)
        yield from (one, neighbour(one, field, towards))
    yield from (middle + 1, middle - 1, middle + Fraction(1, 2), middle - Fraction(1, 2))
