"""Rules of strings, and how dates and times are written: whether one field's allow what another's
do."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfo

from ..contract import Field, Rule
from ..rules import FORMATS
from ..samples import as_json
from ..temporal import FIRST_INSTANT, LAST_INSTANT, rewrite_for
from .examples import examples
from .issues import Issue, Path
from .patterns import is_included
from .spans import span_of

_LONGEST = 100_000  # characters of an example

_LENGTHS = {
    "uuid": (36, 36), "ipv4": (7, 15), "ipv6": (2, math.inf), "email": (3, math.inf),
    "hostname": (1, math.inf), "uri": (2, math.inf), "byte": (0, math.inf),
}  # fmt: skip
_ISO_LENGTHS = {
    "date": (10, 10),
    "time": (5, 18),
    "timestamp": (16, 35),
}
"""Characters of a value in ISO 8601, from minutes to nanoseconds with an offset."""
_NARROWER = {("uuid", "hostname"), ("ipv4", "hostname")}
"""Formats all of whose values are of another format, too."""

_TWO_DAYS = 2 * 86_400_000_000  # microseconds; more than zones are apart

_WORDS = ("a", "A", "0", "-1", "é", " ", "", "\n", "a b", "abc", "ABC-123", "x@y", "漢", "a" * 40)


_OF_LENGTH: dict[str, Callable[[int], str]] = {
    "email": lambda n: "a" * (n - 2) + "@b",
    "uri": lambda n: "u:" + "a" * (n - 2),
    "hostname": lambda n: ("a" * 9 + ".") * (n // 10) + "a" * (n % 10),
    "byte": lambda n: "A" * n,
}
"""Formats of any length → a text of a length that is of the format, for most lengths."""


def rule_text(rule: Rule) -> str:
    """A rule as messages show it: ``maxLength 8``."""
    if rule.value is True:
        return rule.kind
    value = rule.value
    text = "|".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text if text.isprintable() else repr(text)
    return f"{rule.kind} {text if len(text) <= 60 else text[:60] + '…'}"


def string_rule(rule: Rule, old: Field, new: Field) -> Sequence[Any] | None:
    """See :data:`.included._RuleIssues`."""
    low, high = _lengths(old)
    match rule.kind:
        case "minLength" if low >= rule.value:
            return None
        case "maxLength" if high <= rule.value:
            return None
        case "pattern" | "format" if rule in old.rules and old.type == "string":
            return None
        case "format" if any((r.value, rule.value) in _NARROWER for r in _formats(old)):
            return None
        case "pattern" | "format" if _is_inside(rule, old):
            return None
        case "enum" if old.type == "string" and (listed := _listed(old)) is not None:
            if set(listed) <= set(rule.value):
                return None
    lengths = {low, low + 1, high, high - 1}
    if rule.kind.endswith("Length"):
        lengths |= {rule.value - 1, rule.value + 1}
    makers = [_OF_LENGTH[r.value] for r in _formats(old) if r.value in _OF_LENGTH]
    make = makers[0] if makers else lambda n: "a" * n
    made = [make(int(n)) for n in sorted(lengths) if low <= n <= high and 0 <= n <= _LONGEST]
    return [*made, *_WORDS, *examples(old)]


def _is_inside(rule: Rule, old: Field) -> bool:
    """Whether an expression that all texts match says that they keep a rule."""
    outer = _expression(rule)
    rules = old.rules if old.type == "string" else ()
    inner = [expression for r in rules if (expression := _expression(r))]
    return outer is not None and any(is_included(one, outer) for one in inner)


def _expression(rule: Rule) -> str | None:
    """The expression that a rule holds texts to, if it is one."""
    if rule.kind == "format":
        return FORMATS[rule.value][1] if rule.value in FORMATS else None
    return rule.value if rule.kind == "pattern" else None


def _formats(field: Field) -> list[Rule]:
    return [rule for rule in field.rules if rule.kind == "format"]


def _listed(field: Field) -> Sequence[Any] | None:
    return next((rule.value for rule in field.rules if rule.kind == "enum"), None)


def _lengths(field: Field) -> tuple[float, float]:
    """The least and the greatest number of characters of a field's values."""
    if field.type != "string":
        return (0, math.inf) if _format(field) else _ISO_LENGTHS[field.type]
    low, high = 0.0, math.inf
    for rule in field.rules:
        least, most = 0.0, math.inf
        if rule.kind == "minLength":
            least = rule.value
        elif rule.kind == "maxLength":
            most = rule.value
        elif rule.kind == "format":
            least, most = _LENGTHS[rule.value]
        low, high = max(low, least), min(high, most)
    return low, high


def clock_issues(old: Field, new: Field, path: Path) -> Iterator[Issue]:
    """Whether dates and times that the one field reads are read by the other.

    Both are of one type. What a value means may still be another: with another zone, the same text
    is another instant.
    """
    before, after = _format(old), _format(new)
    if before != after and (after is not None or not _writes_iso(old)):
        message = f"is written {before or 'in ISO 8601'}, and read {after or 'in ISO 8601'}"
        yield Issue(path, "format", message, _moments(old))
        return
    if old.type != "timestamp":
        return
    mine, theirs = _zone(old), _zone(new)
    if mine is None or mine == theirs:
        return
    if theirs is None:
        yield Issue(path, "zone", "may be without an offset, which is needed now", _moments(old))
        return
    span = span_of(old)
    if span.low > FIRST_INSTANT + _TWO_DAYS and span.high < LAST_INSTANT - _TWO_DAYS:
        return
    message = f"without an offset, the years 1 and 9999 end elsewhere in {theirs} than in {mine}"
    yield Issue(path, "zone", message, _moments(old))


def moves(old: Field, new: Field) -> bool:
    """Whether a time stamp that both fields read may be another instant in the new one."""
    zones = (_zone(old), _zone(new))
    return old.type == "timestamp" and None not in zones and zones[0] != zones[1]


def moved(low: int, high: int, old: Field, new: Field) -> tuple[int, int] | None:
    """The first and the last instant that the new field reads in texts of the old one's.

    Args:
        low, high: the old field's, in microseconds since the epoch.

    Returns:
        ``None`` where it cannot be told by the ends: clocks are changed near one of them.
    """
    ends = []
    for at in (low, high):
        found = {_shift(at + step, old, new) for step in _AROUND}
        shift = found.pop()
        if shift is None or found:
            return None
        ends.append(at + shift)
    if _format(old) is None:  # which also reads texts that have an offset
        return min(low, ends[0]), max(high, ends[1])
    return ends[0], ends[1]


_AROUND = range(-2 * 86_400_000_000, 2 * 86_400_000_000 + 1, 900_000_000)
"""Microseconds: further than the same text is moved by any two zones, in steps of a quarter of an
hour, between which no zone changes its clocks and changes them back."""


def _shift(at: int, old: Field, new: Field) -> int | None:
    """By how many microseconds a text's instant is another in the new field's zone."""
    here, there = (ZoneInfo(_zone(field) or "UTC") for field in (old, new))
    try:
        instant = _EPOCH + at * _MICROSECOND
        local = instant.astimezone(here).replace(tzinfo=there)
        return (local - instant) // _MICROSECOND
    except OverflowError:
        return None


def without_offset(values: Iterable[Any], field: Field) -> Iterator[str]:
    """Time stamps in ISO 8601 as they are written without an offset, where that may be."""
    if field.type != "timestamp" or _format(field) is not None or field.zone is None:
        return
    for value in values:
        with suppress(OverflowError, ValueError):
            local = dt.datetime.fromisoformat(value).astimezone(ZoneInfo(field.zone))
            yield local.replace(tzinfo=None).isoformat()


def _format(field: Field) -> str | None:
    """The pattern that values are read by; ``None`` for ISO 8601."""
    if not field.format or rewrite_for(field.type, field.format) is None:
        return None
    return None if field.type != "timestamp" and _is_all_of_iso(field) else field.format


def _is_all_of_iso(field: Field) -> bool:
    """Whether the pattern is ISO 8601 from end to end: of a date, where it has but one way."""
    return field.type == "date" and _writes_iso(field)


def _zone(field: Field) -> str | None:
    """The zone of values without an offset; ``None`` if there are no such values."""
    pattern = _format(field)
    rewrite = rewrite_for(field.type, pattern) if pattern else None
    if rewrite is None:
        return field.zone
    return None if rewrite[2] else field.zone or "UTC"


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_SAMPLE = dt.datetime(2031, 12, 25, 17, 46, 59, 123456, dt.UTC)
_PARTS = {"date": dt.datetime.date, "time": dt.datetime.time, "timestamp": lambda v: v}


def _writes_iso(field: Field) -> bool:
    """Whether what the pattern reads is ISO 8601 already, character by character."""
    pattern = field.format or ""
    rewrite = rewrite_for(field.type, pattern)
    if rewrite is None:
        return True
    text = as_json(_PARTS[field.type](_SAMPLE), field)
    expression, template, _ = rewrite
    groups = re.sub(r"\\(\d+)", r"\\g<\1>", template)
    return re.sub(expression, groups, text) in (text, text.replace(" ", "T", 1))


def _moments(field: Field) -> tuple[Any, ...]:
    """Values, with those at both ends of time, and without an offset where that may be."""
    found = [*examples(field)]
    if field.type == "timestamp" and _format(field) is None and field.zone:
        ends = ("0001-01-01T00:00:00", "9999-12-31T23:59:59", "0001-01-02T00:00:00")
        found += [*ends, *without_offset(found, field)]
    elif field.type == "timestamp" and field.format:
        ends = (dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC))
        found += [as_json(end, field) for end in ends]
    elif field.type == "date":
        found.append("2026-11-24")
    return tuple(found)
