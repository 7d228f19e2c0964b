"""Tables of BigQuery: made, given the columns that they lack, or refused."""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.api_core.exceptions import Conflict, NotFound
from google.cloud import bigquery

from ....schemas.contract import Field
from ....schemas.forms.bigquery import BIGNUMERIC, NUMERIC, bigquery_table_schema
from ..errors import DestinationError
from ..evolution import Column, TableMismatch, additions
from ..partitions import Partition
from ..tables import Load
from .jobs import RETRY, SECONDS

_CLUSTERED = {"STRING", "INTEGER", "NUMERIC", "BIGNUMERIC", "BOOLEAN", "DATE", "TIMESTAMP"}
_MOST_CLUSTERED = 4
_NAME = re.compile(r"[\w&%=+:'<>#|\- ]{1,300}")
_RESERVED = (
    "_table_", "_file_", "_partition", "_row_timestamp", "__root__", "_colidentifier",
    "_change_sequence_number", "_change_type", "_change_timestamp",
)  # fmt: skip
"""https://cloud.google.com/bigquery/docs/schemas#column_names"""
_UNORDERED = ("number", "object", "array", "json")
"""Types of fields that BigQuery does not group by."""


@dataclass(frozen=True)
class Made:
    """A table as it is.

    ``born`` tells it from a table of the same name that was deleted before.
    """

    name: str
    fields: tuple[bigquery.SchemaField, ...]
    born: str


def fields_of(load: Load) -> list[bigquery.SchemaField]:
    """The columns of a load's table.

    Raises:
        TableMismatch: BigQuery has no such columns.
    """
    try:
        said = bigquery_table_schema(load.table)
    except ValueError as error:
        raise TableMismatch(f"table {load.name}: {error}") from None
    _check_names(load.name, load.table.fields)
    _check_key(load)
    return [bigquery.SchemaField.from_api_repr(field) for field in said]


def examine(client: bigquery.Client, load: Load) -> None:
    """See whether a load's table can be made, or takes its rows; changes nothing.

    Raises:
        TableMismatch: it cannot.
    """
    wanted = fields_of(load)
    table = find(client, load.name)
    if table is not None:
        _missing(table, wanted)


def find(client: bigquery.Client, name: str) -> bigquery.Table | None:
    """A table by its name, if it is there."""
    try:
        return client.get_table(name, retry=RETRY, timeout=SECONDS)
    except NotFound:
        return None


def make(client: bigquery.Client, load: Load) -> Made:
    """Make a load's table, or give it the columns that it lacks.

    Raises:
        TableMismatch: it cannot take the rows.
    """
    wanted = fields_of(load)
    new = bigquery.Table(load.name, wanted)
    new.time_partitioning, new.clustering_fields = _layout(load, wanted)
    return make_table(client, new)


def make_table(client: bigquery.Client, wanted: bigquery.Table) -> Made:
    """:func:`make` for a table that is described already."""
    name = f"{wanted.project}.{wanted.dataset_id}.{wanted.table_id}"
    table = find(client, name)
    if table is None:
        with suppress(Conflict):  # somebody else was quicker
            client.create_table(wanted, retry=RETRY, timeout=SECONDS)
        table = client.get_table(name, retry=RETRY, timeout=SECONDS)
    missing = _missing(table, wanted.schema)
    if missing:
        table.schema = [*table.schema, *missing]
        # Fails if somebody else has changed the table since.
        table = client.update_table(table, ["schema"], retry=RETRY, timeout=SECONDS)
    return Made(name, tuple(table.schema), born(table))


def born(table: bigquery.Table) -> str:
    """When a table was made, in milliseconds since the epoch."""
    return str(table.to_api_repr().get("creationTime"))


def _missing(
    table: bigquery.Table, wanted: Sequence[bigquery.SchemaField]
) -> list[bigquery.SchemaField]:
    name = f"{table.project}.{table.dataset_id}.{table.table_id}"
    if table.table_type not in ("TABLE", None):
        raise DestinationError(f"{name} is a {table.table_type.lower()}, not a table")
    spelled = {field.name.casefold(): field.name for field in wanted}
    by_type: dict[str, bigquery.SchemaField] = {}
    ours: list[Column] = []
    theirs: list[Column] = []
    for fields, columns in ((wanted, ours), (table.schema, theirs)):
        for field in fields:
            said = type_of(field)
            by_type[said] = field
            # Names that differ in case alone are one name to BigQuery.
            called = spelled.get(field.name.casefold(), field.name)
            columns.append(Column(called, said, field.mode == "REQUIRED"))
    added = additions(name, ours, theirs, lambda one, other: _fits(by_type[one], by_type[other]))
    new = {column.name for column in added}
    return [_nullable(field) for field in wanted if field.name in new]


def _nullable(field: bigquery.SchemaField) -> bigquery.SchemaField:
    if field.mode != "REQUIRED":
        return field
    return bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "mode": "NULLABLE"})


_STANDARD = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}


def kind_of(field: bigquery.SchemaField) -> str:
    """The name of a field's type, without digits or lengths, as SQL has it."""
    kind: str = field.to_api_repr()["type"].upper()
    return _STANDARD.get(kind, kind)


def type_of(field: bigquery.SchemaField) -> str:
    """A field's type as SQL has it: ``ARRAY<STRUCT<sku STRING NOT NULL, n NUMERIC(9, 2)>>``."""
    kind = kind_of(field)
    if kind == "STRUCT":
        inner = (
            f"{f.name} {type_of(f)}{' NOT NULL' if f.mode == 'REQUIRED' else ''}"
            for f in field.fields
        )
        kind = f"STRUCT<{', '.join(inner)}>"
    limits = [n for n in (field.max_length, field.precision, field.scale) if n is not None]
    if limits:
        kind = f"{kind}({', '.join(map(str, limits))})"
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


def _fits(
    wanted: bigquery.SchemaField, held: bigquery.SchemaField, *, nested: bool = False
) -> bool:
    """Whether a column of the second type holds all values of the first."""
    ours, theirs = kind_of(wanted), kind_of(held)
    if (wanted.mode == "REPEATED") != (held.mode == "REPEATED") or held.max_length is not None:
        return False
    if nested and held.mode == "REQUIRED" and wanted.mode != "REQUIRED":
        return False
    if theirs in _DIGITS and (ours == theirs or (ours in _DIGITS and not nested)):
        (whole, scale), (most_whole, most_scale) = _digits(wanted), _digits(held)
        return whole <= most_whole and scale <= most_scale
    if ours == theirs == "STRUCT":
        names = [[f.name.casefold() for f in field.fields] for field in (wanted, held)]
        pairs = zip(wanted.fields, held.fields, strict=False)
        return names[0] == names[1] and all(_fits(a, b, nested=True) for a, b in pairs)
    return ours == theirs


_DIGITS = {"INT64": (19, 0), "NUMERIC": NUMERIC, "BIGNUMERIC": BIGNUMERIC}


def _digits(field: bigquery.SchemaField) -> tuple[int, int]:
    """The digits before and after the point."""
    if field.precision is None:
        return _DIGITS[kind_of(field)]
    scale = field.scale or 0
    return field.precision - scale, scale


def _layout(
    load: Load, fields: Iterable[bigquery.SchemaField]
) -> tuple[bigquery.TimePartitioning | None, list[str] | None]:
    """What a new table is partitioned and clustered by.

    BigQuery partitions by one date or hour; what else rows are partitioned by, they are clustered
    by; or by the key that they are upserted by.
    """
    kinds = {f.name: f.field_type for f in fields if f.mode != "REPEATED"}
    time: bigquery.TimePartitioning | None = None
    clustered: list[str] = []
    for part in load.partition_by:
        if time is None and (part.function or kinds[part.column] == "DATE"):
            time = bigquery.TimePartitioning(type_=_unit(part), field=part.column)
        else:
            clustered.append(part.column)
    names = dict.fromkeys(clustered or load.key)
    fit = [name for name in names if kinds.get(name, "").split("(")[0] in _CLUSTERED]
    return time, fit[:_MOST_CLUSTERED] or None


def _unit(part: Partition) -> str:
    return "HOUR" if part.function == "hour" else "DAY"


def _check_names(table: str, fields: Sequence[Field], path: str = "") -> None:
    seen: set[str] = set()
    for field in fields:
        name, folded = f"{path}{field.name}", field.name.casefold()
        if not _NAME.fullmatch(field.name) or folded.startswith(_RESERVED):
            raise TableMismatch(f"table {table}: BigQuery has no column called {name!r}; rename it")
        if folded in seen:
            raise TableMismatch(
                f"table {table}: BigQuery takes {name!r} and another column, whose name differs in "
                "upper and lower case alone, for one; rename it"
            )
        seen.add(folded)
        inner = field
        while inner.items is not None:
            inner = inner.items
        if inner.type == "object":
            if not inner.fields:
                raise TableMismatch(f"table {table}: {name} is an object without fields")
            _check_names(table, inner.fields, f"{name}.")


def _check_key(load: Load) -> None:
    for name in load.key:
        kind = load.table.field(name).type
        if kind in _UNORDERED:
            raise TableMismatch(f"table {load.name}: BigQuery has no key of type {kind}: {name}")
