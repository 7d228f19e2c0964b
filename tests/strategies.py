"""What tests draw: contracts, records that keep or break them, lines of bytes, ways to cut."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule

from tests import reference

SCALARS = (
    "string", "integer", "number", "decimal", "boolean", "date", "timestamp", "time", "json",
)  # fmt: skip
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
PATTERNS = {"^[a-z]{2,5}$": "[a-z]{2,5}", "^(?!x)[a-y]+$": "[a-w][a-y]{0,4}", r"\d": "[0-9]{1,5}"}
"""Patterns and what matches them; one with look-around, which RE2 does not have."""
FORMATTED = {
    "uuid": "00000000-0000-4000-8000-0000000000fF",
    "email": "o'brien+tag@mail.example.org",
    "hostname": "xn--bcher-kva.example",
    "ipv4": "192.0.2.255",
    "ipv6": "2001:db8::1",
    "uri": "urn:isbn:0451450523",
    "byte": "aGk=",
}
"""A value for each format."""

Strategy = st.SearchStrategy

# ------------------------------------------------------------------------------- contracts

_NAMES = st.text("abcxyz019éλ 漢-", min_size=1, max_size=5)


@st.composite
def fields(draw: st.DrawFn, name: str = "item", depth: int = 3, rules: bool = True) -> Field:
    """A field of any type, nested to ``depth``."""
    types = SCALARS if depth == 1 else (*SCALARS, "object", "array")
    field = Field(name, draw(st.sampled_from(types)), required=draw(st.booleans()))  # pyright: ignore[reportArgumentType]
    match field.type:
        case "integer":
            field = replace(field, storage=draw(st.sampled_from(INTEGERS)))
        case "number":
            field = replace(field, storage=draw(st.sampled_from(("float64", "float32"))))
        case "decimal":
            precision = draw(st.integers(1, 76))
            field = replace(field, precision=precision, scale=draw(st.integers(0, precision)))
        case "timestamp":
            zones = (None, "Europe/Berlin", "America/St_Johns")
            field = replace(field, zone=draw(st.sampled_from(zones)))
        case "object":
            field = replace(field, fields=draw(_levels(depth - 1, rules)))
        case "array":
            field = replace(field, items=draw(fields(depth=depth - 1, rules=rules)))
    return replace(field, rules=draw(_rules(field))) if rules else field


@st.composite
def _levels(draw: st.DrawFn, depth: int, rules: bool) -> tuple[Field, ...]:
    names = draw(st.lists(_NAMES, min_size=1, max_size=4, unique=True))
    return tuple(draw(fields(name, depth, rules)) for name in names)


@st.composite
def contracts(draw: st.DrawFn, depth: int = 3, rules: bool = True) -> Contract:
    """A contract with up to four fields on each of up to ``depth`` levels."""
    return Contract("c", "1.0.0", "c", draw(_levels(depth, rules)))


def _rules(field: Field) -> Strategy[tuple[Rule, ...]]:
    """No rules, or some that values can keep."""
    made: list[Strategy[tuple[Rule, ...]]] = [st.just(())]
    typed = values(replace(field, rules=(), required=True))
    if field.type in ("integer", "number", "decimal", "date", "timestamp", "time"):
        between = st.lists(typed, min_size=3, max_size=3, unique=True).map(sorted)
        made += [
            between.map(lambda v: (Rule("minimum", v[0]), Rule("maximum", v[1]))),
            between.map(lambda v: (Rule("exclusiveMinimum", v[0]), Rule("exclusiveMaximum", v[2]))),
        ]
    if field.type in ("string", "integer", "number", "decimal", "date", "timestamp", "boolean"):
        made.append(st.lists(typed, min_size=1, max_size=3).map(lambda v: (Rule("enum", (*v,)),)))
    match field.type:
        case "integer":
            made.append(st.integers(1, 1000).map(lambda m: (Rule("multipleOf", m),)))
        case "number":
            steps = st.sampled_from((1.0, 3.0, 0.5, 0.01, 0.1, 1e-9))
            made.append(steps.map(lambda m: (Rule("multipleOf", m),)))
        case "decimal":
            steps = st.integers(1, min(10**field.precision - 1, 1000))
            made.append(steps.map(lambda m: (Rule("multipleOf", of_units(m, field)),)))
        case "string":
            made += [
                _sizes("minLength", "maxLength"),
                st.sampled_from(list(PATTERNS)).map(lambda p: (Rule("pattern", p),)),
                st.sampled_from(list(FORMATTED)).map(lambda f: (Rule("format", f),)),
            ]
        case "array":
            made += [_sizes("minItems", "maxItems"), st.just((Rule("uniqueItems", True),))]
        case "object":
            made.append(st.just((Rule("maxProperties", len(field.fields)),)))
        case "json":
            made += [
                _sizes("minItems", "maxItems"),
                _sizes("minProperties", "maxProperties"),
                st.just((Rule("uniqueItems", True),)),
            ]
    return st.one_of(made)


def _sizes(least: str, most: str) -> Strategy[tuple[Rule, ...]]:
    return st.tuples(st.integers(0, 2), st.integers(0, 3)).map(
        lambda size: (Rule(least, size[0]), Rule(most, sum(size)))
    )


def units_of(value: Decimal, field: Field) -> int:
    """A decimal as a multiple of its field's last digit."""
    return int(Fraction(value) * 10**field.scale)


def of_units(units: int, field: Field) -> Decimal:
    """The inverse of :func:`units_of`, exact whatever the context says."""
    return Decimal((int(units < 0), tuple(map(int, str(abs(units)))), -field.scale))


# ---------------------------------------------------------------------------------- values


def values(field: Field) -> Strategy[Any]:
    """Values that a field can hold and that keep its rules; ``None`` where it is not required."""
    typed = _typed(field).filter(
        lambda v: not any(reference.breaks(r, field, v) for r in field.rules if r.kind != "format")
    )
    return typed if field.required else st.none() | typed


def any_values(field: Field) -> Strategy[Any]:
    """Values that a field can hold, be they good or bad; not those that a format is asked of."""
    if field.type == "object":
        typed = st.fixed_dictionaries({f.name: any_values(f) for f in field.fields})
    elif field.type == "array":
        assert field.items is not None
        typed = st.lists(any_values(field.items), max_size=4)
    else:
        # values near the rules show more than values from anywhere
        bare = replace(field, rules=(), required=True)
        near = [r.value for r in field.rules if r.kind in reference._BOUNDS]
        near += [v for r in field.rules if r.kind == "enum" for v in r.value]
        typed = st.one_of(_typed(field), values(bare), *([st.sampled_from(near)] if near else []))
    return st.none() | typed


def _typed(field: Field) -> Strategy[Any]:
    rules = {rule.kind: rule.value for rule in field.rules}
    if "enum" in rules:
        return st.sampled_from(rules["enum"])
    return _TYPED[field.type](field, rules)


def _bounds(rules: dict[str, Any], low: Any, high: Any) -> tuple[Any, Any]:
    return (
        rules.get("minimum", rules.get("exclusiveMinimum", low)),
        rules.get("maximum", rules.get("exclusiveMaximum", high)),
    )


def _strings(field: Field, rules: dict[str, Any]) -> Strategy[str]:
    if "pattern" in rules:
        return st.from_regex(PATTERNS[rules["pattern"]], fullmatch=True)
    if "format" in rules:
        return st.just(FORMATTED[rules["format"]])
    return st.text(min_size=rules.get("minLength", 0), max_size=rules.get("maxLength", 8))


def _integers(field: Field, rules: dict[str, Any]) -> Strategy[int]:
    bits = int(field.storage.lstrip("uint"))
    signed = not field.storage.startswith("u")
    least, greatest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = _bounds(rules, least, greatest)
    if step := rules.get("multipleOf"):
        return st.integers(-(-low // step), high // step).map(lambda n: n * step)
    return st.integers(low, high)


def _numbers(field: Field, rules: dict[str, Any]) -> Strategy[float]:
    width = 32 if field.storage == "float32" else 64
    if step := rules.get("multipleOf"):
        exact = Decimal(str(step))
        # of so many steps a 32-bit float tells each from the next
        count = st.integers(-(10**5), 10**5) if width == 32 else st.integers(-(10**9), 10**9)
        return count.map(lambda n: _single(float(n * exact), width))
    low, high = _bounds(rules, None, None)
    return st.floats(low, high, allow_nan=False, allow_infinity=False, width=width)


def _single(value: float, width: int) -> float:
    return float(np.float32(value)) if width == 32 else value


def _decimals(field: Field, rules: dict[str, Any]) -> Strategy[Decimal]:
    most = 10**field.precision - 1
    low, high = (
        units_of(v, field) for v in _bounds(rules, of_units(-most, field), of_units(most, field))
    )
    if step := rules.get("multipleOf"):
        units = units_of(step, field)
        found = st.integers(-(-low // units), high // units).map(lambda n: n * units)
    else:
        found = st.integers(low, high)
    return found.map(lambda n: of_units(n, field))


def _timestamps(field: Field, rules: dict[str, Any]) -> Strategy[dt.datetime]:
    first, last = dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)
    low, high = (v.replace(tzinfo=None) for v in _bounds(rules, first, last))
    return st.datetimes(low, high, timezones=st.just(dt.UTC))


def _objects(field: Field, rules: dict[str, Any]) -> Strategy[dict[str, Any]]:
    return st.fixed_dictionaries({f.name: values(f) for f in field.fields})


def _arrays(field: Field, rules: dict[str, Any]) -> Strategy[list[Any]]:
    assert field.items is not None
    unique = _sorted_json if "uniqueItems" in rules else None
    least, most = rules.get("minItems", 0), rules.get("maxItems", 3)
    return st.lists(values(field.items), min_size=least, max_size=most, unique_by=unique)


def _sorted_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _json(field: Field, rules: dict[str, Any]) -> Strategy[str]:
    scalars = st.booleans() | st.integers() | st.text(max_size=3) | st.just(1.5)
    trees = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=4,
    )
    found = trees
    if "minItems" in rules:
        found = st.lists(trees, min_size=rules["minItems"], max_size=rules["maxItems"])
    elif "minProperties" in rules:
        found = st.dictionaries(
            st.text(max_size=3), trees, min_size=rules["minProperties"],
            max_size=rules["maxProperties"],
        )  # fmt: skip
    return found.map(lambda v: json.dumps(v, ensure_ascii=False))


_TYPED: dict[str, Callable[[Field, dict[str, Any]], Strategy[Any]]] = {
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "decimal": _decimals,
    "boolean": lambda field, rules: st.booleans(),
    "date": lambda field, rules: st.dates(*_bounds(rules, dt.date.min, dt.date.max)),
    "timestamp": _timestamps,
    "time": lambda field, rules: st.times(*_bounds(rules, dt.time.min, dt.time.max)),
    "object": _objects,
    "array": _arrays,
    "json": _json,
}

# --------------------------------------------------------------------------------- records

Tree = dict[str, Any] | list[Any] | str
"""JSON as it will be written: objects, arrays, and the text of everything else."""


class Record(NamedTuple):
    """A record as Python values (null where missing), and as bytes."""

    values: dict[str, Any]
    payload: bytes


@st.composite
def records(draw: st.DrawFn, contract: Contract, *, lawful: bool = True) -> Record:
    """A record that keeps a contract, in one of the ways in which it can be written.

    Unless it is to be ``lawful``, it may break rules, but no types.
    """
    some = values if lawful else any_values
    found = draw(st.fixed_dictionaries({f.name: some(f) for f in contract.fields}))
    return Record(found, dump(draw(_trees(found, contract.fields))))


def dump(tree: Tree, space: str = "") -> bytes:
    """A tree as JSON."""

    def text(tree: Tree) -> str:
        if isinstance(tree, dict):
            inner = (f"{json.dumps(k)}:{space}{text(v)}" for k, v in tree.items())
            return "{" + f",{space}".join(inner) + "}"
        return f"[{','.join(map(text, tree))}]" if isinstance(tree, list) else tree

    return text(tree).encode()


@st.composite
def _trees(draw: st.DrawFn, found: dict[str, Any], level: Sequence[Field]) -> dict[str, Tree]:
    tree = {}
    for field in draw(st.permutations(level)):
        value = found[field.name]
        if value is not None or draw(st.booleans()):
            tree[field.name] = draw(_tree(value, field))
    return tree


@st.composite
def _tree(draw: st.DrawFn, value: Any, field: Field) -> Tree:
    if value is None:
        return "null"
    if field.type == "object":
        return draw(_trees(value, field.fields))
    if field.type == "array":
        assert field.items is not None
        return [draw(_tree(item, field.items)) for item in value]
    return draw(st.sampled_from(texts(value, field)))


def texts(value: Any, field: Field) -> list[str]:
    """Ways to write a value in JSON."""
    match field.type:
        case "string":
            return [json.dumps(value), json.dumps(value, ensure_ascii=False)]
        case "integer":
            return [str(value)]
        case "boolean":
            return [json.dumps(value)]
        case "number":
            whole = [str(int(value))] if value == int(value) and math.copysign(1, value) > 0 else []
            return [repr(value), f"{value:.17e}", *whole]
        case "decimal":
            units = units_of(value, field)
            return [f"{value:f}", f"{units}e-{field.scale}", f"{units * 100}E-{field.scale + 2}"]
        case "date":
            return [f'"{value.isoformat()}"']
        case "time":
            short = [f'"{value:%H:%M}"'] if value == value.replace(second=0, microsecond=0) else []
            return [f'"{value.isoformat()}"', f'"{value.isoformat("microseconds")}999"', *short]
        case "timestamp":
            return [f'"{text}"' for text in _timestamp_texts(value)]
        case "json":
            return [value]
    raise NotImplementedError(field.type)


def _timestamp_texts(value: dt.datetime) -> list[str]:
    naive = value.replace(tzinfo=None)
    found = [value.isoformat(), f"{naive.isoformat(' ')}Z", f"{naive.isoformat()}+00"]
    found.append(f"{naive.isoformat(timespec='microseconds')}789-0000")
    if 1 < value.year < 9999:
        zone = dt.timezone(dt.timedelta(hours=-3, minutes=-30))
        found.append(value.astimezone(zone).isoformat())
    return found


# --------------------------------------------------------------------------- broken records


class BrokenRecord(NamedTuple):
    """A record with one fault: where it is (empty: the whole), and the code that it must give."""

    payload: bytes
    path: str
    code: Code


@st.composite
def broken_records(draw: st.DrawFn, contract: Contract) -> BrokenRecord:
    """A record that keeps a contract but for one place."""
    found = draw(st.fixed_dictionaries({f.name: values(f) for f in contract.fields}))
    tree = draw(_trees(found, contract.fields))
    faults = [
        (container, key, path, text, code)
        for container, key, field, path in _places(tree, contract.fields)
        for text, code in mistakes(field)
    ]
    whole = draw(st.booleans()) or not faults
    if whole:
        return draw(_broken_wholes(dump(tree)))
    container, key, path, text, code = draw(st.sampled_from(faults))
    container[key] = text
    return BrokenRecord(dump(tree), path, code)


def _places(
    tree: dict[str, Any], level: Sequence[Field], prefix: str = ""
) -> Iterator[tuple[Any, Any, Field, str]]:
    """Each place of a tree where a field's value stands or could stand."""
    for field in level:
        yield from _place(tree, field.name, field, prefix + field.name)


def _place(
    container: Any, key: Any, field: Field, path: str
) -> Iterator[tuple[Any, Any, Field, str]]:
    yield container, key, field, path
    inner = container.get(key) if isinstance(container, dict) else container[key]
    if isinstance(inner, dict):
        yield from _places(inner, field.fields, path + ".")
    elif isinstance(inner, list):
        assert field.items is not None
        for i in range(len(inner)):
            yield from _place(inner, i, field.items, f"{path}[{i}]")


_NO_TYPE = {
    "string": ("5", "true", "[]", "{}"),
    "integer": ('"5"', "3.7", "5.0", "1e2", "true", "[1]", "{}"),
    "number": ('"5"', '"NaN"', "true", "[]", "{}"),
    "decimal": ('"5"', "false", "[]", "{}"),
    "boolean": ('"true"', "0", "1", "[]"),
    "date": ("5", "20260101", "true", "[]"),
    "time": ("5", "12.5", "{}"),
    "timestamp": ("1700000000", "1.7e9", "true", "[]"),
    "object": ("5", "[]", '"{}"', "true"),
    "array": ("5", "{}", '"[]"', "true"),
    "json": (),
}
_NO_FORMAT = {
    "date": ('""', '"2026-02-29"', '"2026-1-1"', '"0000-01-01"', '"2026-01-01T00:00:00Z"'),
    "time": ('""', '"24:00"', '"12:00:60"', '"12:00Z"', '"1:00"'),
    "timestamp": ('""', '"2026-01-01"', '"2026-01-01T24:00:00Z"', '"2026-01-01T00:00:00z"'),
}


def mistakes(field: Field) -> list[tuple[str, Code]]:
    """JSON texts that a field must refuse, each with its code."""
    found = [(text, Code.TYPE) for text in _NO_TYPE[field.type]]
    found += [(text, Code.FORMAT) for text in _NO_FORMAT.get(field.type, ())]
    if field.required:
        found.append(("null", Code.REQUIRED))
    if field.type == "integer":
        bits = int(field.storage.lstrip("uint"))
        outside = (-1, 2**bits) if field.storage[0] == "u" else (-(2**bits), 2**bits)
        found += [(str(n), Code.RANGE) for n in (*outside, 10**30)]
    elif field.type == "number":
        too_large = ["1e999", "-1e999", "1" + "0" * 400]
        too_large += ["1e39"] if field.storage == "float32" else []
        found += [(text, Code.RANGE) for text in too_large]
    elif field.type == "decimal":
        found.append((f"1e{field.precision - field.scale}", Code.PRECISION))
        found.append((f"1e-{field.scale + 1}", Code.PRECISION))
    return found


@st.composite
def _broken_wholes(draw: st.DrawFn, payload: bytes) -> BrokenRecord:
    at = draw(st.integers(0, len(payload) - 1))
    malformed = (
        payload[:at], payload + b"x", payload + b",", payload + payload, b"[" + payload + b"]",
        b"\xef\xbb\xbf" + payload, payload + b"\0", b"null", b"1", b'""', b"not JSON",
    )  # fmt: skip
    not_utf8 = (
        payload[:at] + b"\xff" + payload[at:], payload + b"\xc0\xaf", payload + b"\xed\xa0\x80",
    )  # fmt: skip
    text, code = draw(
        st.sampled_from(
            [(p, Code.MALFORMED) for p in malformed] + [(p, Code.ENCODING) for p in not_utf8]
        )
    )
    if code is Code.MALFORMED and not _is_utf8(text):
        code = Code.ENCODING  # cut within a character
    return BrokenRecord(text, "", code)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


# --------------------------------------------------------------------------- bytes and cuts

_PIECES = (b"\n", b"\r\n", b"\r", b" ", b"\t", b"a", b"bc", b'{"n":1}', reference.BOM)

byte_lines: Strategy[bytes] = st.lists(
    st.sampled_from(_PIECES) | st.binary(max_size=4), max_size=20
).map(b"".join)
"""Files of lines, with all that can be odd about their ends."""


@st.composite
def cuts(draw: st.DrawFn, size: int, most: int = 5) -> list[int]:
    """Bounds of consecutive parts of something ``size`` long: ascending, from 0 to ``size``."""
    inner = draw(st.lists(st.integers(0, size), max_size=most, unique=True))
    return sorted({0, *inner, size})


def chunks(sequence: Sequence[Any], bounds: Sequence[int]) -> list[Sequence[Any]]:
    """The parts between bounds."""
    return [sequence[a:b] for a, b in itertools.pairwise(bounds)]
