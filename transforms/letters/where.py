"""Which dead letters are meant: ``code=TYPE and field=amount and source=*.jsonl``.

A clause is a key, ``=`` and a value; clauses are joined by ``and``. A value with spaces or quotes
stands in double quotes, in which a backslash goes before a quote or a backslash that is meant.

- ``code``, ``field``: of a letter's violations, one that has both. Several codes, of which any will
  do, have commas between them. In a field ``*`` stands for any text, as in ``items[*].price``.
- ``source``: where the record came from; ``*`` stands for any text.
- ``contract_version``, ``stage``, ``run_id``, ``id``: one or, with commas, any of several.
- ``since``, ``until``: when the letter was made, from the first up to, not including, the second;
  ISO 8601, in UTC unless there is another offset. A date is its midnight.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...schemas.problems import did_you_mean, list_names
from ..stored.filter import AnyItem, Compare, Condition, Filter, IsIn, Like, between, matching


class WhereError(ValueError):
    """A text that is not of the grammar. The message says what would be."""


@dataclass(frozen=True)
class Where:
    """Which dead letters are meant; of nothing said, all. What is said all holds."""

    codes: tuple[str, ...] = ()
    field: str = ""
    source: str = ""
    contract_versions: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    since: dt.datetime | None = None
    until: dt.datetime | None = None

    @property
    def filter(self) -> Filter:
        """The same as conditions on the columns of dead letters."""
        found: list[Condition] = []
        violation: list[Compare | IsIn | Like] = []
        if self.codes:
            violation.append(_one_of("code", self.codes))
        if self.field:
            violation.append(matching("field", self.field))
        if violation:
            found.append(AnyItem("violations", tuple(violation)))
        if self.source:
            found.append(matching("source", self.source))
        for column, values in (
            ("contract_version", self.contract_versions),
            ("stage", self.stages),
            ("run_id", self.run_ids),
            ("id", self.ids),
        ):
            if values:
                found.append(_one_of(column, values))
        return Filter(tuple(found)) & between("timestamp", self.since, self.until)


EVERY = Where()
"""Every dead letter."""

_KEYS = {
    "code": "codes",
    "field": "field",
    "source": "source",
    "contract_version": "contract_versions",
    "stage": "stages",
    "run_id": "run_ids",
    "id": "ids",
    "since": "since",
    "until": "until",
}
"""What is written → the attribute that holds it."""
_CLAUSE = re.compile(
    r'\s*(?P<key>[A-Za-z_]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<bare>[^\s"=]+))\s*'
)
_AND = re.compile(r"and(?=\s)")


def parse_where(text: str) -> Where:
    """What a text means.

    Raises:
        WhereError: it is not of the grammar.
    """
    said: dict[str, Any] = {}
    at = 0
    while True:
        found = _CLAUSE.match(text, at)
        if found is None:
            raise WhereError(
                f"expected KEY=VALUE at {text[at : at + 30]!r}; write as in: code=TYPE and "
                'field=amount and source="*.jsonl"'
            )
        key, value = found["key"], found["bare"]
        if value is None:
            value = re.sub(r"\\(.)", r"\1", found["quoted"])
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS) or f"; there are {list_names(_KEYS)}"
            raise WhereError(f"no key {key!r}{hint}")
        if _KEYS[key] in said:
            raise WhereError(f"{key} is there twice; several values have commas between them")
        said[_KEYS[key]] = _value(key, value)
        at = found.end()
        if at == len(text):
            return Where(**said)
        joined = _AND.match(text, at)
        if joined is None:
            raise WhereError(f"expected 'and' at {text[at : at + 30]!r}")
        at = joined.end()


def _value(key: str, value: str) -> Any:
    if not value:
        raise WhereError(f"{key}= says nothing")
    if key in ("field", "source"):
        return value
    if key in ("since", "until"):
        return _moment(key, value)
    values = tuple(part.strip() for part in value.split(","))
    if not all(values):
        raise WhereError(f"{key}={value}: a value is missing between the commas")
    return values


def _moment(key: str, text: str) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise WhereError(
            f"{key}={text}: expected a date or a time as 2026-11-29T12:00:00Z"
        ) from None


def _one_of(column: str, values: Sequence[str]) -> Compare | IsIn:
    if len(values) == 1:
        return Compare(column, "=", values[0])
    return IsIn(column, tuple(dict.fromkeys(values)))
