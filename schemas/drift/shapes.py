"""What an unknown field's values were, all of them: enough to say what field would take them.

A shape grows as values are merged into it, in any order, and never shrinks.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from functools import reduce
from typing import Any

import msgspec

from ..contract import Field, LogicalType
from ..json.columns import Number

_DEPTH = 6
"""Levels of objects and arrays that become fields; what is deeper is kept as JSON."""
_WIDTH = 100
"""Fields of an object; one of more is kept as JSON, for its names are data."""
EXACT = 1 << 53
"""Up to here a double holds every whole number."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CELL_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
_CELL_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)


class Shape(msgspec.Struct, frozen=True):
    """``kinds`` of values that were seen: ``boolean``, ``integer``, ``long`` (beyond 2**53),
    ``number``, ``date``, ``timestamp``, ``string``, ``object``, ``array``; ``json`` is what no
    narrower field takes. None at all: only null. ``text`` says that they are cells of text.
    """

    kinds: frozenset[str]
    fields: dict[str, Shape] = {}
    items: Shape | None = None
    text: bool = False

    def merged(self, other: Shape) -> Shape:
        """The shape of the values of both."""
        fields = dict(self.fields)
        for name, shape in other.fields.items():
            fields[name] = fields[name].merged(shape) if name in fields else shape
        kinds = self.kinds | other.kinds
        if len(fields) > _WIDTH:
            kinds |= {"json"}
        if "json" in kinds:
            return Shape(kinds, text=self.text or other.text)
        items = self.items
        if other.items is not None:
            items = items.merged(other.items) if items is not None else other.items
        return Shape(kinds, fields, items, self.text or other.text)


_JSON = Shape(frozenset({"json"}))


def is_plain_name(name: str) -> bool:
    """Whether every destination takes a column of this name."""
    return _NAME.fullmatch(name) is not None


def shape_of(value: Any, depth: int = 0) -> Shape:
    """The shape of one value, decoded from JSON with :class:`Number` for fractions."""
    if value is None:
        return Shape(frozenset())
    if depth == _DEPTH and isinstance(value, dict | list):
        return _JSON
    if isinstance(value, dict):
        if len(value) > _WIDTH or not all(map(is_plain_name, value)):
            return _JSON
        fields = {name: shape_of(inner, depth + 1) for name, inner in value.items()}
        return Shape(frozenset({"object"}), fields)
    if isinstance(value, list):
        return Shape(frozenset({"array"}), items=_merged(shape_of(v, depth + 1) for v in value))
    return Shape(frozenset({_scalar_kind(value)}))


def cell_shape(text: str) -> Shape:
    """The shape of a cell of text, such as CSV has."""
    kind = "string"
    if _CELL_INTEGER.fullmatch(text):
        kind = "integer" if abs(int(text)) <= EXACT else "long"
    elif _CELL_NUMBER.fullmatch(text):
        kind = "number"
    elif text in ("true", "false"):
        kind = "boolean"
    else:
        kind = _text_kind(text)
    return Shape(frozenset({kind}), text=True)


def _merged(shapes: Iterable[Shape]) -> Shape | None:
    found = list(shapes)
    return reduce(Shape.merged, found) if found else None


def _scalar_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if abs(value) <= EXACT:
            return "integer"
        return "long" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, Number):
        return "number" if abs(float(value)) != float("inf") else "json"
    return _text_kind(value)


def _text_kind(text: str) -> str:
    """Whether a text is a date or a time stamp, as every decoder takes it."""
    try:
        if _TIMESTAMP.fullmatch(text):
            moment = dt.datetime.fromisoformat(text).astimezone(dt.UTC)
            return "timestamp" if 1 < moment.year < 9999 else "string"
        if _DATE.fullmatch(text):
            dt.date.fromisoformat(text)
            return "date"
    except (ValueError, OverflowError):
        pass
    return "string"


_OF_SEVERAL: dict[frozenset[str], LogicalType] = {
    frozenset({"integer", "long"}): "integer",
    frozenset({"integer", "number"}): "number",
    frozenset({"date", "string"}): "string",
    frozenset({"timestamp", "string"}): "string",
    frozenset({"date", "timestamp"}): "string",
    frozenset({"date", "timestamp", "string"}): "string",
}


def field_of(name: str, shape: Shape) -> Field:
    """The narrowest optional field that takes every value of a shape.

    >>> field_of("n", shape_of(1).merged(shape_of(None))).type
    'integer'
    >>> field_of("n", shape_of(1).merged(shape_of("a"))).type
    'json'
    """
    kinds = shape.kinds
    if kinds == {"object"} and shape.fields:
        names = _apart(shape.fields)
        if names is not None:
            inner = tuple(field_of(inner, shape.fields[inner]) for inner in names)
            return Field(name, "object", fields=inner)
    if kinds == {"array"} and shape.items is not None and shape.items.kinds:
        return Field(name, "array", items=field_of("item", shape.items))
    if len(kinds) == 1 and not kinds & {"object", "array", "json"}:
        [kind] = kinds
        return _of_type(name, "integer" if kind == "long" else kind)
    found = _OF_SEVERAL.get(kinds)
    if found is None:
        found = "string" if shape.text and kinds else "json"
    return _of_type(name, found)


def _of_type(name: str, kind: Any) -> Field:
    return Field(name, kind, storage="float64" if kind == "number" else "int64")


def _apart(names: Iterable[str]) -> list[str] | None:
    """The names in order; ``None`` if two differ by their case alone, which tables do not allow."""
    found = sorted(names)
    return found if len({name.lower() for name in found}) == len(found) else None
