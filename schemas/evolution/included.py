"""Whether every record of one contract is one of another: by rules, and without trying any.

The question is asked of records as JSON, with the fields that the first contract names: what else
a record held, the first contract has ignored. Where :func:`issues` finds nothing, the answer is
yes. What it finds is either a difference or something that cannot be decided (whether all matches
of one regular expression are matches of another); :mod:`.witness` tells which, by an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..contract import Field, Rule
from .examples import accepted, all_values, examples
from .issues import ITEM, MISSING, Issue, Path
from .nested import array_rule, json_rule, object_rule
from .numbers import number_rule, number_types
from .spans import ORDERED, float_storage
from .texts import clock_issues, string_rule

_CLOCKS = frozenset({"date", "time", "timestamp"})
_NUMBERS = frozenset({"integer", "decimal", "number"})
_ANYTHING: tuple[Any, ...] = (True, 1, 0.5, "a", "", [], {}, [True], {"a": 1})

_KEEPS_VALUES = {"string", "boolean", "integer"}
"""Types each of whose values is written in one way, so that a list of them is the whole."""


def issues(
    old: Sequence[Field], new: Sequence[Field], *, reject_unknown: bool = False, at: Path = ()
) -> Iterator[Issue]:
    """Why a record with the fields ``old`` may not be one with the fields ``new``.

    Args:
        reject_unknown: fields that ``new`` does not name are refused and not ignored.
    """
    before = {field.name: field for field in old}
    for field in new:
        path = (*at, field.name)
        if field.name in before:
            yield from _field_issues(before[field.name], field, path, reject_unknown)
        elif field.required:
            yield Issue(path, "added", "is required, and old records do not have it", (MISSING,))
    if reject_unknown:
        known = {field.name for field in new}
        for field in old:
            if field.name not in known:
                message = "is no longer named, and unknown fields are rejected"
                yield Issue((*at, field.name), "removed", message, (*examples(field), None))


def _field_issues(old: Field, new: Field, path: Path, reject_unknown: bool) -> Iterator[Issue]:
    if new.required and not old.required:
        gone: Any = None if path[-1] is ITEM else MISSING
        yield Issue(path, "required", "may be missing or null", (gone,))
    if bare(old) == bare(new):
        return
    if (found := _one_by_one(old, new, path)) is not None:
        yield from found
        return
    difference = _type_issue(old, new, path)
    if difference is not None:
        yield difference
        return
    if old.type == new.type and old.type in _CLOCKS:
        yield from clock_issues(old, new, path)
    for rule in new.rules:
        if rule not in old.rules or bare(old, False) != bare(new, False):
            yield from _rule_issues(rule, old, new, path)
    if old.type == new.type == "object":
        yield from issues(old.fields, new.fields, reject_unknown=reject_unknown, at=path)
    elif old.type == new.type == "array" and old.items and new.items and _most(old) != 0:
        yield from _field_issues(old.items, new.items, (*path, ITEM), reject_unknown)


def bare(field: Field, rules: bool = True) -> Field:
    """The field without what decides nothing about a value that is there, nor its name.

    The requiredness of what is inside stays: it decides.
    """
    return Field(
        "",
        field.type,
        rules=field.rules if rules else (),
        fields=tuple(replace(bare(f), name=f.name, required=f.required) for f in field.fields),
        items=field.items and replace(bare(field.items), required=field.items.required),
        storage=_storage(field),
        precision=field.precision if field.type == "decimal" else 38,
        scale=field.scale if field.type == "decimal" else 0,
        format=field.format,
        zone=field.zone,
    )


def _storage(field: Field) -> str:
    if field.type == "number":
        return float_storage(field)
    return field.storage if field.type == "integer" else "int64"


def _most(field: Field) -> int | None:
    return next((rule.value for rule in field.rules if rule.kind == "maxItems"), None)


def _one_by_one(old: Field, new: Field, path: Path) -> list[Issue] | None:
    """The issues where ``old`` has so few values that all are tried; ``None`` where it has many."""
    same_text = old.type == new.type and bare(old, False) == bare(new, False)
    if not (old.type in _KEEPS_VALUES or same_text):
        return None
    values = all_values(old)
    if values is None:
        return None
    plain = replace(new, rules=())
    refused = _refused(values, plain)
    if refused:
        return [Issue(path, "type", _types(old, new), tuple(refused))]
    found = []
    for rule in new.rules:
        if refused := _refused(values, replace(plain, rules=(rule,))):
            found.append(Issue(path, rule.kind, _says(rule), tuple(refused)))
    return found


def _refused(values: Sequence[Any], field: Field) -> list[Any]:
    fine = accepted(values, field)
    return [value for value, good in zip(values, fine, strict=True) if not good]


def _type_issue(old: Field, new: Field, path: Path) -> Issue | None:
    if new.type == "json" or (old.type == new.type and old.type not in ORDERED):
        return None
    if old.type in _CLOCKS and (new.type == old.type or new.type == "string"):
        return None
    if old.type in ("integer", "decimal", "number") and new.type in (
        "integer",
        "decimal",
        "number",
    ):
        candidates = number_types(old, new)
        return Issue(path, "type", _types(old, new), candidates) if candidates else None
    tried = (*examples(old), *_ANYTHING)
    return Issue(path, "type", _types(old, new), tried)


def _types(old: Field, new: Field) -> str:
    return f"is a value of {type_text(old)}, not of {type_text(new)}"


def type_text(field: Field) -> str:
    """What a field's type is called: ``int32``, ``decimal(9,2)``, ``string``."""
    if field.type in ("integer", "number"):
        return _storage(field)
    if field.type == "decimal":
        return f"decimal({field.precision},{field.scale})"
    return field.type


def _says(rule: Rule) -> str:
    from .texts import rule_text

    return f"may break {rule_text(rule)}"


_RuleIssues = Callable[[Rule, Field, Field], Sequence[Any] | None]
"""A rule of the new field, the old field and the new: nothing (``None``) if the old field's values
all keep the rule, else values that may not."""


def _rule_issues(rule: Rule, old: Field, new: Field, path: Path) -> Iterator[Issue]:
    candidates = _RULES[new.type](rule, old, new)
    if candidates is not None:
        yield Issue(path, rule.kind, _says(rule), tuple(candidates))


_RULES: dict[str, _RuleIssues] = {
    "string": string_rule,
    "integer": number_rule,
    "number": number_rule,
    "decimal": number_rule,
    "date": number_rule,
    "time": number_rule,
    "timestamp": number_rule,
    "boolean": lambda rule, old, new: examples(old),
    "object": object_rule,
    "array": array_rule,
    "json": json_rule,
}
"""By the type of the new field, which the old field's values are of already."""
