"""Types of the fields of JSON records that no contract describes, from how the first are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..contract import Field, LogicalType
from ..problems import did_you_mean

SAMPLE = 1000
"""Records that are looked at."""

_TYPES: dict[type, LogicalType] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    dict: "json",
    list: "json",
}


class NoField(ValueError):
    """A field that no record has, or that is of several types."""


def fields_of_json(
    records: Iterable[bytes], names: Sequence[str], expected: Mapping[str, Field]
) -> tuple[Field, ...]:
    """The fields of these names: those that are expected as they are, others as records have them.

    What is null in all of them is a string. Records that are no JSON objects are passed over.

    Raises:
        NoField: no record has the field, or it has several types, which a job can settle.
    """
    seen: dict[str, set[LogicalType]] = {}
    for record in records:
        try:
            found: Any = msgspec.json.decode(record)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            continue
        if isinstance(found, dict):
            for name, value in found.items():
                kinds = seen.setdefault(name, set())
                if value is not None:
                    kinds.add(_TYPES[type(value)])
    fields = []
    for name in names:
        if name not in seen and seen:
            raise NoField(f"there is no field {name!r}{did_you_mean(name, seen)}")
        fields.append(expected.get(name) or Field(name, _one_of(name, seen.get(name, set()))))
    return tuple(fields)


def _one_of(name: str, kinds: set[LogicalType]) -> LogicalType:
    if kinds == {"integer", "number"}:
        return "number"
    if len(kinds) > 1:
        raise NoField(f"{name} is {' and '.join(sorted(kinds))}: say with types which it is")
    return kinds.pop() if kinds else "string"
