"""BigQuery's schema of a contract or a table, as its load jobs and ``bq`` take it.

Rules: https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema
"""

from __future__ import annotations

from typing import Any

from ..contract import Contract, Field
from ..table import Table

_SCALARS = {
    "string": "STRING",
    "integer": "INTEGER",
    "number": "FLOAT",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "time": "TIME",
    "json": "JSON",
    "binary": "BYTES",
}
NUMERIC, BIGNUMERIC = (29, 9), (38, 38)
"""The digits before and after the point that the two types hold."""


def bigquery_schema(contract: Contract) -> list[dict[str, Any]]:
    """The fields of a table, in the order of the contract.

    BigQuery has no array of arrays: an inner array becomes a record with one field, ``item``. An
    unsigned 64-bit integer, which its INTEGER cannot hold, is a NUMERIC.

    Raises:
        ValueError: a decimal that BIGNUMERIC cannot hold.
    """
    return [_field(field, field.name) for field in contract.fields]


def bigquery_table_schema(table: Table) -> list[dict[str, Any]]:
    """:func:`bigquery_schema` of a table's columns."""
    return [_field(field, field.name) for field in table.fields]


def holds_decimal(precision: int, scale: int) -> bool:
    """Whether BIGNUMERIC holds decimals of so many digits, so many of them after the point."""
    return _holds(BIGNUMERIC, precision, scale)


def _field(field: Field, path: str) -> dict[str, Any]:
    if field.type == "array":
        assert field.items is not None
        inner = {**_value(field.items, f"{path}[]"), "name": field.name, "mode": "REPEATED"}
        return _described(inner, field)
    mode = "REQUIRED" if field.required else "NULLABLE"
    return _described({**_value(field, path), "name": field.name, "mode": mode}, field)


def _value(field: Field, path: str) -> dict[str, Any]:
    """What a value is, without name and mode."""
    if field.type == "array":
        assert field.items is not None
        item = {**_value(field.items, f"{path}[]"), "name": "item", "mode": "REPEATED"}
        return {"type": "RECORD", "fields": [item]}
    if field.type == "object":
        return {"type": "RECORD", "fields": [_field(f, f"{path}.{f.name}") for f in field.fields]}
    if field.type == "decimal":
        return _decimal(field, path)
    if field.type == "integer" and field.storage == "uint64":
        return {"type": "NUMERIC", "precision": "20"}
    return {"type": _SCALARS[field.type]}


def _decimal(field: Field, path: str) -> dict[str, Any]:
    for name, digits in (("NUMERIC", NUMERIC), ("BIGNUMERIC", BIGNUMERIC)):
        if _holds(digits, field.precision, field.scale):
            return {"type": name, "precision": str(field.precision), "scale": str(field.scale)}
    whole, scale = BIGNUMERIC
    raise ValueError(
        f"{path}: BigQuery's BIGNUMERIC holds {whole} digits before and {scale} after "
        f"the point, decimal({field.precision},{field.scale}) needs more"
    )


def _holds(digits: tuple[int, int], precision: int, scale: int) -> bool:
    return precision - scale <= digits[0] and scale <= digits[1]


def _described(said: dict[str, Any], field: Field) -> dict[str, Any]:
    ordered = {"name": said["name"], "type": said["type"], "mode": said["mode"], **said}
    return {**ordered, "description": field.description} if field.description else ordered
