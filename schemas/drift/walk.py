"""What a refused record holds that its contract does not foresee: the thorough way.

What is wrong with the record has been said by the decoder, by path and code; here it is looked up
what stands there instead.
"""

from __future__ import annotations

import decimal
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import msgspec

from ..codes import Code
from ..contract import Contract, Field
from ..integers import integer_range
from ..json.columns import Number
from ..masking import Masking
from .facts import Found
from .shapes import Shape, cell_shape, shape_of
from .unknown import json_type, note_unknown

CODES = frozenset({Code.TYPE, Code.RANGE, Code.PRECISION, Code.ENUM, Code.UNKNOWN_FIELD})
"""Codes of what may be drift."""
UNREAD = "not read"
"""What is said to be seen where a payload cannot be read."""
LONGEST = 200
"""Characters of a value that can become one of the valid ones."""

_NESTING = 20  # levels that a sample's text has

_INDEX = re.compile(r"\[\d+\]")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint64")
_CELL_INTEGER = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_CELL_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)

Wrong = Collection[tuple[str, str]]
"""Paths and codes of a record's violations."""


class Walk:
    """Gathers what refused records of one contract hold.

    ``found`` is what was noticed, ``shapes`` those of the unknown fields, by their paths.
    """

    def __init__(self, contract: Contract) -> None:
        self._fields = contract.fields
        self._masking = Masking(contract)
        self.found: Found = {}
        self.shapes: dict[str, Shape] = {}
        self._named: dict[int, dict[str, Field]] = {}
        self._places: set[str] = set()  # paths at which something is wrong with a record

    def record(self, row: int, value: dict[str, Any], wrong: Wrong, *, cells: bool = False) -> None:
        """Look through a record.

        Args:
            value: decoded from JSON, fractions as :class:`Number`; of CSV, texts and nulls by the
                names of their columns.
            cells: it is of CSV.
        """
        self._places = {path for path, _ in wrong}
        if cells:
            self._cells(row, value, wrong)
        else:
            self._object(row, value, self._fields, "", wrong)

    def unread(self, row: int, wrong: Wrong) -> None:
        """Note what is said to be wrong with a record that cannot be read here."""
        kinds = {Code.UNKNOWN_FIELD.value: "field", Code.ENUM: "value", Code.TYPE: "type"}
        for path, code in wrong:
            if kind := kinds.get(code):
                self._note((kind, _INDEX.sub("[]", path)), UNREAD, row, "")

    def _note(self, key: Any, seen: str, row: int, value: str) -> None:
        self.found.setdefault(key, {}).setdefault(seen, []).append((row, value))

    def _object(
        self, row: int, value: dict[str, Any], fields: tuple[Field, ...], prefix: str, wrong: Wrong
    ) -> None:
        known = self._by_name(fields)
        for name, inner in value.items():
            field = known.get(name)
            if field is not None:
                self._value(row, inner, field, prefix + name, wrong)
            else:
                self._unknown(row, _INDEX.sub("[]", prefix) + name, inner)

    def _by_name(self, fields: tuple[Field, ...]) -> dict[str, Field]:
        found = self._named.get(id(fields))
        if found is None:
            found = self._named[id(fields)] = {field.name: field for field in fields}
        return found

    def _unknown(self, row: int, path: str, value: Any) -> None:
        note_unknown(self.found, path, row, json_text(value).encode(), self._masking)
        self._grow(path, shape_of(value))

    def _grow(self, path: str, shape: Shape) -> None:
        held = self.shapes.get(path)
        self.shapes[path] = held.merged(shape) if held else shape

    def _value(self, row: int, value: Any, field: Field, path: str, wrong: Wrong) -> None:
        if value is None:
            return
        if path in self._places:
            self._judged(row, value, field, path, wrong)
        if field.type == "object" and isinstance(value, dict):
            self._object(row, value, field.fields, path + ".", wrong)
        elif field.type == "array" and field.items and isinstance(value, list):
            for i, item in enumerate(value):
                self._value(row, item, field.items, f"{path}[{i}]", wrong)

    def _judged(self, row: int, value: Any, field: Field, path: str, wrong: Wrong) -> None:
        """Note what is wrong with a value, if it is of a wider type or none of the valid ones."""
        shown = self._masking.value(path, json_text(value))
        there = _INDEX.sub("[]", path)
        if (path, Code.TYPE) in wrong:
            self._note(("type", there), json_type(json_text(value).encode()), row, shown)
        elif wider := _wider(path, value, field, wrong):
            self._note(("type", there), wider, row, shown)
        elif (path, Code.ENUM) in wrong:
            self._note(("value", there), shown if len(shown) <= LONGEST else UNREAD, row, shown)

    def _cells(self, row: int, texts: dict[str, str | None], wrong: Wrong) -> None:
        known = self._by_name(self._fields)
        for name, text in texts.items():
            field = known.get(name)
            if text is None:
                continue
            if field is None:
                note_unknown(self.found, name, row, cell_json(text), self._masking)
                self._grow(name, cell_shape(text))
            elif field.type in ("object", "array"):
                if (parsed := parse(text.encode())) is not None:
                    self._value(row, parsed, field, name, wrong)
            elif name in self._places:
                self._judged(row, _cell_value(text, field.type), field, name, wrong)


def cell_json(text: str) -> bytes:
    """A cell's text as the JSON that says the same."""
    return json_text(_cell_value(text, "")).encode()


def _cell_value(text: str, kind: str) -> Any:
    """A cell's text as what a value of JSON would be that says the same."""
    if kind == "string":
        return text
    if kind != "number" and _CELL_INTEGER.fullmatch(text):
        return int(text)
    if _CELL_NUMBER.fullmatch(text):
        return Number(text)
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def _wider(path: str, value: Any, field: Field, wrong: Wrong) -> str | None:
    if (path, Code.RANGE) in wrong:
        return _wider_integer(value, field)
    return _decimal_of(value) if (path, Code.PRECISION) in wrong else None


def _wider_integer(value: Any, field: Field) -> str | None:
    """The least storage that holds an integer which the field's does not."""
    if field.type != "integer" or type(value) is not int:
        return None
    low, high = integer_range(field.storage)
    if low <= value <= high:
        return None
    for storage in _INTEGERS:
        low, high = integer_range(storage)
        if low <= value <= high:
            return storage
    return "more than 64 bits"


def _decimal_of(value: Any) -> str | None:
    """The decimal type that holds a number's text exactly."""
    try:
        _, digits, exponent = Decimal(str(value)).as_tuple()
    except decimal.InvalidOperation:
        return None
    if not isinstance(exponent, int) or abs(exponent) > 1000:
        return None
    scale = max(-exponent, 0)
    return f"decimal({max(len(digits) + max(exponent, 0), scale, 1)},{scale})"


_decode = msgspec.json.Decoder(float_hook=Number).decode


def parse(payload: bytes) -> Any:
    """The value that a text is as JSON, fractions as :class:`Number`; ``None`` if it is none."""
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def json_text(value: Any, depth: int = 0) -> str:
    """A value as JSON, with every digit of its numbers; what is nested deeply is left out."""
    if type(value) is Number:
        return str(value)
    if type(value) not in (dict, list):
        return msgspec.json.encode(value).decode()
    if depth == _NESTING:
        return '"…"'
    if type(value) is dict:
        inner = (f"{json_text(name)}:{json_text(v, depth + 1)}" for name, v in value.items())
        return f"{{{','.join(inner)}}}"
    return f"[{','.join(json_text(v, depth + 1) for v in value)}]"
