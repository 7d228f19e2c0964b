"""Iceberg's schema of a contract or a table, in the JSON form of its specification.

Rules: https://iceberg.apache.org/spec/#schemas (and Appendix C, "JSON serialization").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ..contract import Contract, Field
from ..table import Table

DIGITS = 38
"""What Iceberg's decimals have at most."""

_SCALARS = {
    "string": "string",
    "number": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamptz",
    "time": "time",
    "json": "string",
    "binary": "binary",
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
    for name in contract.primary_key:
        if not _identifies(contract.field(name)):
            raise ValueError(
                f"{name}: an identifier field of Iceberg must be required, and no float"
            )
    return _schema(contract.fields, contract.primary_key, _Types())


def iceberg_table_schema(
    table: Table, identifier: Sequence[str] = (), *, wide_as_text: bool = False
) -> dict[str, Any]:
    """The schema of a table, as :func:`iceberg_schema` gives it for a contract's.

    Args:
        identifier: columns that tell rows apart. They are identifier fields only if all of them
            can be: Iceberg takes neither a column that may be null for one, nor a float.
        wide_as_text: a decimal of more than 38 digits, which no type of Iceberg holds, is a string:
            its digits as Arrow casts them, and casts them back (``-12.50``, ``1E-40``).

    Raises:
        ValueError: a decimal of more than 38 digits.
    """
    whole = all(_identifies(table.field(name)) for name in identifier)
    return _schema(table.fields, identifier if whole else (), _Types(wide_as_text))


def _identifies(field: Field) -> bool:
    return field.required and field.type != "number"


def _schema(fields: Sequence[Field], identifier: Sequence[str], types: _Types) -> dict[str, Any]:
    said = types.struct(fields, "")
    ids = {field["name"]: field["id"] for field in said["fields"]}
    return {**said, "schema-id": 0, "identifier-field-ids": [ids[name] for name in identifier]}


class _Types:
    """Gives each field its id and its type."""

    def __init__(self, wide_as_text: bool = False) -> None:
        self._ids: Iterator[int] = itertools.count(1)
        self._wide_as_text = wide_as_text

    def struct(self, fields: Sequence[Field], prefix: str) -> dict[str, Any]:
        numbered = [(next(self._ids), field) for field in fields]
        said = []
        for number, field in numbered:
            one: dict[str, Any] = {
                "id": number,
                "name": field.name,
                "required": field.required,
                "type": self._type(field, prefix + field.name),
            }
            said.append({**one, "doc": field.description} if field.description else one)
        return {"type": "struct", "fields": said}

    def _type(self, field: Field, path: str) -> Any:
        match field.type:
            case "object":
                return self.struct(field.fields, f"{path}.")
            case "array":
                assert field.items is not None
                return {
                    "type": "list",
                    "element-id": next(self._ids),
                    "element-required": field.items.required,
                    "element": self._type(field.items, f"{path}[]"),
                }
            case "integer":
                return _INTEGERS[field.storage]
            case "number" if field.storage == "float32":
                return "float"
            case "decimal":
                return self._decimal(field, path)
        return _SCALARS[field.type]

    def _decimal(self, field: Field, path: str) -> str:
        if field.precision <= DIGITS:
            return f"decimal({field.precision}, {field.scale})"
        if self._wide_as_text:
            return _SCALARS["string"]
        raise ValueError(f"{path}: Iceberg's decimals have at most {DIGITS} digits")
