"""``quality`` of an ODCS document → checks, for the contract that was compiled from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import Contract, ContractError, Field
from ..documents import read_document
from ..odcs.model import read_standard
from ..odcs.quality import bounds_given, makes_rule, metric_of, unmade
from ..odcs.types import Draft
from ..odcs.values import CONVERTERS
from ..problems import Place, did_you_mean, list_names, say
from ..rules import has_restricted
from .checks import DEFAULT_DIMENSION, Bound, Check, Kind, Severity

if TYPE_CHECKING:
    from open_data_contract_standard.model import DataQuality, SchemaProperty

ACTIONS = ("warn", "quarantine", "fail")
_SEVERITIES: dict[str, Severity] = {
    "critical": "critical", "error": "error", "warning": "warning", "warn": "warning",
    "info": "info", "information": "info",
}  # fmt: skip
_UNITS = {"rows": False, "percent": True, "percentage": True, "%": True}
_ARGUMENTS: dict[Kind, tuple[str, ...]] = {
    "missingValues": ("missingValues",),
    "invalidValues": ("validValues", "pattern"),
    "duplicateValues": ("properties",),
}
"""What a metric takes; the others take nothing."""


def load_checks(path: str | Path, contract: Contract) -> tuple[Check, ...]:
    """The checks of a contract's document; see :func:`parse_checks`."""
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: cannot be read: {error}") from error
    return parse_checks(text, str(path), contract)


def parse_checks(text: str, origin: str, contract: Contract) -> tuple[Check, ...]:
    """The quality checks of a contract, in the order of its document.

    What nobody makes is among the contract's findings, and not here.

    Args:
        text: the ODCS document that the contract was compiled from.
        origin: what messages call the document, as a rule its file.

    Raises:
        ContractError: a check cannot be made as it is written.
    """
    root = Place(read_document(text, origin))
    standard = read_standard(root)
    for i, table in enumerate(standard.schema_ or []):
        if table.name == contract.name:
            place = root["schema"][i]
            found = [
                *_of_properties(table.properties or [], "", contract, place["properties"]),
                *_of_table(table.quality or [], contract, place["quality"]),
            ]
            return tuple(_told_apart(found))
    raise root.error(f"no schema object {contract.name!r}")


def _of_properties(
    props: Sequence[SchemaProperty], prefix: str, contract: Contract, place: Place
) -> Iterator[Check]:
    for i, prop in enumerate(props):
        path = f"{prefix}{prop.name}"
        for j, said in enumerate(prop.quality or []):
            at = place[i]["quality"][j]
            rule = makes_rule(said, at)
            if rule or unmade(said, at) is None:
                yield _Reader(said, at, contract, path, rule).check()
        if prop.properties:
            inside = place[i]["properties"]
            yield from _of_properties(prop.properties, f"{path}.", contract, inside)


def _of_table(checks: Sequence[DataQuality], contract: Contract, place: Place) -> Iterator[Check]:
    for i, said in enumerate(checks):
        if unmade(said, place[i]) is None:
            yield _Reader(said, place[i], contract).check()


def _told_apart(checks: Sequence[Check]) -> Iterator[Check]:
    """The checks, each with a name of its own: what has the name of another is numbered."""
    seen: dict[str, int] = {}
    for check in checks:
        count = seen[check.name] = seen.get(check.name, 0) + 1
        yield replace(check, name=f"{check.name} #{count}") if count > 1 else check


class _Reader:
    """Compiles one check."""

    def __init__(
        self,
        said: DataQuality,
        place: Place,
        contract: Contract,
        path: str = "",
        is_rule: bool = False,
    ) -> None:
        self._said = said
        self._place = place
        self._contract = contract
        self._path = path
        self._field = contract.field(path) if path else None
        self._is_rule = is_rule

    def check(self) -> Check:
        said, kind = self._said, self._kind()
        self._check_arguments(kind)
        name = said.name or said.id or " ".join(filter(None, [self._path, _WORDS[kind]]))
        check = Check(
            name=" ".join(str(name).split()),
            kind=kind,
            field=self._path,
            bounds=self._bounds(kind),
            percent=self._is_percent(kind),
            severity=_SEVERITIES.get((said.severity or "error").lower(), "error"),
            dimension=said.dimension or DEFAULT_DIMENSION[kind],
            population="kept" if kind in ("rowCount", "duplicateValues", "sql") else "read",
            is_enforced=self._is_rule,
            action=self._action(),
            place=str(self._place.error("")).removesuffix(": "),
        )
        return _COMPLETE[kind](self, check)

    def _kind(self) -> Kind:
        if self._said.type == "sql":
            return "sql"
        if self._said.type == "custom":
            return "records"
        metric = metric_of(self._said, self._place)
        return "invalidValues" if metric == "validValues" else metric  # type: ignore[return-value]

    def _bounds(self, kind: Kind) -> tuple[Bound, ...]:
        given = bounds_given(self._said)
        if not given:  # of a rule of ODCS 3.0, or of an expression: nothing bad is allowed
            return (Bound("mustBe", 0),)
        found = []
        for name in given:
            limit = getattr(self._said, name)
            is_number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if kind != "sql" and name in ("mustBe", "mustNotBe") and not is_number:
                raise self._place[name].error(f"expected a number, found {say(limit)}")
            found.append(Bound(name, tuple(limit) if isinstance(limit, list) else limit))
        return tuple(found)

    def _is_percent(self, kind: Kind) -> bool:
        unit = self._said.unit
        if unit is None or kind == "sql":  # what a query counts is its own affair
            return False
        found = _UNITS.get(unit.lower())
        if found is None:
            hint = did_you_mean(unit, _UNITS) or "; expected 'rows' or 'percent'"
            raise self._place["unit"].error(f"no unit {say(unit)}{hint}")
        if found and kind == "rowCount":
            raise self._place["unit"].error("rowCount has no whole that it could be a part of")
        return found

    def _action(self) -> str:
        for i, custom in enumerate(self._said.customProperties or []):
            if custom.property == "action":
                if custom.value not in ACTIONS:
                    at = self._place["customProperties"][i]["value"]
                    raise at.error(f"expected {list_names(ACTIONS)}, found {say(custom.value)}")
                return str(custom.value)
        return ""

    def _check_arguments(self, kind: Kind) -> None:
        known = _ARGUMENTS.get(kind, ())
        for name in self._said.arguments or {}:
            if name not in known and not self._is_rule:  # of a rule, it is a finding
                hint = did_you_mean(name, known)
                said = f"{_WORDS[kind]} takes no argument {say(name)}{hint}"
                raise self._place["arguments"][name].error(said)

    def _needs_field(self, check: Check) -> Field:
        if self._field is None:
            said = f"{check.kind} is about one property: write it in the quality of that"
            raise self._place.error(said)
        return self._field

    def _argument(self, name: str, kind: type) -> tuple[Any, Place]:
        at = self._place["arguments"][name]
        if self._said.rule == "validValues" and name == "validValues":
            at = self._place["validValues"]  # ODCS 3.0
        value = at.value
        if value is not None and not isinstance(value, kind):
            words = "a list" if kind is list else "a string"
            raise at.error(f"expected {words}, found {say(value)}")
        return value, at

    def nulls(self, check: Check) -> Check:
        self._needs_field(check)
        return check

    def missing(self, check: Check) -> Check:
        field = self._needs_field(check)
        listed, at = self._argument("missingValues", list)
        values = []
        for i, value in enumerate(listed or []):
            try:
                values += self._converted(field, value, at[i])
            except ContractError:
                continue  # no record that is kept has a value that is not of the field's type
        if self._is_rule and values:
            # Null makes dead letters, and the other words are counted among what is left.
            return replace(check, values=tuple(values), is_enforced=False, population="kept")
        return replace(check, values=tuple(values))

    def invalid(self, check: Check) -> Check:
        field = self._needs_field(check)
        listed, at = self._argument("validValues", list)
        if listed and field.type not in CONVERTERS and not self._is_rule:  # of a rule, a finding
            raise at.error(f"values of type {field.type} are not compared with a list")
        values = [v for i, x in enumerate(listed or []) for v in self._converted(field, x, at[i])]
        pattern, at = self._argument("pattern", str)
        if pattern is not None and field.type != "string":
            if not self._is_rule:
                raise at.error(f"a pattern is for strings, and {field.name} is of {field.type}")
            pattern = None
        if pattern is not None:
            _check_pattern(pattern, at)
        return replace(check, values=tuple(values), patterns=(pattern,) if pattern else ())

    def _converted(self, field: Field, value: Any, place: Place) -> list[Any]:
        """A value of the document as one of the field's, if it can be compared."""
        convert = CONVERTERS.get(field.type)
        if value is None or convert is None:
            return []
        converted = convert(_draft_of(field), value, place)
        return [] if converted is None else [converted]

    def duplicates(self, check: Check) -> Check:
        named, at = self._argument("properties", list)
        columns = tuple(named or ([self._path] if self._path else []))
        if not columns:
            said = "duplicateValues of whole records: say of which, as arguments: {properties: [a]}"
            raise self._place.error(said)
        names = [field.name for field in self._contract.fields]
        for i, name in enumerate(columns):
            where = at[i] if named else self._place
            if not isinstance(name, str) or name not in names:
                hint = did_you_mean(name, names) if isinstance(name, str) else ""
                raise where.error(f"no top-level property {say(name)}{hint}")
            if self._contract.field(name).type in ("object", "array"):
                raise where.error(f"{name} is nested: it has no duplicates")
        return replace(check, columns=columns)

    def rows(self, check: Check) -> Check:
        return check

    def query(self, check: Check) -> Check:
        if not self._said.query:
            raise self._place.error("a check of type sql needs a query")
        names = dict.fromkeys(_OBJECTS, self._contract.name)
        if self._path:
            names |= dict.fromkeys(_FIELDS, self._path)
        text = filled_in(self._said.query, names)
        return replace(check, text=text, is_hidden=has_restricted(self._contract.fields))

    def expression(self, check: Check) -> Check:
        text = self._said.implementation
        if not isinstance(text, str) or not text.strip():
            said = 'expected an SQL expression over a record, as implementation: "amount <= total"'
            raise self._place["implementation"].error(said)
        counted = bool(bounds_given(self._said)) or check.severity in ("warning", "info")
        return replace(check, text=text, is_enforced=not counted)


def _check_pattern(pattern: str, place: Place) -> None:
    from ..odcs.rules import add_pattern

    add_pattern(Draft(name="", logical="string"), "pattern", pattern, place)


def _draft_of(field: Field) -> Draft:
    """A field as it was while its property was read."""
    return Draft(
        name=field.name,
        logical="number" if field.type == "decimal" else field.type,
        type=field.type,
        storage=field.storage,
        precision=field.precision,
        scale=field.scale,
        format=field.format,
        zone=field.zone,
    )


_PLACEHOLDER = re.compile(r"[`\"]?\$?\{(\w+)\}[`\"]?")


def filled_in(query: str, names: Mapping[str, str]) -> str:
    """A query with names in place of ``{object}``, ``${object}``, ``{property}`` and their like,
    quoted as SQL does. What is no placeholder stays.

    >>> filled_in("SELECT count(*) FROM ${object} WHERE {property} < 0",
    ...           {"object": "clicks", "property": "device.width"})
    'SELECT count(*) FROM "clicks" WHERE "device"."width" < 0'
    """

    def name(found: re.Match[str]) -> str:
        if found[1] not in names:
            return found[0]
        parts = names[found[1]].split(".") if found[1] in _FIELDS else [names[found[1]]]
        return ".".join('"' + part.replace('"', '""') + '"' for part in parts)

    return _PLACEHOLDER.sub(name, query)


_OBJECTS: tuple[str, ...] = ("model", "table", "object", "schema")
_FIELDS: tuple[str, ...] = ("property", "field", "column")
"""What placeholders are called for the contract's table, and for the field of a check."""
_WORDS: dict[Kind, str] = {
    "nullValues": "nullValues",
    "missingValues": "missingValues",
    "invalidValues": "invalidValues",
    "duplicateValues": "duplicateValues",
    "rowCount": "rowCount",
    "sql": "query",
    "records": "expression",
}
"""What a check without a name is called."""
_COMPLETE = {
    "nullValues": _Reader.nulls,
    "missingValues": _Reader.missing,
    "invalidValues": _Reader.invalid,
    "duplicateValues": _Reader.duplicates,
    "rowCount": _Reader.rows,
    "sql": _Reader.query,
    "records": _Reader.expression,
}
