"""What rows are compared by: partitions, which are named by values of columns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ...schemas.problems import did_you_mean, list_names

_UNITS = {"hour": 13, "day": 10, "month": 7}
"""What a time can be cut to → the characters of ISO 8601 that say it."""
_LONGEST = 80


@dataclass(frozen=True)
class By:
    """A column, or the UTC hour, day or month of one that holds times."""

    column: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.column}:{self.unit}" if self.unit else self.column

    def check(self, schema: pa.Schema) -> None:
        """See that rows can be told apart by it.

        Raises:
            ValueError: they cannot.
        """
        if self.column not in schema.names:
            raise ValueError(f"no column {self.column!r}{did_you_mean(self.column, schema.names)}")
        type = schema.field(self.column).type
        if self.unit and not (pt.is_timestamp(type) or pt.is_date(type)):
            raise ValueError(f"{self.column} is {type}, of which there is no {self.unit}")
        if pt.is_nested(type) or pt.is_binary(type) or pt.is_duration(type):
            raise ValueError(f"{self.column} is {type}, which names no partition")

    def codes(self, batch: pa.RecordBatch) -> tuple[np.ndarray, list[str]]:
        """Of each row, which of the texts it belongs to."""
        values: Any = batch.column(self.column)
        if self.unit:
            # Arrow counts from the epoch in UTC whatever the zone.
            moments = values.cast(pa.timestamp("us"), safe=False)
            values = pc.floor_temporal(moments, unit=self.unit)
        encoded = values.dictionary_encode()
        texts = [self._text(text) for text in encoded.dictionary.cast(pa.string()).to_pylist()]
        places = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
        return places.astype(np.int64), [*texts, f"{self.column}=(null)"]

    def _text(self, text: str) -> str:
        if self.unit:
            text = text.replace(" ", "T")[: _UNITS[self.unit]]
        text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
        return f"{self.column}={text}"


def parse_by(text: str) -> By:
    """What ``ts:day`` or ``country`` means.

    Raises:
        ValueError: no such unit.
    """
    column, colon, unit = text.rpartition(":")
    if not colon:
        return By(text)
    if unit not in _UNITS:
        hint = did_you_mean(unit, _UNITS) or f"; expected {list_names(list(_UNITS))}"
        raise ValueError(f"{text}: no unit {unit!r}{hint}")
    return By(column, unit)


class Names:
    """Numbers for names, from 0 on, in the order in which they come. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a name."""
        with self._lock:
            return self._numbers.setdefault(name, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """The names by their numbers."""
        with self._lock:
            return list(self._numbers)


EVERYTHING = "all"
"""What the only partition is called, where rows are not divided."""


def partitions(batch: pa.RecordBatch, by: Sequence[By], names: Names) -> np.ndarray:
    """The number of each row's partition."""
    if not by:
        return np.full(batch.num_rows, names.number(EVERYTHING), np.int32)
    codes = np.zeros(batch.num_rows, np.int64)
    texts: list[list[str]] = []
    for each in by:
        of_column, said = each.codes(batch)
        codes = codes * len(said) + of_column
        texts.append(said)
    found, inverse = np.unique(codes, return_inverse=True)
    numbers = [names.number(_joined(int(code), texts)) for code in found]
    return np.array(numbers, np.int32)[inverse]


def _joined(code: int, texts: Sequence[list[str]]) -> str:
    said: list[str] = []
    for column in reversed(texts):
        code, index = divmod(code, len(column))
        said.append(column[index])
    return "/".join(reversed(said))
