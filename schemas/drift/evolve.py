"""The next version of a contract, made of what its records were seen to hold.

Only what takes nothing away from anybody: optional fields are added, types become wider, valid
values more. Every change is judged by :mod:`..evolution`; what would refuse a record that is valid
now is not made, and neither is what cannot be told from the values alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

from ..contract import Contract, Field, Rule
from ..evolution.compatible import judge
from ..evolution.included import type_text
from ..integers import integer_range
from ..json.columns import Number
from ..masking import MASK
from ..rules import has_restricted
from .facts import Drift, Place
from .shapes import EXACT, field_of, is_plain_name
from .walk import UNREAD, parse

_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_DIGITS = 38
_SIGNED = ("int8", "int16", "int32", "int64")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")

ITEM = "[]"
"""The step of a path from an array to its items."""


class Change(NamedTuple):
    """One change of a contract.

    ``steps`` lead from the schema to the field: names, and :data:`ITEM`. ``field`` is what it is
    from now on. ``values`` are the new valid ones. ``said`` and ``evidence`` are for people.
    """

    kind: str
    path: str
    steps: tuple[str, ...]
    field: Field
    said: str
    evidence: str
    values: tuple[Any, ...] = ()


class Evolution(NamedTuple):
    """What becomes of a contract: its fields then, what changes, and what cannot by itself.

    ``refused`` has a reason by the path of each field.
    """

    fields: tuple[Field, ...]
    changes: tuple[Change, ...]
    refused: dict[str, str]


class _CannotEvolve(ValueError):
    """A place of which no compatible change can be made; the message says why."""


def evolve(drift: Drift, contract: Contract, *, pinned: str = "") -> Evolution:
    """What a contract has to become to take what was seen.

    What it takes already is no change, so that the same drift twice changes it once.

    Args:
        pinned: why no column that is there may change its type; empty: it may.
    """
    fields, changes, refused = contract.fields, [], {}
    if drift.more:
        refused["…"] = "more places drifted than are told; the names of fields may be data"
    for (kind, path), place in sorted(drift.places.items()):
        try:
            change, left = _MAKERS[kind](path, place, replace(contract, fields=fields), pinned)
            if left:
                refused[path] = left
            if change is None:
                continue
            new = _replaced(fields, change.steps, change.field)
            _see_compatible(contract, new)
        except _CannotEvolve as error:
            refused[path] = str(error)
            continue
        fields = new
        changes.append(change)
    return Evolution(fields, tuple(changes), refused)


def _see_compatible(contract: Contract, fields: tuple[Field, ...]) -> None:
    found = judge(contract, replace(contract, fields=fields))
    if found:
        issue = found[0].issue
        raise _CannotEvolve(f"it would refuse what is valid now: {issue.place} {issue.message}")


# ------------------------------------------------------------------------------ where it is


class _At(NamedTuple):
    """A place in a contract: the steps to it, the fields on the way, and what names none."""

    steps: tuple[str, ...]
    way: tuple[Field, ...]
    rest: str


def _located(path: str, fields: Sequence[Field]) -> _At:
    """The deepest field that a path leads to."""
    steps: list[str] = []
    way: list[Field] = []
    rest, level = path, tuple(fields)
    while True:
        found = _named(rest, level)
        if found is None:
            return _At(tuple(steps), tuple(way), rest)
        steps.append(found.name)
        way.append(found)
        rest = rest.removeprefix(found.name)
        while rest.startswith(ITEM) and way[-1].items is not None:
            steps.append(ITEM)
            way.append(way[-1].items)
            rest = rest.removeprefix(ITEM)
        if not rest:
            return _At(tuple(steps), tuple(way), "")
        rest, level = rest.removeprefix("."), way[-1].fields


def _named(rest: str, level: tuple[Field, ...]) -> Field | None:
    """The field of a level that the rest of a path begins with; names may hold dots."""
    fitting = [f for f in level if rest == f.name or rest.startswith((f"{f.name}.", f"{f.name}[]"))]
    return max(fitting, key=lambda f: len(f.name), default=None)


def _replaced(fields: tuple[Field, ...], steps: Sequence[str], new: Field) -> tuple[Field, ...]:
    """The fields with another, or one more, at a place."""
    name, *rest = steps
    if name not in [field.name for field in fields]:
        return (*fields, new)
    return tuple(_with(f, rest, new) if f.name == name else f for f in fields)


def with_changes(fields: tuple[Field, ...], changes: Iterable[Change]) -> tuple[Field, ...]:
    """The fields with some changes of them made."""
    for change in changes:
        fields = _replaced(fields, change.steps, change.field)
    return fields


def _with(field: Field, steps: Sequence[str], new: Field) -> Field:
    if not steps:
        return new
    if steps[0] == ITEM:
        assert field.items is not None
        return replace(field, items=_with(field.items, steps[1:], new))
    return replace(field, fields=_replaced(field.fields, steps, new))


def _known(path: str, contract: Contract) -> _At:
    at = _located(path, contract.fields)
    if at.rest:
        raise _CannotEvolve("the contract does not name it any more")
    return at


def of_records(count: int) -> str:
    """So many records, in words."""
    return "1 record" if count == 1 else f"{count:,} records"


def _evidence(place: Place) -> str:
    seen = ", ".join(f"{what} {one.records:,}" for what, one in sorted(place.seen.items())[:5])
    more = ", …" if place.more or len(place.seen) > 5 else ""
    first = min((s for one in place.seen.values() for s in one.samples), key=lambda s: s.order)
    return f"{of_records(place.records)}: {seen}{more}; first {first.source}:{first.position}"


# --------------------------------------------------------------------------- what is changed


_Made = tuple[Change | None, str]
"""The change of a place, if any, and what of it cannot be taken up."""


def _added(path: str, place: Place, contract: Contract, pinned: str) -> _Made:
    at = _located(path, contract.fields)
    if not at.rest:
        return None, ""
    if place.shape is None or UNREAD in place.seen:
        raise _CannotEvolve("its values could not be read")
    if not is_plain_name(at.rest):
        raise _CannotEvolve("not every destination takes a column of this name")
    level = at.way[-1].fields if at.way else contract.fields
    like = next((f.name for f in level if f.name.lower() == at.rest.lower()), None)
    if like is not None:
        raise _CannotEvolve(f"it differs from {like} by its case alone")
    if at.way and pinned:
        raise _CannotEvolve(f"it is inside of {at.way[0].name}, and {pinned}")
    field = field_of(at.rest, place.shape)
    if has_restricted(contract.fields):
        # Nobody has said yet that it is harmless.
        field = replace(field, classification="restricted")
    said = f"new field, {type_text(field)}, optional"
    return Change("field added", path, (*at.steps, at.rest), field, said, _evidence(place)), ""


def _widened(path: str, place: Place, contract: Contract, pinned: str) -> _Made:
    at = _known(path, contract)
    field = at.way[-1]
    new, others = _wider(field, place)
    left = "; ".join(_why_not(field, others))
    if new == field:
        return None, left
    if at.way[0].name in contract.primary_key:
        raise _CannotEvolve("it is of the primary key, whose values would not be compared any more")
    if pinned:
        raise _CannotEvolve(f"{type_text(field)} would become {type_text(new)}, and {pinned}")
    said = f"{type_text(field)} → {type_text(new)}"
    return Change("type widened", path, at.steps, new, said, _evidence(place)), left


def _wider(field: Field, place: Place) -> tuple[Field, set[str]]:
    """The field as it takes what was seen, and what it does not take all the same."""
    integers = set(place.seen) & {*_SIGNED, *_UNSIGNED}
    decimals = set(filter(_DECIMAL.fullmatch, place.seen))
    others = set(place.seen) - integers - decimals
    match field.type:
        case "integer" if "number" in others and _is_exact_as_number(field, integers):
            return replace(field, type="number", storage="float64"), others - {"number"}
        case "integer" if integers:
            return replace(field, storage=_integer_for(field, integers)), others
        case "number":  # an integer that has become one already
            return field, others - {"number"}
        case "decimal" if decimals:
            return _decimal_for(field, decimals), others
    return field, others


def _is_exact_as_number(field: Field, seen: set[str]) -> bool:
    """Whether a double holds each whole number of a field and of what was seen."""
    rules = {rule.kind: rule.value for rule in field.rules}
    ranges = [integer_range(storage) for storage in (field.storage, *seen)]
    lows = [rules[kind] for kind in ("minimum", "exclusiveMinimum") if kind in rules]
    highs = [rules[kind] for kind in ("maximum", "exclusiveMaximum") if kind in rules]
    low = max([min(r[0] for r in ranges), *lows])
    return low >= -EXACT and min([max(r[1] for r in ranges), *highs]) <= EXACT


def _why_not(field: Field, others: set[str]) -> Iterator[str]:
    """Why a field does not take what was seen besides."""
    if field.type == "integer" and "number" in others:
        yield (
            f"as a number it would round what {type_text(field)} holds beyond 2**53: make it a "
            "decimal or a number, or give it a minimum and a maximum"
        )
        others = others - {"number"}
    if others:
        said = f"no wider type of {type_text(field)} takes {', '.join(sorted(others))} as well"
        yield f"{said}: it would be another column to readers"


def _integer_for(field: Field, seen: set[str]) -> str:
    ranges = [integer_range(storage) for storage in (field.storage, *seen)]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    own = _UNSIGNED if field.storage in _UNSIGNED and low == 0 else _SIGNED
    for storage in own:
        least, greatest = integer_range(storage)
        if least <= low and high <= greatest:
            return storage
    raise _CannotEvolve("no integer of 64 bits holds both what it was and what was seen")


def _decimal_for(field: Field, seen: set[str]) -> Field:
    whole, scale = field.precision - field.scale, field.scale
    for text in seen:
        found = _DECIMAL.fullmatch(text)
        assert found is not None
        whole = max(whole, int(found[1]) - int(found[2]))
        scale = max(scale, int(found[2]))
    if whole + scale > max(_DIGITS, field.precision):
        raise _CannotEvolve(f"it would take more than {_DIGITS} digits")
    return replace(field, precision=whole + scale, scale=scale)


def _with_values(path: str, place: Place, contract: Contract, pinned: str) -> _Made:
    at = _known(path, contract)
    field = at.way[-1]
    if place.more:
        raise _CannotEvolve(f"more than {len(place.seen)} new values: no list of valid ones")
    if MASK in place.seen:
        raise _CannotEvolve("its values are classified: a contract does not repeat them")
    left = "a value is too long, or could not be read" if UNREAD in place.seen else ""
    texts = sorted(set(place.seen) - {UNREAD})
    valid = next((rule.value for rule in field.rules if rule.kind == "enum"), None)
    if valid is None:
        return None, left
    said = [_of_type(parse(text.encode()), field) for text in texts]
    values = tuple(value for value in said if value not in valid)
    if not values:
        return None, left
    rules = tuple(
        Rule("enum", (*valid, *values)) if rule.kind == "enum" else rule for rule in field.rules
    )
    new = replace(field, rules=rules)
    shown = f"{', '.join(texts)} valid too"
    return Change("values added", path, at.steps, new, shown, _evidence(place), values), left


def _of_type(value: Any, field: Field) -> Any:
    if field.type in ("date", "time", "timestamp"):
        raise _CannotEvolve(f"valid values of type {field.type} are for a person to add")
    if isinstance(value, Number) or field.type in ("number", "decimal"):
        return float(value) if field.type == "number" else Decimal(str(value))
    return value


_Maker = Callable[[str, Place, Contract, str], _Made]
_MAKERS: dict[str, _Maker] = {"field": _added, "type": _widened, "value": _with_values}


def next_version(version: str) -> str:
    """A version one minor step up.

    >>> next_version("1.4.2"), next_version("2"), next_version("v3.1-beta")
    ('1.5.0', '2.1.0', 'v3.2.0')
    """
    found = re.match(r"(v?\d+)(?:\.(\d+))?", version)
    if found is None:
        return f"{version}.1"
    return f"{found[1]}.{int(found[2] or 0) + 1}.0"


def explained(evolution: Evolution) -> Iterator[str]:
    """The changes, and what cannot be changed by itself, a line each."""
    for change in evolution.changes:
        yield f"{change.path}: {change.said}"
    for path, reason in sorted(evolution.refused.items()):
        yield f"{path}: cannot evolve by itself: {reason}"
