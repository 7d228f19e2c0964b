"""The fastest native way to put Arrow columns into each destination: one module a scheme.

A place is a destination's URI without its options. A module has

* ``WAYS``: how rows get there, see :class:`Way`;
* ``prepare(place)``: makes the empty table, with the types that a contract would give it;
* ``read(place)``: what it holds, by a client that neither side used to write, see :class:`Held`;
* ``drop(place)``: deletes it.

What a client has to know besides comes from the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa


@dataclass(frozen=True)
class Way:
    """A way to write rows.

    Attributes:
        begin: is given a place and rows, makes ready what users have at hand, and gives what is
            timed: after it, the rows are visible.
        asked: whether the destination is held against it, if no other is faster; else it is shown.
        query: the options of the destination that are the same way.
    """

    name: str
    begin: Callable[[str, pa.Table], Callable[[], Any]]
    asked: bool = True
    query: str = ""


class Held(NamedTuple):
    """What a table holds: the rows as columns of :data:`columns.SCHEMA`, in any order, and the
    types of these columns in the service's own words; none where it has no types."""

    rows: pa.Table
    types: dict[str, str]
