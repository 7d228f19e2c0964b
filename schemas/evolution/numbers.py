"""Types and rules of numbers, dates and times: whether one field's are inside another's."""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..contract import Field, Rule
from .examples import all_values, examples
from .spans import Span, float_storage, in_units, near, neighbour, rounded, span_of, type_range
from .texts import moved, moves, without_offset

_EXACT = {"float64": 2**53, "float32": 2**24}
"""Up to there a float holds every whole number."""
_DOWN, _UP = -math.inf, math.inf
_FARTHEST = 48 * 3600 * 1_000_000
"""Microseconds by which the same text may be another instant in another zone, and more."""
_DIGITS = {"float64": 15, "float32": 6}
"""Decimals of so many digits keep them all as floats."""


def number_types(old: Field, new: Field) -> tuple[Any, ...]:
    """Values of ``old`` that may be none of ``new``'s type, rules apart; none if all are."""
    values = (*near(old, replace(new, rules=())), *examples(old))
    if new.type == "integer" and old.type != "integer":
        return tuple(_with_fraction(v) for v in values)
    if new.type == "decimal" and old.type == "number":
        return tuple(_more_digits(v) for v in values)
    mine = _reals(old, new)
    low, high, unit = type_range(new)
    fits = low <= mine.low and mine.high <= high
    if new.type == "decimal":
        steps = [mine.step or Fraction(0), *map(in_units, _listed(old))]
        fits = fits and all((s / unit).denominator == 1 for s in steps[1:] or steps)
    return () if fits else (*values, *_beyond(old, new))


def _beyond(old: Field, new: Field) -> list[Any]:
    """Doubles that a single does not hold."""
    if old.type != "number" or new.storage != "float32":
        return []
    return [3.5e38, -3.5e38, 1e300, -1e300]


def _as_decimal(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, int | Decimal) else Decimal(repr(value))


def _with_fraction(value: Any) -> Decimal:
    """The same number, written with a point: an integer is not written so."""
    sign, digits, exponent = _as_decimal(value).as_tuple()
    scale = max(1, -int(exponent))
    return Decimal((sign, digits + (0,) * (int(exponent) + scale), -scale))


def _more_digits(value: Any) -> Decimal:
    """A number that a float rounds to this one, and no decimal holds."""
    if not value:
        return Decimal("1e-400")
    sign, digits, exponent = _as_decimal(value).as_tuple()
    digits += (0,) * max(0, int(exponent))
    return Decimal((sign, digits + (0,) * 90 + (1,), min(0, int(exponent)) - 91))


def number_rule(rule: Rule, old: Field, new: Field) -> Sequence[Any] | None:
    """See :data:`.included._RuleIssues`."""
    if _is_kept(rule, old, new):
        return None
    enum = rule.value if rule.kind == "enum" else ()
    values = [
        *near(old, new),
        *without_offset(near(old, new), old),
        *_around_holes(old, enum),
        *examples(old),
    ]
    return [*values, *(text for v in values[:40] for text in _finer(v, old, new))]


def _finer(value: Any, old: Field, new: Field) -> list[Decimal]:
    """Numbers that a single holds as this value, and a double does not."""
    if (old.storage, float_storage(new), new.type) != ("float32", "float64", "number"):
        return []
    at = Fraction(value)
    steps = [(neighbour(at, old, way) - at) / 5 for way in (_DOWN, _UP)]
    # a fifth of a power of two is finite as a decimal
    return [_decimal(at + step) for step in steps]


def _decimal(value: Fraction) -> Decimal:
    context = decimal.Context(prec=400)
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _around_holes(old: Field, enum: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in enum[:20]:
        bare = replace(old, rules=tuple(r for r in old.rules if r.kind == "multipleOf"))
        try:
            found += near(bare, replace(bare, rules=(*bare.rules, Rule("minimum", value))))
        except (TypeError, ValueError, OverflowError, ArithmeticError):
            continue
    return found


def _is_kept(rule: Rule, old: Field, new: Field) -> bool:
    if old.type not in ("integer", "decimal", "number") and old.type != new.type:
        return False
    if rule.kind == "enum":
        return _lists_all(rule.value, old, new)
    mine = _reals(old, new)
    if rule.kind == "multipleOf":
        return _steps_fit(Fraction(Decimal(str(rule.value))), mine, old, new)
    if moves(old, new):
        ends = moved(int(mine.low), int(mine.high), old, new)
        low, high = ends or (mine.low - _FARTHEST, mine.high + _FARTHEST)
        mine = Span(Fraction(low), Fraction(high), step=mine.step)
    limit = in_units(rule.value)
    if new.type == "number":
        limit = rounded(limit, new)
    match rule.kind:
        case "minimum":
            return mine.low >= limit
        case "maximum":
            return mine.high <= limit
        case "exclusiveMinimum":
            return mine.low > limit or (mine.low == limit and mine.low_open)
        case "exclusiveMaximum":
            return mine.high < limit or (mine.high == limit and mine.high_open)
    return False


def _lists_all(listed: Sequence[Any], old: Field, new: Field) -> bool:
    """Whether all values of a field are among some."""
    if old.type == new.type and _held_alike(old, new) and (before := _listed(old)):
        return set(before) <= set(listed)
    values = all_values(old) if old.type == "integer" else None
    return values is not None and {Fraction(v) for v in values} <= set(map(Fraction, listed))


def _listed(field: Field) -> Sequence[Any]:
    return next((rule.value for rule in field.rules if rule.kind == "enum"), ())


def _held_alike(old: Field, new: Field) -> bool:
    same = float_storage(old) == float_storage(new) and old.scale == new.scale
    return same and not moves(old, new)


def _reals(old: Field, new: Field) -> Span:
    """The interval of the old field's values as the new one holds them."""
    mine = span_of(old)
    if new.type != "number":
        return mine
    if old.type == "number" and float_storage(old) == float_storage(new):
        return mine
    low, high, low_open, high_open = mine.low, mine.high, mine.low_open, mine.high_open
    if old.type == "number":  # the text may be of a number that the old type rounds to its bound
        low = neighbour(low, old, _UP) if low_open else low
        high = neighbour(high, old, _DOWN) if high_open else high
        low = (low + neighbour(low, old, _DOWN)) / 2
        high = (high + neighbour(high, old, _UP)) / 2
        low_open = high_open = False
    return replace(
        mine,
        low=rounded(low, new),
        high=rounded(high, new),
        low_open=low_open and rounded(low, new) == low,
        high_open=high_open and rounded(high, new) == high,
    )


def _steps_fit(step: Fraction, mine: Span, old: Field, new: Field) -> bool:
    """Whether all values of a field are multiples of a step."""
    whole = (1 / step).denominator == 1  # which divides whole numbers, and a large float is one
    if (
        new.type == "number"
        and whole
        and float_storage(old) == float_storage(new)
        and old.type == "number"
    ):
        exact = _EXACT[float_storage(new)]
        if mine.low >= exact or mine.high <= -exact:
            return True
    if mine.step is None or (mine.step / step).denominator != 1:
        return False
    if new.type != "number":
        return True
    if old.type == "number":
        return float_storage(old) == float_storage(new)
    if old.type == "integer":
        exact = _EXACT[float_storage(new)]
        return whole or (-exact <= mine.low and mine.high <= exact)
    return old.precision <= _DIGITS[float_storage(new)]
