"""JSON in which some values are replaced; everything else stays, word for word."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ..contract import Field
from ..rules import holds_restricted, is_restricted

MAX_NESTING = 200
"""Levels of arrays and objects that are looked through."""

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?P<token>
      [{}\[\],:]
    | "(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"
    | true|false|null
    | -?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?
    )""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = frozenset("}],:")
_ANY = Field("", "json")
"""A field of which nothing is replaced."""


def masked_json(text: str, fields: tuple[Field, ...], mask: Callable[[str], str]) -> str:
    """A record's JSON without the values that must not be shown.

    These are the values of restricted fields at any depth, those of fields that nobody has named,
    and values of another shape than their field's that may hold either. A null stays.

    Args:
        mask: gives the text in the place of a string's characters, or of another value's JSON.

    Raises:
        ValueError: it is no JSON (RFC 8259), or nested too deeply.
    """
    walk = _Walk(text, mask)
    walk.value(Field("", "object", fields=fields), 0)
    return walk.rest()


class _Walk:
    def __init__(self, text: str, mask: Callable[[str], str]) -> None:
        self._text = text
        self._mask = mask
        self._at = 0
        self._copied = 0
        self._out: list[str] = []

    def value(self, field: Field | None, depth: int) -> None:
        """Go over a value of a field; ``None`` is one that nobody has named."""
        if depth > MAX_NESTING:
            raise ValueError("nested too deeply")
        token = self._token()
        if token in _MARKS:
            raise ValueError("no JSON")
        begin = self._at - len(token)
        hidden = _hides(field, token)
        field = _ANY if hidden or field is None else field
        if token == "{":
            self._members(field, depth)
        elif token == "[":
            self._items(field, depth)
        if hidden:
            value = self._text[begin : self._at]
            self._replace(begin, json.loads(value) if token[0] == '"' else value)

    def rest(self) -> str:
        """All of it, once nothing but space follows."""
        if _SPACE.fullmatch(self._text, self._at) is None:
            raise ValueError("no JSON")
        return "".join([*self._out, self._text[self._copied :]])

    def _members(self, field: Field, depth: int) -> None:
        known = {inner.name: inner for inner in field.fields}
        token = self._token()
        while token != "}":
            if token[0] != '"' or self._token() != ":":
                raise ValueError("no JSON")
            self.value(_ANY if field.type == "json" else known.get(json.loads(token)), depth + 1)
            token = self._next("}")

    def _items(self, field: Field, depth: int) -> None:
        before = self._at
        if self._token() == "]":
            return
        self._at = before
        token = ","
        while token == ",":
            self.value(_ANY if field.type == "json" else field.items, depth + 1)
            token = self._token()
        if token != "]":
            raise ValueError("no JSON")

    def _next(self, end: str) -> str:
        """The end, or what stands behind a comma, which is no end."""
        token = self._token()
        if token == end:
            return token
        if token != "," or (token := self._token()) == end:
            raise ValueError("no JSON")
        return token

    def _token(self) -> str:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise ValueError("no JSON")
        self._at = found.end()
        return found["token"]

    def _replace(self, begin: int, value: str) -> None:
        self._out += [self._text[self._copied : begin], json.dumps(self._mask(value))]
        self._copied = self._at


def _hides(field: Field | None, token: str) -> bool:
    """Whether the value of a field that begins so must not be shown as a whole."""
    if token == "null":
        return False
    if field is None or is_restricted(field):
        return True
    if token in "{[":
        return field.type not in ("json", "object" if token == "{" else "array")
    return holds_restricted(field)
