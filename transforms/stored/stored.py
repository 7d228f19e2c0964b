"""Reading back what an output holds: a part of it as batches of columns, in bounded memory."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import ClassVar

import pyarrow as pa

from ...schemas.problems import did_you_mean
from ..receipts import Part
from ..write.destination import MODULES, Output
from ..write.errors import DestinationError
from ..write.tables import STATES_SUFFIX, TableDestination
from .filter import ALL, Condition, Filter
from .shape import fitted


class Stored(ABC):
    """What an output holds of one part, as far as it is committed when it is read.

    Attributes:
        place: what messages call it.
        asked: the columns to give; ``None`` for all that there are.

    All methods raise ``DestinationError`` (what is there cannot be read so), ``Unavailable`` (the
    service does not answer) and ``StorageError`` alone.
    """

    pushes: ClassVar[tuple[type, ...]] = ()
    """The kinds of conditions that :meth:`read` can be given."""

    def __init__(self, place: str, asked: pa.Schema | None) -> None:
        self.place = place
        self.asked = asked

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`batches`."""
        found = self.asked if self.asked is not None else self.found
        if found is None:
            raise DestinationError(f"{self.place}: there is nothing to read: it does not exist")
        return found

    @cached_property
    def found(self) -> pa.Schema | None:
        """The columns that there are, in the types that rows are read in; ``None`` if there is no
        such table, or no file."""
        return self.find()

    def batches(
        self, columns: Sequence[str] | None = None, where: Filter = ALL
    ) -> Iterator[pa.RecordBatch]:
        """Rows, in no order, some ten thousand at a time; none is empty.

        Args:
            columns: those to give; ``None`` for all of :attr:`schema`.
            where: which rows. A column that is asked for and not there is null.
        """
        wanted = pa.schema([self._field(name) for name in columns or self.schema.names])
        for name in where.columns:
            self._field(name)
        held = self.found
        if held is None or any(name not in held.names for name in where.columns):
            return
        pushed, rest = where.divided(self.can_push)
        judged = [self._field(name) for name in rest.columns if name not in wanted.names]
        needed = pa.schema([*wanted, *judged])
        names = [name for name in needed.names if name in held.names]
        for batch in self.read(names or held.names[:1], pushed):
            rows = rest.kept(fitted(batch, needed, self.place)).select(wanted.names)
            if rows.num_rows:
                yield rows

    def has(self, column: str) -> bool:
        """Whether rows have a column, null or not; also where there is nothing yet."""
        return self.found is None or column in self.found.names

    def can_push(self, condition: Condition) -> bool:
        """Whether :meth:`read` can be given a condition."""
        return isinstance(condition, self.pushes)

    @abstractmethod
    def find(self) -> pa.Schema | None:
        """:attr:`found`, by looking."""

    @abstractmethod
    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        """Rows of the columns that are named, all of which there are.

        Args:
            where: conditions that :meth:`can_push` has said yes to, on columns that there are.
        """

    def _field(self, name: str) -> pa.Field:
        if name not in self.schema.names:
            hint = did_you_mean(name, self.schema.names)
            raise DestinationError(f"{self.place} has no column {name!r}{hint}")
        return self.schema.field(name)


def open_stored(output: Output, part: Part = "data", schema: pa.Schema | None = None) -> Stored:
    """What an output holds of a part: rows of all runs that are committed.

    Args:
        schema: the columns to give. Without, those of ``output.tables``; without these, all that
            there are, in the types that they are stored in. JSON lines and CSV do not say their
            types: they cannot do without.

    Raises:
        DestinationError: it cannot be read back.
    """
    if schema is None and part in output.tables:
        schema = output.tables[part].schema
    scheme = output.uri.partition(":")[0]
    module = importlib.import_module(f".{MODULES[scheme]}", __package__)
    return module.open_stored(output, part, schema)


def table_name(to: TableDestination, part: Part) -> str:
    """The name of the table of a part."""
    return f"{to.target}{STATES_SUFFIX}" if part == "states" else to.target
