"""Validity rules, judged a column at a time.

:func:`find_violations` is the one judge of rules, for records of any format: decoders hand it
what they parsed, and call it again for the well-typed part of a record that broke elsewhere. A
good batch costs a few vectorised comparisons; Python touches only what is wrong.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .codes import Code
from .contract import Field, Rule

RESTRICTED = frozenset({"restricted", "confidential", "sensitive", "pii", "secret"})
"""Classifications whose values are not repeated in messages."""

_SHOWN = 80  # characters of a value that a message repeats


class Violation(NamedTuple):
    """A rule broken by one record: its row in the batch, dotted path, code, message."""

    row: int
    field: str
    code: Code
    message: str


def shown(value: Any, field: Field) -> str:
    """A value as a message repeats it: short, and not at all where it is personal."""
    if (field.classification or "").lower() in RESTRICTED:
        return "a value not shown"
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return repr(text) if isinstance(value, str) else text


def find_violations(
    columns: Iterable[pa.Array], fields: Iterable[Field], rows: np.ndarray | None = None
) -> list[Violation]:
    """Every rule that every row breaks, in the order of fields, then of their rules.

    Args:
        columns: one array a field, of the type that :func:`.arrow.arrow_type` gives.
        rows: the row number of each element; by default its index.
    """
    found: list[Violation] = []
    for column, field in zip(columns, fields, strict=True):
        _visit(column, field, _Place(rows, lambda _, name=field.name: name), found)
    return found


class _Place(NamedTuple):
    """Where the elements of a (nested) array belong: row numbers and paths by element."""

    rows: np.ndarray | None
    path: Callable[[int], str]

    def row(self, element: int) -> int:
        return element if self.rows is None else int(self.rows[element])

    def take(self, elements: np.ndarray) -> _Place:
        rows = elements if self.rows is None else self.rows[elements]
        return _Place(rows, lambda i: self.path(int(elements[i])))


def _visit(array: pa.Array, field: Field, place: _Place, found: list[Violation]) -> None:
    if field.required and array.null_count:
        for i in _indices(array.is_null()):
            message = "is required, but missing or null"
            found.append(Violation(place.row(i), place.path(i), Code.REQUIRED, message))
    for rule in field.rules:
        judge = _judge(rule, field)
        bad = judge.bad(array)
        if bad is not None:
            for i in _indices(bad):
                message = f"expected {judge.expected}, got {shown(judge.seen(array[i]), field)}"
                found.append(Violation(place.row(i), place.path(i), judge.code, message))
    if field.type == "object":
        _visit_children(array, field, place, found)
    elif field.type == "array" and field.items is not None:
        _visit_items(array, field.items, place, found)


def _visit_children(array: pa.Array, field: Field, place: _Place, found: list[Violation]) -> None:
    if array.null_count:
        place = place.take(np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)))
        array = array.drop_null()
    for child, child_field in zip(array.flatten(), field.fields, strict=True):
        at = _Place(place.rows, lambda i, n=child_field.name, p=place.path: f"{p(i)}.{n}")
        _visit(child, child_field, at, found)


def _visit_items(array: pa.Array, items: Field, place: _Place, found: list[Violation]) -> None:
    if not _has_rules(items):
        return
    parents = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
    rows = parents if place.rows is None else place.rows[parents]

    def path(i: int) -> str:
        first = int(np.searchsorted(parents, parents[i]))
        return f"{place.path(int(parents[i]))}[{i - first}]"

    _visit(array.flatten(), items, _Place(rows, path), found)


@functools.lru_cache(maxsize=4096)
def _has_rules(field: Field) -> bool:
    nested = (*field.fields, *((field.items,) if field.items else ()))
    return field.required or bool(field.rules) or any(_has_rules(f) for f in nested)


def _indices(mask: pa.Array | pa.ChunkedArray) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


class _Judge(NamedTuple):
    """A compiled rule: its code, what it expects, the judgement, what a message shows of a value.

    ``breaks`` gives a boolean array, null or false where the value is fine.
    """

    code: Code
    expected: str
    breaks: Callable[[pa.Array], pa.Array]
    seen: Callable[[pa.Scalar], Any] = lambda scalar: scalar.as_py()

    def bad(self, array: pa.Array) -> pa.Array | None:
        """The mask of elements that break the rule, or ``None`` if none does."""
        mask = self.breaks(array)
        return mask.fill_null(False) if pc.any(mask).as_py() else None


@functools.lru_cache(maxsize=4096)
def _judge(rule: Rule, field: Field) -> _Judge:
    return _JUDGES[rule.kind](rule.value, field)


def _bound(compare: Callable[..., pa.Array], words: str) -> Callable[[Any, Field], _Judge]:
    def make(value: Any, field: Field) -> _Judge:
        scalar = pa.scalar(value)
        if field.type == "timestamp":
            scalar = pa.scalar(value, pa.timestamp("us", "UTC"))
        return _Judge(Code.RANGE, f"{words} {value}", lambda a: compare(a, scalar))

    return make


def _size(
    code: Code, compare: Callable[..., pa.Array], words: str, unit: str
) -> Callable[[Any, Field], _Judge]:
    def make(value: Any, field: Field) -> _Judge:
        measure = _SIZES[field.type]
        return _Judge(
            code,
            f"{words} {value} {unit}",
            lambda a: compare(measure(a), value),
            lambda scalar: f"{measure(pa.array([scalar.as_py()], scalar.type))[0].as_py()}",
        )

    return make


def _json_sizes(texts: pa.Array) -> pa.Array:
    values = [None if t is None else msgspec.json.decode(t) for t in texts.to_pylist()]
    return pa.array([len(v) if isinstance(v, list | dict) else None for v in values], pa.int64())


def _properties(objects: pa.Array) -> pa.Array:
    present = sum(
        c.is_valid().to_numpy(zero_copy_only=False).astype(int) for c in objects.flatten()
    )
    return pa.array(present, mask=objects.is_null().to_numpy(zero_copy_only=False))


_SIZES: dict[str, Callable[[pa.Array], pa.Array]] = {
    "string": pc.utf8_length,
    "array": pc.list_value_length,
    "object": _properties,
    "json": _json_sizes,
}


def _multiple_of(value: Any, field: Field) -> _Judge:
    def exact(a: pa.Array) -> pa.Array:
        step = Decimal(str(value))
        return _each(a, lambda v: Decimal(v) % step != 0)

    def whole(a: pa.Array) -> pa.Array:
        step = pa.scalar(value, a.type)
        return pc.not_equal(pc.multiply(pc.divide(a, step), step), a)

    def close(a: pa.Array) -> pa.Array:
        # 0.3 is a multiple of 0.1 although no double is exactly either
        quotient = pc.divide(a.cast(pa.float64()), float(value))
        off = pc.abs(pc.subtract(quotient, pc.round(quotient)))
        return pc.greater(off, pc.multiply(1e-9, pc.max_element_wise(pc.abs(quotient), 1.0)))

    if field.type == "number":
        return _Judge(Code.MULTIPLE_OF, f"a multiple of {value}", close)
    integral = field.type == "integer" and isinstance(value, int) and 0 < value < 128
    return _Judge(Code.MULTIPLE_OF, f"a multiple of {value}", whole if integral else exact)


def _pattern(value: str, field: Field) -> _Judge:
    return _Judge(Code.PATTERN, f"a match of {value}", _matcher(value))


def _matcher(pattern: str) -> Callable[[pa.Array], pa.Array]:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid:  # look-around and back-references, which RE2 does not have
        search = re.compile(pattern).search
        return lambda a: _each(a, lambda v: search(v) is None)
    return lambda a: pc.invert(pc.match_substring_regex(a, pattern))


def _each(array: pa.Array, breaks: Callable[[Any], bool]) -> pa.Array:
    """A judgement that Arrow has no kernel for, made once for each distinct value."""
    encoded = array.dictionary_encode()
    verdicts = pa.array([breaks(v) for v in encoded.dictionary.to_pylist()], pa.bool_())
    return verdicts.take(encoded.indices)


_HEX = "[0-9a-fA-F]"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS: dict[str, tuple[str, str]] = {
    "uuid": (
        "a UUID (RFC 9562)",
        f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
    ),
    "email": (
        "an e-mail address (the HTML standard's rule)",
        f"^[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:[.]{_LABEL})*$",
    ),
    "hostname": ("a host name (RFC 1123)", f"^{_LABEL}(?:[.]{_LABEL})*$"),
    "ipv4": ("an IPv4 address", f"^{_BYTE}(?:[.]{_BYTE}){{3}}$"),
    "uri": ("a URI (RFC 3986)", '^[A-Za-z][A-Za-z0-9+.-]*:[^\\s<>"{}|\\\\^`]*$'),
    "byte": (
        "base64 (RFC 4648)",
        "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    ),
}
"""String formats that one expression decides: what a message calls it, and the expression.
``ipv6`` is decided by :mod:`ipaddress`."""


def _format(value: str, field: Field) -> _Judge:
    if value == "ipv6":
        return _Judge(Code.FORMAT, "an IPv6 address", lambda a: _each(a, _is_no_ipv6))
    name, pattern = FORMATS[value]
    return _Judge(Code.FORMAT, name, _matcher(pattern))


def _is_no_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return True
    return False


def _enum(values: tuple[Any, ...], field: Field) -> _Judge:
    expected = "one of " + ", ".join(str(v) for v in values[:10])
    expected += "" if len(values) <= 10 else f" and {len(values) - 10} more"

    def breaks(a: pa.Array) -> pa.Array:
        allowed = pa.array(values, a.type)
        return pc.and_(pc.invert(pc.is_in(a, value_set=allowed)), a.is_valid())

    return _Judge(Code.ENUM, expected, breaks)


def _unique_items(value: bool, field: Field) -> _Judge:
    encode = msgspec.json.Encoder(order="deterministic", enc_hook=str).encode

    def repeats(items: Any) -> bool:
        if isinstance(items, str):
            items = msgspec.json.decode(items)
        return isinstance(items, list) and len({encode(i) for i in items}) < len(items)

    def breaks(a: pa.Array) -> pa.Array:
        return pa.array([bool(value) and v is not None and repeats(v) for v in a.to_pylist()])

    return _Judge(Code.ITEMS, "items that differ from each other", breaks)


_JUDGES: dict[str, Callable[[Any, Field], _Judge]] = {
    "minimum": _bound(pc.less, "at least"),
    "maximum": _bound(pc.greater, "at most"),
    "exclusiveMinimum": _bound(pc.less_equal, "more than"),
    "exclusiveMaximum": _bound(pc.greater_equal, "less than"),
    "multipleOf": _multiple_of,
    "minLength": _size(Code.LENGTH, pc.less, "at least", "characters"),
    "maxLength": _size(Code.LENGTH, pc.greater, "at most", "characters"),
    "minItems": _size(Code.ITEMS, pc.less, "at least", "items"),
    "maxItems": _size(Code.ITEMS, pc.greater, "at most", "items"),
    "minProperties": _size(Code.ITEMS, pc.less, "at least", "properties"),
    "maxProperties": _size(Code.ITEMS, pc.greater, "at most", "properties"),
    "uniqueItems": _unique_items,
    "pattern": _pattern,
    "format": _format,
    "enum": _enum,
}
KINDS = frozenset(_JUDGES)
"""Every kind of rule that can be enforced."""
