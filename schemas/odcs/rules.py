"""``logicalTypeOptions`` and ``enum`` of a property → rules of its field.

What cannot be judged record by record becomes a finding, never silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ..contract import Field, Rule
from ..problems import Place, did_you_mean, list_names, say
from ..temporal import rewrite_for
from .types import Draft
from .values import CONVERTERS, LOWER, UPPER, bound, multiple, zone

if TYPE_CHECKING:
    from open_data_contract_standard.model import EnumValue

_Reader = Callable[[Draft, str, Any, Place], None]
"""Reads one option into a draft: draft, the option's name, its value, its place."""

NOT_ENFORCED = "not enforced by the pipeline"


def read_options(draft: Draft, options: Mapping[str, Any] | None, place: Place) -> None:
    """Read ``logicalTypeOptions``.

    Raises:
        ContractError: an option that the logical type does not have, or a value it cannot have.
    """
    readers = OPTIONS.get(draft.logical, {})
    options = {name: value for name, value in (options or {}).items() if value is not None}
    for name in options:
        if name not in readers and readers:
            raise place[name].error(
                f"{draft.logical} has no option {say(name)}"
                f"{did_you_mean(name, readers) or f'; it has {list_names(readers)}'}"
            )
        if not readers:  # the standard lets these types have any
            place[name].find(f"no option of a {draft.logical}: {NOT_ENFORCED}")
    for name, read in readers.items():  # in the table's order, so that rules have one order
        if name in options:
            read(draft, name, options[name], place[name])


def read_enum(draft: Draft, entries: Sequence[EnumValue] | None, place: Place) -> None:
    """Read the valid values that ``enum`` lists (ODCS 3.2)."""
    if entries:
        values = [(entry.value, place[i]["value"]) for i, entry in enumerate(entries)]
        add_valid_values(draft, values, place)


def add_valid_values(draft: Draft, values: list[tuple[Any, Place]], place: Place) -> None:
    """Allow only the values listed. Null is none of them: requiredness judges it.

    Raises:
        ContractError: one is not of the field's type, or none is left.
    """
    convert = CONVERTERS.get(draft.type)
    if convert is None:
        place.find(f"valid values of type {draft.logical}: {NOT_ENFORCED}")
        return
    listed = [convert(draft, v, at) for v, at in values if v is not None]
    if None in listed:
        return  # it cannot be compared, which a finding says
    before = draft.rule("enum")
    allowed = tuple(dict.fromkeys(v for v in listed if before is None or v in before))
    if not allowed:
        raise place.error("these valid values leave none")
    draft.drop("enum")
    draft.add("enum", allowed)


def check_consistent(draft: Draft, place: Place) -> None:
    """Refuse rules that no value can keep.

    Raises:
        ContractError: a minimum above its maximum.
    """
    pairs = [
        *(("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")),
        *((low, high) for low in LOWER for high in UPPER),
    ]
    for low, high in pairs:
        least, most = draft.rule(low), draft.rule(high)
        if least is None or most is None:
            continue
        if least > most or (least == most and "exclusive" in low + high):
            raise place[low].error(f"{low} {least} and {high} {most} leave no value")


def _size(draft: Draft, name: str, value: Any, place: Place) -> None:
    if type(value) not in (int, float) or not 0 <= value < 2**63 or value % 1:
        raise place.error(f"expected a whole number from 0, found {say(value)}")
    if value or name.startswith("max"):  # at least 0 asks nothing
        draft.add(name, int(value))


def _flag(value: Any, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.error(f"expected true or false, found {say(value)}")
    return value


def _text(value: Any, place: Place) -> str:
    if not isinstance(value, str):
        raise place.error(f"expected a string, found {say(value)}; write it in quotes")
    return value


def _bound(draft: Draft, name: str, value: Any, place: Place) -> None:
    if isinstance(value, bool) and name.startswith("exclusive"):
        _draft_4_bound(draft, name, value, place)
    elif found := bound(draft, name, value, place):
        draft.add(*found)


def _draft_4_bound(draft: Draft, name: str, value: bool, place: Place) -> None:
    """``exclusiveMinimum: true`` beside ``minimum``, as ODCS 3.0 writes it."""
    kind = name.removeprefix("exclusive").lower()
    limit = place.beside(kind)
    if value and limit.value is None:
        place.find(f"asks nothing without a {kind}")
    elif value:
        draft.drop(kind)
        _bound(draft, name, limit.value, limit)


def _multiple_of(draft: Draft, name: str, value: Any, place: Place) -> None:
    draft.add(name, multiple(draft, value, place))


def add_pattern(draft: Draft, name: str, value: Any, place: Place) -> None:
    """A regular expression, searched for anywhere in the string, as ECMA-262 has it."""
    pattern = _text(value, place)
    try:
        pc.match_substring_regex(pa.array([""]), pattern)  # pyright: ignore
    except pa.ArrowInvalid as re2:
        try:
            re.compile(pattern)  # has look-around and back-references, which RE2 has not
        except (re.error, OverflowError, RecursionError):
            said = str(re2).removeprefix("Invalid regular expression: ")
            raise place.error(f"{say(pattern)} is no regular expression: {said}") from None
    draft.add("pattern", pattern)


_STRING_FORMATS = {
    "email": "email", "uuid": "uuid", "uri": "uri", "hostname": "hostname",
    "ipv4": "ipv4", "ipv6": "ipv6", "byte": "byte", "binary": "byte",
}  # fmt: skip


def _string_format(draft: Draft, name: str, value: Any, place: Place) -> None:
    known = _STRING_FORMATS.get(_text(value, place))
    if known:
        draft.add("format", known)
    else:
        place.find(f"format {value}: {NOT_ENFORCED}{did_you_mean(value, _STRING_FORMATS)}")


_INTEGER_FORMATS = {f"{s}{bits}": bits for s in "iu" for bits in (8, 16, 32, 64, 128)}
_NUMBER_FORMATS = {"f32": "float32", "f64": "float64"}


def _integer_format(draft: Draft, name: str, value: Any, place: Place) -> None:
    bits = _INTEGER_FORMATS[_one_of(_INTEGER_FORMATS, value, place)]
    if draft.type == "decimal":
        place.find(f"format {value} of a decimal: {NOT_ENFORCED}")
    elif bits <= 64:
        draft.storage = f"{'u' if value[0] == 'u' else ''}int{bits}"
    else:
        draft.type, draft.precision, draft.scale = "decimal", 38, 0
        place.find(f"{value} is held as decimal(38,0): integers of 39 digits are refused")
        if value[0] == "u":
            draft.add(*(bound(draft, "minimum", 0, place) or ()))


def _number_format(draft: Draft, name: str, value: Any, place: Place) -> None:
    storage = _NUMBER_FORMATS[_one_of(_NUMBER_FORMATS, value, place)]
    if draft.type == "decimal":
        place.find(f"format {value} of a decimal: {NOT_ENFORCED}")
    else:
        draft.storage = storage


def _one_of(names: Iterable[str], value: Any, place: Place) -> str:
    if not isinstance(value, str) or value not in names:
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        raise place.error(f"no format {say(value)}{hint or f'; expected {list_names(names)}'}")
    return value


def _default_zone(draft: Draft, name: str, value: Any, place: Place) -> None:
    found = zone(value, place)
    if draft.type == "timestamp":
        draft.zone = found
    else:
        place.find(f"a time of day is kept without a zone: {NOT_ENFORCED}")


def _timezone(draft: Draft, name: str, value: Any, place: Place) -> None:
    has_zone = _flag(value, place)
    if draft.type == "time" and has_zone:
        place.find(f"a time of day is kept without a zone: {NOT_ENFORCED}")
    elif draft.type == "timestamp" and not has_zone and draft.zone is None:
        draft.zone = "UTC"  # the standard's default
        place.find("no defaultTimezone: values without an offset are read as UTC")


def _temporal_format(draft: Draft, name: str, value: Any, place: Place) -> None:
    draft.format = _text(value, place)
    rewrite = rewrite_for(draft.type, draft.format)
    if rewrite is None:
        place.find(f"the format {draft.format} cannot be read: values must be ISO 8601")
    elif draft.type == "timestamp" and not rewrite[2] and draft.zone is None:
        place.find("the format has no offset and there is no defaultTimezone: values are UTC")


def _required_names(draft: Draft, name: str, value: Any, place: Place) -> None:
    if not isinstance(value, list):
        raise place.error(f"expected a list of property names, found {say(value)}")
    if draft.type == "json":
        place.find(f"an object without properties is not looked into: {NOT_ENFORCED}")
        return
    names = [f.name for f in draft.fields]
    for i, wanted in enumerate(value):
        if wanted not in names:
            hint = did_you_mean(wanted, names) if isinstance(wanted, str) else ""
            raise place[i].error(f"no property {say(wanted)}{hint}")
    draft.fields = tuple(replace(f, required=True) if f.name in value else f for f in draft.fields)


def _unique_items(draft: Draft, name: str, value: Any, place: Place) -> None:
    if _flag(value, place):
        draft.add(name, True)


def _advisory(draft: Draft, name: str, value: Any, place: Place) -> None:
    """Tells about the values, and asks nothing of them."""


VECTOR_ELEMENTS: dict[str, Field] = {
    "bfloat16": Field("item", "number", True, storage="float32"),
    "float16": Field("item", "number", True, storage="float32"),
    "float32": Field("item", "number", True, storage="float32"),
    "float64": Field("item", "number", True, storage="float64"),
    "int8": Field("item", "integer", True, storage="int8"),
    "uint8": Field("item", "integer", True, storage="uint8"),
    "binary": Field("item", "integer", True, (Rule("maximum", 1),), storage="uint8"),
}


def _dimensions(draft: Draft, name: str, value: Any, place: Place) -> None:
    _size(draft, "minItems", value, place)
    _size(draft, "maxItems", value, place)


def _element_type(draft: Draft, name: str, value: Any, place: Place) -> None:
    draft.items = VECTOR_ELEMENTS[_one_of(VECTOR_ELEMENTS, value, place)]


def _normalized(draft: Draft, name: str, value: Any, place: Place) -> None:
    if _flag(value, place):
        place.find(f"normalized: {NOT_ENFORCED}")


_BOUNDS: dict[str, _Reader] = dict.fromkeys((*LOWER, *UPPER), _bound)
_NUMERIC: dict[str, _Reader] = {**_BOUNDS, "multipleOf": _multiple_of}
_CLOCK: dict[str, _Reader] = {
    "defaultTimezone": _default_zone,
    "timezone": _timezone,
    "format": _temporal_format,
    **_BOUNDS,
}
OPTIONS: dict[str, dict[str, _Reader]] = {
    "string": {
        "minLength": _size,
        "maxLength": _size,
        "pattern": add_pattern,
        "format": _string_format,
    },
    "integer": {"format": _integer_format, **_NUMERIC},
    "number": {"format": _number_format, **_NUMERIC},
    "date": {"format": _temporal_format, **_BOUNDS},
    "timestamp": _CLOCK,
    "time": _CLOCK,
    "object": {
        "minProperties": _size,
        "maxProperties": _size,
        "required": _required_names,
    },
    "array": {"minItems": _size, "maxItems": _size, "uniqueItems": _unique_items},
    "vector": {
        "elementType": _element_type,
        "dimensions": _dimensions,
        "normalized": _normalized,
        "distanceMetric": _advisory,
        "embeddingModel": _advisory,
        "embeddingModelVersion": _advisory,
    },
}
"""By logical type: its options, each with what reads it, in the order in which they are read."""
