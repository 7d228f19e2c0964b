"""What single repairs make of single values.

Each takes a value and gives another, or the very same where there is nothing that it could do. Text
is ``str``, a number ``int`` or :class:`~..json.columns.Number`. A value that is a *cell* is text
whatever its field is, as in CSV, and may say a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from ..contract import Field
from ..json.columns import Number
from .spec import RepairError

Repaired = Callable[[Any, bool], Any]
"""From a value, and whether it is a cell, to what is made of it."""

_NUMBER = re.compile(r"[+]?(-?(?:0|[1-9][0-9]*)(?:[.][0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_MOST_DIGITS = 80
"""Of whole numbers that are made of such as ``1e30``: no field holds more."""


def trim(value: Any, is_cell: bool) -> Any:
    """Text without white space around it."""
    return _or_same(value.strip(), value) if _is_text(value) else value


def cast_to(field: Field) -> Repaired:
    """Values as those of a field's own type, where nothing is lost.

    Raises:
        RepairError: values of the type cannot be cast.
    """
    cast = _CASTS.get(field.type)
    if cast is None:
        said = f"{field.type} values cannot be cast; casts are to {', '.join(_CASTS)}"
        raise RepairError("cast", said)
    return lambda value, is_cell: cast(value)


def _to_number(value: Any) -> Any:
    matched = _NUMBER.fullmatch(value) if _is_text(value) else None
    return Number(matched[1]) if matched else value


def _to_integer(value: Any) -> Any:
    number = _to_number(value)
    if not isinstance(number, Number):
        return value
    exact = Decimal(number)
    if exact.adjusted() > _MOST_DIGITS or exact != exact.to_integral_value():
        return value
    return int(exact)


def _to_boolean(value: Any) -> Any:
    words = {"true": True, "false": False}
    return words.get(value.lower(), value) if _is_text(value) else value


def _to_string(value: Any) -> Any:
    is_scalar = isinstance(value, Number | bool | int)
    return text_of(value) if is_scalar else value


_CASTS: dict[str, Callable[[Any], Any]] = {
    "integer": _to_integer,
    "number": _to_number,
    "decimal": _to_number,
    "boolean": _to_boolean,
    "string": _to_string,
}


def mapped(targets: Mapping[str, Any]) -> Repaired:
    """Values for texts; null is no text."""
    return lambda value, is_cell: (
        value
        if value is None or isinstance(value, dict | list)
        else targets.get(text_of(value), value)
    )


def text_of(value: Any) -> str:
    """The text of a scalar, as JSON and CSV write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def exact_number(value: Any, is_cell: bool) -> Decimal | None:
    """A number with all its digits; of a cell, the number that its text says."""
    if isinstance(value, str) and (is_cell or isinstance(value, Number)):
        matched = _NUMBER.fullmatch(value)
        return Decimal(matched[1]) if matched else None
    return Decimal(value) if type(value) is int else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def _or_same(new: Any, old: Any) -> Any:
    return old if new == old else new
