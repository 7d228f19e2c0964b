"""The rules once more, one value at a time and as plainly as can be, to hold the fast code against.

Nothing here may import the code that it checks.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from millstream.schemas.codes import Code
from millstream.schemas.contract import Field, Rule

CODES = {
    "minimum": Code.RANGE,
    "maximum": Code.RANGE,
    "exclusiveMinimum": Code.RANGE,
    "exclusiveMaximum": Code.RANGE,
    "multipleOf": Code.MULTIPLE_OF,
    "minLength": Code.LENGTH,
    "maxLength": Code.LENGTH,
    "minItems": Code.ITEMS,
    "maxItems": Code.ITEMS,
    "minProperties": Code.ITEMS,
    "maxProperties": Code.ITEMS,
    "uniqueItems": Code.ITEMS,
    "pattern": Code.PATTERN,
    "format": Code.FORMAT,
    "enum": Code.ENUM,
}
"""The code of each kind of rule."""

_BOUNDS = {
    "minimum": operator.lt,
    "maximum": operator.gt,
    "exclusiveMinimum": operator.le,
    "exclusiveMaximum": operator.ge,
}


class Broken(NamedTuple):
    """A broken rule, without its message."""

    path: str
    code: Code


def broken_rules(record: dict[str, Any], fields: Iterable[Field]) -> list[Broken]:
    """What a record of Python values breaks, in the order of fields, then of their rules."""
    return [broken for field in fields for broken in _walk(record[field.name], field, field.name)]


def _walk(value: Any, field: Field, path: str) -> Iterator[Broken]:
    if value is None:
        if field.required:
            yield Broken(path, Code.REQUIRED)
        return
    for rule in field.rules:
        if breaks(rule, field, value):
            yield Broken(path, CODES[rule.kind])
    for inner in field.fields:
        yield from _walk(value[inner.name], inner, f"{path}.{inner.name}")
    if field.items is not None:
        for i, item in enumerate(value):
            yield from _walk(item, field.items, f"{path}[{i}]")


def breaks(rule: Rule, field: Field, value: Any) -> bool:
    """Whether one value, not null, breaks one rule. Formats are not judged here."""
    kind, limit = rule.kind, rule.value
    if kind in _BOUNDS:
        return _BOUNDS[kind](value, np.float32(limit) if field.storage == "float32" else limit)
    match kind:
        case "multipleOf":
            shortest = np.float32(value) if field.storage == "float32" else value
            return Fraction(Decimal(str(shortest))) % Fraction(Decimal(str(limit))) != 0
        case "minLength":
            return len(value) < limit
        case "maxLength":
            return len(value) > limit
        case "pattern":
            # where the two part, a pattern means what ECMA-262 says: $ is the end, \d is 0 to 9
            return not re.search(limit.replace("$", r"\Z"), value, re.ASCII)
        case "enum":
            return value not in limit
        case "uniqueItems":
            inside = _inside(value)
            items = inside if isinstance(inside, list) else []
            texts = {json.dumps(item, sort_keys=True, default=str) for item in items}
            return len(texts) < len(items)
        case "minItems":
            return isinstance(_inside(value), list) and len(_inside(value)) < limit
        case "maxItems":
            return isinstance(_inside(value), list) and len(_inside(value)) > limit
        case "minProperties":
            return isinstance(_inside(value), dict) and _size(value) < limit
        case "maxProperties":
            return isinstance(_inside(value), dict) and _size(value) > limit
    raise NotImplementedError(kind)


def _inside(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _size(value: Any) -> int:
    """Properties of JSON text, or of a typed object, where null is the same as missing."""
    if isinstance(value, str):
        return len(json.loads(value))
    return sum(inner is not None for inner in value.values())


BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line of a file: where it starts, and its bytes, or where it ends if it is too long."""

    start: int
    payload: bytes | int


def lines(data: bytes, longest: int) -> list[Line]:
    """The records of a file of lines."""
    found = []
    at = len(BOM) if data.startswith(BOM) else 0
    for whole in data[at:].split(b"\n"):
        line = whole.removesuffix(b"\r")
        if len(whole) > longest:
            found.append(Line(at, at + len(whole)))
        elif line.strip(b" \t\r"):
            found.append(Line(at, line))
        at += len(whole) + 1
    return found
