"""Rows as messages of Avro: their schemas in the registry, and their bytes.

A topic's subjects are ``TOPIC-value`` and ``TOPIC-key``. A message is Avro as :mod:`..avro` writes
it, behind the five bytes that Confluent's readers expect: a zero, and the schema's number in the
registry. A key of one column is its value, a key of several columns is a record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ....schemas.avro.schema import Avro, avro_schema
from ..avro import _field_kernel, _joined
from ..evolution import Column, TableMismatch, additions
from ..tables import Load
from .messages import Encode, key_columns
from .subjects import Subjects

_SAYING_NOTHING = ("aliases", "default", "doc", "order")
"""What of a schema has no influence on the bytes."""


def check_schemas(load: Load, registry: Subjects) -> None:
    """See whether the registry would take the schemas of a load's messages.

    Raises:
        ValueError: a column's name is no Avro name.
        TypeError: a column is of a type that Avro has not.
        TableMismatch: they do not fit those that are registered.
        DestinationError, Unavailable: the registry refuses, or does not answer.
    """
    for subject, schema in _schemas(load, _columns(load, registry)).items():
        registry.check(subject, schema)


def avro_messages(load: Load, registry: Subjects) -> tuple[Encode | None, Encode]:
    """What gives keys and values of a load's messages, once their schemas are registered.

    Raises:
        ValueError, TypeError, TableMismatch, DestinationError, Unavailable: as
            :func:`check_schemas`.
    """
    columns = _columns(load, registry)
    schemas = _schemas(load, columns)
    numbers = {subject: registry.register(subject, schema) for subject, schema in schemas.items()}
    value = avro_value(columns, numbers[_value_subject(load)])
    if not load.table.key:
        return None, value
    return avro_key(columns, load.table.key, numbers[_key_subject(load)]), value


def avro_value(columns: pa.Schema, number: int) -> Encode:
    """Rows as Avro records. ``number`` is the schema's in the registry."""
    kernels = [_field_kernel(field) for field in columns]
    prefix = _prefix(number)

    def encode(batch: pa.RecordBatch) -> pa.Array:
        parts: list[Any] = [prefix]
        for name, kernel in zip(columns.names, kernels, strict=True):
            parts += kernel(batch.column(name))
        return _joined(parts, batch.num_rows)

    return encode


def avro_key(columns: pa.Schema, key: Sequence[str], number: int) -> Encode:
    """The key's columns as Avro: of one column its value, null where it is."""
    if len(key) > 1:
        encode = avro_value(pa.schema(_key_fields(columns, key)), number)
        return lambda batch: encode(key_columns(batch, key))
    kernel = _field_kernel(_key_fields(columns, key)[0])
    prefix = _prefix(number)
    return lambda batch: _joined(
        [prefix, *kernel(key_columns(batch, key).column(0))], batch.num_rows
    )


def grown(columns: pa.Schema, topic: str, latest: Avro | None) -> pa.Schema:
    """The columns of a topic that has messages of an earlier schema: columns that are new there may
    be null, as may those that could be null in it.

    Args:
        latest: the schema that was registered last, if any.

    Raises:
        TableMismatch: the columns do not fit it.
    """
    if latest is None:
        return columns
    subject = f"{topic}-value"
    if not isinstance(latest, dict) or latest.get("type") != "record":
        raise TableMismatch(f"subject {subject} of the schema registry has schemas of no record")
    wanted = [_column(field) for field in avro_schema(columns, topic)["fields"]]
    held = [_column(field) for field in latest["fields"]]
    may_be_null = {column.name for column in additions(subject, wanted, held)}
    may_be_null.update(column.name for column in held if not column.required)
    return pa.schema([f.with_nullable(f.nullable or f.name in may_be_null) for f in columns])


def _columns(load: Load, registry: Subjects) -> pa.Schema:
    return grown(load.schema, load.name, registry.latest(_value_subject(load)))


def _schemas(load: Load, columns: pa.Schema) -> dict[str, Avro]:
    """Schemas by their subjects."""
    found: dict[str, Avro] = {_value_subject(load): avro_schema(columns, load.name)}
    if load.table.key:
        fields = pa.schema(_key_fields(columns, load.table.key))
        record = avro_schema(fields, f"{load.name}_key")
        alone = len(load.table.key) == 1
        found[_key_subject(load)] = record["fields"][0]["type"] if alone else record
    return found


def _value_subject(load: Load) -> str:
    return f"{load.name}-value"


def _key_subject(load: Load) -> str:
    return f"{load.name}-key"


def _key_fields(columns: pa.Schema, key: Sequence[str]) -> list[pa.Field]:
    """The key's columns; one alone is never null, since then there is no key."""
    fields = [columns.field(name) for name in key]
    return [fields[0].with_nullable(False)] if len(fields) == 1 else fields


def _prefix(number: int) -> bytes:
    return b"\0" + number.to_bytes(4, "big")


def _column(field: dict[str, Any]) -> Column:
    """A field of a record, as messages describe it."""
    kind = field["type"]
    nullable = isinstance(kind, list) and "null" in kind
    if nullable:
        rest = [branch for branch in kind if branch != "null"]
        kind = rest[0] if len(rest) == 1 else rest
    said = _bare(kind)
    text = said if isinstance(said, str) else json.dumps(said, sort_keys=True)
    return Column(field["name"], text, not nullable and "default" not in field)


def _bare(schema: Avro) -> Avro:
    """A schema without what has no influence on the bytes."""
    if isinstance(schema, list):
        return [_bare(branch) for branch in schema]
    if isinstance(schema, dict):
        left = {k: v for k, v in schema.items() if k not in _SAYING_NOTHING}
        return {k: _bare(v) if isinstance(v, dict | list) else v for k, v in left.items()}
    return schema
