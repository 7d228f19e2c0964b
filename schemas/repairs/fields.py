"""Fields by their paths, and values of records by theirs.

A declared path names a field (``items[].price``), the path of a violation a value
(``items[3].price``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ..contract import Contract, Field
from ..json.columns import Number

Step = str | int
Container = dict[str, Any] | list[Any]

_INDEX = re.compile(r"\[([0-9]+)\]")
_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_one_value = msgspec.json.Decoder(msgspec.Raw).decode
_scalar = msgspec.json.Decoder(float_hook=Number).decode


class Slot(NamedTuple):
    """Where in a record a value is, or could be."""

    container: Container
    key: Any

    @property
    def value(self) -> Any:
        """The value that is there: text, a :class:`Number`, ``int``, ``bool``, what is in
        braces or brackets as it is; ``None`` for null, and where nothing is."""
        if isinstance(self.container, dict) and self.key not in self.container:
            return None
        return opened(self.container[self.key])

    def put(self, value: Any) -> None:
        """Put a value there."""
        self.container[self.key] = value


def field_paths(fields: Sequence[Field], prefix: str = "") -> Iterator[tuple[str, Field]]:
    """The fields of a contract by their paths, depth first; of arrays their items too."""
    for field in fields:
        yield from _paths_of(field, prefix + field.name)


def _paths_of(field: Field, path: str) -> Iterator[tuple[str, Field]]:
    yield path, field
    yield from field_paths(field.fields, f"{path}.")
    if field.items is not None:
        yield from _paths_of(field.items, f"{path}[]")


def declared(path: str) -> str:
    """The path of a field, from that of a value.

    >>> declared("items[3].price")
    'items[].price'
    """
    return _INDEX.sub("[]", path)


def steps_to(path: str) -> list[Step]:
    """The steps to a value.

    >>> steps_to("items[3].price")
    ['items', 3, 'price']
    """
    found: list[Step] = []
    for part in path.split("."):
        found.append(part.partition("[")[0])
        found += [int(index) for index in _INDEX.findall(part)]
    return found


def slot_at(record: dict[str, Any], path: str, *, cells: bool = False) -> Slot | None:
    """Where the value at a path is; ``None`` where there is nothing around it.

    What is around it is opened in its place: values there are JSON text until someone asks.

    Args:
        cells: the record's own values are text, of objects and arrays their JSON.
    """
    *around, last = steps_to(path)
    container: Any = record
    for step in around:
        if not _holds(container, step):
            return None
        inner = container[step]
        if cells and container is record and isinstance(inner, str):
            inner = _one_value(inner)
        container[step] = container = opened(inner)
    fits = isinstance(container, dict) if isinstance(last, str) else _holds(container, last)
    return Slot(container, last) if fits else None


def _holds(container: Any, step: Step) -> bool:
    if isinstance(step, str):
        return isinstance(container, dict) and step in container
    return isinstance(container, list) and step < len(container)


def opened(value: Any) -> Any:
    """A value of which only the JSON is held: of objects and arrays what is in them stays text.

    Raises:
        ValueError: it cannot be read, as a number of more digits than Python reads.
    """
    if not isinstance(value, msgspec.Raw):
        return value
    text = bytes(value)
    match text[:1]:
        case b"{":
            return _properties(text)
        case b"[":
            return _items(text)
    return _scalar(text)


def sibling(path: str, name: str) -> str:
    """The path of another field of the same object."""
    around, dot, _ = path.rpartition(".")
    return f"{around}{dot}{name}"


def known_names(contract: Contract, path: str) -> set[str]:
    """The names of the fields beside, and of, the one at a path."""
    around = path.rpartition(".")[0]
    return {
        found.rpartition(".")[2]
        for found, _ in field_paths(contract.fields)
        if found.rpartition(".")[0] == around and not found.endswith("[]")
    }
