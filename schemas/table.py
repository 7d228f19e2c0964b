"""A table that rows of an output go to: its columns, its key, what orders its rows.

It is free of rules, which are judged before anything is written, and small: it is stored with what
a run has prepared, so that a restart can make the table too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.types as pt

from .arrow import POSITION, SOURCE, arrow_type, field_of_arrow
from .contract import Contract, Field

ORDER = (Field(SOURCE, "string"), Field(POSITION, "integer", storage="int64"))
"""Columns that an upserted table has besides: where the row that stands came from."""


@dataclass(frozen=True)
class Table:
    """Columns of a table.

    ``key`` names the columns that tell rows apart, ``event_time`` the one that tells which of two
    rows with one key is newer. ``has_identity``: the rows are records, which are staged with the
    columns of :data:`.arrow.IDENTITY`.
    """

    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()
    event_time: str | None = None
    has_identity: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns in Arrow's types; those that are required are not nullable."""
        return pa.schema([pa.field(f.name, arrow_type(f), not f.required) for f in self.fields])

    def field(self, name: str) -> Field:
        """The column of that name.

        Raises:
            KeyError: there is none.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def ordered(self) -> Table:
        """The same with the columns of :data:`ORDER`."""
        return dataclasses.replace(self, fields=(*self.fields, *ORDER))


def table_of_contract(contract: Contract, names: Iterable[str] | None = None) -> Table:
    """The table of a contract's records, which are staged with their identity.

    Args:
        names: the columns that it has, where not all fields of the contract.
    """
    kept = {field.name for field in contract.fields}
    if names is not None:
        kept.intersection_update(names)
    return Table(
        tuple(_bare(field) for field in contract.fields if field.name in kept),
        contract.primary_key if kept.issuperset(contract.primary_key) else (),
        contract.event_time if contract.event_time in kept else None,
        has_identity=True,
    )


def table_of_schema(
    schema: pa.Schema, key: tuple[str, ...] = (), event_time: str | None = None
) -> Table:
    """The table of an Arrow schema's columns.

    Raises:
        TypeError: a column is of a type that no table has.
    """
    return Table(tuple(map(_of_arrow, schema)), key, event_time)


def _of_arrow(column: pa.Field) -> Field:
    type = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if pt.is_binary(type):
        return Field(column.name, "binary", not column.nullable)
    try:
        found = field_of_arrow(column.name, type)
    except TypeError as error:
        raise TypeError(f"{column.name} is {error}") from None
    return dataclasses.replace(found, required=not column.nullable)


def _bare(field: Field) -> Field:
    """The field without what says nothing about how its values are stored."""
    return Field(
        field.name,
        field.type,
        field.required,
        fields=tuple(map(_bare, field.fields)),
        items=field.items and _bare(field.items),
        storage=field.storage,
        precision=field.precision,
        scale=field.scale,
        description=field.description,
    )
