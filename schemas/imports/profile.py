"""What the values of a column have in common: mergeable, a batch at a time.

Every statement holds for all values that were seen: it is dropped at the first batch that breaks
it. Whether a text is a time stamp, a UUID and so on is decided by the code that decodes records.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from ..arrow import HIDDEN, UNKNOWN
from ..contract import Field, Rule
from .arrow_types import fields_of_arrow
from .imported import ITEM, Notes, Path
from .ranges import Different, Numbers, range_rules
from .strings import Strings

_MANY_KEYS = 200
"""Keys from which on an object is a map and not a record."""


class CsvText:
    """A column of cells: numbers and other things that are written as text."""

    def __init__(self, values: pa.Array) -> None:
        self.values = values


Values = list[Any] | pa.Array | CsvText
Columns = dict[str, Values]


def columns_of(rows: Sequence[dict[str, Any]]) -> Columns:
    """The values of each key, null where a row does not have it, in the order of first sight."""
    names = dict.fromkeys(rows[0]) if rows else {}
    if len(set().union(*rows)) > len(names):
        for row in rows:
            names.update(dict.fromkeys(row))
    return {name: _values_of(name, rows) for name in names}


def _values_of(name: str, rows: Sequence[dict[str, Any]]) -> list[Any]:
    try:
        return list(map(operator.itemgetter(name), rows))  # twice as fast as one by one
    except KeyError:
        return [row.get(name) for row in rows]


class Column:
    """What is known of a column's values, by their kind."""

    def __init__(self) -> None:
        self.rows = 0  # with a value
        self.kinds: dict[str, int] = {}
        self.integers = Numbers()
        self.numbers = Numbers()
        self.strings = Strings()
        self.inside = Profile()
        self.items: Column | None = None
        self.items_rows = 0
        self.sizes = Numbers()
        self.arrow: pa.Field | None = None

    def add(self, values: Values) -> None:
        """Take a batch."""
        if isinstance(values, CsvText):
            self._add_texts(values.values.drop_null(), cells=True)
        elif isinstance(values, pa.Array):
            self._add_arrow(values)
        else:
            self._add_objects(values)

    def _count(self, kind: str, count: int) -> None:
        if count:
            self.rows += count
            self.kinds[kind] = self.kinds.get(kind, 0) + count

    def _add_texts(self, texts: pa.Array, cells: bool = False) -> None:
        self._count("string", len(texts))
        if len(texts):
            self.strings.add(texts, cells=cells)

    def _add_arrow(self, values: pa.Array) -> None:
        self.arrow = pa.field("", values.type)
        values = values.drop_null()
        kind = values.type
        self._count("arrow", len(values))
        if not len(values):
            return
        if pt.is_string(kind) or pt.is_large_string(kind):
            self.strings.add(values.cast(pa.string()), clocks=False)
        elif pt.is_integer(kind):
            self.integers.add(values)
        elif pt.is_float32(kind) or pt.is_float64(kind):
            self.numbers.add(values)

    def _add_objects(self, values: list[Any]) -> None:
        kinds = set(map(type, values))
        kinds.discard(type(None))
        for kind in kinds:
            some = values
            if len(kinds) > 1:
                some = [v for v in values if type(v) is kind]
            _ADD[kind](self, some)

    def _add_strings(self, values: list[Any]) -> None:
        self._add_texts(pa.array(values, pa.string()).drop_null())

    def _add_booleans(self, values: list[Any]) -> None:
        self._count("boolean", len(values) - values.count(None))

    def _add_integers(self, values: list[Any]) -> None:
        try:
            found = pa.array(values, pa.int64()).drop_null()
        except (OverflowError, pa.ArrowInvalid):
            large = [v for v in values if v is not None]
            self._count("integer", len(large))
            self.integers.add_range(len(large), min(large), max(large))
            self.integers.different = Different()
            return
        self._count("integer", len(found))
        self.integers.add(found)

    def _add_floats(self, values: list[Any]) -> None:
        found = pa.array(values, pa.float64()).drop_null()
        self._count("number", len(found))
        self.numbers.add(found)

    def _add_dicts(self, values: list[Any]) -> None:
        found = [v for v in values if v is not None]
        self._count("object", len(found))
        self.inside.add_rows(columns_of(found), len(found))

    def _add_lists(self, values: list[Any]) -> None:
        found = [v for v in values if v is not None]
        self._count("array", len(found))
        sizes = list(map(len, found))
        self.sizes.add_range(len(found), min(sizes), max(sizes))
        items = list(itertools.chain.from_iterable(found))
        self.items_rows += len(items)
        if items:
            self.items = self.items or Column()
            self.items.add(items)

    # ------------------------------------------------------------------------- inference

    def field(self, name: str, rows: int, path: Path, notes: Notes, *, tight: bool) -> Field:
        """The field that holds all values of ``rows`` rows."""
        required = self.rows == rows
        notes.add(path, f"{self.rows:,} of {rows:,} {'rows' if path[-1] != ITEM else 'items'}")
        if self.arrow is not None:
            made = self._of_arrow(name, path, notes, tight)
        else:
            made = self._of_kinds(name, path, notes, tight)
        return Field(
            made.name,
            made.type,
            required,
            made.rules,
            made.fields,
            made.items,
            made.storage,
            made.precision,
            made.scale,
            made.format,
            made.zone,
        )

    def _of_arrow(self, name: str, path: Path, notes: Notes, tight: bool) -> Field:
        assert self.arrow is not None
        (made,) = fields_of_arrow([self.arrow.with_name(name)], notes, path[:-1])
        if self.strings.count and made.type == "string":
            return self.strings.field(name, path, notes, tight=tight)
        if made.type == "integer":
            rules = range_rules(self.integers, path, notes, tight)
            return Field(name, "integer", rules=rules, storage=made.storage)
        if made.type == "number":
            rules = range_rules(self.numbers, path, notes, tight)
            return Field(name, "number", rules=rules, storage=made.storage)
        return made

    def _of_kinds(self, name: str, path: Path, notes: Notes, tight: bool) -> Field:
        kinds = set(self.kinds)
        if kinds == {"integer", "number"}:
            both = Numbers()
            for some in (self.integers, self.numbers):
                both.add_range(some.count, some.low, some.high)
            return Field(name, "number", rules=range_rules(both, path, notes, tight))
        if len(kinds) != 1:
            if kinds:
                said = ", ".join(f"{count:,} {kind}s" for kind, count in self.kinds.items())
                notes.add(path, f"{said}: kept as JSON")
            else:
                notes.add(path, "always null: kept as JSON")
            return Field(name, "json")
        match kinds.pop():
            case "integer":
                return self._of_integers(name, path, notes, tight)
            case "number":
                return Field(name, "number", rules=range_rules(self.numbers, path, notes, tight))
            case "string":
                return self.strings.field(name, path, notes, tight=tight)
            case "object":
                return self._of_objects(name, path, notes, tight)
            case "array":
                return self._of_arrays(name, path, notes, tight)
        return Field(name, "boolean")

    def _of_integers(self, name: str, path: Path, notes: Notes, tight: bool) -> Field:
        rules = range_rules(self.integers, path, notes, tight)
        low, high = self.integers.low, self.integers.high
        if low >= -(2**63) and high < 2**63:
            return Field(name, "integer", rules=rules)
        if low >= 0 and high < 2**64:
            return Field(name, "integer", rules=rules, storage="uint64")
        if max(-low, high) < 10**38:
            return Field(name, "decimal", rules=rules, precision=38)
        notes.add(path, "more than 38 digits: held as a double, which rounds them")
        return Field(name, "number")

    def _of_objects(self, name: str, path: Path, notes: Notes, tight: bool) -> Field:
        if self.inside.is_map():
            notes.add(path, "keys of all kinds: kept as JSON")
            return Field(name, "json")
        return Field(name, "object", fields=self.inside.fields(path, notes, tight=tight))

    def _of_arrays(self, name: str, path: Path, notes: Notes, tight: bool) -> Field:
        low, high = self.sizes.low, self.sizes.high
        notes.add(path, f"{low:,} to {high:,} items")
        rules = (Rule("minItems", low), Rule("maxItems", high)) if tight else ()
        if self.items is None:
            notes.add(path, "nothing is known of the items: kept as JSON")
            return Field(name, "json", rules=rules)
        item = self.items.field("item", self.items_rows, (*path, ITEM), notes, tight=tight)
        return Field(name, "array", rules=rules, items=item)

    def different(self) -> bool:
        """Whether all values differ, and are such as identify rows."""
        if set(self.kinds) == {"integer"} or (self.arrow and pt.is_integer(self.arrow.type)):
            return self.integers.different.all()
        if self.strings.count == self.rows:
            return self.strings.different.all()
        return False


_ADD: dict[type, Callable[[Column, list[Any]], None]] = {
    str: Column._add_strings,
    bool: Column._add_booleans,
    int: Column._add_integers,
    float: Column._add_floats,
    dict: Column._add_dicts,
    list: Column._add_lists,
}
"""By the type of a JSON value in Python: what takes a batch of them."""


class Profile:
    """What is known of the columns of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, Column] = {}

    def add_rows(self, columns: Columns, rows: int) -> None:
        """Take a batch of rows."""
        self.rows += rows
        for name, values in columns.items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) > 10 * _MANY_KEYS:
                    continue  # a map long since
                column = self.columns[name] = Column()
            column.add(values)

    def is_map(self) -> bool:
        """Whether the keys are data, or such as no contract can name."""
        return (
            not self.columns
            or len(self.columns) > _MANY_KEYS
            or any(_unfit(name) for name in self.columns)
        )

    def fields(self, at: Path, notes: Notes, *, tight: bool = False) -> tuple[Field, ...]:
        """The fields of all columns."""
        made = []
        for name, column in self.columns.items():
            if _unfit(name) or (not at and name.startswith((*HIDDEN, UNKNOWN))):
                notes.add((), f"{name!r} cannot be the name of a field: left out")
                continue
            made.append(column.field(name, self.rows, (*at, name), notes, tight=tight))
        return tuple(made)

    def key(self, fields: Sequence[Field]) -> tuple[str, ...]:
        """The first field that is always there and never twice the same, an ``id`` before all."""
        found = [f.name for f in fields if f.required and self.columns[f.name].different()]
        named = [name for name in found if name.lower().endswith("id")]
        return tuple((named or found)[:1])


def _unfit(name: str) -> bool:
    return not name or any(c in '"\\' or c < " " for c in name)
