"""Open Data Contract Standard (3.0 to 3.2) documents → :class:`.contract.Contract`.

One schema object of a document becomes one contract. What the document asks and the pipeline does
not enforce is never dropped in silence: it is listed in ``Contract.findings``. What cannot be true
at once, or is spelt wrong, is a :class:`.contract.ContractError` that names file, line and mend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arrow import HIDDEN, UNKNOWN
from ..contract import UNFIT_IN_NAMES, Contract, ContractError, Field, digest_of
from ..documents import read_document
from ..problems import Place, did_you_mean, list_names, say
from ..rules import is_restricted
from .model import read_standard
from .quality import find_quality, read_quality
from .rules import VECTOR_ELEMENTS, check_consistent, read_enum, read_options
from .types import Draft, logical_type, shape_number
from .values import zone

if TYPE_CHECKING:
    from open_data_contract_standard.model import (
        CustomProperty,
        OpenDataContractStandard,
        SchemaObject,
        SchemaProperty,
    )

_RESERVED = (*HIDDEN, UNKNOWN)


def load_contract(
    path: str | Path, *, schema: str | None = None, event_time: str | None = None
) -> Contract:
    """Load a contract from a file.

    Args:
        path: an ODCS document, YAML or JSON, in UTF-8.
        schema: the name of the schema object (table) to take; needed if there are several.
        event_time: the top-level timestamp field that says when a record happened; overrides the
            custom property ``eventTime``.

    Raises:
        ContractError: the file cannot be read, or is no contract that can be loaded.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ContractError(f"{path}:{line}: not UTF-8") from error
    return parse_contract(text, str(path), schema=schema, event_time=event_time)


def parse_contract(
    text: str, origin: str, *, schema: str | None = None, event_time: str | None = None
) -> Contract:
    """Load a contract from the text of an ODCS document.

    Args:
        origin: what messages call the document, as a rule its file.
        schema: see :func:`load_contract`.
        event_time: see :func:`load_contract`.

    Raises:
        ContractError: the text is no contract that can be loaded.

    >>> parse_contract('''
    ... apiVersion: v3.1.0
    ... kind: DataContract
    ... id: orders
    ... version: 1.0.0
    ... schema:
    ... - name: orders
    ...   properties:
    ...   - {name: id, logicalType: integer, required: true}
    ... ''', "orders.yaml").fields
    (Field(name='id', type='integer', required=True, ...),)
    """
    document = read_document(text, origin)
    root = Place(document)
    standard = read_standard(root)
    table, place = _choose(standard.schema_ or [], schema, root["schema"])
    fields = tuple(_fields(table.properties or [], place["properties"]))
    if not fields:
        raise place.error("a schema without properties")
    event_time = event_time or _flagged_event_time(table, place)
    keys = _primary_key(table.properties or [])
    contract = Contract(
        id=str(standard.id),
        version=str(standard.version),
        name=str(table.name),
        fields=_with_event_time(fields, event_time, place),
        event_time=event_time,
        primary_key=keys,
    )
    _find_unenforced(standard, table, keys, place, root)
    findings = sorted(root.findings, key=lambda f: f.line)
    return replace(contract, findings=tuple(findings), digest=digest_of(contract))


def _choose(
    tables: Sequence[SchemaObject], wanted: str | None, place: Place
) -> tuple[SchemaObject, Place]:
    """The schema object asked for, or the only one."""
    if not tables:
        raise Place(place.document).error("no schema: a contract needs at least one schema object")
    names: list[str] = []
    for i, table in enumerate(tables):
        if not table.name:
            raise place[i].error("a schema object without a name")
        if table.name in names:
            raise place[i]["name"].error(f"the schema object {table.name!r} is given twice")
        if table.logicalType not in (None, "object"):
            found = say(table.logicalType)
            raise place[i]["logicalType"].error(f"expected 'object', found {found}")
        names.append(table.name)
    if wanted is None and len(names) > 1:
        raise place.error(f"several schema objects, {list_names(names)}: say which with schema")
    if wanted is not None and wanted not in names:
        hint = did_you_mean(wanted, names) or f"; expected {list_names(names)}"
        raise place.error(f"no schema object {wanted!r}{hint}")
    chosen = names.index(wanted) if wanted is not None else 0
    return tables[chosen], place[chosen]


def _fields(props: Sequence[SchemaProperty], place: Place) -> Iterator[Field]:
    """The fields of a schema object, or of an object within."""
    seen: set[str] = set()
    nested = len(place.at) > 3
    for i, prop in enumerate(props):
        name, at = prop.name, place[i]
        if not name:
            raise at.error("a property without a name")
        if name in seen:
            raise at["name"].error(f"two properties are called {name!r}")
        if not nested and name.startswith(_RESERVED):
            start = next(r for r in _RESERVED if name.startswith(r))
            raise at["name"].error(f"names that start with {start!r} are millstream's own")
        if nested:
            _check_nested(prop, at)
        seen.add(name)
        field = _field(prop, name, at)
        if unfit := UNFIT_IN_NAMES.search(name):
            raise at["name"].error(f"a name cannot hold {unfit[0]!r}")
        yield field


def _check_nested(prop: SchemaProperty, place: Place) -> None:
    if _custom(prop.customProperties, "eventTime"):
        raise place.error("eventTime must be a top-level field")
    if prop.primaryKey:
        place["primaryKey"].find("a nested field is not taken into the primary key")


def _field(prop: SchemaProperty, name: str, place: Place) -> Field:
    key = bool(prop.primaryKey) and len(place.at) == len(("schema", 0, "properties", 0))
    draft = Draft(
        name=name,
        logical=logical_type(prop, place),
        required=bool(prop.required) or key,
        primary_key=key,
        unique=bool(prop.unique),
        classification=prop.classification,
        description=prop.description,
    )
    _check_shape(draft, prop, place)
    _SHAPES[draft.logical](draft, prop, place)
    if draft.type == "timestamp" and (found := _custom(prop.customProperties, "timezone")):
        draft.zone = zone(found, place["customProperties"])
    options = place["logicalTypeOptions"]
    read_options(draft, prop.logicalTypeOptions, options)
    read_enum(draft, prop.enum, place["enum"])
    read_quality(draft, prop.quality, place["quality"])
    check_consistent(draft, options)
    if prop.unique:
        place["unique"].find("uniqueness across records is not enforced on ingest")
    if prop.semanticType == "measure":
        place["semanticType"].find("a measure is read as a field of the records")
    return _inheriting(draft.done())


def _inheriting(field: Field) -> Field:
    """The field, with what is inside of it restricted where it is restricted itself."""
    if not is_restricted(field):
        return field

    def within(inner: Field) -> Field:
        own = inner.classification if is_restricted(inner) else field.classification
        return _inheriting(replace(inner, classification=own))

    items = within(field.items) if field.items else None
    return replace(field, fields=tuple(map(within, field.fields)), items=items)


_PARTS = {"properties": "object", "items": "array", "map": "map"}


def _check_shape(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    for key, owner in _PARTS.items():
        if getattr(prop, key) and draft.logical != owner:
            raise place[key].error(f"{key} belong to the type {owner}, not to {draft.logical}")


def _shape_scalar(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    draft.type = draft.logical  # type: ignore[assignment]


def _shape_object(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    draft.fields = tuple(_fields(prop.properties or [], place["properties"]))
    draft.type = "object" if draft.fields else "json"


def _shape_array(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    draft.items = _field(prop.items, "item", place["items"]) if prop.items else None
    draft.type = "array" if draft.items else "json"


def _shape_map(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    draft.type = "json"
    if prop.map:
        place["map"].find("a map is kept as JSON: its keys and values are not looked into")


def _shape_vector(draft: Draft, prop: SchemaProperty, place: Place) -> None:
    draft.type, draft.items = "array", VECTOR_ELEMENTS["float32"]
    if "dimensions" not in (prop.logicalTypeOptions or {}):
        raise place.error("a vector needs logicalTypeOptions.dimensions")


_SHAPES: dict[str, Callable[[Draft, SchemaProperty, Place], None]] = {
    "string": _shape_scalar,
    "boolean": _shape_scalar,
    "date": _shape_scalar,
    "timestamp": _shape_scalar,
    "time": _shape_scalar,
    "integer": shape_number,
    "number": shape_number,
    "object": _shape_object,
    "array": _shape_array,
    "map": _shape_map,
    "vector": _shape_vector,
}
"""By logical type: what a field of it is made of."""


def _custom(properties: Sequence[CustomProperty] | None, name: str) -> Any:
    return next((p.value for p in properties or () if p.property == name), None)


def _primary_key(props: Sequence[SchemaProperty]) -> tuple[str, ...]:
    """The key's fields by ``primaryKeyPosition``; those without one last, as they stand."""

    def position(prop: SchemaProperty) -> float:
        given = prop.primaryKeyPosition
        return given if given is not None and given > 0 else float("inf")

    keys = sorted((p for p in props if p.primaryKey), key=position)
    return tuple(str(p.name) for p in keys)


def _flagged_event_time(table: SchemaObject, place: Place) -> str | None:
    """The field whose custom property ``eventTime`` is true."""
    flagged: str | None = None
    for i, prop in enumerate(table.properties or []):
        value = _custom(prop.customProperties, "eventTime")
        at = place["properties"][i]["customProperties"]
        if value is not None and not isinstance(value, bool):
            raise at.error(f"eventTime: expected true or false, found {say(value)}")
        if value and flagged is not None:
            raise at.error(f"two eventTime fields: {flagged!r} and {prop.name!r}")
        if value:
            flagged = str(prop.name)
    return flagged


def _with_event_time(
    fields: tuple[Field, ...], name: str | None, place: Place
) -> tuple[Field, ...]:
    """The fields, with that of the event time required."""
    if name is None:
        return fields
    names = [f.name for f in fields]
    if name not in names:
        hint = did_you_mean(name, names)
        raise place.error(f"no field {name!r} to take the event time from{hint}")
    found = names.index(name)
    if fields[found].type != "timestamp":
        kind = fields[found].type
        at = place["properties"][found]
        raise at.error(f"the event time must be a timestamp, not of type {kind}")
    return (*fields[:found], replace(fields[found], required=True), *fields[found + 1 :])


def _find_unenforced(
    standard: OpenDataContractStandard,
    table: SchemaObject,
    keys: tuple[str, ...],
    place: Place,
    root: Place,
) -> None:
    """Note what is asked of the table as a whole."""
    for i, check in enumerate(table.quality or ()):
        find_quality(check, place["quality"][i])
    if keys:
        place.find(
            f"uniqueness of the primary key ({', '.join(keys)}) across records "
            "is not enforced on ingest"
        )
    if _custom(table.customProperties, "eventTime") is not None:
        place["customProperties"].find("eventTime is a custom property of a field: ignored here")
    if standard.slaProperties:
        root["slaProperties"].find("slaProperties are not checked on ingest")
