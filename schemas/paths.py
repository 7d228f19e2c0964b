"""Which record each element of a nested column belongs to, and what its path is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Paths(NamedTuple):
    """Row numbers and dotted paths (``a.b[2].c``) of the elements of an array.

    Paths are made when they are asked for: only what is wrong needs one.
    """

    rows: np.ndarray | None  # None: an element's row is its index
    path: Callable[[int], str]

    @classmethod
    def of(cls, name: str, rows: np.ndarray | None = None) -> Paths:
        """Of a top-level column."""
        return cls(rows, lambda _: name)

    def row(self, element: int) -> int:
        """The row of an element."""
        return element if self.rows is None else int(self.rows[element])

    def take(self, elements: np.ndarray) -> Paths:
        """Of some of the elements."""
        rows = elements if self.rows is None else self.rows[elements]
        return Paths(rows, lambda i: self.path(int(elements[i])))

    def child(self, name: str) -> Paths:
        """Of a field of objects."""
        return Paths(self.rows, lambda i: f"{self.path(i)}.{name}")

    def items(self, lengths: np.ndarray) -> Paths:
        """Of the items of lists, one after the other; a null list has the length 0."""
        # not pc.list_parent_indices: it also counts what lies hidden behind a null
        parents = np.repeat(np.arange(len(lengths)), lengths)

        def path(i: int) -> str:
            first = int(np.searchsorted(parents, parents[i]))
            return f"{self.path(int(parents[i]))}[{i - first}]"

        return Paths(parents if self.rows is None else self.rows[parents], path)


def list_lengths(lists: pa.Array) -> np.ndarray:
    """The number of items of each list, 0 of a null."""
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
