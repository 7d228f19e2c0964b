"""Contracts of Avro schemas (``.avsc``), and of the schema in an Avro file.

Needs the package ``fastavro``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType, expand_schema

from ..contract import Field, LogicalType, Rule
from .imported import ITEM, CannotImport, Imported, Notes, Path

_MAGIC = b"Obj\x01"
_SCALARS: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", "storage": "int32"},
    "long": {"type": "integer"},
    "float": {"type": "number", "storage": "float32"},
    "double": {"type": "number"},
    "string": {"type": "string"},
}
_CLOCKS: dict[str, LogicalType] = {
    "date": "date",
    "time-millis": "time",
    "time-micros": "time",
    "timestamp-millis": "timestamp",
    "timestamp-micros": "timestamp",
    "timestamp-nanos": "timestamp",
}
_IN_INT = ("date", "time-millis")
"""Logical types of ``int``; the others are of ``long``. On another type they say nothing."""
_MICROS = ("date", "time-micros", "timestamp-micros", "local-timestamp-micros")
_KNOWN = frozenset(
    {
        "type", "name", "namespace", "doc", "fields", "items", "values", "symbols", "size",
        "logicalType", "precision", "scale", "default", "order", "aliases",
    }
)  # fmt: skip


def import_avro(file: str) -> Imported:
    """The contract of an Avro schema.

    Raises:
        CannotImport: the file cannot be read, is no Avro schema, or not one of records.
    """
    said = _schema_of(file)
    try:
        schema: Any = expand_schema(said)
    except (SchemaParseException, UnknownType, KeyError, TypeError, AttributeError) as error:
        raise CannotImport(f"{file}: no Avro schema: {error}") from error
    except RecursionError as error:
        raise CannotImport(f"{file}: nested too deeply") from error
    if not isinstance(schema, dict) or schema.get("type") not in ("record", "error"):
        raise CannotImport(f"{file}: a schema of records is needed, one with fields")
    notes = Notes()
    name = str(schema["name"])
    if "." in name:
        notes.add((), f"namespace {name.rpartition('.')[0]}")
    fields = tuple(_field(one, (), notes) for one in schema["fields"])
    return Imported(name.rpartition(".")[2], fields, description=schema.get("doc"), notes=notes)


def _schema_of(file: str) -> Any:
    try:
        data = File(file).read_bytes()
    except OSError as error:
        raise CannotImport(f"{file}: cannot be read: {error.strerror}") from error
    if data.startswith(_MAGIC):
        import io

        from fastavro import reader

        try:
            return reader(io.BytesIO(data)).writer_schema
        except (ValueError, KeyError, EOFError, SchemaParseException, UnknownType) as error:
            raise CannotImport(f"{file}: no Avro file: {error}") from error
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise CannotImport(f"{file}:{error.lineno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise CannotImport(f"{file}: neither an Avro file nor UTF-8") from error


def _field(said: Mapping[str, Any], at: Path, notes: Notes) -> Field:
    name = str(said["name"])
    path = (*at, name)
    found = _value(said["type"], path, name, notes)
    if said.get("default") is not None:
        notes.add(path, f"default {json.dumps(said['default'], ensure_ascii=False)}")
    if said.get("aliases"):
        notes.add(path, f"aliases {', '.join(map(str, said['aliases']))}")
    return replace(found, description=said.get("doc") or found.description)


def _value(said: Any, path: Path, name: str, notes: Notes) -> Field:
    """A field that holds a type's values."""
    if isinstance(said, list):
        return _union(said, path, name, notes)
    if isinstance(said, str):
        return _of_kind(said, {}, path, name, notes)
    kind = said["type"]
    if not isinstance(kind, str):
        return _value(kind, path, name, notes)
    for key in said.keys() - _KNOWN:
        if not key.startswith("__"):
            notes.add(path, f"{key}: {json.dumps(said[key], ensure_ascii=False)[:80]}")
    return _of_kind(kind, said, path, name, notes)


def _union(branches: list[Any], path: Path, name: str, notes: Notes) -> Field:
    others = [branch for branch in branches if branch != "null"]
    optional = len(others) < len(branches)
    if len(others) == 1:
        return replace(_value(others[0], path, name, notes), required=not optional)
    if others:
        kinds = ", ".join(
            b if isinstance(b, str) else str(b.get("name", b["type"])) for b in others
        )
        notes.add(path, f"a union of {kinds}: kept as JSON, its types are not held to")
    else:
        notes.add(path, "always null: kept as JSON")
    return Field(name, "json", required=not optional)


def _of_kind(kind: str, said: Mapping[str, Any], path: Path, name: str, notes: Notes) -> Field:
    logical = said.get("logicalType")
    if kind in ("record", "error") and said.get("fields"):
        fields = tuple(_field(one, path, notes) for one in said["fields"])
        return Field(name, "object", True, fields=fields, description=said.get("doc"))
    if kind == "array":
        item = _value(said["items"], (*path, ITEM), "item", notes)
        return Field(name, "array", True, items=item)
    if kind == "enum":
        symbols = tuple(map(str, said["symbols"]))
        return Field(name, "string", True, (Rule("enum", symbols),), description=said.get("doc"))
    if logical == "decimal" and kind in ("bytes", "fixed") and said.get("precision", 99) <= 76:
        scale = said.get("scale", 0)
        return Field(name, "decimal", True, precision=said["precision"], scale=scale)
    if logical == "uuid" and kind in ("string", "fixed"):
        return Field(name, "string", True, (Rule("format", "uuid"),))
    if kind in ("int", "long") and isinstance(logical, str):
        return _clock(kind, logical, path, name, notes)
    if kind in _SCALARS:
        return Field(name, required=True, **_SCALARS[kind])
    return _unlike(kind, path, name, notes)


def _clock(kind: str, logical: str, path: Path, name: str, notes: Notes) -> Field:
    local = logical.startswith("local-timestamp")
    is_known = local or logical in _CLOCKS
    if not is_known or (kind == "int") != (logical in _IN_INT):
        notes.add(path, f"logical type {logical}: none of {kind}, read as {kind}")
        return Field(name, required=True, **_SCALARS[kind])
    if logical not in _MICROS:
        notes.add(path, f"{logical}: held in microseconds")
    if local:
        notes.add(path, f"{logical}, without a zone: read as UTC")
        return Field(name, "timestamp", True, zone="UTC")
    return Field(name, _CLOCKS[logical], True)


def _unlike(kind: str, path: Path, name: str, notes: Notes) -> Field:
    """A field for a type that no contract has."""
    if kind in ("bytes", "fixed"):
        notes.add(path, f"{kind}: read as a string, which must be UTF-8")
        return Field(name, "string", True)
    if kind == "map":
        notes.add(path, "a map: kept as JSON, its values are not held to a type")
    elif kind == "null":
        notes.add(path, "always null: kept as JSON")
        return Field(name, "json", required=False)
    else:
        notes.add(path, f"{kind}: holds itself, or nothing; kept as JSON")
    return Field(name, "json", True)
