"""Why not every record of one contract is one of another, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

ITEM: Final = None
"""The step of a path from an array to its items."""
Path = tuple[str | None, ...]
"""A place in a contract: names of fields, and :data:`ITEM`."""


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()
"""A candidate that is no value: the field is left out."""


@dataclass(frozen=True)
class Issue:
    """A record that keeps the one contract may be refused by the other, because of one place.

    ``aspect`` is what of the place is in the way: ``type``, ``required``, ``added``, ``format``,
    ``zone``, or the kind of a rule. ``candidates`` are values for the place, as JSON has them, some
    of which are thought to keep the one and break the other; nobody has tried them yet.
    """

    path: Path
    aspect: str
    message: str
    candidates: tuple[Any, ...] = ()

    @property
    def place(self) -> str:
        """The path as a user names it: ``lines[].price``."""
        return path_text(self.path)


def path_text(path: Path) -> str:
    """A path as a user names it.

    >>> path_text(("lines", ITEM, "price"))
    'lines[].price'
    """
    text = ""
    for step in path:
        if step is None:
            text += "[]"
        else:
            text += f".{step}" if text else step
    return text
