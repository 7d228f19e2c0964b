"""What staging tells the commit: which files there are, how many rows of which sources they hold.

Receipts travel through the data plane beside the tallies, and are stored in ``prepared.json``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

Part = Literal["data", "states"]
"""``data``: rows of the visible table; ``states``: partial states of aggregates, kept beside it."""


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def moment(instant: int) -> dt.datetime:
    """Microseconds since 1970-01-01 UTC as a ``datetime`` of UTC."""
    return _EPOCH + dt.timedelta(microseconds=instant)


class Span(msgspec.Struct, frozen=True):
    """Rows of a table whose time stamp in a column lies in ``[start, end)``, in microseconds since
    1970-01-01 UTC."""

    column: str
    start: int
    end: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """One staged file.

    ``sources`` has the number of rows by source. ``contributions`` is, for states, the number of
    records that they hold. ``unreadable`` lists the regions, as ``source @ position``, that a file
    of dead letters says could not be read. ``folder`` is the partition folder that the file's final
    name carries (``country=NO/ts_date=2026-11-24``), relative to the destination's folder.
    """

    output: str
    part: Part = "data"
    path: str
    rows: int
    bytes: int
    sha256: str
    sources: dict[str, int] = {}
    contributions: int = 0
    unreadable: tuple[str, ...] = ()
    folder: str = ""


def content_digest(receipts: Iterable[Receipt]) -> str:
    """SHA-256 (hex) of what the files hold, whatever the order of the receipts."""
    lines = sorted(" ".join(_content(receipt)) + "\n" for receipt in receipts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _content(receipt: Receipt) -> list[str]:
    # A partition's values stand in its folder's name alone: they are content too.
    return [receipt.part, receipt.sha256, *([receipt.folder] if receipt.folder else [])]
