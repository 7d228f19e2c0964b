"""Everything that is wrong with JSON records that did not fit: the slow, thorough way.

The decoder stops at a record's first fault. Here the record is decoded without a schema, walked
beside the contract, and whatever is well typed is held against the rules all the same, so that one
dead letter tells all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa

from ..codes import Code
from ..contract import Contract, Field
from ..decoded import is_doubtful
from ..integers import integer_range
from ..rules import Violation, find_violations, shown
from .columns import Number, column_builder, convert
from .nesting import MAX_NESTING, is_too_deep

_decode = msgspec.json.Decoder(float_hook=Number).decode

_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "an integer",
    Number: "a number with a fraction or exponent",
    bool: "a boolean",
    type(None): "null",
}

Refuse = Callable[[str, Code, str], None]
"""Notes that the value at a path breaks a code, with a message."""


class Refusals:
    """Explains refused records of one contract."""

    def __init__(self, contract: Contract, reject_unknown: bool) -> None:
        self._fields = contract.fields
        self._reject_unknown = reject_unknown
        self._builders = [column_builder(f, attributes=False) for f in contract.fields]

    def explain(self, payloads: pa.Array, rows: list[int]) -> list[Violation]:
        """All violations of the given rows of a binary array; each row gets at least one."""
        found: dict[int, list[Violation]] = {row: [] for row in rows}
        objects: list[dict[str, Any]] = []
        walked: list[int] = []
        for row in rows:
            cleaned = self._walk_record(payloads[row].as_py(), row, found[row])
            if cleaned is not None:
                objects.append(cleaned)
                walked.append(row)
        if objects:
            self._judge(objects, walked, found)
        for row, violations in found.items():
            if not violations:
                # Well typed as a whole, yet the decoder refused it: an earlier occurrence of a
                # repeated key was not of its type.
                message = "repeats a key, with a value that is not of its type"
                violations.append(Violation(row, "", Code.MALFORMED, message))
        return [v for row in rows for v in found[row]]

    def _walk_record(
        self, payload: bytes, row: int, found: list[Violation]
    ) -> dict[str, Any] | None:
        def refuse(path: str, code: Code, message: str) -> None:
            found.append(Violation(row, path, code, message))

        try:
            payload.decode()
        except UnicodeDecodeError as error:
            refuse("", Code.ENCODING, f"is not UTF-8: {error.reason} at byte {error.start}")
            return None
        if is_too_deep(payload):
            refuse("", Code.MALFORMED, f"is nested more than {MAX_NESTING} levels deep")
            return None
        try:
            value = _decode(payload)
        except msgspec.ValidationError:  # where nothing is asked of the value, only this
            refuse("", Code.MALFORMED, "holds a whole number of more than 4300 digits")
            return None
        except Exception as error:
            refuse("", Code.MALFORMED, f"is not JSON: {error}")
            return None
        if type(value) is not dict:
            refuse("", Code.MALFORMED, f"expected a JSON object, got {_NAMES[type(value)]}")
            return None
        return _walk_object(value, self._fields, "", self._reject_unknown, refuse)

    def _judge(
        self, objects: list[dict[str, Any]], rows: list[int], found: dict[int, list[Violation]]
    ) -> None:
        columns = []
        for field, build in zip(self._fields, self._builders, strict=True):
            column, misfits = convert(build([o.get(field.name) for o in objects]), field)
            columns.append(column)
            for m in misfits:
                message = f"expected {m.expected}, got {shown(m.value, m.of)}"
                row = rows[m.row]
                found[row].append(Violation(row, m.field, m.code, message))
        # What was cleaned away is null now: that it is "missing" would be a false accusation.
        wrong = {row: {v.field for v in found[row]} for row in rows}
        for v in find_violations(columns, self._fields):
            row = rows[v.row]
            if not is_doubtful(v, wrong[row]):
                found[row].append(v._replace(row=row))


def _walk_object(
    value: dict[str, Any],
    fields: tuple[Field, ...],
    prefix: str,
    reject_unknown: bool,
    refuse: Refuse,
) -> dict[str, Any]:
    """The well-typed part of an object; what is not is refused and left out."""
    cleaned = {}
    for field in fields:
        inner = value.get(field.name)
        if inner is not None:
            path = prefix + field.name
            cleaned[field.name] = walk(inner, field, path, reject_unknown, refuse)
    if reject_unknown:
        names = {f.name for f in fields}
        for name in value:
            if name not in names:
                message = "is not in the contract"
                refuse(prefix + name, Code.UNKNOWN_FIELD, message)
    return cleaned


def walk(value: Any, field: Field, path: str, reject_unknown: bool, refuse: Refuse) -> Any:
    """The well-typed part of a decoded value, which is not null; what is not is refused."""
    kind = type(value)
    if kind not in _ACCEPTED[field.type]:
        message = f"expected {_EXPECTED[field.type]}, got {_NAMES[kind]}"
        if kind not in (dict, list):
            message += f": {shown(value, field)}"
        refuse(path, Code.TYPE, message)
        return None
    match field.type:
        case "object":
            return _walk_object(value, field.fields, path + ".", reject_unknown, refuse)
        case "array":
            assert field.items is not None
            return [
                None if v is None else walk(v, field.items, f"{path}[{i}]", reject_unknown, refuse)
                for i, v in enumerate(value)
            ]
        case "integer":
            low, high = integer_range(field.storage)
            if not low <= value <= high:
                message = f"expected an integer from {low} to {high}, got {shown(value, field)}"
                refuse(path, Code.RANGE, message)
                return None
            return value
        case "number":
            return _finite(value, field, path, refuse)
        case "decimal":
            return Number(value)
        case "json":
            return json.dumps(value)
        case _:
            return value


def _finite(value: Any, field: Field, path: str, refuse: Refuse) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number in (float("inf"), float("-inf")):
        message = f"expected a number that a double can hold, got {shown(value, field)}"
        refuse(path, Code.RANGE, message)
        return None
    return number


_ACCEPTED: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({int, Number}),
    "decimal": frozenset({int, Number}),
    "boolean": frozenset({bool}),
    "date": frozenset({str}),
    "time": frozenset({str}),
    "timestamp": frozenset({str}),
    "object": frozenset({dict}),
    "array": frozenset({list}),
    "json": frozenset({dict, list, str, int, Number, bool}),
}
_EXPECTED = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "decimal": "a number",
    "boolean": "a boolean",
    "date": "a date string",
    "time": "a time string",
    "timestamp": "a time stamp string",
    "object": "an object",
    "array": "an array",
}
