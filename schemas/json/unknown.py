"""What JSON records say that their contract does not name, word for word."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..contract import Contract, Field

_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode

Unknown = dict[str, msgspec.Raw]


def unknown_fields(payload: bytes, contract: Contract) -> str | None:
    """The fields of a well-typed record that its contract does not name, or ``None``.

    The result is a JSON object from path to value. Values are not decoded but copied: numbers
    keep all their digits.
    """
    unknown: Unknown = {}
    _collect(_properties(payload), contract.fields, "", unknown)
    return msgspec.json.encode(unknown).decode() if unknown else None


def _collect(
    properties: Mapping[str, msgspec.Raw], fields: tuple[Field, ...], prefix: str, unknown: Unknown
) -> None:
    known = {f.name: f for f in fields}
    for name, raw in properties.items():
        field = known.get(name)
        if field is None:
            unknown[prefix + name] = raw
        else:
            _look_into(raw, field, prefix + name, unknown)


def _look_into(raw: msgspec.Raw, field: Field, path: str, unknown: Unknown) -> None:
    if bytes(raw) == b"null":
        return
    if field.type == "object":
        _collect(_properties(raw), field.fields, path + ".", unknown)
    elif field.type == "array" and field.items and field.items.type in ("object", "array"):
        for i, item in enumerate(_items(raw)):
            _look_into(item, field.items, f"{path}[{i}]", unknown)
