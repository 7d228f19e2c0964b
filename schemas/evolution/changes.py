"""What changed from one version of a contract to the next, and whom each change breaks.

A change breaks *writers* if what they wrote under the old contract may be refused under the new
one. It breaks *readers* of the tables that the pipeline writes if a column is gone or of another
type, or may hold values that the old contract ruled out. How values are written (formats, zones) is
nothing to readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..arrow import arrow_type
from ..contract import Contract, Field, Rule
from ..decoded import UnknownFields
from .included import bare, issues, type_text
from .issues import ITEM, Issue, Path, path_text
from .spans import in_units
from .texts import rule_text
from .witness import Found, show

Effect = Literal["breaks", "may break", "fine"]
"""``may break``: it cannot be decided."""


@dataclass(frozen=True)
class Change:
    """One difference, and whom it breaks.

    ``kind`` is such as ``field added``, ``type widened``, ``rule tightened``. ``before`` and
    ``after`` are how each contract says it. The examples are records, as JSON, that the other
    contract refuses.
    """

    path: Path
    kind: str
    aspect: str
    before: str = ""
    after: str = ""
    writers: Effect = "fine"
    readers: Effect = "fine"
    note: str = ""
    writers_example: bytes | None = field(default=None, compare=False)
    readers_example: bytes | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """The path as a user names it; empty for the contract as a whole."""
        return path_text(self.path)

    @property
    def breaking(self) -> bool:
        """Whether it breaks anybody, or cannot be told."""
        return self.writers != "fine" or self.readers != "fine"


def changes(old: Contract, new: Contract, *, unknown: UnknownFields = "ignore") -> list[Change]:
    """Every difference, in the order of the new contract's fields; then what was removed.

    Args:
        unknown: what jobs do with fields that their contract does not name.
    """
    reject = unknown == "reject"
    backward = list(issues(old.fields, new.fields, reject_unknown=reject))
    # Readers see values and not how they were written.
    before, after = _unwritten(old), _unwritten(new)
    forward = list(issues(after.fields, before.fields))
    writers = show(backward, old, new, unknown=unknown)
    readers = show(forward, after, before)
    found = [*_of_contract(old, new), *_of_fields(old.fields, new.fields, ())]
    return _judged(found, writers, readers)


def _unwritten(contract: Contract) -> Contract:
    def plain(one: Field) -> Field:
        return replace(
            one,
            format=None,
            zone=None,
            fields=tuple(map(plain, one.fields)),
            items=one.items and plain(one.items),
        )

    return replace(contract, fields=tuple(map(plain, contract.fields)))


# ------------------------------------------------------------------------------- judgement


def _judged(
    found: Sequence[Change], writers: Sequence[Found], readers: Sequence[Found]
) -> list[Change]:
    """The changes with what was found of each; what belongs to none is a change of its own."""
    left_writers, left_readers = list(writers), list(readers)
    judged = []
    for change in found:
        mine = _take(left_writers, change)
        theirs = _take(left_readers, change)
        judged.append(_with(change, mine, theirs))
    for one in left_writers:
        judged.append(_with(_consequence(one.issue), [one], []))
    for one in left_readers:
        judged.append(_with(_consequence(one.issue), [], [one]))
    return judged


def _take(left: list[Found], change: Change) -> list[Found]:
    taken = [f for f in left if f.issue.path == change.path and _about(f.issue, change)]
    for found in taken:
        left.remove(found)
    return taken


def _about(issue: Issue, change: Change) -> bool:
    if change.kind.startswith("field "):
        return issue.aspect in ("added", "removed")
    if change.aspect == "type":  # with another type, rules are of other values too
        return issue.aspect not in ("added", "removed", "required")
    return _group(issue.aspect) == change.aspect


def _with(change: Change, mine: Sequence[Found], theirs: Sequence[Found]) -> Change:
    return replace(
        change,
        writers=_worst(change.writers, mine),
        readers=_worst(change.readers, theirs),
        writers_example=next((f.example for f in mine if f.decided), None),
        readers_example=next((f.example for f in theirs if f.decided), None),
    )


def _worst(effect: Effect, found: Sequence[Found]) -> Effect:
    if effect == "breaks" or any(one.decided for one in found):
        return "breaks"
    return "may break" if found else effect


def _consequence(issue: Issue) -> Change:
    note = "follows from other changes"
    return Change(issue.path, "values changed", issue.aspect, after=issue.message, note=note)


# ------------------------------------------------------------------------- of the contract


def _of_contract(old: Contract, new: Contract) -> Iterator[Change]:
    for aspect in ("id", "name", "version"):
        before, after = getattr(old, aspect), getattr(new, aspect)
        if before != after:
            yield Change((), f"{aspect} changed", aspect, before, after)
    if old.primary_key != new.primary_key:
        yield Change(
            (),
            "primary key changed",
            "primary key",
            ", ".join(old.primary_key) or "none",
            ", ".join(new.primary_key) or "none",
            readers="breaks",
            note="other rows replace one another in upserted tables",
        )
    if old.event_time != new.event_time:
        yield Change(
            (),
            "event time changed",
            "event time",
            old.event_time or "none",
            new.event_time or "none",
            readers="breaks",
            note="records fall into other windows",
        )
    both = {f.name for f in old.fields} & {f.name for f in new.fields}
    orders = [[f.name for f in c.fields if f.name in both] for c in (old, new)]
    if orders[0] != orders[1]:
        note = "columns are found by name"
        before, after = map(", ".join, orders)
        yield Change((), "order changed", "order", before, after, note=note)


# ----------------------------------------------------------------------------- of the fields


def _of_fields(old: Sequence[Field], new: Sequence[Field], at: Path) -> Iterator[Change]:
    before = {f.name: f for f in old}
    after = {f.name: f for f in new}
    gone = [f for f in old if f.name not in after]
    come = [f for f in new if f.name not in before]
    for one in new:
        path = (*at, one.name)
        if one.name in before:
            yield from _of_field(before[one.name], one, path)
        else:
            like = [f.name for f in gone if bare(f) == bare(one)]
            yield Change(
                path, "field added", "added", after=_said(one), note=_renamed(like, "from")
            )
    for one in gone:
        like = [f.name for f in come if bare(f) == bare(one)]
        yield Change(
            (*at, one.name),
            "field removed",
            "removed",
            before=_said(one),
            readers="breaks",
            note=_renamed(like, "to"),
        )


def _renamed(names: Sequence[str], word: str) -> str:
    return (
        f"perhaps renamed {word} {', '.join(names)}: one is gone, another is new" if names else ""
    )


def _said(one: Field) -> str:
    return type_text(one) + (", required" if one.required else "")


def _of_field(old: Field, new: Field, path: Path) -> Iterator[Change]:
    if old.required != new.required:
        kind = "required" if new.required else "optional"
        words = ("optional", "required") if new.required else ("required", "optional")
        yield Change(path, f"now {kind}", "required", words[0], words[1])
    if bare(replace(old, **_NOTHING_INSIDE)) != bare(replace(new, **_NOTHING_INSIDE)):
        yield from _of_value(old, new, path)
    if old.type == new.type == "object":
        yield from _of_fields(old.fields, new.fields, path)
    if old.type == new.type == "array" and old.items and new.items:
        yield from _of_field(old.items, new.items, (*path, ITEM))
    yield from _of_words(old, new, path)


_NOTHING_INSIDE: dict[str, Any] = {"fields": (), "items": None}


def _of_value(old: Field, new: Field, path: Path) -> Iterator[Change]:
    if type_text(old) != type_text(new):
        yield _type_change(old, new, path)
    for aspect in ("format", "zone"):
        before, after = getattr(old, aspect), getattr(new, aspect)
        if before != after and old.type == new.type:
            note = "the same text is another instant" if aspect == "zone" else ""
            # Where values without an offset were read already, they are read as another time now.
            moved: Effect = "breaks" if aspect == "zone" and before else "fine"
            yield Change(
                path,
                f"{aspect} changed",
                aspect,
                before or "none",
                after or "none",
                readers=moved,
                note=note,
            )
    if type_text(old) == type_text(new) or _comparable(old, new):
        yield from _of_rules(old, new, path)


def _type_change(old: Field, new: Field, path: Path) -> Change:
    a, b = (replace(f, rules=(), required=True, name="") for f in (old, new))
    wider = not list(issues((a,), (b,)))
    narrower = not list(issues((b,), (a,)))
    kind = "widened" if wider else "narrowed" if narrower else "changed"
    # A wider column still holds what readers expect, if the rules say so.
    readers: Effect = "fine"
    if arrow_type(old) != arrow_type(new) and not (wider and old.type == new.type):
        readers = "breaks"
    return Change(path, f"type {kind}", "type", type_text(old), type_text(new), readers=readers)


def _comparable(old: Field, new: Field) -> bool:
    numbers = ("integer", "number", "decimal")
    return old.type == new.type or (old.type in numbers and new.type in numbers)


_GROUPS = {
    "minimum": "lower bound", "exclusiveMinimum": "lower bound",
    "maximum": "upper bound", "exclusiveMaximum": "upper bound",
}  # fmt: skip
_TIGHTER_ABOVE = {"minLength", "minItems", "minProperties", "lower bound"}
_TIGHTER_BELOW = {"maxLength", "maxItems", "maxProperties", "upper bound"}


def _group(kind: str) -> str:
    return _GROUPS.get(kind, kind)


def _of_rules(old: Field, new: Field, path: Path) -> Iterator[Change]:
    before, after = _by_group(old), _by_group(new)
    for group in dict.fromkeys((*before, *after)):
        mine, theirs = before.get(group, ()), after.get(group, ())
        if set(mine) == set(theirs):
            continue
        said = [", ".join(map(rule_text, rules)) for rules in (mine, theirs)]
        kind = "added" if not mine else "removed" if not theirs else _turned(group, mine, theirs)
        yield Change(path, f"rule {kind}", group, said[0], said[1])


def _by_group(one: Field) -> dict[str, tuple[Rule, ...]]:
    groups: dict[str, tuple[Rule, ...]] = {}
    for rule in one.rules:
        group = _group(rule.kind)
        groups[group] = (*groups.get(group, ()), rule)
    return groups


def _turned(group: str, mine: Sequence[Rule], theirs: Sequence[Rule]) -> str:
    """Whether a rule became tighter, looser, or just another one."""
    if group == "enum":
        before, after = set(mine[0].value), set(theirs[0].value)
        return "tightened" if after < before else "loosened" if before < after else "changed"
    if group not in _TIGHTER_ABOVE | _TIGHTER_BELOW:
        return "changed"
    try:
        before, after = (_strictest(group, rules) for rules in (mine, theirs))
    except TypeError:
        return "changed"
    return "tightened" if after > before else "loosened" if after < before else "changed"


def _strictest(group: str, rules: Sequence[Rule]) -> tuple[Any, bool]:
    sign = 1 if group in _TIGHTER_ABOVE else -1
    return max((sign * in_units(r.value), r.kind.startswith("exclusive")) for r in rules)


def _of_words(old: Field, new: Field, path: Path) -> Iterator[Change]:
    """What decides nothing about a record."""
    if old.unique != new.unique:
        words = ("unique", "not unique") if old.unique else ("not unique", "unique")
        yield Change(path, "uniqueness changed", "unique", words[0], words[1])
    for aspect in ("classification", "description"):
        before, after = getattr(old, aspect), getattr(new, aspect)
        if before != after:
            yield Change(path, f"{aspect} changed", aspect, before or "none", after or "none")
