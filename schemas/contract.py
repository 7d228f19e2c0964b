"""A data contract, compiled: what each field must be, free of the document it came from.

:mod:`.odcs` reads an Open Data Contract Standard document into these classes. Everything here is
small, immutable and picklable: it travels to workers inside the pipeline's graph.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

LogicalType = Literal[
    "string", "integer", "number", "decimal", "boolean",
    "date", "timestamp", "time", "object", "array", "json", "binary",
]  # fmt: skip
"""ODCS's logical types, and three of ours: ``decimal`` (a number or integer whose ``physicalType``
names a precision), ``json`` (an object without properties or an array without items: any JSON,
kept as its text) and ``binary``, which no contract has, but tables of dead letters and states."""

UNFIT_IN_NAMES = re.compile(r'["\\\x00-\x1f]')
"""What no field's name holds: JSON has to escape it, and msgspec looks for names as written."""


class ContractError(ValueError):
    """A contract that cannot be loaded. The message names the file, the place and the mend."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One validity rule of a field.

    ``kind`` is the ODCS word (``minimum``, ``pattern``, ``minLength``, …; ``enum`` for a set of
    valid values); ``value`` its argument, already of the field's own type where that matters:
    ``int`` or ``float`` for numbers, ``decimal.Decimal`` for decimals, ``datetime`` objects for
    dates and time stamps (aware, UTC), ``tuple`` for ``enum``.
    """

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Field:
    """One property of a contract.

    A field that is not ``required`` may be missing or null; the two are the same.
    """

    name: str
    type: LogicalType
    required: bool = False
    rules: tuple[Rule, ...] = ()
    fields: tuple[Field, ...] = ()  # of an object
    items: Field | None = None  # of an array
    storage: str = "int64"  # of an integer: int8 … int64, uint8 … uint64; of a number: float32/64
    precision: int = 38  # of a decimal: digits in all, at most 76
    scale: int = 0  # of a decimal: digits after the point
    format: str | None = None  # of date, timestamp, time: a Java DateTimeFormatter pattern
    zone: str | None = None  # of a timestamp: the zone of values without an offset; else refused
    primary_key: bool = False
    unique: bool = False
    classification: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What ``contract check`` says of one place: asked for, but not enforced by the pipeline."""

    path: str
    message: str
    line: int = 0  # of the document, from 1; 0 if not known


@dataclass(frozen=True, slots=True)
class Contract:
    """A compiled contract: one schema object (table) of an ODCS document.

    ``event_time`` is the name of a top-level timestamp field, or ``None``. ``digest`` is the
    SHA-256 (hex) of everything that decides what the pipeline does with a record, so two
    documents that differ only in descriptions share it.
    """

    id: str
    version: str
    name: str
    fields: tuple[Field, ...]
    event_time: str | None = None
    primary_key: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    digest: str = ""

    def field(self, path: str) -> Field:
        """The field at a dotted ``path``.

        Raises:
            KeyError: no such field.
        """
        found: Field | None = None
        level = self.fields
        for part in path.split("."):
            found = next((f for f in level if f.name == part), None)
            if found is None:
                raise KeyError(path)
            level = found.fields
        assert found is not None
        return found

    def paths(self) -> Iterator[str]:
        """Every dotted path outside arrays, depth first."""

        def walk(fields: tuple[Field, ...], prefix: str) -> Iterator[str]:
            for f in fields:
                yield prefix + f.name
                yield from walk(f.fields, f"{prefix}{f.name}.")

        return walk(self.fields, "")


DIGEST_FORMAT = "millstream.contract/1"


def digest_of(contract: Contract) -> str:
    """The SHA-256 (hex) of everything in a contract that decides what becomes of a record.

    Descriptions, classifications and findings decide nothing. The text that is hashed is JSON
    without spaces; it holds no object's ``repr``, so every Python gives the same.
    """
    said = {
        "format": DIGEST_FORMAT,
        "id": contract.id,
        "version": contract.version,
        "name": contract.name,
        "fields": [_field_said(f) for f in contract.fields],
        "event_time": contract.event_time,
        "primary_key": list(contract.primary_key),
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _field_said(field: Field) -> dict[str, Any]:
    return {
        "name": field.name,
        "type": field.type,
        "required": field.required,
        "rules": [[rule.kind, _value_said(rule.value)] for rule in field.rules],
        "fields": [_field_said(f) for f in field.fields],
        "items": field.items and _field_said(field.items),
        "storage": field.storage,
        "precision": field.precision,
        "scale": field.scale,
        "pattern": field.format,
        "zone": field.zone,
        "primary_key": field.primary_key,
        "unique": field.unique,
    }


def _value_said(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value_said(v) for v in value]
    # dates, times and decimals; their type is that of the field
    return value if isinstance(value, str | int | float) else str(value)
