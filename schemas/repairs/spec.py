"""What a job says of a repair: the entries of its key ``repairs``."""

from __future__ import annotations

from typing import Any

import msgspec

KINDS = ("trim", "cast", "default", "map", "rename", "clamp", "date_format")
"""The repairs, by their keys in a job."""


class RepairJob(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """One repair of one field, which is named by its path: ``buyer.name``, ``items[].price``.

    - ``trim``: text without the white space around it.
    - ``cast``: a number or a boolean of its text, a whole number of ``3.0``, text of a number or a
      boolean; nothing that loses a digit.
    - ``default``: a value for a required field that is missing or null.
    - ``map``: from texts to values; numbers and booleans are compared by their text.
    - ``rename``: another name, beside the field, under which its value is found.
    - ``clamp``: the bound of the contract that a number or a time is beyond.
    - ``date_format``: how dates and times are written instead, in the words of Python's
      ``strptime``; with ``timezone``, the zone of time stamps that say none.
    """

    field: str
    trim: bool = False
    cast: bool = False
    default: Any = None
    map: dict[str, Any] = {}
    rename: str | None = None
    clamp: bool = False
    date_format: str | None = None
    timezone: str | None = None

    @property
    def kinds(self) -> list[str]:
        """The repairs that it is said to be, which should be one."""
        given = {kind: bool(getattr(self, kind)) for kind in KINDS}
        given["default"] = self.default is not None  # it may be false, 0 or empty
        return [kind for kind, is_given in given.items() if is_given]


class RepairError(ValueError):
    """A repair that cannot work.

    Attributes:
        key: that of the entry's part which is wrong; empty if it is the entry as a whole.
        entry: the number of the entry, from 0.
    """

    entry = 0

    def __init__(self, key: str, said: str) -> None:
        super().__init__(said)
        self.key = key
