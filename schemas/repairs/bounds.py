"""Clamping: the contract's bound in the place of what is beyond it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from ..contract import Field
from ..json.columns import Number
from .spec import RepairError
from .times import moment_of, text_at
from .values import Repaired, exact_number

_NUMERIC = ("integer", "number", "decimal")
_STEPS: dict[str, Any] = {
    "integer": 1,
    "date": dt.timedelta(days=1),
    "timestamp": dt.timedelta(microseconds=1),
}
"""How far apart two values next to each other are, of types where that can be said."""


class _Bounds(NamedTuple):
    low: Any
    high: Any


def clamp_to(field: Field) -> Repaired:
    """Numbers and times within the bounds of their field.

    Raises:
        RepairError: the field has no bounds, or none that a value could be.
    """
    bounds = _bounds(field)
    if field.type in _NUMERIC:
        return _clamped(bounds, exact_number, lambda bound: _number_text(bound, field))
    return _clamped(
        bounds,
        lambda value, is_cell: _moment(value, field),
        lambda bound: text_at(bound, field),
    )


def _moment(value: Any, field: Field) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Number)
    return moment_of(value, field) if is_text else None


def _clamped(
    bounds: _Bounds, read: Callable[[Any, bool], Any], write: Callable[[Any], Any]
) -> Repaired:
    def clamp(value: Any, is_cell: bool) -> Any:
        found = read(value, is_cell)
        if found is None:
            return value
        if bounds.low is not None and found < bounds.low:
            return write(bounds.low)
        if bounds.high is not None and found > bounds.high:
            return write(bounds.high)
        return value

    return clamp


def _bounds(field: Field) -> _Bounds:
    rules = {rule.kind: rule.value for rule in field.rules}
    low, high = rules.get("minimum"), rules.get("maximum")
    under, over = rules.get("exclusiveMinimum"), rules.get("exclusiveMaximum")
    if low is None and high is None and under is None and over is None:
        raise RepairError("clamp", "the contract gives the field no minimum and no maximum")
    step: Any = _STEPS.get(field.type)
    if step is None and not (under is None and over is None):
        said = "a bound that is excluded is no value to clamp to: say minimum and maximum"
        raise RepairError("clamp", said)
    if field.type == "integer":
        low, high = _whole(low, math.ceil), _whole(high, math.floor)
        under, over = _whole(under, math.floor), _whole(over, math.ceil)
    lows = [*_given(low), *(bound + step for bound in _given(under))]
    highs = [*_given(high), *(bound - step for bound in _given(over))]
    found = _Bounds(max(lows, default=None), min(highs, default=None))
    return _Bounds(*map(_exact, found)) if field.type in _NUMERIC else found


def _given(bound: Any) -> list[Any]:
    return [] if bound is None else [bound]


def _whole(bound: Any, rounded: Callable[[Any], int]) -> int | None:
    return None if bound is None else rounded(bound)


def _exact(bound: Any) -> Decimal | None:
    """Of a float its shortest text counts, as it does for whoever wrote it."""
    return None if bound is None else Decimal(str(bound))


def _number_text(bound: Decimal, field: Field) -> Any:
    return int(bound) if field.type == "integer" else Number(bound)
