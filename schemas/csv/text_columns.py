"""Columns of text to the contract's types, strictly: for formats whose cells are all text.

The rules, for a text that is not null; nothing is trimmed:

- ``integer``: ``^[+-]?[0-9]+$``, within the range of its storage.
- ``number`` and ``decimal``: digits with an optional sign, fraction and exponent; ``.5`` and ``5.``
  too. No ``NaN``, no infinity, no hexadecimal digits. A decimal must be exact.
- ``boolean``: ``true`` or ``false``, in any case.
- ``date``, ``time``, ``timestamp``: as :mod:`.temporal` has it.
- ``object``, ``array``, ``json``: JSON, as
  :class:`~millstream.schemas.json.decoder.JsonDecoder` takes it.

A column is converted as a whole where that is sure to be right. Otherwise those texts that are
plain still are, and Python looks at the others one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import UNKNOWN, arrow_type
from ..codes import Code
from ..contract import Contract, Field
from ..decoded import UnknownFields
from ..drift.facts import Found, renumbered
from ..integers import integer_range
from ..json.columns import Number, convert, exact_decimal
from ..json.decoder import JsonDecoder
from ..json.nesting import MAX_NESTING, is_too_deep
from ..rules import Violation, shown
from ..temporal import expected, parse_column

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_PLAIN_NUMBER = "^-?[0-9]{1,40}(?:[.][0-9]{1,40})?$"
"""Of these none is infinite."""


class Converted(NamedTuple):
    """A column of a field's type, null where the text was null or is not of it, and what is wrong.

    ``unknown`` holds, a row each, what nested JSON says that the contract does not name: a JSON
    object from path to value, or null. ``None`` where nobody asked for that, or nothing can be.
    ``noticed`` is the same, where that is only to be noticed.
    """

    column: pa.Array
    violations: list[Violation]
    unknown: pa.Array | None = None
    noticed: Found | None = None


Converter = Callable[[pa.Array], Converted]
"""From a string column to its values."""


def text_converter(field: Field, unknown: UnknownFields = "ignore") -> Converter:
    """How the texts of a field are converted.

    Args:
        unknown: what to do with fields in JSON cells that the contract does not name.
    """
    if field.type in ("object", "array", "json"):
        return _JsonCells(field, unknown)
    to_column = _CONVERTERS[field.type]
    return lambda texts: to_column(texts, field)


def _strings(texts: pa.Array, field: Field) -> Converted:
    return Converted(texts, [])


def _integers(texts: pa.Array, field: Field) -> Converted:
    to = arrow_type(field)
    if _made_of(texts, b"-0123456789"):  # Arrow would take 0x1F
        try:
            return Converted(texts.cast(to), [])
        except pa.ArrowInvalid:
            pass
    low, high = integer_range(field.storage)
    plain = f"^{'-?' if low else ''}[0-9]{{1,{len(str(high)) - 1}}}$"
    return _piecewise(texts, field, to, plain, _exact_integer)


def _numbers(texts: pa.Array, field: Field) -> Converted:
    found = _doubles(texts, field)
    column, misfits = convert(found.column, field)
    violations = [_violation(m.row, field, m.code, m.expected, m.value) for m in misfits]
    return Converted(column, [*found.violations, *violations])


def _doubles(texts: pa.Array, field: Field) -> Converted:
    to = pa.float64()
    if _made_of(texts, b"-0123456789.eE"):  # Arrow would take nan and inf
        try:
            column = texts.cast(to)
        except pa.ArrowInvalid:
            pass
        else:
            if not pc.any(pc.is_inf(column)).as_py():
                return Converted(column, [])
    return _piecewise(texts, field, to, _PLAIN_NUMBER, _exact_number)


def _decimals(texts: pa.Array, field: Field) -> Converted:
    whole = field.precision - field.scale
    digits = f"[0-9]{{1,{whole}}}" if whole else "0"
    fraction = f"(?:[.][0-9]{{1,{field.scale}}})?" if field.scale else ""
    plain = f"^-?{digits}{fraction}$"
    return _piecewise(texts, field, arrow_type(field), plain, _exact_decimal)


def _booleans(texts: pa.Array, field: Field) -> Converted:
    lower = pc.ascii_lower(texts)
    true = pc.equal(lower, "true")
    known = pc.or_(true, pc.equal(lower, "false"))
    if pc.all(known).as_py() is not False:  # nulls are skipped
        return Converted(true, [])
    wrong = np.flatnonzero(~known.fill_null(True).to_numpy(zero_copy_only=False)).tolist()
    expectation = "a boolean, true or false"
    violations = [_violation(i, field, Code.TYPE, expectation, texts[i].as_py()) for i in wrong]
    return Converted(pc.if_else(known, true, pa.scalar(None, pa.bool_())), violations)


def _temporals(texts: pa.Array, field: Field) -> Converted:
    column, refused = parse_column(texts, field)
    rows = [] if refused is None else refused.tolist()
    what = expected(field) if rows else ""
    return Converted(
        column, [_violation(i, field, Code.FORMAT, what, texts[i].as_py()) for i in rows]
    )


_CONVERTERS: dict[str, Callable[[pa.Array, Field], Converted]] = {
    "string": _strings,
    "integer": _integers,
    "number": _numbers,
    "decimal": _decimals,
    "boolean": _booleans,
    "date": _temporals,
    "time": _temporals,
    "timestamp": _temporals,
}


class _Wrong(NamedTuple):
    code: Code
    expected: str
    value: str


def _piecewise(
    texts: pa.Array,
    field: Field,
    to: pa.DataType,
    plain: str,
    exact: Callable[[str, Field], Any],
) -> Converted:
    """What matches ``plain`` is cast as a column, for the others ``exact`` gives value or fault."""
    is_plain = pc.match_substring_regex(texts, plain)
    if pc.all(is_plain).as_py() is not False:  # nulls are skipped
        return Converted(texts.cast(to), [])
    column = pc.if_else(is_plain, texts, pa.scalar(None, pa.string())).cast(to)
    others = pc.invert(is_plain).fill_null(False)
    violations, values = [], []
    rows = np.flatnonzero(others.to_numpy(zero_copy_only=False)).tolist()
    for row, text in zip(rows, texts.filter(others).to_pylist(), strict=True):
        value = exact(text, field)
        if type(value) is _Wrong:
            violations.append(_violation(row, field, *value))
            value = None
        values.append(value)
    return Converted(pc.replace_with_mask(column, others, pa.array(values, to)), violations)


def _exact_integer(text: str, field: Field) -> int | _Wrong:
    if not _INTEGER.fullmatch(text):
        return _Wrong(Code.TYPE, "an integer", text)
    low, high = integer_range(field.storage)
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) <= len(str(high)):  # of too many digits Python makes no integer
        value = -int(digits or 0) if text[0] == "-" else int(digits or 0)
        if low <= value <= high:
            return value
    return _Wrong(Code.RANGE, f"an integer from {low} to {high}", Number(text))


def _exact_number(text: str, field: Field) -> float | _Wrong:
    if not _NUMBER.fullmatch(text):
        return _Wrong(Code.TYPE, "a number", text)
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return _Wrong(Code.RANGE, "a number that a double can hold", Number(text))
    return value


def _exact_decimal(text: str, field: Field) -> Decimal | _Wrong:
    if not _NUMBER.fullmatch(text):
        return _Wrong(Code.TYPE, "a number", text)
    value = exact_decimal(text, field)
    if value is None:
        what = f"a decimal of {field.precision} digits, {field.scale} after the point"
        return _Wrong(Code.PRECISION, what, Number(text))
    return value


def _violation(row: int, field: Field, code: Code, expected: str, value: str) -> Violation:
    return Violation(row, field.name, code, f"expected {expected}, got {shown(value, field)}")


def _made_of(texts: pa.Array, characters: bytes) -> bool:
    """Whether the texts hold nothing but some ASCII characters."""
    data = texts.buffers()[2]
    if data is None or not len(texts):
        return True
    offsets = np.frombuffer(texts.buffers()[1], np.int32)
    first, last = int(offsets[texts.offset]), int(offsets[texts.offset + len(texts)])
    return not data.slice(first, last - first).to_pybytes().translate(None, characters)


_one_value = msgspec.json.Decoder(msgspec.Raw).decode
_NAMES = {"object": "an object", "array": "an array", "json": "a value"}


class _JsonCells:
    """Converts cells that hold JSON: each becomes a record of one field for the JSON decoder."""

    def __init__(self, field: Field, unknown: UnknownFields) -> None:
        self._field = field
        self._keeps_unknown = unknown == "keep"
        self._decoder = JsonDecoder(Contract("", "", "", (field,)), unknown)
        self._before = f"{{{msgspec.json.encode(field.name).decode()}:"

    def __call__(self, texts: pa.Array) -> Converted:
        fitting = [t is not None and self._is_for_decoder(t) for t in texts.to_pylist()]
        rows = np.flatnonzero(fitting)
        violations = self._no_json(texts, rows)
        whole = pc.binary_join_element_wise(self._before, texts.take(pa.array(rows)), "}", "")
        decoded = self._decoder.decode(whole.cast(pa.binary()))
        for v in decoded.violations:
            # what is wrong with the cell as a whole is wrong with the field
            place = v.field or self._field.name
            violations.append(v._replace(row=int(rows[v.row]), field=place))
        kept = rows if decoded.kept is None else rows[decoded.kept]
        column = _spread(decoded.records.column(0), kept, len(texts))
        if not self._keeps_unknown:
            noticed = decoded.noticed and renumbered(decoded.noticed, rows)
            return Converted(column, violations, noticed=noticed)
        unknown = _spread(decoded.records.column(UNKNOWN), kept, len(texts))
        return Converted(column, violations, unknown)

    def _is_for_decoder(self, text: str) -> bool:
        """Whether a text is one JSON value, which put into a record does not reach out of its
        place; or nested so deeply that the decoder must refuse it, as only it can say."""
        if len(text) > MAX_NESTING and is_too_deep(f"{self._before}{text}}}".encode()):
            return True
        try:
            _one_value(text)
        except Exception:  # whatever a decoder may say of any text
            return False
        return True

    def _no_json(self, texts: pa.Array, fitting: np.ndarray) -> list[Violation]:
        others = texts.is_valid().to_numpy(zero_copy_only=False).copy()
        others[fitting] = False
        what = f"{_NAMES[self._field.type]} as JSON"
        return [
            _violation(row, self._field, Code.TYPE, what, texts[row].as_py())
            for row in np.flatnonzero(others).tolist()
        ]


def _spread(values: pa.Array, rows: np.ndarray, size: int) -> pa.Array:
    """A column of ``size`` with the values at ``rows``, null elsewhere."""
    if len(rows) == size:
        return values
    places = np.full(size, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return values.take(pa.array(places, mask=places < 0))
