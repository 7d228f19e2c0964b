"""``slaProperties`` of an ODCS document → service levels that can be told from runs and data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ..aggregates.functions import AggregateError
from ..aggregates.windows import parse_duration
from ..contract import Contract, ContractError
from ..documents import read_document
from ..odcs.model import read_standard
from ..problems import Place, say

Kind = Literal["latency", "frequency", "freshness", "retention", "errorRate"]
"""``latency``: from the newest event to its commit. ``frequency``: since the last commit.
``freshness``: since the newest event. ``retention``: since the oldest event. ``errorRate``: dead
letters among the records that were read. A level is kept if it is at most what is promised."""

_KINDS: dict[str, Kind] = {
    "latency": "latency", "ly": "latency",
    "frequency": "frequency", "fy": "frequency",
    "freshness": "freshness",
    "retention": "retention", "re": "retention",
    "errorrate": "errorRate", "er": "errorRate",
}  # fmt: skip
"""ODCS's names and their short forms, without case."""

_SECONDS = {
    "ms": Fraction(1, 1000), "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 7 * 86400,
    "week": 7 * 86400, "mo": 30 * 86400, "month": 30 * 86400, "y": 365 * 86400,
    "yr": 365 * 86400, "year": 365 * 86400,
}  # fmt: skip
_PARTS = {"percent": 100, "percentage": 100, "%": 100, "ratio": 1, "fraction": 1}


@dataclass(frozen=True, slots=True)
class Level:
    """One promise: ``limit`` is seconds; of ``errorRate`` it is a part of 1.

    ``field`` is the top-level time stamp that it is about; empty: the event time. ``said`` is how
    the contract puts it.
    """

    kind: Kind
    limit: Fraction
    field: str
    said: str
    place: str


def load_levels(path: str | Path, contract: Contract) -> tuple[Level, ...]:
    """The service levels of a contract's document; see :func:`parse_levels`."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read: {error}") from error
    return parse_levels(text, str(path), contract)


def parse_levels(text: str, origin: str, contract: Contract) -> tuple[Level, ...]:
    """The service levels of a document that are about a contract's records.

    Those that neither runs nor data can tell (``availability``, ``endOfLife``, …), and those of
    other schema objects, are left out.

    Raises:
        ContractError: a level's value or unit cannot be used, or its element is no time stamp.
    """
    root = Place(read_document(text, origin))
    found = []
    for i, said in enumerate(read_standard(root).slaProperties or []):
        kind = _KINDS.get((said.property or "").lower())
        place = root["slaProperties"][i]
        field = _field(said.element, contract, place) if kind else None
        if kind is not None and field is not None:
            make = _part if kind == "errorRate" else _seconds
            limit = make(said.value, said.unit, place)
            words = f"{said.value} {said.unit or ''}".strip()
            where = str(place.error("")).removesuffix(": ")
            found.append(Level(kind, limit, field, words, where))
    return tuple(found)


def _field(element: str | None, contract: Contract, place: Place) -> str | None:
    """The field of an element such as ``orders.placed_at``; ``None`` for another object's."""
    names = [part.strip() for part in (element or "").split(",") if part.strip()]
    ours = [name for name in names if name.partition(".")[0] == contract.name]
    if names and not ours:
        return None
    field = ours[0].partition(".")[2] if ours else ""
    if not field:
        return ""
    held = {f.name: f.type for f in contract.fields}.get(field)
    if held != "timestamp":
        found = f"it is of type {held}" if held else "there is none"
        raise place["element"].error(f"expected a top-level timestamp, and of {field!r} {found}")
    return field


def _seconds(value: Any, unit: str | None, place: Place) -> Fraction:
    at = place["value"]
    if isinstance(value, str) and not re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        try:
            return Fraction(parse_duration(value, "value"), 10**6)
        except AggregateError as error:
            raise at.error(str(error).removeprefix("value: ")) from None
    word = (unit or "d").lower()
    factor = _SECONDS.get(word) or _SECONDS.get(word.removesuffix("s"))
    if factor is None:
        raise place["unit"].error(f"no unit of time {say(unit)}; expected such as 'h' or 'd'")
    return _number(value, at) * factor


def _part(value: Any, unit: str | None, place: Place) -> Fraction:
    whole = _PARTS.get((unit or "ratio").lower())
    if whole is None:
        raise place["unit"].error(f"no unit of a rate {say(unit)}; expected 'percent' or 'ratio'")
    part = _number(value, place["value"]) / whole
    if part > 1:
        raise place["value"].error(f"expected a part of 1, found {say(value)}; say unit: percent")
    return part


def _number(value: Any, place: Place) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise place.error(f"expected a number, found {say(value)}")
    try:
        number = Fraction(value if isinstance(value, str) else repr(value))
    except ValueError:
        raise place.error(f"expected a number, found {say(value)}") from None
    if number < 0:
        raise place.error(f"expected at least 0, found {say(value)}")
    return number
