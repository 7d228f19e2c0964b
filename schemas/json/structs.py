"""A contract's fields as a msgspec Struct: what a record is decoded into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from ..contract import Field
from ..integers import integer_range
from .columns import Number

Learned = frozenset[tuple[str, ...]]
"""Paths of fields, outside arrays, that the contract does not name and a Struct holds all the same:
as ``msgspec.Raw``, or ``None`` where there is none."""


def record_decoder(
    fields: tuple[Field, ...], *, forbid: bool, learned: Learned = frozenset()
) -> Callable[[bytes], Any]:
    """What decodes a record into a Struct with attributes f0, f1, …, and u0, u1, … of what was
    learned, sorted by name, at each level.

    Args:
        forbid: a record with other fields fails.
    """
    struct = _struct("Record", fields, forbid, learned, ())
    return msgspec.json.Decoder(struct, dec_hook=_number, float_hook=Number).decode


def learned_at(learned: Learned, at: tuple[str, ...]) -> list[str]:
    """The names that were learned of an object at a path, in the order of their attributes."""
    return sorted(path[-1] for path in learned if path[:-1] == at)


def _integer_type(field: Field) -> Any:
    low, high = integer_range(field.storage)
    if field.storage == "uint64":
        # msgspec's bounds end at 2**63 - 1: what is above 2**64 fails in the column instead
        return Annotated[int, msgspec.Meta(ge=0)]
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def _number(to: type, value: Any) -> Any:
    if to is Number:
        if type(value) is Number:
            return value
        if type(value) is int:
            return Number(value)
    raise TypeError("not a number")


_PYTHON: dict[str, Callable[[Field], Any]] = {
    "string": lambda f: str,
    "integer": _integer_type,
    "number": lambda f: float,
    "decimal": lambda f: Number,
    "boolean": lambda f: bool,
    "date": lambda f: str,
    "time": lambda f: str,
    "timestamp": lambda f: str,
}


def _python_type(field: Field, forbid: bool, learned: Learned, at: tuple[str, ...]) -> Any:
    if field.type == "object":
        return _struct(field.name, field.fields, forbid, learned, (*at, field.name)) | None
    if field.type == "array":
        assert field.items is not None
        return list[_python_type(field.items, forbid, frozenset(), ())] | None
    if field.type == "json":
        return msgspec.Raw  # which holds a null too, and forms no unions
    return _PYTHON[field.type](field) | None


def _struct(
    name: str, fields: tuple[Field, ...], forbid: bool, learned: Learned, at: tuple[str, ...]
) -> type[msgspec.Struct]:
    """A Struct whose attributes are called the same, whatever the contract calls its fields."""
    more = learned_at(learned, at)
    return msgspec.defstruct(
        "Record" if not name.isidentifier() else name,
        [
            *((f"f{i}", _python_type(f, forbid, learned, at), None) for i, f in enumerate(fields)),
            *((f"u{i}", msgspec.Raw, None) for i in range(len(more))),
        ],
        rename={
            **{f"f{i}": f.name for i, f in enumerate(fields)},
            **{f"u{i}": other for i, other in enumerate(more)},
        },
        forbid_unknown_fields=forbid,
        gc=False,  # records hold no cycles; keeps the collector out of the hot path
    )
