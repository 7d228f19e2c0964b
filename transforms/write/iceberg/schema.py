"""Schemas and partitions of Iceberg tables: what a load needs, and what a table lacks of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    TruncateTransform,
)
from pyiceberg.types import IcebergType, ListType, MapType, NestedField, StructType

from ....schemas.forms.iceberg import iceberg_table_schema
from ..errors import DestinationError
from ..evolution import Column, additions, holds_all
from ..tables import Load

_FIRST_PARTITION_ID = 1000
_TRANSFORMS = {"": IdentityTransform, "date": DayTransform, "hour": HourTransform}
"""Function of ``partition_by`` → Iceberg's."""


def wanted_schema(load: Load) -> Schema:
    """The schema that holds a load's rows.

    Of partial states, decimals of more than 38 digits are kept as text: see
    :func:`...schemas.forms.iceberg.iceberg_table_schema`.

    Raises:
        DestinationError: Iceberg cannot hold them.
    """
    try:
        said = iceberg_table_schema(load.table, load.key, wide_as_text=load.part == "states")
        schema = Schema.model_validate(said)
        schema.column_names  # noqa: B018  # two names that are one are found when they are asked for
    except ValueError as error:
        raise DestinationError(f"table {load.name} cannot be made: {error}") from None
    return schema


def wanted_partitions(load: Load, schema: Schema) -> PartitionSpec:
    """The partitions that a table which is made for a load has.

    Raises:
        DestinationError: Iceberg takes one function of a column alone.
    """
    ids = {field.name: field.field_id for field in schema.fields}
    columns = [partition.column for partition in load.partition_by]
    for name in columns:
        if columns.count(name) > 1:
            raise DestinationError(
                f"partition_by={','.join(map(str, load.partition_by))}: Iceberg partitions by a "
                f"column once; of {name}, say the finer one alone"
            )
    fields = [
        PartitionField(
            ids[partition.column], number, _TRANSFORMS[partition.function](), partition.key
        )
        for number, partition in enumerate(load.partition_by, _FIRST_PARTITION_ID)
    ]
    return PartitionSpec(*fields)


def missing(load: Load, table: IcebergTable) -> list[tuple[tuple[str, ...], NestedField]]:
    """The columns that a table lacks, each by its path; in what is added whole, nothing is.

    Raises:
        TableMismatch: the table cannot take the load's rows.
        DestinationError: pyiceberg cannot write into its partitions.
    """
    _check_partitions(table)
    wanted = dict(_walked(wanted_schema(load).fields))
    # What is within a column that is not written at all has no value to miss.
    held = {
        path: field
        for path, field in _walked(table.schema().fields)
        if not path[:-1] or path[:-1] in wanted
    }
    added = additions(
        load.name,
        [_column(path, field) for path, field in wanted.items()],
        [_column(path, field) for path, field in held.items()],
        _fits,
    )
    names = {column.name for column in added}
    return [
        (path, field)
        for path, field in wanted.items()
        if _name(path) in names and _name(path[:-1]) not in names
    ]


def add_columns(
    update: UpdateSchema, columns: Iterable[tuple[tuple[str, ...], NestedField]]
) -> None:
    """Add columns to a table; rows that are there have no value for them."""
    for path, field in columns:
        update.add_column(path, field.field_type, field.doc)


def _check_partitions(table: IcebergTable) -> None:
    spec = table.spec()
    sources = [field.source_id for field in spec.fields]
    if len(set(sources)) < len(sources):
        raise DestinationError(
            f"table {'.'.join(table.name())} has two partition fields of one column, which "
            "pyiceberg cannot write"
        )
    hashed = [
        f for f in spec.fields if isinstance(f.transform, BucketTransform | TruncateTransform)
    ]
    if hashed and find_spec("pyiceberg_core") is None:
        raise DestinationError(
            f"table {'.'.join(table.name())} is partitioned by {hashed[0].name} "
            f"({hashed[0].transform}): pip install 'pyiceberg[pyiceberg-core]' to write it"
        )


def _walked(
    fields: Iterable[NestedField], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], NestedField]]:
    """All fields, nested ones too, by their paths."""
    for field in fields:
        path = (*above, field.name)
        yield path, field
        yield from _walked(inner_fields(field.field_type), path)


def inner_fields(type: IcebergType) -> tuple[NestedField, ...]:
    """The fields that a nested type is made of."""
    match type:
        case StructType():
            return type.fields
        case ListType():
            return (type.element_field,)
        case MapType():
            return (type.key_field, type.value_field)
    return ()


def _column(path: tuple[str, ...], field: NestedField) -> Column:
    required = field.required and field.write_default is None
    return Column(_name(path), _word(field.field_type), required)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _word(type: IcebergType) -> str:
    """The type's name; of what is nested, the fields within are columns of their own."""
    match type:
        case StructType():
            return "struct"
        case ListType():
            return "list"
        case MapType():
            return "map"
    return str(type)


_WIDER = {"int": {"long"}, "float": {"double"}}
_DECIMAL = re.compile(r"decimal\((\d+), (\d+)\)")


def _fits(wanted: str, held: str) -> bool:
    return holds_all(wanted, held, _WIDER, _DECIMAL)
