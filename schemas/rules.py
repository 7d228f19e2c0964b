"""Validity rules, judged a column at a time.

:func:`find_violations` is the one judge of rules, for records of any format: decoders hand it
what they parsed, and call it again for the well-typed part of a record that broke elsewhere. A
good batch costs a few vectorised comparisons; Python touches only what is wrong.
"""

from __future__ import annotations

import decimal
import functools
import ipaddress
import operator
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrow import arrow_type
from .characters import keeps_surely
from .codes import Code
from .contract import Field, Rule
from .integers import integer_range
from .paths import Paths, list_lengths

RESTRICTED = frozenset({"restricted", "confidential", "sensitive", "pii", "secret"})
"""Classifications whose values are not repeated in messages."""

_SHOWN = 80  # characters of a value that a message repeats


class Violation(NamedTuple):
    """A rule broken by one record: its row in the batch, dotted path, code, message."""

    row: int
    field: str
    code: Code
    message: str


def is_restricted(field: Field) -> bool:
    """Whether a field's own values may not be repeated."""
    return (field.classification or "").lower() in RESTRICTED


@functools.lru_cache(maxsize=4096)
def holds_restricted(field: Field) -> bool:
    """Whether a field's values, or some within them, may not be repeated."""
    items = (field.items,) if field.items else ()
    return is_restricted(field) or has_restricted((*field.fields, *items))


def has_restricted(fields: Iterable[Field]) -> bool:
    """Whether values of one of the fields, or some within them, may not be repeated."""
    return any(map(holds_restricted, fields))


def classification_made_of(fields: Iterable[Field]) -> str | None:
    """The classification of what is made of fields, nobody knows of which: where any is classified,
    so is that."""
    return "restricted" if has_restricted(fields) else None


def shown(value: Any, field: Field) -> str:
    """A value as a message repeats it: short, and not at all where some of it is personal."""
    if holds_restricted(field):
        return "a value not shown"
    text = str(value)
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return repr(text) if type(value) is str else text  # the text of a number has its own class


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
        _visit(column, field, Paths.of(field.name, rows), found)
    return found


def _visit(array: pa.Array, field: Field, at: Paths, found: list[Violation]) -> None:
    if field.required and array.null_count:
        for i in _indices(array.is_null()):
            message = "is required, but missing or null"
            found.append(Violation(at.row(i), at.path(i), Code.REQUIRED, message))
    for rule in field.rules:
        judge = _judge(rule, field)
        bad = judge.bad(array)
        if bad is not None:
            for i in _indices(bad):
                message = f"expected {judge.expected}, got {shown(judge.seen(array[i]), field)}"
                found.append(Violation(at.row(i), at.path(i), judge.code, message))
    if field.type == "object":
        _visit_children(array, field, at, found)
    elif field.type == "array" and field.items is not None:
        _visit_items(array, field.items, at, found)


def _visit_children(array: pa.Array, field: Field, at: Paths, found: list[Violation]) -> None:
    if array.null_count:
        at = at.take(np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)))
        array = array.drop_null()
    for child, child_field in zip(array.flatten(), field.fields, strict=True):
        _visit(child, child_field, at.child(child_field.name), found)


def _visit_items(array: pa.Array, items: Field, at: Paths, found: list[Violation]) -> None:
    if _has_rules(items):
        _visit(array.flatten(), items, at.items(list_lengths(array)), found)


@functools.lru_cache(maxsize=4096)
def _has_rules(field: Field) -> bool:
    nested = (*field.fields, *((field.items,) if field.items else ()))
    return field.required or bool(field.rules) or any(_has_rules(f) for f in nested)


def _indices(mask: pa.Array | pa.ChunkedArray) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


class _Judge(NamedTuple):
    """A compiled rule: its code, what it expects, the judgement, what a message shows of a value.

    ``breaks`` gives a boolean array, null or false where the value is fine. ``surely_kept`` is a
    quicker look, which may say of a whole column that it is.
    """

    code: Code
    expected: str
    breaks: Callable[[pa.Array], pa.Array]
    seen: Callable[[pa.Scalar], Any] = lambda scalar: scalar.as_py()
    surely_kept: Callable[[pa.Array], bool] | None = None

    def bad(self, array: pa.Array) -> pa.Array | None:
        """The mask of elements that break the rule, or ``None`` if none does."""
        if self.surely_kept and self.surely_kept(array):
            return None
        mask = self.breaks(array)
        return mask.fill_null(False) if pc.any(mask).as_py() else None


@functools.lru_cache(maxsize=4096)
def _judge(rule: Rule, field: Field) -> _Judge:
    return _JUDGES[rule.kind](rule.value, field)


def _bound(compare: str, words: str) -> Callable[[Any, Field], _Judge]:
    """``compare`` is the comparison that breaks the rule, by its name in ``operator``."""
    is_broken = getattr(operator, compare)
    kernel = _KERNELS[compare]

    def make(value: Any, field: Field) -> _Judge:
        limit = _scalar(value, field)
        if limit is None:
            return _Judge(
                Code.RANGE, f"{words} {value}", lambda a: _each(a, lambda v: is_broken(v, value))
            )
        return _Judge(Code.RANGE, f"{words} {value}", lambda a: kernel(a, limit))

    return make


_KERNELS = {"lt": pc.less, "le": pc.less_equal, "gt": pc.greater, "ge": pc.greater_equal}


def _scalar(value: Any, field: Field) -> pa.Scalar | None:
    """A rule's value as one of the field's own type, or ``None`` if that cannot hold it.

    Arrow would else bring column and value to a type that both fit, and has none for uint64 and
    int64, or for decimals of many digits.
    """
    if field.type == "integer" and not isinstance(value, int):
        return None  # Arrow would cut the fraction off
    try:
        return pa.scalar(value, arrow_type(field))
    except (pa.ArrowException, OverflowError):
        return None


def _size(
    code: Code, compare: Callable[..., pa.Array], words: str, unit: str
) -> Callable[[Any, Field], _Judge]:
    def make(value: Any, field: Field) -> _Judge:
        measure = _SIZES[field.type, unit]
        return _Judge(
            code,
            f"{words} {value} {unit}",
            lambda a: compare(measure(a), value),
            lambda scalar: measure(pa.array([scalar.as_py()], scalar.type))[0].as_py(),
        )

    return make


_raw_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _json_sizes(begin: str, decode: Callable[[str], Any]) -> Callable[[pa.Array], pa.Array]:
    """Sizes of what begins so, null for other JSON.

    What is inside stays text: it may hold numbers that Python cannot.
    """

    def size(text: str | None) -> int | None:
        return None if text is None or text.lstrip()[0] != begin else len(decode(text))

    return lambda texts: pa.array(list(map(size, texts.to_pylist())), pa.int64())


def _properties(objects: pa.Array) -> pa.Array:
    present = sum(
        c.is_valid().to_numpy(zero_copy_only=False).astype(int) for c in objects.flatten()
    )
    return pa.array(present, mask=objects.is_null().to_numpy(zero_copy_only=False))


_SIZES: dict[tuple[str, str], Callable[[pa.Array], pa.Array]] = {
    ("string", "characters"): pc.utf8_length,
    ("array", "items"): pc.list_value_length,
    ("object", "properties"): _properties,
    ("json", "items"): _json_sizes("[", _raw_items),
    ("json", "properties"): _json_sizes("{", _raw_properties),
}


_EXACT = decimal.Context(prec=1000)  # digits of the longest quotient of value and step


def _multiple_of(value: Any, field: Field) -> _Judge:
    step = Decimal(str(value))

    def exact(a: pa.Array) -> pa.Array:
        # of a float its shortest text counts, as it does for whoever wrote it
        text = np.float32 if a.type == pa.float32() else lambda v: v
        return _each(a, lambda v: _EXACT.remainder(Decimal(str(text(v))), step) != 0)

    def whole(a: pa.Array) -> pa.Array:
        divisor = pa.scalar(value, a.type)
        return pc.not_equal(pc.multiply(pc.divide(a, divisor), divisor), a)

    # step = units / 10**places
    places = max(-int(step.as_tuple().exponent), 0)
    units = float(step.scaleb(places, _EXACT))

    def nearest(a: pa.Array) -> pa.Array:
        # 0.3 is a multiple of 0.1 although no double is exactly either: it is the double nearest
        # to one. A quotient of two exact doubles is rounded correctly. Beyond so many digits as
        # floats always keep, the nearest may be near to other texts too.
        count = pc.round(pc.divide(a.cast(pa.float64()), float(value)))
        total = pc.multiply(count, units)
        breaks = pc.not_equal(pc.divide(total, 10.0**places).cast(a.type), a)
        kept = 1e6 if a.type == pa.float32() else 1e15
        unsure = pc.invert(pc.less(pc.abs(total), kept))
        return pc.if_else(unsure, exact(a), breaks) if pc.any(unsure).as_py() else breaks

    breaks = exact
    if field.type == "number" and places <= 22:  # 10**22 is the last power that a double holds
        breaks = nearest
    elif field.type == "integer" and isinstance(value, int):
        breaks = whole if 0 < value <= integer_range(field.storage)[1] else exact
    return _Judge(Code.MULTIPLE_OF, f"a multiple of {value}", breaks)


def _pattern(value: str, field: Field) -> _Judge:
    expected = f"a match of {value}"
    return _Judge(Code.PATTERN, expected, _matcher(value), surely_kept=keeps_surely(value))


def _matcher(pattern: str) -> Callable[[pa.Array], pa.Array]:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid:  # look-around and back-references, which RE2 does not have
        search = re.compile(_dollar_is_end(pattern), re.ASCII).search
        return lambda a: _each(a, lambda v: search(v) is None)
    return lambda a: pc.invert(pc.match_substring_regex(a, pattern))


_DOLLAR = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(\$)", re.DOTALL)


def _dollar_is_end(pattern: str) -> str:
    """The pattern for Python, whose ``$`` would match before a last line feed too."""
    if re.compile(pattern).flags & re.MULTILINE:
        return pattern
    return _DOLLAR.sub(lambda found: r"\Z" if found[1] else found[0], pattern)


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
        allowed = pa.array([v for v in values if _scalar(v, field) is not None], a.type)
        return pc.and_(pc.invert(among(a, allowed)), a.is_valid())

    return _Judge(Code.ENUM, expected, breaks)


def among(values: pa.Array, listed: pa.Array) -> pa.Array:
    """Which values are listed, both of one type. Arrow looks them up by their bits, of which zero
    has two."""
    if pa.types.is_floating(values.type):
        values, listed = pc.add(values, 0.0), pc.add(listed, 0.0)
    return pc.is_in(values, value_set=listed)


DIFFERING = "items that differ from each other"
"""What a message says that ``uniqueItems`` expects."""


def _unique_items(value: bool, field: Field) -> _Judge:
    def repeats(items: Any) -> bool:
        if isinstance(items, str):
            items = _raw_items(items) if items.lstrip()[0] == "[" else []
        return len(set(map(_canonical, items))) < len(items)

    def breaks(a: pa.Array) -> pa.Array:
        verdicts = [bool(value) and v is not None and repeats(v) for v in a.to_pylist()]
        return pa.array(verdicts, pa.bool_())

    return _Judge(Code.ITEMS, DIFFERING, breaks)


_in_order = msgspec.json.Encoder(order="deterministic", enc_hook=str).encode


def _canonical(item: Any) -> bytes:
    """Equal bytes for equal items."""
    if not isinstance(item, msgspec.Raw):
        return _in_order(item)
    try:
        return _in_order(msgspec.json.decode(item))
    except msgspec.ValidationError:  # a number that Python cannot hold
        return bytes(item)


_JUDGES: dict[str, Callable[[Any, Field], _Judge]] = {
    "minimum": _bound("lt", "at least"),
    "maximum": _bound("gt", "at most"),
    "exclusiveMinimum": _bound("le", "more than"),
    "exclusiveMaximum": _bound("ge", "less than"),
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
