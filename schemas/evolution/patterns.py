"""Whether all matches of one regular expression are matches of another, where that can be told.

It can of expressions that are anchored at both ends and made of characters, classes, groups and
repetitions: those are regular languages, which ``greenery`` compares. Of others, of large ones, and
without the package, nothing is said.
"""

from __future__ import annotations

import functools
import re

_MOST = 48
"""What an expression may add up to, its counts included: the time grows with its cube."""

_CLASSES = {r"\d": "0-9", r"\w": "0-9A-Za-z_"}
_QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(,?)(\d*)\}")
_GROUP = re.compile(r"\((?:\?:)?(?!\?)")
_CLASS = re.compile(r"\[(\^?)((?:\\.|[^\]\\\[])+)\]", re.DOTALL)
_ITEM = re.compile(r"\\.|.", re.DOTALL)
_SPECIAL = frozenset("^$()[]{}*+?|.\\")


class _Unsaid(Exception):
    """Something that is not translated."""


@functools.lru_cache(maxsize=256)
def is_included(inner: str, outer: str) -> bool:
    """Whether it is sure that all matches of ``inner`` are matches of ``outer``.

    >>> is_included("^[a-z]{2,5}$", "^[a-z]{1,10}$")
    True
    >>> is_included("^(?!x)[a-y]+$", "^[a-y]+$")  # cannot be told
    False
    """
    try:
        from greenery import parse
        from greenery.parse import NoMatch
    except ImportError:
        return False
    try:
        one, other = _translated(inner), _translated(outer)
        return bool(parse(one).to_fsm().issubset(parse(other).to_fsm()))
    except (_Unsaid, NoMatch, RecursionError):
        return False


def _translated(pattern: str) -> str:
    """An expression as ``greenery`` writes it, where every character stands for itself."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise _Unsaid
    text, made, depth, size, at = pattern[1:-1], "", 0, 0, 0
    if len(text) - len(text.rstrip("\\")) & 1:  # the last character is no anchor
        raise _Unsaid
    may_repeat = False
    while at < len(text):
        size += 1
        if may_repeat and (found := _QUANTIFIER.match(text, at)):
            made += found[0]
            size += int(found[3] or found[1] or 0)
            may_repeat = False
        elif found := _GROUP.match(text, at):
            made, depth, may_repeat = made + "(", depth + 1, False
        elif found := _CLASS.match(text, at):
            made, may_repeat = made + f"[{found[1]}{_items(found[2])}]", True
        else:
            found = _ITEM.match(text, at)
            assert found is not None
            piece, depth = _single(found[0], depth)
            made, may_repeat = made + piece, piece != "|"
        if size > _MOST or depth < 0:
            raise _Unsaid
        at = found.end()
    if depth:
        raise _Unsaid
    return made


def _single(text: str, depth: int) -> tuple[str, int]:
    """One character, and how deep in groups the next one is."""
    if text == ")":
        return ")", depth - 1
    if text == "|" and depth:
        return "|", depth
    if text == ".":
        return r"[^\x0a]", depth
    if text in _CLASSES:
        return f"[{_CLASSES[text]}]", depth
    if text in _SPECIAL:
        raise _Unsaid
    return _character(text), depth


def _items(text: str) -> str:
    """What is in a class."""
    items, made, at = _ITEM.findall(text), "", 0
    while at < len(items):
        if items[at] in _CLASSES:
            made += _CLASSES[items[at]]
            at += 1
        elif at + 2 < len(items) and items[at + 1] == "-":
            made += f"{_character(items[at])}-{_character(items[at + 2])}"
            at += 3
        else:
            made += _character(items[at])
            at += 1
    return made


def _character(text: str) -> str:
    if len(text) == 2:
        text = text[1]
        if text.isalnum() or not text.isascii():
            raise _Unsaid  # a class, a control character, a reference
    return f"\\x{ord(text):02x}" if ord(text) < 256 else text
