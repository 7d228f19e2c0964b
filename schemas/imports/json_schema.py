"""Contracts of JSON Schemas, draft 2020-12 and those before it back to 6.

What a schema asks and a contract cannot say is noted, never left out in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path as File
from typing import Any
from urllib.parse import unquote

from ..contract import Field, Rule
from ..integers import integer_range
from .imported import ITEM, CannotImport, Imported, Notes, Path

_MAX_DEPTH = 50
_ID = re.compile(r"urn:contract:(.+):([^:]+)")
_TITLES = frozenset({"$schema", "$id", "$comment", "$defs", "definitions", "title", "id"})
_SAID = _TITLES | {"type", "description", "properties", "required", "items", "enum", "const"}
_CHOICES = ("anyOf", "oneOf", "allOf")
_ASIDE = _TITLES | {"description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
"""What asks nothing of values."""
_STORAGES = [f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")]
_FORMATS = frozenset({"uuid", "email", "hostname", "ipv4", "ipv6", "uri"})
_SIZES = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}
_ASKED: dict[str, tuple[type | tuple[type, ...], str]] = {
    **{key: ((int, Decimal), "a whole number") for sizes in _SIZES.values() for key in sizes},
    **dict.fromkeys(("minimum", "maximum", "multipleOf"), ((int, Decimal), "a number")),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), ((int, Decimal), "a number")),
    **dict.fromkeys(("enum", "required", "anyOf", "oneOf", "allOf"), (list, "a list")),
}
"""Keyword → what its value must be, where it is read. Draft 4 has Booleans for ``exclusive…``."""
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")


def import_json_schema(file: str) -> Imported:
    """The contract of a JSON Schema of objects.

    Raises:
        CannotImport: the file cannot be read, or is no JSON Schema of objects with properties.
    """
    try:
        root = json.loads(File(file).read_bytes(), parse_float=Decimal)
    except OSError as error:
        raise CannotImport(f"{file}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise CannotImport(f"{file}:{error.lineno}: no JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise CannotImport(f"{file}: no JSON: {type(error).__name__}") from error
    if not isinstance(root, dict):
        raise CannotImport(f"{file}: no JSON Schema: expected an object")
    reader = _Reader(root, file)
    whole = reader.field(root, "record", ())
    if whole.type != "object":
        raise CannotImport(f"{file}: a schema of objects with properties is needed")
    named = _ID.fullmatch(str(root.get("$id", "")))
    return Imported(
        str(root.get("title", "")),
        whole.fields,
        id=unquote(named[1]) if named else "",
        version=named[2] if named else "",
        description=whole.description,
        notes=reader.notes,
    )


class _Reader:
    def __init__(self, root: Mapping[str, Any], file: str) -> None:
        self._root = root
        self._file = file
        self.notes = Notes()

    def field(
        self, said: Any, name: str, path: Path, required: bool = True, open: tuple[str, ...] = ()
    ) -> Field:
        """The field that a schema says; not required if it may be null."""
        said, open, nullable = self._only_choice(said, path, open)
        if said is False:
            self.notes.add(path, "not held to false: that it is not there")
        if not isinstance(said, dict) or len(path) > _MAX_DEPTH:
            said = {}
        self._see_sound(said, path)
        types = self._types(said)
        untyped = not types
        nullable = nullable or "null" in types or self._may_be_null(said)
        if nullable or (untyped and path[-1:] == (ITEM,)):
            required = False
        elif untyped and required and path:
            self.notes.add(path, "of any type: must be there, and not be null")
        types = [t for t in types if t != "null"]
        if len(types) != 1:
            if len(types) > 1:
                self.notes.add(path, f"of the types {', '.join(types)}: kept as JSON")
            return self._json(said, name, path, required)
        made = _MAKERS.get(types[0], _Reader._json)(self, said, name, path, required, open)
        return replace(made, description=_text(said.get("description")))

    def _only_choice(
        self, said: Any, path: Path, open: tuple[str, ...]
    ) -> tuple[Any, tuple[str, ...], bool]:
        """The one schema that ``anyOf`` and its like leave besides null; and whether null is left.

        Several are left as they are, and so is one beside which more is asked.
        """
        said, open = self._resolved(said, path, open)
        for key in _CHOICES:
            branches = said.get(key) if isinstance(said, dict) else None
            if not isinstance(branches, list) or said.keys() - {key} - _ASIDE:
                continue
            others = [b for b in branches if not self._is_null(b)]
            if len(others) != 1 or not isinstance(others[0], dict):
                continue
            beside = {k: v for k, v in said.items() if k != key}
            is_optional = key != "allOf" and len(others) < len(branches)
            said, open, inside = self._only_choice({**others[0], **beside}, path, open)
            return said, open, is_optional or inside
        return said, open, False

    def _is_null(self, said: Any) -> bool:
        return isinstance(said, dict) and self._types(said) == ["null"]

    def _may_be_null(self, said: Mapping[str, Any]) -> bool:
        """Whether null is among an untyped schema's choices."""
        choices = [b for key in ("anyOf", "oneOf") for b in said.get(key) or ()]
        return not self._types(said) and any(map(self._is_null, choices))

    def _resolved(
        self, said: Any, path: Path, open: tuple[str, ...]
    ) -> tuple[Any, tuple[str, ...]]:
        """The schema that a ``$ref`` names, with what stands beside it."""
        while isinstance(said, dict) and isinstance(said.get("$ref"), str):
            reference = said["$ref"]
            if reference in open:
                self.notes.add(path, f"{reference} holds itself: kept as JSON from here")
                return None, open
            open = (*open, reference)
            found = self._find(reference, path)
            if found is None:
                return None, open
            beside = {key: value for key, value in said.items() if key != "$ref"}
            said = {**found, **beside} if isinstance(found, dict) else found
        return said, open

    def _find(self, reference: str, path: Path) -> Any:
        if not reference.startswith("#"):
            self.notes.add(path, f"$ref {reference}: in another file, which is not read")
            return None
        found: Any = self._root
        for step in filter(None, unquote(reference[1:]).split("/")):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                where = ".".join(path) or "the schema"
                raise CannotImport(f"{self._file}: {where}: $ref {reference}: there is no such")
        return found

    def _see_sound(self, said: Mapping[str, Any], path: Path) -> None:
        """Refuse what is no JSON Schema, as a minimum that is a string."""
        for key, (kind, words) in _ASKED.items():
            if key in said and not isinstance(said[key], kind):
                where = ".".join((*path, key))
                text = json.dumps(said[key], default=str)[:80]
                raise CannotImport(f"{self._file}: {where}: expected {words}, found {text}")

    def _types(self, said: Mapping[str, Any]) -> list[str]:
        given = said.get("type")
        if isinstance(given, str):
            return [given]
        if isinstance(given, list):
            types = list(map(str, given))
            both = {"integer", "number"} <= set(types)
            return [t for t in types if not (both and t == "integer")]
        values = said.get("enum") or ([said["const"]] if "const" in said else [])
        if values:
            return list(dict.fromkeys(map(_type_of, values)))
        if "properties" in said:
            return ["object"]
        return []

    def _leftovers(self, said: Mapping[str, Any], path: Path, known: set[str]) -> None:
        for key, value in said.items():
            if key in known or key in _SAID:
                continue
            if key == "additionalProperties" and value is not False:
                continue
            text = json.dumps(value, ensure_ascii=False, default=str)
            hint = ""
            if key == "additionalProperties":
                hint = "; say unknown_fields: reject in the job"
            self.notes.add(path, f"not held to {key}: {text[:80]}{hint}")
        if comment := _text(said.get("$comment")):
            self.notes.add(path, comment)

    def _enum(self, said: Mapping[str, Any], path: Path, fits: Callable[[Any], bool]) -> list[Rule]:
        given = said.get("enum", [said["const"]] if "const" in said else None)
        if given is None:
            return []
        values = [value for value in given if value is not None]
        if not values or not all(map(fits, values)):
            self.notes.add(path, f"not held to enum: {json.dumps(given, default=str)[:80]}")
            return []
        return [Rule("enum", tuple(dict.fromkeys(values)))]

    # ------------------------------------------------------------------------ by type

    def _object(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        properties = said.get("properties")
        if not isinstance(properties, dict) or not properties:
            return self._json(said, name, path, required)
        must = said.get("required") or ()
        fields = tuple(
            self.field(inner, key, (*path, key), key in must, open)
            for key, inner in properties.items()
        )
        for key in must:
            if key not in properties:
                self.notes.add(path, f"not held to required: {key}, which has no schema")
        self._leftovers(said, path, set(_SIZES["object"]))
        return Field(name, "object", required, _sizes(said, "object"), fields=fields)

    def _array(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        items = said.get("items")
        known = {*_SIZES["array"], "uniqueItems"}
        rules = _sizes(said, "array")
        if said.get("uniqueItems") is True:
            rules = (*rules, Rule("uniqueItems", True))
        self._leftovers(said, path, known)
        if not isinstance(items, dict) or "prefixItems" in said:
            if isinstance(items, list):
                self.notes.add(path, "items of a type each: kept as JSON")
            return Field(name, "json", required, rules)
        item = self.field(items, "item", (*path, ITEM), True, open)
        return Field(name, "array", required, rules, items=item)

    def _string(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        given = said.get("format")
        known = {*_SIZES["string"], "pattern", "format"}
        clock = {"date": "date", "date-time": "timestamp"}.get(str(given))
        if clock and not {"enum", "const", "pattern"} & said.keys():
            self._leftovers(said, path, {"format"})
            return Field(name, clock, required)  # pyright: ignore[reportArgumentType]
        rules = list(_sizes(said, "string"))
        if isinstance(said.get("pattern"), str):
            rules.append(Rule("pattern", said["pattern"]))
        if given in _FORMATS:
            rules.append(Rule("format", given))
        elif given is not None:
            self.notes.add(path, f"not held to format: {given}")
        if said.get("contentEncoding") == "base64":
            known.add("contentEncoding")
            rules.append(Rule("format", "byte"))
        rules += self._enum(said, path, lambda v: isinstance(v, str))
        self._leftovers(said, path, known)
        return Field(name, "string", required, tuple(rules))

    def _integer(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        bounds = _bounds(said)
        storage = next((s for s in _STORAGES if _has_range(bounds, s)), None)
        if storage:
            bounds = {k: v for k, v in bounds.items() if k not in ("minimum", "maximum")}
        elif bounds.get("maximum", 0) >= 2**63 and bounds.get("minimum", -1) >= 0:
            storage = "uint64"
        storage = storage or "int64"
        low, high = integer_range(storage)
        # A bound beyond the type asks nothing.
        bounds = {
            kind: value
            for kind, value in bounds.items()
            if not ((kind == "minimum" and value <= low) or (kind == "maximum" and value >= high))
        }
        rules = [Rule(kind, _whole(value)) for kind, value in bounds.items()]
        rules += self._enum(said, path, lambda v: type(v) is int and low <= v <= high)
        self._leftovers(said, path, {*_BOUNDS, "format"})
        return Field(name, "integer", required, tuple(rules), storage=storage)

    def _number(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        bounds = {kind: float(value) for kind, value in _bounds(said).items()}
        for kind, value in bounds.items():
            if math.isinf(value):
                self.notes.add(path, f"not held to {kind}: {said.get(kind)}, which no double holds")
        rules = [Rule(kind, value) for kind, value in bounds.items() if math.isfinite(value)]
        numbers = self._enum(said, path, lambda v: type(v) in (int, float, Decimal))
        rules += [Rule(r.kind, tuple(map(float, r.value))) for r in numbers]
        self._leftovers(said, path, {*_BOUNDS, "format"})
        return Field(name, "number", required, tuple(rules))

    def _boolean(
        self, said: Any, name: str, path: Path, required: bool, open: tuple[str, ...]
    ) -> Field:
        rules = self._enum(said, path, lambda v: isinstance(v, bool))
        self._leftovers(said, path, set())
        return Field(name, "boolean", required, tuple(rules))

    def _json(
        self,
        said: Any,
        name: str,
        path: Path,
        required: bool,
        open: tuple[str, ...] = (),
    ) -> Field:
        for kind in ("array", "object"):
            if rules := _sizes(said, kind):
                self._leftovers(said, path, {*_SIZES[kind], "uniqueItems"})
                return Field(name, "json", required, rules)
        rules = (Rule("uniqueItems", True),) if said.get("uniqueItems") is True else ()
        self._leftovers(said, path, {"uniqueItems"})
        return Field(name, "json", required, rules)


_MAKERS: dict[str, Callable[..., Field]] = {
    "object": _Reader._object,
    "array": _Reader._array,
    "string": _Reader._string,
    "integer": _Reader._integer,
    "number": _Reader._number,
    "boolean": _Reader._boolean,
}


def _sizes(said: Mapping[str, Any], kind: str) -> tuple[Rule, ...]:
    return tuple(Rule(key, int(said[key])) for key in _SIZES[kind] if key in said)


def _bounds(said: Mapping[str, Any]) -> dict[str, Any]:
    """Bounds and step. In draft 4, ``exclusiveMinimum: true`` makes the minimum exclusive."""
    bounds = {kind: said[kind] for kind in _BOUNDS if kind in said}
    for kind, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(bounds.get(kind), bool) and bounds.pop(kind) and plain in bounds:
            bounds[kind] = bounds.pop(plain)
    return bounds


def _has_range(bounds: Mapping[str, Any], storage: str) -> bool:
    return (bounds.get("minimum"), bounds.get("maximum")) == integer_range(storage)


def _whole(value: Any) -> Any:
    return int(value) if value == int(value) else value


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
