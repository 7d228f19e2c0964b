"""What a table that exists lacks of the columns that are to be written, or why it does not fit.

Columns are only ever added. A type or a constraint that differs is the table owner's to change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from .errors import DestinationError


class Column(NamedTuple):
    """A column as a destination describes it, in its own words for types.

    ``required``: it takes no null, and has no default either.
    """

    name: str
    type: str
    required: bool = False

    def __str__(self) -> str:
        return f"{self.name} {self.type}{' NOT NULL' if self.required else ''}"


class TableMismatch(DestinationError):
    """A table holds what cannot be written as the contract says. The message has the difference."""


def _same(wanted: str, held: str) -> bool:
    return wanted == held


def holds_all(
    wanted: str, held: str, wider: Mapping[str, Collection[str]], decimal: re.Pattern[str]
) -> bool:
    """Whether a column of the type ``held`` holds all values of the type ``wanted``.

    Args:
        wider: a type → the others that hold all of its values.
        decimal: what a decimal's type is written as; its groups are digits, and those of them that
            are after the point.
    """
    ours, theirs = decimal.fullmatch(wanted), decimal.fullmatch(held)
    if ours and theirs:
        digits, scale = map(int, ours.groups())
        more_digits, more_scale = map(int, theirs.groups())
        return more_scale >= scale and more_digits - more_scale >= digits - scale
    return wanted == held or held in wider.get(wanted, ())


def additions(
    table: str,
    wanted: Sequence[Column],
    held: Sequence[Column],
    fits: Callable[[str, str], bool] = _same,
) -> list[Column]:
    """The columns to add to a table, none of them required: rows that are there have no value.

    Args:
        table: its name, for the message.
        fits: whether a column of the second type holds all values of the first.

    Raises:
        TableMismatch: the table cannot take the rows.
    """
    there = {column.name: column for column in held}
    names = {column.name for column in wanted}
    difference = []
    added = []
    for column in wanted:
        other = there.get(column.name)
        if other is None:
            added.append(column._replace(required=False))
        elif not fits(column.type, other.type):
            difference += [f"  - {other}", f"  + {column}"]
        elif other.required and not column.required:
            difference += [f"  - {other}", f"  + {column} (may be null)"]
    for column in held:
        if column.required and column.name not in names:
            difference.append(f"  - {column}")
    if difference:
        raise TableMismatch(
            f"table {table} does not fit what is to be written (- the table, + the contract):\n"
            + "\n".join(difference)
            + "\nColumns that may be null are added; change the others in the table or the "
            "contract, or write to another table"
        )
    return added
