"""An ODCS document with changes written into it, word for word the same elsewhere.

Needs the package ``ruamel.yaml``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import SingleQuotedScalarString

from ..contract import Contract, Field
from ..problems import one_line
from .evolve import ITEM, Change

_WIDTH = 1000  # lines are nobody's but the author's
_LOGICAL = {"decimal": "number", "json": "object"}


class CannotWrite(ValueError):
    """A change for which the document has no place that can be found."""


def written(
    text: str,
    contract: Contract,
    changes: Sequence[Change],
    *,
    version: str,
    properties: Mapping[str, Any],
    heading: str = "",
) -> str:
    """The document with the changes in it.

    Args:
        text: the document that ``contract`` was loaded from.
        version: of the document that it becomes.
        properties: custom properties of the document; others of the same names go.
        heading: a line of comment at its beginning.

    Raises:
        CannotWrite: a change has no place in it.
    """
    yaml = _yaml()
    document = _read(yaml, text)
    commented = not text.lstrip().startswith("{")  # in JSON nothing can be said beside
    table = next((t for t in document["schema"] if t.get("name") == contract.name), None)
    if table is None:
        raise CannotWrite(f"it has no schema object {contract.name}")
    for change in changes:
        _write(table, change, commented)
    document["version"] = version
    kept = [
        p for p in document.get("customProperties") or [] if p.get("property") not in properties
    ]
    said = [_flow(property=name, value=value) for name, value in properties.items()]
    document["customProperties"] = CommentedSeq([*kept, *said])
    stream = io.StringIO()
    yaml.dump(document, stream)
    dumped = stream.getvalue()
    return f"# {one_line(heading)}\n{dumped}" if heading and commented else dumped


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.preserve_quotes = True
    yaml.allow_unicode = True
    yaml.representer.add_representer(Decimal, _number)
    return yaml


def _read(yaml: YAML, text: str) -> Any:
    try:
        return yaml.load(text)
    except (YAMLError, ValueError) as error:  # it has more types than those of contracts
        raise CannotWrite("it cannot be read word for word") from error


def _number(representer: Any, value: Decimal) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:float", f"{value:f}")


def _flow(**items: Any) -> CommentedMap:
    made = CommentedMap(items)
    made.fa.set_flow_style()
    return made


def _write(table: Any, change: Change, commented: bool) -> None:
    *around, name = change.steps
    place = table
    for step in around:
        place = place.get("items") if step == ITEM else _property(place, step)
        if place is None:
            raise CannotWrite(f"{change.path} is not found")
    if change.kind == "field added":
        _add(place, change, commented)
        return
    held = place.get("items") if name == ITEM else _property(place, name)
    if held is None:
        raise CannotWrite(f"{change.path} is not found")
    _CHANGES[change.kind](held, change)


def _property(place: Any, name: str) -> Any:
    return next((p for p in place.get("properties") or [] if p.get("name") == name), None)


def _add(place: Any, change: Change, commented: bool) -> None:
    properties = place.get("properties")
    if not isinstance(properties, CommentedSeq):
        raise CannotWrite(f"what is around {change.path} lists no properties")
    made = _flow(name=change.field.name, **_value(change.field))
    if change.field.classification:
        made["classification"] = change.field.classification
    if commented and not properties.fa.flow_style():
        made["description"] = f"Added by itself: {one_line(change.evidence)}."
    properties.append(made)


def _value(field: Field) -> dict[str, Any]:
    """A property without its name. Fields of no known type hold any JSON."""
    said: dict[str, Any] = {"logicalType": _LOGICAL.get(field.type, field.type)}
    if field.fields:
        inner = CommentedSeq([_flow(name=f.name, **_value(f)) for f in field.fields])
        said["properties"] = inner
    if field.items is not None:
        said["items"] = _flow(**_value(field.items))
    return said


def _widen(held: Any, change: Change) -> None:
    field = change.field
    options = held.get("logicalTypeOptions")
    if field.type == "decimal":
        held["physicalType"] = f"decimal({field.precision},{field.scale})"
        return
    if field.type == "number":
        held["logicalType"] = "number"
        if "physicalType" in held:
            held["physicalType"] = "double"
        if options is not None:
            options.pop("format", None)
        return
    sign = "u" if field.storage.startswith("u") else "i"
    if options is None:
        options = held["logicalTypeOptions"] = _flow()
    options["format"] = f"{sign}{field.storage.lstrip('uint')}"


def _allow(held: Any, change: Change) -> None:
    """Add to every list of valid values that makes a rule."""
    said = [_quoted(value) for value in change.values]
    listed = held.get("enum")
    if listed:
        listed.extend(_flow(value=value) for value in said)
    for check in held.get("quality") or []:
        if check.get("severity") in ("info", "warning", "warn"):
            continue
        values = (check.get("arguments") or {}).get("validValues", check.get("validValues"))
        if isinstance(values, list) and (check.get("mustBe") == 0 or "rule" in check):
            values.extend(value for value in said if value not in values)


def _quoted(value: Any) -> Any:
    """A word in quotes that older readers of YAML take for a truth value."""
    is_word = isinstance(value, str) and value.lower() in ("y", "n", "yes", "no", "on", "off")
    return SingleQuotedScalarString(value) if is_word else value


_CHANGES = {"type widened": _widen, "values added": _allow}
