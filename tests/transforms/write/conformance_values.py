"""The table of values that every destination is tested with: each must come back as it went."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from millstream.schemas.contract import Field
from millstream.schemas.table import Table


class Case(NamedTuple):
    """A column, and values for it. A null is always among them."""

    field: Field
    values: tuple[Any, ...]


def _text(name: str) -> Field:
    return Field(name, "string")


def _of(name: str, *fields: Field) -> Field:
    return Field(name, "object", fields=fields)


def _list(name: str, items: Field) -> Field:
    return Field(name, "array", items=items)


def _digits(whole: int, scale: int) -> tuple[Decimal, ...]:
    """The extremes of a decimal, its least step, and nothing."""
    most = (9,) * (whole + scale)
    return (
        Decimal((0, most, -scale)),
        Decimal((1, most, -scale)),
        Decimal((0, (1,), -scale)),
        Decimal((1, (1,), -scale)),
        Decimal((0, (0,), -scale)),
    )


def _integers() -> dict[str, Case]:
    found = {}
    for bits in (8, 16, 32, 64):
        for name, least, most in (
            (f"int{bits}", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
            (f"uint{bits}", 0, 2**bits - 1),
        ):
            field = Field(name, "integer", storage=name)
            found[name] = Case(field, (least, most, most - 1, 0, 1))
    return found


def _moment(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)  # type: ignore[arg-type]


_TEXTS = (
    "", " ", "plain", "Ünïcødé ✓ 漢字 😀", "e\u0301", "\ufeff\u200b", "\U0010ffff", "x" * 10_000,
    "quote ' \" `", "back\\slash \\N \\x00", "NULL", "null", "tab\tline\nreturn\rend", "a,b;c|d",
    '{"not": "json"}', "%s {} $1 ; DROP TABLE t; --", "\x01\x1f\x7f",
)  # fmt: skip
_JSON = (
    "{}", "[]", '""', '"text"', "0", "-1.5", "true", '[null, {"a": [1, 2.5, "ü", {"b": false}]}]',
    '{"a": null, "b": {"c": "\\"\\n"}}',
)  # fmt: skip
_EVERY_SCALAR = _of(
    "objects",
    _text("text"),
    Field("whole", "integer"),
    Field("unsigned", "integer", storage="uint64"),
    Field("float", "number", storage="float64"),
    Field("price", "decimal", precision=10, scale=2),
    Field("flag", "boolean"),
    Field("day", "date"),
    Field("at", "timestamp"),
    Field("clock", "time"),
)
_DEEP = _of("deep", _of("a", _of("b", Field("c", "integer")), _list("l", _of("item", _text("t")))))

CASES: Mapping[str, Case] = {
    "text": Case(_text("text"), _TEXTS),
    "text_nul": Case(_text("text_nul"), ("\0", "a\0b")),
    **_integers(),
    "float64": Case(
        Field("float64", "number", storage="float64"),
        (0.0, -0.0, 0.1, -1.5, 1e300, 5e-324, 1.7976931348623157e308, 1 / 3, 2.0**53 + 2),
    ),
    "float64_beyond": Case(
        Field("float64_beyond", "number", storage="float64"), (math.nan, math.inf, -math.inf)
    ),
    "float32": Case(
        Field("float32", "number", storage="float32"),
        (0.0, -0.0, 1.5, 0.10000000149011612, 3.4028234663852886e38, 1.401298464324817e-45),
    ),
    "float32_beyond": Case(
        Field("float32_beyond", "number", storage="float32"), (math.nan, math.inf, -math.inf)
    ),
    "decimal_10_2": Case(Field("decimal_10_2", "decimal", precision=10, scale=2), _digits(8, 2)),
    "decimal_38_0": Case(Field("decimal_38_0", "decimal", precision=38), _digits(38, 0)),
    "decimal_38_9": Case(Field("decimal_38_9", "decimal", precision=38, scale=9), _digits(29, 9)),
    "decimal_38_38": Case(
        Field("decimal_38_38", "decimal", precision=38, scale=38), _digits(0, 38)
    ),
    "decimal_76_10": Case(
        Field("decimal_76_10", "decimal", precision=76, scale=10), _digits(66, 10)
    ),
    "boolean": Case(Field("boolean", "boolean"), (True, False)),
    "date": Case(
        Field("date", "date"),
        (
            dt.date(1, 1, 1),
            dt.date(1582, 10, 10),
            dt.date(1969, 12, 31),
            dt.date(1970, 1, 1),
            dt.date(2024, 2, 29),
            dt.date(9999, 12, 31),
        ),
    ),
    "time": Case(
        Field("time", "time"),
        (dt.time(0), dt.time(12, 30), dt.time(0, 0, 0, 1), dt.time(23, 59, 59, 999_999)),
    ),
    "timestamp": Case(
        Field("timestamp", "timestamp"),
        (
            _moment(1970, 1, 1),
            _moment(1969, 12, 31, 23, 59, 59, 999_999),
            _moment(2026, 11, 29, 12, 0, 0, 1),
            _moment(2024, 2, 29),
            _moment(1900, 1, 1, 0, 0, 1),
        ),
    ),
    "timestamp_first": Case(Field("timestamp_first", "timestamp"), (_moment(1, 1, 1),)),
    "timestamp_last": Case(
        Field("timestamp_last", "timestamp"), (_moment(9999, 12, 31, 23, 59, 59, 999_999),)
    ),
    "json": Case(Field("json", "json"), _JSON),
    "json_null": Case(Field("json_null", "json"), ("null",)),
    "json_nul": Case(Field("json_nul", "json"), ('"a\\u0000b"', '{"\\u0000": 1}')),
    "json_digits": Case(
        Field("json_digits", "json"), ("12345678901234567890123", "0.12345678901234567890123")
    ),
    "binary": Case(Field("binary", "binary"), (b"", b"\0", b"text", bytes(range(256)))),
    "objects": Case(
        _EVERY_SCALAR,
        (
            dict.fromkeys(f.name for f in _EVERY_SCALAR.fields),
            {
                "text": "Ü ' \" \\",
                "whole": -(2**63),
                "unsigned": 2**64 - 1,
                "float": 1 / 3,
                "price": Decimal("-99999999.99"),
                "flag": False,
                "day": dt.date(1, 1, 1),
                "at": _moment(2026, 11, 29, 12, 0, 0, 1),
                "clock": dt.time(23, 59, 59, 999_999),
            },
        ),
    ),
    "object_text_nul": Case(_of("object_text_nul", _text("t")), ({"t": "a\0b"},)),
    "object_beyond": Case(
        _of("object_beyond", Field("n", "number", storage="float64")),
        ({"n": math.nan}, {"n": math.inf}),
    ),
    "deep": Case(
        _DEEP,
        (
            {"a": None},
            {"a": {"b": None, "l": [{"t": "full"}]}},
            {"a": {"b": {"c": None}, "l": [{"t": None}, {"t": ""}]}},
            {"a": {"b": {"c": 7}, "l": []}},
        ),
    ),
    "array": Case(_list("array", _text("item")), ([], [""], ["a", "", "ü ' \" \\ , { } NULL"])),
    "array_null": Case(_list("array_null", _text("item")), ([None], ["a", None, "b"])),
    "array_numbers": Case(
        _list("array_numbers", Field("item", "decimal", precision=38, scale=9)),
        ([Decimal("0E-9")], [*_digits(29, 9)]),
    ),
    "array_arrays": Case(
        _list("array_arrays", _list("item", Field("item", "integer"))), ([[]], [[1], [], [2, 3]])
    ),
    "array_arrays_null": Case(
        _list("array_arrays_null", _list("item", Field("item", "integer"))),
        ([None], [[1], None], [[None]]),
    ),
    "array_objects": Case(
        _list("array_objects", _of("item", _text("t"), Field("n", "integer"))),
        ([{"t": "a", "n": 1}, {"t": None, "n": None}], []),
    ),
    "array_objects_null": Case(
        _list("array_objects_null", _of("item", _text("t"))), ([None], [{"t": "a"}, None])
    ),
    "name_keyword": Case(_text("select"), ("x",)),
    "name_upper": Case(_text("Upper"), ("x",)),
    "name_space": Case(_text("two words"), ("x",)),
    "name_quote": Case(_text("a \"b\" 'c' `d`"), ("x",)),
    "name_dot": Case(_text("a.b"), ("x",)),
    "name_statement": Case(_text("x; DROP TABLE t; --"), ("x",)),
    "name_unicode": Case(_text("größe_漢"), ("x",)),
}
"""Case → a column and its values; destinations are excused by the name of a case."""


def table_of(*names: str) -> Table:
    """A table with a column for each case, and a number for each row."""
    number = Field("n", "integer", required=True)
    return Table((number, *(CASES[name].field for name in names)), has_identity=True)


def rows_of(*names: str) -> list[dict[str, Any]]:
    """Rows that hold the values of the cases side by side; the last is all null."""
    most = max((len(CASES[name].values) for name in names), default=0)
    found = []
    for n in range(most + 1):
        row: dict[str, Any] = {"n": n}
        for name in names:
            field, values = CASES[name]
            row[field.name] = values[n] if n < len(values) else None
        found.append(row)
    return found
