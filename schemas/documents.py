"""YAML documents with their line numbers, read as untrusted input.

Only plain values come out: mappings with string keys, lists, strings, numbers, booleans, null. The
words are those of YAML 1.2's core schema, so ``no`` is a word and not false, ``2026-11-24`` is a
string, and ``10:30`` is not a number to the base of sixty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from .contract import ContractError

MAX_DEPTH = 100
"""Levels of nesting, in mappings and lists."""
MAX_VALUES = 250_000
"""Values in a document once its aliases are written out."""

_Path = tuple[str | int, ...]
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, faster with libyaml
_TAG = "tag:yaml.org,2002:"


class _CoreLoader(_SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _name, _regex, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", "[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", "<<", ["<"]),
):
    _CoreLoader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_regex})$"), _first)


@dataclass(frozen=True, slots=True)
class Document:
    """A document: its value, the line of each key and entry, and each fraction as it is written."""

    origin: str
    value: dict[str, Any]
    lines: dict[_Path, int] = field(repr=False)
    numbers: dict[_Path, str] = field(repr=False)


def read_document(text: str, origin: str) -> Document:
    """Read a YAML document that is a mapping.

    Args:
        origin: what messages call the document, as a rule its file.

    Raises:
        ContractError: it is empty, not YAML, not a mapping, holds a key twice or a tag of its
            own, or is nested or repeated beyond ``MAX_DEPTH`` and ``MAX_VALUES``.
    """
    try:
        root = _CoreLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, (error.context, error.problem)))
        line = min(mark.line + 1 if mark else 1, len(text.splitlines()))
        raise ContractError(f"{origin}:{line}: not valid YAML: {said}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        said = getattr(error, "reason", None) or str(error).splitlines()[0]
        line = text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        raise ContractError(f"{origin}:{line}: not valid YAML: {said}") from None
    except RecursionError:
        raise ContractError(f"{origin}:1: nested too deeply") from None
    if root is None:
        raise ContractError(f"{origin}:1: the document is empty")
    reader = _Reader(origin)
    value = reader.read(root, ())
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        line = root.start_mark.line + 1
        raise ContractError(f"{origin}:{line}: expected a mapping, found {kind}")
    return Document(origin, value, reader.lines, reader.numbers)


class _Reader:
    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: dict[_Path, int] = {}
        self.numbers: dict[_Path, str] = {}
        self._values = 0

    def read(self, node: yaml.Node, at: _Path) -> Any:
        self._count(node, len(at))
        match node:
            case yaml.MappingNode():
                return self._mapping(node, at)
            case yaml.SequenceNode():
                return self._sequence(node, at)
            case yaml.ScalarNode():
                return self._scalar(node, at)

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES:,} values, aliases written out")
        if depth > MAX_DEPTH:  # an alias that contains itself ends here, too
            raise self._error(node, f"nested deeper than {MAX_DEPTH} levels")

    def _mapping(self, node: yaml.MappingNode, at: _Path) -> dict[str, Any]:
        self._expect_tag(node, "map")
        value = {}
        for key, child in self._pairs(node):
            name = key.value
            if (*at, name) in self.lines:
                continue  # merged in with <<, and also given here
            self.lines[*at, name] = key.start_mark.line + 1
            value[name] = self.read(child, (*at, name))
        return value

    def _pairs(
        self, node: yaml.MappingNode, depth: int = 0
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Keys and values, the mapping's own first, then those merged in with ``<<``."""
        seen: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key, child in node.value:
            if key.tag == _TAG + "merge":
                merged += child.value if isinstance(child, yaml.SequenceNode) else [child]
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "expected a word as key")
            if key.value in seen:
                first = f"first on line {seen[key.value]}"
                raise self._error(key, f"the key {key.value!r} is given twice, {first}")
            seen[key.value] = key.start_mark.line + 1
            yield key, child
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                raise self._error(source, "expected a mapping to merge with <<")
            self._count(source, depth + 1)
            yield from self._pairs(source, depth + 1)

    def _sequence(self, node: yaml.Node, at: _Path) -> list[Any]:
        self._expect_tag(node, "seq")
        value = []
        for i, child in enumerate(node.value):
            self.lines[*at, i] = child.start_mark.line + 1
            value.append(self.read(child, (*at, i)))
        return value

    def _scalar(self, node: yaml.ScalarNode, at: _Path) -> Any:
        text = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "str" | "merge":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
                case "float":
                    self.numbers[at] = text
                    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            raise self._error(node, f"{text[:40]!r} is not what its tag says") from None
        raise self._error(node, f"the tag {node.tag!r} is not allowed")

    def _expect_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            raise self._error(node, f"the tag {node.tag!r} is not allowed")

    def _error(self, node: yaml.Node, message: str) -> ContractError:
        return ContractError(f"{self.origin}:{node.start_mark.line + 1}: {message}")
