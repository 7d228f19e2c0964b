"""ODCS's logical and physical types → the type of a field and how it is held."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..contract import Field, LogicalType, Rule
from ..problems import Place, did_you_mean, list_names, say

if TYPE_CHECKING:
    from open_data_contract_standard.model import SchemaProperty

LOGICAL_TYPES = (
    "string", "date", "timestamp", "time", "number", "integer", "object", "array", "boolean",
    "map", "vector",
)  # fmt: skip
"""The standard's (3.0 to 3.2)."""

_OTHER_WORDS = {
    "bool": "boolean", "int": "integer", "long": "integer", "bigint": "integer",
    "float": "number", "double": "number", "decimal": "number", "numeric": "number",
    "datetime": "timestamp", "text": "string", "varchar": "string", "uuid": "string",
    "struct": "object", "record": "object", "json": "object", "list": "array",
}  # fmt: skip

_PHYSICAL_WORDS = {
    "string": "char varchar varchar2 nvarchar nchar bpchar character text string clob citext",
    "integer": "int integer bigint smallint tinyint mediumint int2 int4 int8 int16 int32 int64 "
    "long short byteint hugeint serial bigserial smallserial uint8 uint16 uint32 uint64",
    "number": "double float real float4 float8 float32 float64 number "
    "decimal numeric dec bignumeric bigdecimal",
    "boolean": "boolean bool",
    "date": "date",
    "timestamp": "timestamp timestamptz datetime datetime2 datetimeoffset timestamp_ntz "
    "timestamp_ltz timestamp_tz",
    "time": "time timetz",
    "object": "json jsonb object struct record variant",
    "array": "array list repeated",
}
_BY_PHYSICAL_TYPE = {word: t for t, words in _PHYSICAL_WORDS.items() for word in words.split()}

_DECIMAL = re.compile(
    r"(?:decimal|numeric|number|bignumeric|bigdecimal|dec)\s*"
    r"[(\[]\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?[)\]]",
    re.IGNORECASE,
)
_BARE_DECIMALS = {
    "decimal": (38, 9), "numeric": (38, 9), "dec": (38, 9),
    "bignumeric": (76, 38), "bigdecimal": (76, 38),
}  # fmt: skip
_WIDE_INTEGERS = frozenset({"bigint", "int8", "int64", "long", "bigserial", "uint64", "hugeint"})

_DATE_LETTERS, _TIME_LETTERS = re.compile("[yuMLdDeEw]"), re.compile("[HhKkmsSAnN]")
_QUOTED = re.compile("'[^']*'")


@dataclass(slots=True)
class Draft:
    """A field while its property is read: what :class:`.contract.Field` will hold."""

    name: str
    logical: str  # one of LOGICAL_TYPES
    required: bool = False
    primary_key: bool = False
    unique: bool = False
    classification: str | None = None
    description: str | None = None
    type: LogicalType = "string"
    rules: list[Rule] = field(default_factory=list)
    fields: tuple[Field, ...] = ()
    items: Field | None = None
    storage: str = "int64"
    precision: int = 38
    scale: int = 0
    format: str | None = None
    zone: str | None = None

    def rule(self, kind: str) -> Any:
        """The value of the first rule of a kind, or ``None``."""
        return next((rule.value for rule in self.rules if rule.kind == kind), None)

    def add(self, kind: str, value: Any) -> None:
        """Add a rule, once."""
        if (rule := Rule(kind, value)) not in self.rules:
            self.rules.append(rule)

    def drop(self, kind: str) -> None:
        """Take a kind's rules away."""
        self.rules = [rule for rule in self.rules if rule.kind != kind]

    def done(self) -> Field:
        """The field."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(Field)}
        values["rules"] = tuple(self.rules)
        return Field(**values)


def logical_type(prop: SchemaProperty, place: Place) -> str:
    """The logical type of a property, inferred from its shape or ``physicalType`` if not given.

    Raises:
        ContractError: there is no such logical type.
    """
    name = prop.logicalType
    if name is None:
        return _inferred(prop, place)
    if name not in LOGICAL_TYPES:
        meant = _OTHER_WORDS.get(name.lower())
        hint = f"; did you mean {meant!r}?" if meant else did_you_mean(name, LOGICAL_TYPES)
        raise place["logicalType"].error(
            f"no logical type {say(name)}{hint or f'; expected {list_names(LOGICAL_TYPES)}'}"
        )
    if name == "date" and _is_odcs_3_0(place):
        return _of_3_0_date(prop, place)
    return name


def _inferred(prop: SchemaProperty, place: Place) -> str:
    if prop.properties:
        return "object"
    if prop.items:
        return "array"
    if prop.map:
        return "map"
    if found := _BY_PHYSICAL_TYPE.get(_word(prop.physicalType)):
        return found
    known = "no physicalType"
    if prop.physicalType:
        known = f"the physicalType {say(prop.physicalType)} is not known"
    place.find(f"no logicalType and {known}: read as a string")
    return "string"


def _word(physical_type: str | None) -> str:
    """``"varchar"`` of ``VARCHAR(20)``, ``DOUBLE PRECISION`` → ``"double"``."""
    found = re.match(r"\s*(\w+)", physical_type or "")
    return found[1].lower() if found else ""


def _is_odcs_3_0(place: Place) -> bool:
    return bool(re.match(r"v?3\.0\b", str(place.document.value.get("apiVersion"))))


def _of_3_0_date(prop: SchemaProperty, place: Place) -> str:
    """ODCS 3.0 has one logical type for dates, times and time stamps; 3.1 has three."""
    meant = _BY_PHYSICAL_TYPE.get(_word(prop.physicalType))
    because = f"its physicalType is {prop.physicalType}"
    pattern = (prop.logicalTypeOptions or {}).get("format")
    if isinstance(pattern, str) and _TIME_LETTERS.search(bare := _QUOTED.sub("", pattern)):
        meant = "timestamp" if _DATE_LETTERS.search(bare) else "time"
        because = f"its format is {pattern}"
    if meant not in ("timestamp", "time"):
        return "date"
    place["logicalType"].find(f"a date of ODCS 3.0, read as a {meant} since {because}")
    return meant


def shape_number(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    """A number or integer: a double, 64 bits, or a decimal if ``physicalType`` names one.

    Raises:
        ContractError: a precision or scale that no decimal has.
    """
    draft.type = "integer" if draft.logical == "integer" else "number"
    draft.storage = "int64" if draft.logical == "integer" else "float64"
    physical = (prop.physicalType or "").strip()
    at = place["physicalType"]
    if found := _DECIMAL.match(physical):
        draft.type, draft.storage = "decimal", "int64"
        draft.precision, draft.scale = int(found[1]), int(found[2] or 0)
        if not 1 <= draft.precision <= 76:
            raise at.error(f"{physical}: expected a precision of 1 to 76 digits")
        if not 0 <= draft.scale <= draft.precision:
            raise at.error(f"{physical}: expected a scale of 0 to {draft.precision} digits")
    elif bare := _BARE_DECIMALS.get(physical.lower()):
        draft.type, draft.storage = "decimal", "int64"
        draft.precision, draft.scale = bare if draft.logical == "number" else (38, 0)
        held = f"decimal({draft.precision},{draft.scale})"
        at.find(f"{physical} names no precision: held as {held}")
    elif draft.type == "number" and _word(physical) in _WIDE_INTEGERS:
        at.find(
            f"a number is held as a double, which rounds {physical} beyond 2^53; "
            "say logicalType: integer"
        )
    if draft.type == "decimal" and draft.logical == "integer" and draft.scale:
        draft.add("multipleOf", Decimal(1))  # digits after the point are held, but must be 0
