"""An example for each issue: a record that keeps the one contract and breaks the other.

Only what the decoder itself says of a record counts. An issue without an example is one that
cannot be decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..contract import Contract, Field
from ..decoded import UnknownFields
from ..json.decoder import JsonDecoder
from ..rules import DIFFERING
from .examples import Record, different, encoded, examples
from .issues import ITEM, MISSING, Issue, Path, path_text

_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Found:
    """An issue, with the record that shows it, as JSON, if one was found."""

    issue: Issue
    example: bytes | None = None

    @property
    def decided(self) -> bool:
        """Whether it is sure that there are records of the one that the other refuses."""
        return self.example is not None


def show(
    found: Sequence[Issue], old: Contract, new: Contract, *, unknown: UnknownFields = "ignore"
) -> list[Found]:
    """Look for an example for each issue."""
    if not found:
        return []
    keeps = JsonDecoder(old, judge=True)
    refuses = JsonDecoder(new, unknown, judge=True)
    return [Found(issue, _example(issue, old, keeps, refuses)) for issue in found]


def _example(issue: Issue, old: Contract, keeps: JsonDecoder, refuses: JsonDecoder) -> bytes | None:
    seen = {encoded(record): None for record in records_with(old.fields, issue)}
    lines = pa.array(list(seen), pa.binary())
    bad = set(keeps.decode(lines).refused)
    violations = [v for v in refuses.decode(lines).violations if _is_at(v.field, issue.path)]
    of_it = [v for v in violations if _is_of(v.message, issue.aspect)]
    for some in (of_it, violations):  # at least one that breaks something there
        if broken := {v.row for v in some} - bad:
            return min((lines[row].as_py() for row in broken), key=len)
    return None


_WORDS = {
    "minItems": "at least", "minProperties": "at least", "minLength": "at least",
    "maxItems": "at most", "maxProperties": "at most", "maxLength": "at most",
    "uniqueItems": DIFFERING, "pattern": "a match of", "multipleOf": "a multiple of",
}  # fmt: skip
"""What a violation's message says of a kind of rule, where a place may have several."""


def _is_of(message: str, aspect: str) -> bool:
    """Whether a violation is of this aspect, as far as its message tells."""
    return aspect in _WORDS and message.startswith(f"expected {_WORDS[aspect]}")


def _is_at(place: str, path: Path) -> bool:
    """Whether a violation is of a place, or of what is in it."""
    return _INDEX.sub("[]", place).startswith(path_text(path))


def records_with(fields: Sequence[Field], issue: Issue) -> Iterator[Record]:
    """Records with each of an issue's candidates at its place, as small and as full as can be."""
    for candidate in issue.candidates:
        for full in (False, True):
            yield _object(fields, issue.path, candidate, full)


def _object(fields: Sequence[Field], path: Path, candidate: Any, full: bool) -> Record:
    record: Record = {}
    for field in fields:
        if field.required or full:
            value = next(iter(examples(field)), None)
            if value is not None:
                record[field.name] = value
    name, rest = path[0], path[1:]
    assert name is not None
    if not rest:
        record[name] = candidate
        if candidate is MISSING:
            del record[name]
        return record
    field = next(field for field in fields if field.name == name)
    record[name] = _value(field, rest, candidate, full)
    return record


def _value(field: Field, path: Path, candidate: Any, full: bool) -> Any:
    """A value of a field with a candidate at a place within."""
    if not path:
        return candidate
    if path[0] is not ITEM:
        return _object(field.fields, path, candidate, full)
    assert field.items is not None
    least = next((rule.value for rule in field.rules if rule.kind == "minItems"), 0)
    first = _value(field.items, path[1:], candidate, full)
    others: dict[bytes, Any] = {encoded(first): first}
    for item in (*different(field.items, least), *(() if field.items.required else (None,))):
        if len(others) < least:
            others[encoded(item)] = item
    items = list(others.values())
    return items + [items[-1]] * min(1000, least - len(items))
