"""Contracts of BigQuery's schemas: the JSON of ``bq show --schema``, or a table itself.

Rules: https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from ..contract import Field, Rule
from .imported import ITEM, CannotImport, Imported, Notes, Path

_SCALARS: dict[str, dict[str, Any]] = {
    "STRING": {"type": "string"},
    "INTEGER": {"type": "integer"},
    "INT64": {"type": "integer"},
    "FLOAT": {"type": "number"},
    "FLOAT64": {"type": "number"},
    "BOOLEAN": {"type": "boolean"},
    "BOOL": {"type": "boolean"},
    "DATE": {"type": "date"},
    "TIME": {"type": "time"},
    "TIMESTAMP": {"type": "timestamp"},
    "DATETIME": {"type": "timestamp", "zone": "UTC"},
    "JSON": {"type": "json"},
}
_DECIMALS = {"NUMERIC": (38, 9), "DECIMAL": (38, 9), "BIGNUMERIC": (76, 38), "BIGDECIMAL": (76, 38)}
_NOTES = {
    "DATETIME": "DATETIME, without a zone: read as UTC",
    "BIGNUMERIC": "BIGNUMERIC: held as decimal(76,38), its 77th digit is not",
    "BIGDECIMAL": "BIGNUMERIC: held as decimal(76,38), its 77th digit is not",
    "BYTES": "BYTES: read as a string in base64, as BigQuery exports it",
}
_KNOWN = frozenset(
    {"name", "type", "mode", "description", "fields", "precision", "scale", "maxLength"}
)


def import_bigquery(file: str) -> Imported:
    """The contract of a table's schema, as ``bq show --schema`` or ``bq show`` writes it.

    Raises:
        CannotImport: the file cannot be read, or is no such schema.
    """
    try:
        said = json.loads(File(file).read_bytes())
    except OSError as error:
        raise CannotImport(f"{file}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise CannotImport(f"{file}:{error.lineno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise CannotImport(f"{file}: not UTF-8") from error
    name = ""
    if isinstance(said, dict):  # of `bq show`: the whole table
        name = str((said.get("tableReference") or {}).get("tableId", ""))
        said = (said.get("schema") or said).get("fields")
    if not isinstance(said, list) or not said:
        raise CannotImport(f"{file}: no schema of BigQuery: expected a list of fields")
    return of_fields(said, file, name)


def of_fields(said: Sequence[Mapping[str, Any]], origin: str, name: str = "") -> Imported:
    """The contract of a table's fields.

    Raises:
        CannotImport: a field is none, or has no name or type.
    """
    notes = Notes()
    try:
        fields = tuple(_field(one, (), notes) for one in said)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CannotImport(f"{origin}: no schema of BigQuery: {error!r}") from error
    return Imported(name, fields, notes=notes)


def _field(said: Mapping[str, Any], at: Path, notes: Notes) -> Field:
    name = str(said["name"])
    path = (*at, name)
    for key in said.keys() - _KNOWN:
        notes.add(path, f"not held to {key}: {json.dumps(said[key], default=str)[:80]}")
    mode = str(said.get("mode") or "NULLABLE").upper()
    described = said.get("description") or None
    if mode == "REPEATED":
        item = _value(said, (*path, ITEM), "item", notes)
        return Field(name, "array", items=replace(item, required=True), description=described)
    made = _value(said, path, name, notes)
    return replace(made, required=mode == "REQUIRED", description=described)


def _value(said: Mapping[str, Any], path: Path, name: str, notes: Notes) -> Field:
    kind = str(said["type"]).upper()
    if kind in _NOTES and not said.get("precision"):
        notes.add(path, _NOTES[kind])
    if kind in ("RECORD", "STRUCT") and said.get("fields"):
        fields = tuple(_field(one, path, notes) for one in said["fields"])
        return Field(name, "object", fields=fields)
    if kind in _DECIMALS:
        precision, scale = _DECIMALS[kind]
        if said.get("precision"):
            precision, scale = int(said["precision"]), int(said.get("scale") or 0)
        return Field(name, "decimal", precision=precision, scale=scale)
    rules: tuple[Rule, ...] = ()
    if kind == "BYTES":
        return Field(name, "string", rules=(Rule("format", "byte"),))
    if said.get("maxLength") and kind == "STRING":
        rules = (Rule("maxLength", int(said["maxLength"])),)
    if kind in _SCALARS:
        return Field(name, rules=rules, **_SCALARS[kind])
    notes.add(path, f"{kind}: no type of a contract, read as a string")
    return Field(name, "string")
