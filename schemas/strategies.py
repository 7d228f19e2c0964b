"""Hypothesis strategies for records of a contract: for the tests of who uses one.

Needs the package ``hypothesis``.

    from hypothesis import given
    from millstream.schemas.odcs import load_contract
    from millstream.schemas.strategies import broken_payloads, payloads

    contract = load_contract("clicks.odcs.yaml")

    @given(payloads(contract))
    def test_my_parser(payload: bytes): ...
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
from hypothesis import strategies as st

from .contract import Contract, Field
from .integers import integer_range
from .json.decoder import JsonDecoder
from .samples import BREAKS, FORMATS, as_json

_encode = msgspec.json.Encoder(decimal_format="number").encode


def payloads(contract: Contract) -> st.SearchStrategy[bytes]:
    """JSON records that keep the contract, as bytes."""
    decoder = JsonDecoder(contract, judge=True)
    record = st.fixed_dictionaries({f.name: _values(f) for f in contract.fields})
    return record.map(_encode).filter(lambda line: not _is_refused(line, decoder))


def broken_payloads(contract: Contract) -> st.SearchStrategy[bytes]:
    """Lines that the contract refuses: cut off, no JSON, of another type, against a rule, …"""
    decoder = JsonDecoder(contract, judge=True)

    def broken(line: bytes, way: Callable[..., bytes | None], rng: random.Random) -> bytes:
        return way(line, contract, rng) or b"{"

    ways = st.sampled_from(BREAKS)
    lines = st.builds(broken, payloads(contract), ways, st.randoms(use_true_random=False))
    return lines.filter(lambda line: _is_refused(line, decoder))


def _is_refused(line: bytes, decoder: JsonDecoder) -> bool:
    return bool(decoder.decode(pa.array([line], pa.binary())).refused)


def _values(field: Field) -> st.SearchStrategy[Any]:
    typed = _typed(field)
    return typed if field.required else st.none() | typed


def _typed(field: Field) -> st.SearchStrategy[Any]:
    rules = {rule.kind: rule.value for rule in field.rules}
    if "enum" in rules:
        return st.sampled_from([as_json(v, field) for v in rules["enum"]])
    return _TYPED[field.type](field, rules)


def _strings(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    if rules.get("format") in FORMATS:
        return st.randoms(use_true_random=False).map(FORMATS[rules["format"]])
    if "pattern" in rules:
        return st.from_regex(rules["pattern"], fullmatch=True)
    low = rules.get("minLength", 0)
    return st.text(min_size=low, max_size=rules.get("maxLength", low + 20))


def _integers(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = _bounds(rules, *integer_range(field.storage))
    step = rules.get("multipleOf", 1)
    return st.integers(math.ceil(low / step), math.floor(high / step)).map(lambda n: n * step)


def _bounds(rules: dict[str, Any], low: Any, high: Any) -> tuple[Any, Any]:
    return (
        rules.get("minimum", rules.get("exclusiveMinimum", low)),
        rules.get("maximum", rules.get("exclusiveMaximum", high)),
    )


def _numbers(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    if step := rules.get("multipleOf"):
        exact = Decimal(str(step))
        return st.integers(-(10**6), 10**6).map(lambda n: float(n * exact))
    low, high = _bounds(rules, None, None)
    width = 32 if field.storage == "float32" else 64
    return st.floats(low, high, allow_nan=False, allow_infinity=False, width=width)


def _decimals(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    unit = Decimal((0, (1,), -field.scale))
    most = 10**field.precision - 1
    low, high = _bounds(rules, -most * unit, most * unit)
    step = int(rules["multipleOf"] / unit) if "multipleOf" in rules else 1
    units = st.integers(math.ceil(low / unit / step), math.floor(high / unit / step))
    return units.map(lambda n: n * step * unit)


def _days(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = _bounds(rules, dt.date(1970, 1, 1), dt.date(2100, 1, 1))
    return st.dates(low, high).map(lambda v: as_json(v, field))


def _moments(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    first, last = dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1)
    low, high = (v.replace(tzinfo=None) for v in _bounds(rules, first, last))
    moments = st.datetimes(low, high, timezones=st.just(dt.UTC))
    return moments.map(lambda v: as_json(v, field))


def _times(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.times(*_bounds(rules, dt.time.min, dt.time.max)).map(lambda v: as_json(v, field))


def _objects(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({f.name: _values(f) for f in field.fields})


def _arrays(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    assert field.items is not None
    low = rules.get("minItems", 0)
    same = json.dumps if rules.get("uniqueItems") else None
    return st.lists(
        _values(field.items),
        min_size=low,
        max_size=rules.get("maxItems", low + 4),
        unique_by=(lambda v: same(v, default=str)) if same else None,
    )


def _json(field: Field, rules: dict[str, Any]) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8)
    low = max(rules.get("minItems", 0), rules.get("minProperties", 0))
    if any(kind in rules for kind in ("minItems", "maxItems", "uniqueItems")):
        return st.lists(leaves, min_size=low, max_size=low + 3, unique_by=str)
    return st.dictionaries(st.text(max_size=5), leaves, min_size=low, max_size=low + 3)


_TYPED: dict[str, Callable[[Field, dict[str, Any]], st.SearchStrategy[Any]]] = {
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "decimal": _decimals,
    "boolean": lambda field, rules: st.booleans(),
    "date": _days,
    "timestamp": _moments,
    "time": _times,
    "object": _objects,
    "array": _arrays,
    "json": _json,
}
