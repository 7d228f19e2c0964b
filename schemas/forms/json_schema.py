"""JSON Schema (2020-12) of a contract: what a record must be, for producers and editors.

What JSON Schema cannot say is left out and named in ``$comment``: it is then only the pipeline
that holds records to it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from ..contract import Contract, Field, Rule
from ..integers import integer_range

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "decimal": {"type": "number"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "json": {},
}
_SAME_WORD = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
        "maxLength", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties",
    }
)  # fmt: skip
"""Rules that JSON Schema has by the name that ODCS has."""
_INEXACT = frozenset({"multipleOf", "exclusiveMinimum", "exclusiveMaximum"})
"""Rules that a validator, which reads numbers as doubles, would misjudge for fractions."""
_FORMATS = frozenset({"uuid", "email", "hostname", "ipv4", "ipv6", "uri"})


def json_schema(contract: Contract) -> dict[str, Any]:
    """The schema of one record."""
    return {
        "$schema": DIALECT,
        "$id": f"urn:contract:{contract.id}:{contract.version}",
        "title": contract.name,
        **_object(contract.fields),
    }


def _object(fields: tuple[Field, ...]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
    }
    required = [field.name for field in fields if field.required]
    return {**said, "required": required} if required else said


def _field(field: Field) -> dict[str, Any]:
    said = dict(_TYPES[field.type])
    if field.format or field.zone:  # then it is not the text of RFC 3339
        said.pop("format", None)
    if field.type == "integer":
        low, high = integer_range(field.storage)
        said.update(minimum=low, maximum=high)
    elif field.type == "object":
        said.update(_object(field.fields))
    elif field.type == "array" and field.items is not None:
        said["items"] = _field(field.items)
    unsaid = [rule.kind for rule in field.rules if not _rule(rule, field, said)]
    if field.type == "decimal":
        unsaid.insert(0, f"decimal({field.precision},{field.scale})")
    if field.format:
        unsaid.insert(0, f"format {field.format}")
    if not field.required and said:
        said = _nullable(said)
    if unsaid:
        said["$comment"] = f"also held to: {', '.join(unsaid)}"
    return {**said, "description": field.description} if field.description else said


def _nullable(said: dict[str, Any]) -> dict[str, Any]:
    if "enum" in said:
        said = {**said, "enum": [*said["enum"], None]}
    return {**said, "type": [said["type"], "null"]} if "type" in said else said


def _rule(rule: Rule, field: Field, said: dict[str, Any]) -> bool:
    """Add a rule; ``False`` if JSON Schema has no word for it."""
    if field.type in ("date", "time", "timestamp"):
        return False  # it compares no dates
    if field.type in ("number", "decimal") and rule.kind in _INEXACT:
        return False
    value = _as_json(rule.value)
    if rule.kind in _SAME_WORD:
        if rule.kind == "minimum" and field.type == "integer":
            value = max(value, said["minimum"])
        if rule.kind == "maximum" and field.type == "integer":
            value = min(value, said["maximum"])
        said[rule.kind] = value
    elif rule.kind in ("pattern", "enum"):
        said[rule.kind] = value
    elif rule.kind == "format" and value in _FORMATS:
        said["format"] = value
    else:
        return False
    return True


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(v) for v in value]
    return float(value) if isinstance(value, Decimal) else value
