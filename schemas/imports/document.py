"""A contract as an ODCS 3.1 document, with notes as comments.

What it writes is read back by :mod:`..odcs` as the same contract. Needs the package
``ruamel.yaml``.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ..contract import Field, Rule
from .imported import ITEM, Imported, Path

API_VERSION = "v3.1.0"
_WIDTH = 100

_LOGICAL = {"decimal": "number"}
_FLOATS = {"float32": "f32"}


def odcs_document(found: Imported, *, heading: Sequence[str] = ()) -> str:
    """The document's text.

    Args:
        heading: lines of comment at its beginning.
    """
    table = _mapping(name=found.name, logicalType="object")
    if found.description:
        table["description"] = found.description
    table["properties"] = _properties(found.fields, (), found)
    document = _mapping(
        apiVersion=API_VERSION,
        kind="DataContract",
        id=found.id or found.name,
        version=found.version or "1.0.0",
        status="draft",
        schema=CommentedSeq([table]),
    )
    lines = [*heading, *found.notes.of(())]
    if lines:
        document.yaml_set_start_comment("\n".join(map(_plain, lines)))
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=2, offset=0)
    yaml.allow_unicode = True
    yaml.representer.add_representer(Decimal, _number)
    yaml.representer.add_representer(float, _number)
    return yaml


def _number(representer: Any, value: Decimal | float) -> Any:
    """A number with every digit."""
    text = f"{value:f}" if isinstance(value, Decimal) else repr(value)
    kind = "int" if text.lstrip("-").isdigit() else "float"
    return representer.represent_scalar(f"tag:yaml.org,2002:{kind}", text)


def _mapping(**items: Any) -> CommentedMap:
    return CommentedMap(items)


def _flow(items: dict[str, Any]) -> CommentedMap:
    made = CommentedMap(items)
    made.fa.set_flow_style()
    return made


def _properties(fields: Sequence[Field], at: Path, found: Imported) -> CommentedSeq:
    made = CommentedSeq()
    depth = 2 * len([step for step in at if step != ITEM]) + 2 * at.count(ITEM)
    for number, field in enumerate(fields):
        path = (*at, field.name)
        made.append(_property(field, path, found))
        if lines := found.notes.of(path):
            _comment(made, number, lines, indent=2 + depth)
    return made


def _comment(made: Any, key: Any, lines: Sequence[str], indent: int) -> None:
    text = "\n".join(map(_plain, lines))
    made.yaml_set_comment_before_after_key(key, before=text, indent=indent)


def _plain(text: str) -> str:
    """Text for one line of a comment, whatever it holds."""
    return "".join(c if c.isprintable() else " " for c in text)


def _property(field: Field, path: Path, found: Imported) -> CommentedMap:
    said = CommentedMap({"name": field.name})
    said.update(_value(field, path, found))
    if len(path) == 1 and field.name in found.primary_key:
        said["primaryKey"] = True
        said["primaryKeyPosition"] = found.primary_key.index(field.name) + 1
    if len(path) == 1 and field.name == found.event_time:
        said["customProperties"] = CommentedSeq([_flow({"property": "eventTime", "value": True})])
    return said


def _value(field: Field, path: Path, found: Imported) -> dict[str, Any]:
    """A property without its name."""
    said: dict[str, Any] = {"logicalType": _logical_type(field)}
    if field.type == "decimal":
        said["physicalType"] = f"decimal({field.precision},{field.scale})"
    if field.description:
        said["description"] = field.description
    if field.required:
        said["required"] = True
    if field.unique:
        said["unique"] = True
    if field.classification:
        said["classification"] = field.classification
    if options := _options(field):
        said["logicalTypeOptions"] = _flow(options)
    for rule in field.rules:
        if rule.kind == "enum":
            said["quality"] = _enum(rule)
    if field.fields:
        said["properties"] = _properties(field.fields, path, found)
    if field.items is not None:
        said["items"] = _items(field.items, (*path, ITEM), found)
    return said


def _items(field: Field, path: Path, found: Imported) -> CommentedMap:
    said = CommentedMap(_value(field, path, found))
    if lines := found.notes.of(path):
        depth = 2 * len(path)
        _comment(said, "logicalType", lines, indent=2 + depth)
    return said


def _logical_type(field: Field) -> str:
    if field.type == "json":
        of_arrays = any(rule.kind.endswith("Items") for rule in field.rules)
        return "array" if of_arrays else "object"
    return _LOGICAL.get(field.type, field.type)


def _options(field: Field) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if field.type == "integer" and field.storage != "int64":
        sign = "u" if field.storage.startswith("u") else "i"
        options["format"] = f"{sign}{field.storage.lstrip('uint')}"
    elif field.type == "number" and field.storage in _FLOATS:
        options["format"] = _FLOATS[field.storage]
    elif field.format:
        options["format"] = field.format
    if field.zone:
        options["defaultTimezone"] = field.zone
    for rule in field.rules:
        if rule.kind != "enum":
            options[rule.kind] = _said(rule.value)
    return options


def _enum(rule: Rule) -> CommentedSeq:
    values = CommentedSeq(map(_said, rule.value))
    values.fa.set_flow_style()
    arguments = CommentedMap({"validValues": values})
    check = CommentedMap({"metric": "invalidValues", "mustBe": 0, "arguments": arguments})
    return CommentedSeq([check])


def _said(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value
