"""Avro schemas that name types which other schemas define, made whole.

Source: Confluent's documentation, "Schema references": a schema in a registry may name types of
other subjects. Readers want one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .schema import Avro


def with_definitions(schema: Avro, definitions: Mapping[str, Avro]) -> Avro:
    """The schema with each type that it does not define itself defined where it is named first.

    Args:
        definitions: the types that may be missing, by their full names. They may name each other.
    """
    try:
        return _Definitions(definitions).put_into(schema, "")
    except (AttributeError, KeyError, TypeError, RecursionError):
        return schema  # what is wrong with it its parser says


class _Definitions:
    def __init__(self, definitions: Mapping[str, Avro]) -> None:
        self._missing = dict(definitions)

    def put_into(self, said: Any, namespace: str) -> Any:
        if isinstance(said, str):
            return self._defined(said, namespace)
        if isinstance(said, list):
            return [self.put_into(branch, namespace) for branch in said]
        kind = said["type"]
        if kind in ("array", "map"):
            inner = "items" if kind == "array" else "values"
            return {**said, inner: self.put_into(said[inner], namespace)}
        if kind not in ("record", "error", "enum", "fixed"):
            return {**said, "type": self.put_into(kind, namespace)}
        name = _full_name(said["name"], said.get("namespace", namespace))
        self._missing.pop(name, None)
        if "fields" not in said:
            return said
        inside = name.rpartition(".")[0]
        fields = [{**f, "type": self.put_into(f["type"], inside)} for f in said["fields"]]
        return {**said, "fields": fields}

    def _defined(self, name: str, namespace: str) -> Any:
        # a name without dots is of the enclosing namespace, or else of none
        for full in (_full_name(name, namespace), name):
            if full in self._missing:
                found = self._missing.pop(full)
                if isinstance(found, dict):  # whose own namespace is not the one that it comes into
                    found = {"namespace": "", **found}
                return self.put_into(found, "")
        return name


def _full_name(name: str, namespace: str | None) -> str:
    return f"{namespace}.{name}" if namespace and "." not in name else name
