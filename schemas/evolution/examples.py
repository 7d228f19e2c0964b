"""Values that keep a field's rules, as JSON has them: the stuff of examples against a claim."""

from __future__ import annotations

import decimal
import functools
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from ..contract import Contract, Field, Rule
from ..json.decoder import JsonDecoder
from ..samples import CannotGenerate, Samples, as_json
from .spans import GRIDS, ORDERED, in_units, near, span_of, written

_SOME_JSON: tuple[Any, ...] = (
    *range(20),
    "a",
    True,
    [],
    {},
    [1],
    [1, 2],
    {"a": 1},
    {"a": 1, "b": 2},
)
MANY = 60
"""Examples of one field."""
FEW = 1000
"""Up to so many values are all tried, one by one."""

_EXACT = decimal.Context(prec=1000)

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(float_hook=Decimal).decode

Record = dict[str, Any]


def encoded(record: Any) -> bytes:
    """A record, or a value, as JSON."""
    return _encode(record)


@functools.lru_cache(maxsize=4096)
def examples(field: Field) -> tuple[Any, ...]:
    """Values that keep a field's rules, null never; none where none is found."""
    if any(rule.kind == "enum" for rule in field.rules):
        return tuple(all_values(field) or ())[:MANY]
    if field.type == "object":
        made = _objects(field)
    elif field.type == "array":
        made = _arrays(field)
    elif field.type == "json":
        made = [*_sampled(field), *_SOME_JSON]
    elif sampled := _sampled(field):
        return sampled
    else:
        made = list(near(field, field)) if field.type in ORDERED else []
    fine = accepted(made, field)
    return tuple(value for value, good in zip(made, fine, strict=True) if good)


def different(field: Field, count: int) -> list[Any]:
    """So many examples that differ, or fewer."""
    found = {encoded(value): value for value in examples(field)}
    if len(found) < count and field.type in ("string", "integer", "number", "decimal"):
        more = [str(n) if field.type == "string" else n for n in range(2 * count)]
        fine = accepted(more, field)
        found |= {encoded(v): v for v, good in zip(more, fine, strict=True) if good}
    return list(found.values())


def _sampled(field: Field) -> tuple[Any, ...]:
    try:
        with decimal.localcontext(_EXACT):
            made = Samples(_lone(field), MANY, seed=1, broken=0)
            lines = [line for batch in made.batches() for line in batch]
    except (CannotGenerate, ArithmeticError, ValueError):
        return ()
    return tuple(_decode(line)[field.name] for line in dict.fromkeys(lines))


def _objects(field: Field) -> list[Any]:
    """Objects with all, with few and with some of the properties that may be missing."""
    values = {f.name: examples(f) for f in field.fields}
    may = [f.name for f in field.fields if not f.required]
    made = []
    for row in range(MANY):
        left_out = {name for n, name in enumerate(may) if row and (row >> (n % 6)) & 1}
        made.append(
            {
                name: some[(row * (n + 1)) % len(some)]
                for n, (name, some) in enumerate(values.items())
                if some and name not in left_out
            }
        )
    made += [{f.name: v for f in field.fields if f.required for v in values[f.name][:1]}]
    made += [dict(list(made[0].items())[:count]) for count in range(len(field.fields))]
    return made


def _arrays(field: Field) -> list[Any]:
    assert field.items is not None
    items = list({encoded(item): item for item in examples(field.items)}.values())
    low = next((rule.value for rule in field.rules if rule.kind == "minItems"), 0)
    made: list[Any] = [] if field.items.required else [[None] * low]
    for row in range(MANY):
        size = min(low + row % 4, 1000)
        made.append([items[(row + n) % len(items)] for n in range(size)] if items else [])
    return made


def accepted(values: Iterable[Any], field: Field) -> list[bool]:
    """Which values a field takes, by the decoder itself."""
    return kept([{field.name: value} for value in values], _lone(field))


def kept(records: Iterable[Record], contract: Contract) -> list[bool]:
    """Which records a contract takes, by the decoder itself."""
    payloads = pa.array([_encode(record) for record in records], pa.binary())
    refused = set(_decoder(contract).decode(payloads).refused)
    return [row not in refused for row in range(len(payloads))]


@functools.lru_cache(maxsize=256)
def _decoder(contract: Contract) -> JsonDecoder:
    return JsonDecoder(contract, judge=True)


def _lone(field: Field) -> Contract:
    """A contract of this field alone, which must be there."""
    return Contract("", "", "", (replace(field, required=True, primary_key=False),))


def all_values(field: Field) -> list[Any] | None:
    """All values that a field takes, null apart, as JSON has them; ``None`` if they are many."""
    found: list[Any] | None = None
    enum = next((rule.value for rule in field.rules if rule.kind == "enum"), None)
    if enum is not None:
        found = [_in_full(value, field) for value in enum]
    elif field.type == "boolean":
        found = [True, False]
    elif field.type == "string" and Rule("maxLength", 0) in field.rules:
        found = [""]
    elif field.type in GRIDS:
        span = span_of(field)
        if span.count is not None and span.count <= FEW:
            assert span.step is not None
            found = [written(span.low + n * span.step, field) for n in range(span.count)]
    if not found:
        return found
    fine = accepted(found, field)
    return [value for value, good in zip(found, fine, strict=True) if good]


def _in_full(value: Any, field: Field) -> Any:
    return written(in_units(value), field) if field.type in GRIDS else as_json(value, field)
