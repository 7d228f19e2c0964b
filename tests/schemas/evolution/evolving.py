"""Contracts that change, as tests draw them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field

from tests import strategies


@st.composite
def evolved(draw: st.DrawFn, contract: Contract) -> Contract:
    """A contract after one to three changes."""
    fields = contract.fields
    for _ in range(draw(st.integers(1, 3))):
        fields = draw(_level(fields, 3))
    return replace(contract, fields=fields)


@st.composite
def _level(draw: st.DrawFn, fields: tuple[Field, ...], depth: int) -> tuple[Field, ...]:
    names = {field.name for field in fields}
    ways = ["change"] * 8 + ["add"] + (["remove"] if len(fields) > 1 else [])
    at = draw(st.integers(0, len(fields) - 1))
    match draw(st.sampled_from(ways)):
        case "add":
            fresh = [name for name in ("new", "newer", "newest", "last") if name not in names]
            name = draw(st.sampled_from(fresh))
            return (*fields, draw(strategies.fields(name, depth=min(depth, 2))))
        case "remove":
            return (*fields[:at], *fields[at + 1 :])
    return (*fields[:at], draw(_field(fields[at], depth)), *fields[at + 1 :])


@st.composite
def _field(draw: st.DrawFn, field: Field, depth: int) -> Field:
    ways = ["rules", "rules", "drop", "required", "type", "held"]
    ways += ["inside"] * 4 if field.fields or field.items else []
    match draw(st.sampled_from(ways)):
        case "rules":
            return replace(field, rules=draw(strategies._rules(field)))
        case "drop":
            return replace(field, rules=field.rules[1:])
        case "required":
            return replace(field, required=not field.required)
        case "type":
            other = draw(strategies.fields(field.name, depth=min(depth, 2)))
            return replace(other, required=field.required)
        case "inside" if field.items is not None:
            return replace(field, items=draw(_field(field.items, depth - 1)))
        case "inside":
            return replace(field, fields=draw(_level(field.fields, depth - 1)))
    return draw(_held(field))


@st.composite
def _held(draw: st.DrawFn, field: Field) -> Field:
    """The field with its values held in another way."""
    match field.type:
        case "integer":
            return replace(field, storage=draw(st.sampled_from(strategies.INTEGERS)), rules=())
        case "number":
            other = {"float32": "float64", "float64": "float32"}
            return replace(field, storage=other[field.storage], rules=())
        case "decimal":
            precision = draw(st.integers(1, 76))
            scale = draw(st.integers(0, precision))
            return replace(field, precision=precision, scale=scale, rules=())
        case "timestamp":
            zones = (None, "Europe/Berlin", "America/St_Johns")
            return replace(field, zone=draw(st.sampled_from(zones)))
    return replace(field, required=not field.required)
