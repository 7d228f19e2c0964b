"""Iceberg's schema of a contract, in the JSON form of its specification.

Rules: https://iceberg.apache.org/spec/#schemas (and Appendix C, "JSON serialization").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..contract import Contract, Field

_SCALARS = {
    "string": "string",
    "number": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamptz",
    "time": "time",
    "json": "string",
}
_INTEGERS = {
    "int8": "int",
    "int16": "int",
    "int32": "int",
    "uint8": "int",
    "uint16": "int",
    "int64": "long",
    "uint32": "long",
    "uint64": "decimal(20, 0)",
}


def iceberg_schema(contract: Contract) -> dict[str, Any]:
    """The schema; the primary key gives the identifier fields.

    Ids are given level by level, as Iceberg's own writers do. An unsigned 64-bit integer, which
    ``long`` cannot hold, is a decimal; a ``json`` field is its text.

    Raises:
        ValueError: a decimal of more than 38 digits; or a field of the primary key that may be
            missing, or is a number, which Iceberg does not take for an identifier.
    """
    fields = _struct(contract.fields, itertools.count(1), "")
    ids = {said["name"]: said["id"] for said in fields["fields"]}
    for name in contract.primary_key:
        key = contract.field(name)
        if not key.required or key.type == "number":
            raise ValueError(
                f"{name}: an identifier field of Iceberg must be required, and no float"
            )
    return {
        **fields,
        "schema-id": 0,
        "identifier-field-ids": [ids[name] for name in contract.primary_key],
    }


def _struct(fields: tuple[Field, ...], ids: Iterator[int], prefix: str) -> dict[str, Any]:
    numbered = [(next(ids), field) for field in fields]
    said = []
    for number, field in numbered:
        one: dict[str, Any] = {
            "id": number,
            "name": field.name,
            "required": field.required,
            "type": _type(field, ids, prefix + field.name),
        }
        said.append({**one, "doc": field.description} if field.description else one)
    return {"type": "struct", "fields": said}


def _type(field: Field, ids: Iterator[int], path: str) -> Any:
    match field.type:
        case "object":
            return _struct(field.fields, ids, f"{path}.")
        case "array":
            assert field.items is not None
            return {
                "type": "list",
                "element-id": next(ids),
                "element-required": field.items.required,
                "element": _type(field.items, ids, f"{path}[]"),
            }
        case "integer":
            return _INTEGERS[field.storage]
        case "number" if field.storage == "float32":
            return "float"
        case "decimal":
            if field.precision > 38:
                raise ValueError(f"{path}: Iceberg's decimals have at most 38 digits")
            return f"decimal({field.precision}, {field.scale})"
    return _SCALARS[field.type]
