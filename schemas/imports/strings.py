"""What texts have in common: what they are (a time stamp, a UUID, …), few different ones, a
pattern."""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from ..contract import Field, Rule
from ..rules import FORMATS
from ..temporal import parse_column
from .imported import Notes, Path
from .ranges import Different, Numbers, range_rules

_FEW = 25
"""Different values up to which they may be all there are."""
_ROWS_EACH = 20
"""Rows for each different value from which on they are taken for all."""
_SHAPES = 1000
"""Different shapes up to which there may be one pattern."""
_LONG = 100
"""Characters from which on texts have no shape."""
_LEAST_ROWS = 100
"""Rows from which on a pattern is taken for one."""
_NUMBER = "^-?(?:0|[1-9][0-9]{0,17})(?:[.][0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?$"
_INTEGER = "^-?(?:0|[1-9][0-9]{0,17})$"

_Check = Callable[[pa.Array], bool]


def _matches(pattern: str) -> _Check:
    return lambda texts: bool(pc.all(pc.match_substring_regex(texts, pattern)).as_py())


def _parses(field: Field) -> _Check:
    return lambda texts: parse_column(texts, field)[1] is None


_CELLS: dict[str, tuple[_Check, Field]] = {
    "boolean": (_matches("^(?i:true|false)$"), Field("", "boolean")),
    "integer": (_matches(_INTEGER), Field("", "integer")),
    "number": (_matches(_NUMBER), Field("", "number")),
}
_CLOCKS: dict[str, tuple[_Check, Field]] = {
    "timestamp": (_parses(made := Field("", "timestamp")), made),
    "local timestamp": (_parses(made := Field("", "timestamp", zone="UTC")), made),
    "date": (_parses(made := Field("", "date")), made),
    "time": (_parses(made := Field("", "time")), made),
}
_WORDS: dict[str, tuple[_Check, Field]] = {
    name: (_matches(FORMATS[name][1]), Field("", "string", rules=(Rule("format", name),)))
    for name in ("uuid", "ipv4", "email")
}
_WORDS["uri"] = (
    _matches(f"{FORMATS['uri'][1][:-1].replace(':[', '://[')}$"),
    Field("", "string", rules=(Rule("format", "uri"),)),
)
"""What texts may be, the narrowest first: how it is told, and the field that holds it."""


class Strings:
    """The texts of a column."""

    def __init__(self) -> None:
        self.count = 0
        self.different = Different()
        self._shortest: int | None = None
        self._longest = 0
        self._candidates: dict[str, tuple[_Check, Field]] | None = None
        self._values: set[str] | None = set()
        self._shapes: set[str] | None = set()
        self._shaped = 0  # texts whose shapes are among them
        self._numbers = Numbers()

    def add(self, texts: pa.Array, *, cells: bool = False, clocks: bool = True) -> None:
        """Take texts, none of them null.

        Args:
            cells: they are a CSV file's, and may be numbers.
            clocks: they may be dates and times, which other formats than text have types for.
        """
        if self._candidates is None:
            self._candidates = {
                **(_CELLS if cells else {}),
                **(_CLOCKS if clocks else {}),
                **_WORDS,
            }
        self.count += len(texts)
        lengths = pc.min_max(pc.utf8_length(texts)).as_py()
        shortest = lengths["min"]
        self._shortest = shortest if self._shortest is None else min(self._shortest, shortest)
        self._longest = max(self._longest, lengths["max"])
        some = texts.slice(0, 5)
        for name, (holds, _) in list(self._candidates.items()):
            if not holds(some) or not holds(texts):
                del self._candidates[name]
        self._add_numbers(texts)
        self.different.add(texts)
        self._add_values(texts)
        self._add_shapes(texts)

    def _add_numbers(self, texts: pa.Array) -> None:
        """Take the range of what are numbers so far."""
        for kind, held in (("integer", pa.int64()), ("number", pa.float64())):
            if kind in (self._candidates or {}):
                bounds = pc.min_max(texts.cast(held)).as_py()
                self._numbers.add_range(len(texts), bounds["min"], bounds["max"])
                return

    def _add_values(self, texts: pa.Array) -> None:
        if self._values is None:
            return
        found = pc.unique(texts)
        self._values = self._values.union(found.to_pylist()) if len(found) <= _FEW else None
        if self._values is not None and len(self._values) > _FEW:
            self._values = None

    def _add_shapes(self, texts: pa.Array) -> None:
        if self._shapes is None or self._candidates or self._longest > _LONG:
            return
        shapes = texts
        for letters, stands_for in (("[a-z]", "a"), ("[A-Z]", "A"), ("[0-9]", "9")):
            shapes = pc.replace_substring_regex(shapes, letters, stands_for)
        found = pc.unique(shapes)
        if len(found) > _SHAPES:
            self._shapes = None
            return
        self._shapes |= set(found.to_pylist())
        self._shaped += len(texts)
        if len({_collapsed(shape) for shape in self._shapes}) > 1:
            self._shapes = None

    def field(self, name: str, path: Path, notes: Notes, *, tight: bool) -> Field:
        """The field that holds all the texts."""
        for kind, (_, made) in (self._candidates or {}).items():
            notes.add(path, f"each is a {kind}" if kind not in _WORDS else f"each is of {kind}")
            rules = made.rules
            if kind in ("integer", "number"):
                rules = range_rules(self._numbers, path, notes, tight)
            if made.zone:
                notes.add(path, "without an offset: read as UTC")
            return Field(name, made.type, rules=rules, zone=made.zone)
        notes.add(path, f"{self._shortest:,} to {self._longest:,} characters")
        rules = ()
        if tight:
            rules = (Rule("minLength", self._shortest), Rule("maxLength", self._longest))
        if self._values is not None:
            values = sorted(self._values)
            notes.add(path, f"{len(values):,} different values")
            if self.count >= _ROWS_EACH * len(values):
                return Field(name, "string", rules=(*rules, Rule("enum", tuple(values))))
        if pattern := self._pattern():
            notes.add(path, f"all of one shape, such as {min(self._shapes or {''})}")
            return Field(name, "string", rules=(*rules, Rule("pattern", pattern)))
        return Field(name, "string", rules=rules)

    def _pattern(self) -> str | None:
        """The one pattern of all texts, if it says more than "letters" or "anything"."""
        if not self._shapes or self.count < _LEAST_ROWS or self._shaped < self.count:
            return None
        shapes = sorted(self._shapes)
        collapsed = _collapsed(shapes[0])
        if not ("9" in collapsed and len(collapsed) > 1) and not re.search(r"\W", collapsed):
            return None
        runs = list(zip(*map(_runs, shapes), strict=True))
        return "^" + "".join(map(_run_pattern, runs)) + "$"


_RUN = re.compile(r"a+|A+|9+|.", re.DOTALL)
_CLASSES = {"a": "[a-z]", "A": "[A-Z]", "9": "[0-9]"}


def _collapsed(shape: str) -> str:
    return "".join(run[0] for run in _runs(shape))


def _runs(shape: str) -> list[str]:
    return _RUN.findall(shape)


def _run_pattern(runs: tuple[str, ...]) -> str:
    """The pattern of runs of one class, one of each shape."""
    first = runs[0][0]
    if first not in _CLASSES:
        return re.escape(first)
    low, high = min(map(len, runs)), max(map(len, runs))
    if low == high == 1:
        return _CLASSES[first]
    return f"{_CLASSES[first]}{{{low}}}" if low == high else f"{_CLASSES[first]}+"
