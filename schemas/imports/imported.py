"""What was found of a contract in the schema of somebody else."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..contract import Field

ITEM = "[]"
"""The step of a path from an array to its items."""
Path = tuple[str, ...]


class CannotImport(ValueError):
    """Nothing that a contract can be made of. The message names the file, what is wrong with it,
    and what to do."""


class Notes:
    """What a contract cannot say, and the evidence for what it does: by the path of a field."""

    def __init__(self) -> None:
        self._notes: dict[Path, list[str]] = {}

    def add(self, path: Path, text: str) -> None:
        """Note something of a field; of the whole, where the path is empty."""
        noted = self._notes.setdefault(path, [])
        if text not in noted:
            noted.append(text)

    def of(self, path: Path) -> list[str]:
        """What was noted of a field."""
        return self._notes.get(path, [])

    def __len__(self) -> int:
        return sum(map(len, self._notes.values()))


@dataclass
class Imported:
    """A contract to be: its fields, in order, and notes on them.

    ``id`` and ``version`` are empty where the source does not say them.
    """

    name: str
    fields: tuple[Field, ...]
    id: str = ""
    version: str = ""
    description: str | None = None
    event_time: str | None = None
    primary_key: tuple[str, ...] = ()
    notes: Notes = field(default_factory=Notes)
