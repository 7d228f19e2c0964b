"""What JSON records hold that their contract does not name, by path and type: the quick way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..contract import Contract, Field
from ..masking import Masking
from .facts import Found

_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode

_TYPES = {
    ord("{"): "object", ord("["): "array", ord('"'): "string",
    ord("t"): "boolean", ord("f"): "boolean", ord("n"): "null",
}  # fmt: skip


_NAMES = 10_000  # more than that are data


class UnknownFinder:
    """Finds unknown fields of well-typed records of one contract.

    >>> from millstream.schemas.contract import Contract, Field
    >>> found = UnknownFinder(Contract("c", "1", "c", (Field("n", "integer"),)))
    >>> found.of([(0, b'{"n": 1, "m": 2.5}')])
    {('field', 'm'): {'number': [(0, b'2.5')]}}
    """

    def __init__(self, contract: Contract) -> None:
        self._tree = _Level(contract.fields)
        self._masking = Masking(contract)
        self.steps: dict[str, tuple[str, ...]] = {}
        """The names that lead to unknown fields that were found, by their paths; not in arrays."""

    def of(self, records: Iterable[tuple[int, bytes]]) -> Found:
        """What is unknown of records, which are JSON objects, by their row numbers."""
        found: Found = {}
        for row, payload in records:
            self._look(_properties(payload), self._tree, (), row, found)
        return found

    def _look(
        self,
        properties: dict[str, Any],
        level: _Level,
        at: tuple[str, ...],
        row: int,
        found: Found,
    ) -> None:
        for name in properties.keys() - level.names:
            steps = (*at, name)
            path = ".".join(steps).replace(".[]", "[]") if at else name
            if "[]" not in at and len(self.steps) < _NAMES:
                self.steps.setdefault(path, steps)
            note_unknown(found, path, row, bytes(properties[name]), self._masking)
        for name, inner in level.nested:
            raw = properties.get(name)
            if raw is not None:
                self._look_into(raw, inner, (*at, name), row, found)

    def _look_into(
        self, raw: msgspec.Raw, field: _Nested, at: tuple[str, ...], row: int, found: Found
    ) -> None:
        if bytes(raw) == b"null":
            return
        if isinstance(field, _Level):
            self._look(_properties(raw), field, at, row, found)
        else:
            for item in _items(raw):
                self._look_into(item, field.items, (*at, "[]"), row, found)


def note_values(found: Found, path: str, values: list[tuple[int, bytes]], masking: Masking) -> None:
    """Note an unknown field of many rows, with its values as JSON."""
    if masking.hides or not values:
        for row, value in values:
            note_unknown(found, path, row, value, masking)
        return
    seen = found.setdefault(("field", path), {})
    last, pairs = "", []  # of the row before, for the next is most often like it
    for pair in values:
        kind = _TYPES.get(pair[1][0]) or json_type(pair[1])
        if kind != last:
            last, pairs = kind, seen.setdefault(kind, [])
        pairs.append(pair)


def note_unknown(found: Found, path: str, row: int, value: bytes, masking: Masking) -> None:
    """Note an unknown field of a row, with its value as JSON."""
    if masking.hides:
        shown: Any = masking.value(path.replace("[]", "[0]"), value.decode())
    else:
        shown = value
    found.setdefault(("field", path), {}).setdefault(json_type(value), []).append((row, shown))


def json_type(value: bytes) -> str:
    """The type of a JSON value without space around it."""
    known = _TYPES.get(value[0])
    if known is not None:
        return known
    if value.isdigit():
        return "integer"
    return "number" if b"." in value or b"e" in value or b"E" in value else "integer"


class _Level:
    """The fields of an object, and those of them that have others inside."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.names = {field.name for field in fields}
        self.nested = [(f.name, inner) for f in fields if (inner := _nested(f)) is not None]


class _Items:
    def __init__(self, items: _Nested) -> None:
        self.items = items


_Nested = _Level | _Items


def _nested(field: Field) -> _Nested | None:
    if field.type == "object":
        return _Level(field.fields)
    if field.type == "array" and field.items is not None:
        inner = _nested(field.items)
        return None if inner is None else _Items(inner)
    return None
