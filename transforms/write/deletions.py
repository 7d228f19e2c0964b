"""The deletions among the rows of a load, as a load of their own.

They are remembered in a table beside the load's, so that a row which is older than its deletion
does not bring its key back when it arrives afterwards. They are upserted there like any other row,
which makes doing it twice the same as doing it once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .tables import Load

DELETED_SUFFIX = "__deleted"
"""What the name of the table that remembers deletions ends in."""


def columns_of(load: Load, names: Sequence[str]) -> Load:
    """The same rows with some of their columns."""
    fields = tuple(field for field in load.table.fields if field.name in names)
    return dataclasses.replace(load, table=dataclasses.replace(load.table, fields=fields))


def deletions_of(load: Load) -> Load | None:
    """Keys that a load deletes, with what orders the deletions; ``None`` if no deletion has to be
    remembered: nothing is deleted, or what comes later wins anyhow."""
    if load.deleted is None or not load.order:
        return None
    names = (*load.key, *load.order)
    kept = columns_of(load, names).table
    fields = tuple(dataclasses.replace(f, required=f.name in load.key) for f in kept.fields)
    told = {f.name: getattr(load, f.name) for f in dataclasses.fields(Load)}
    told.update(
        name=f"{load.name}{DELETED_SUFFIX}",
        table=dataclasses.replace(kept, fields=fields),
        deleted=None,
        partition_by=(),
    )
    return _Deletions(**told, of=load)


@dataclass(frozen=True)
class _Deletions(Load):
    """Attributes:
    of: the load that they are among.
    """

    of: Load

    def batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        assert self.of.deleted is not None
        marked = columns_of(self.of, [*self.schema.names, self.of.deleted])
        for batch in marked.batches(**options):
            gone = batch.filter(batch.column(self.of.deleted))
            for name in self.key:  # a key with a null in it is no other's, and deletes nothing
                gone = gone.filter(gone.column(name).is_valid())
            if gone.num_rows:
                columns = [gone.column(name) for name in self.schema.names]
                yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
