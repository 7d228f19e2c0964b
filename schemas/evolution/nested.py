"""Rules of objects, arrays and JSON: whether one field's allow what another's do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..contract import Field, Rule
from .examples import different, encoded, examples

_SOME_JSON: tuple[Any, ...] = ([], {}, [1], [1, 1], [1, 2], {"a": 1}, {"a": 1, "b": 2}, [[], []])


def _limit(field: Field, kind: str, default: float) -> float:
    return next((rule.value for rule in field.rules if rule.kind == kind), default)


def array_rule(rule: Rule, old: Field, new: Field) -> Sequence[Any] | None:
    """See :data:`.included._RuleIssues`."""
    low, high = _limit(old, "minItems", 0), _limit(old, "maxItems", math.inf)
    match rule.kind:
        case "minItems" if low >= rule.value:
            return None
        case "maxItems" if high <= rule.value:
            return None
        case "uniqueItems" if high <= 1 or _stays_unique(rule, old, new):
            return None
    assert old.items is not None
    sizes = {low, low + 1, high, max(low, 2)}
    if rule.kind != "uniqueItems":
        sizes |= {rule.value - 1, rule.value + 1}
    wanted = [int(n) for n in sizes if low <= n <= high and 0 <= n <= 1000]
    return [*_arrays(old, wanted), *_repeating(old, new), *examples(old)]


def _stays_unique(rule: Rule, old: Field, new: Field) -> bool:
    """Whether items that differ still do: they do not if what they differ in is left out."""
    if rule not in old.rules or old.items is None or new.items is None:
        return False
    return _keeps_apart(old.items, new.items)


def _keeps_apart(old: Field, new: Field) -> bool:
    """Whether different values of the one field are different values of the other."""
    from .included import bare

    if old.type == new.type == "object":
        after = {field.name: field for field in new.fields}
        return all(f.name in after and _keeps_apart(f, after[f.name]) for f in old.fields)
    return _ruleless(bare(old)) == _ruleless(bare(new))


def _ruleless(field: Field) -> Field:
    """The field as its values are held."""
    return replace(
        field,
        rules=(),
        required=False,
        fields=tuple(map(_ruleless, field.fields)),
        items=field.items and _ruleless(field.items),
    )


def _arrays(field: Field, sizes: Sequence[int]) -> list[list[Any]]:
    assert field.items is not None
    items = different(field.items, max(sizes, default=0))
    made = []
    for size in sizes:
        if items:
            made.append([items[n % len(items)] for n in range(size)])
            made.append([items[0]] * size)
        elif size == 0:
            made.append([])
        if not field.items.required:
            made.append([None] * size)
    return made


def _repeating(old: Field, new: Field) -> list[list[Any]]:
    """Arrays whose items may look alike to the new field."""
    assert old.items is not None
    found: list[list[Any]] = []
    values = list(examples(old.items))
    low = int(_limit(old, "minItems", 0))
    filler = list({encoded(v): v for v in values}.values())[: max(0, low - 2)]
    if old.items.type == "object" and new.items is not None:
        known = {field.name for field in new.items.fields}
        for value in values[:20]:
            for other in values[:20]:
                mixed = {k: v for k, v in other.items() if k not in known}
                mixed |= {k: v for k, v in value.items() if k in known}
                found.append([value, mixed, *filler])
            for name in value:
                if name not in known:
                    found.append([value, {**value, name: None}, *filler])
    return found[:500]


def object_rule(rule: Rule, old: Field, new: Field) -> Sequence[Any] | None:
    """See :data:`.included._RuleIssues`."""
    low, high = _named(old, new)
    if rule.kind == "minProperties" and low >= rule.value:
        return None
    if rule.kind == "maxProperties" and high <= rule.value:
        return None
    return _objects(old, new)


def _named(old: Field, new: Field) -> tuple[float, float]:
    """How many properties that the new object names a record of the old one has."""
    known = {field.name for field in new.fields}
    both = [field for field in old.fields if field.name in known]
    gone = [field for field in old.fields if field.name not in known]
    least, most = _limit(old, "minProperties", 0), _limit(old, "maxProperties", math.inf)
    low = max(sum(field.required for field in both), least - len(gone))
    return low, min(len(both), most - sum(field.required for field in gone))


def _objects(old: Field, new: Field) -> list[dict[str, Any]]:
    """Objects with few and with many properties, of those that stay and of those that do not."""
    values = {field.name: next(iter(examples(field)), None) for field in old.fields}
    known = {field.name for field in new.fields}
    must = [f.name for f in old.fields if f.required]
    may = [f.name for f in old.fields if not f.required]
    orders = [sorted(may, key=lambda n: (n in known) is kept) for kept in (True, False)]
    made = []
    for order in orders:
        for count in range(len(order) + 1):
            names = {*must, *order[:count]}
            made.append({name: v for name, v in values.items() if name in names})
    everything = {name: v if name in must else None for name, v in values.items()}
    made.append(everything)
    made += [{**everything, name: values[name]} for name in may]
    return made


def json_rule(rule: Rule, old: Field, new: Field) -> Sequence[Any] | None:
    """See :data:`.included._RuleIssues`."""
    if _json_keeps(rule, old):
        return None
    made: list[Any] = [*examples(old)]
    if old.type == "array":
        made += array_rule(rule, old, new) or ()
    elif old.type == "object":
        made += _objects(old, old)
    else:
        made += _SOME_JSON
        if rule.kind.endswith("Items") and rule.kind != "uniqueItems":
            sizes = (rule.value - 1, rule.value + 1)
            made += [list(range(int(n))) for n in sizes if 0 <= n <= 1000]
        elif rule.kind.endswith("Properties"):
            sizes = (rule.value - 1, rule.value + 1)
            made += [{f"k{n}": n for n in range(int(m))} for m in sizes if 0 <= m <= 1000]
    return made


def _json_keeps(rule: Rule, old: Field) -> bool:
    inside = "array" if rule.kind.endswith("Items") else "object"
    if old.type not in ("json", inside):
        return True  # the rule is of another kind of JSON
    match rule.kind:
        case "minItems" | "minProperties":
            return _limit(old, rule.kind, 0) >= rule.value
        case "maxItems":
            return _limit(old, rule.kind, math.inf) <= rule.value
        case "maxProperties" if old.type == "object":
            return len(old.fields) <= rule.value  # a null counts in JSON
        case "maxProperties":
            return _limit(old, rule.kind, math.inf) <= rule.value
    alike = rule in old.rules and old.type == "json"
    return alike or _limit(old, "maxItems", math.inf) <= 1
