"""The contract of a click, checked by hand: what a user writes where a framework has no contract.

Used by the row pipeline and by the peers whose records are Python objects. It knows no framework.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NoReturn

EVENT_ID = re.compile("[0-9a-f]{16}")
EVENT_TYPES = frozenset(("view", "click", "cart", "buy", "scroll"))
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")

Reason = dict[str, str]


def refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity, which Python's JSON would take."""
    raise ValueError(f"{name} is not JSON")


def loads(line: bytes) -> Any:
    return json.loads(line.decode("utf-8"), parse_constant=refuse_constant)


def reason(field: str, code: str) -> Reason:
    return {"field": field, "code": code}


def text_reasons(event: dict[str, Any]) -> Iterator[Reason]:
    """What is wrong with the fields that must be strings."""
    for name in ("event_id", "user_id", "event_type", "page", "ts"):
        value = event.get(name)
        if value is None:
            yield reason(name, "REQUIRED")
        elif not isinstance(value, str):
            yield reason(name, "TYPE")
        elif name == "event_id" and not EVENT_ID.fullmatch(value):
            yield reason(name, "PATTERN")
        elif name == "event_type" and value not in EVENT_TYPES:
            yield reason(name, "ENUM")
    country = event.get("country")
    if country is not None:
        if not isinstance(country, str):
            yield reason("country", "TYPE")
        elif len(country) != 2:
            yield reason("country", "LENGTH")


def amount_reasons(amount: Any) -> Iterator[Reason]:
    """What is wrong with the amount; a missing one is none."""
    if amount is None:
        return
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        yield reason("amount", "TYPE")
    elif not 0 <= amount <= 1_000_000:
        yield reason("amount", "RANGE")


def event_time(ts: Any) -> datetime | None:
    """The time of an event, or none if it is not a real one with an offset."""
    if not isinstance(ts, str) or not TIMESTAMP.fullmatch(ts):
        return None
    try:
        return datetime.fromisoformat(ts)
    except ValueError:
        return None


def judge(line: bytes, parse: Callable[[bytes], Any]) -> tuple[dict[str, Any], list[Reason]]:
    """A parsed event with ``ts`` as a ``datetime``, and all that is wrong with it."""
    try:
        event = parse(line)
    except UnicodeDecodeError:
        return {}, [reason("", "ENCODING")]
    except ValueError:
        return {}, [reason("", "MALFORMED")]
    if not isinstance(event, dict):
        return {}, [reason("", "MALFORMED")]
    reasons = [*text_reasons(event), *amount_reasons(event.get("amount"))]
    at = event_time(event.get("ts"))
    if at is None and isinstance(event.get("ts"), str):
        reasons.append(reason("ts", "FORMAT"))
    return {**event, "ts": at}, reasons


def dead_letter(line: bytes, reasons: list[Reason]) -> str:
    return json.dumps({"payload": base64.b64encode(line).decode(), "violations": reasons})
