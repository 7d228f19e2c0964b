"""Rows of a load in Parquet files that BigQuery loads: the staged ones, or some made of them."""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from google.cloud import bigquery

from ....schemas.arrow import arrow_type
from ....schemas.contract import Field
from ....schemas.forms.bigquery import NUMERIC
from ... import storage
from ...receipts import Receipt
from ..tables import ROW, Load
from .rows import converted, converted_schema, is_as_it_is, may_be_unfit, unfit

_URIS = 10_000
"""Files that one load job takes."""
_CHUNK_BYTES = 1 << 30
"""What a file of converted rows aims at: so much of the disk is needed."""
_GROUP_ROWS = 1 << 20


@dataclass(frozen=True)
class Files:
    """What one load job takes: files on Google Cloud Storage, or a local one.

    ``key`` tells their content from that of all others of a load; ``schema`` has those of their
    columns that are the table's; ``has_others``: they may have more; ``is_made``: the local file
    was made for this.
    """

    key: str
    schema: pa.Schema
    uris: tuple[str, ...] = ()
    path: str = ""
    has_others: bool = True
    is_made: bool = False


def find_unfit(load: Load) -> dict[int, str]:
    """Row of a load → why BigQuery cannot hold it, for those that it cannot."""
    fields = load.table.fields
    required = [f.name for f in fields if f.required]
    if not any(map(may_be_unfit, fields)) and not _may_have_nulls(load.receipts, required):
        return {}
    found: dict[int, str] = {}
    for batch in load.batches(numbered=True):
        numbers = batch.column(ROW)
        found.update((numbers[n].as_py(), reason) for n, reason in unfit(batch, fields).items())
    return found


def files_of(
    load: Load, unfit: Collection[int], required: Collection[str], folder: str
) -> Iterator[Files]:
    """Files with the rows of a load.

    Args:
        unfit: numbers of rows that are left out.
        required: columns that are not nullable in files that are made.
        folder: where files may be made.
    """
    ready = [] if unfit else _as_they_are(load)
    return iter(ready) if ready else _made(load, unfit, required, folder)


def _as_they_are(load: Load) -> list[Files]:
    """The staged files, if BigQuery can load them all; else none."""
    fields, receipts = load.table.fields, load.receipts
    if not all(map(is_as_it_is, fields)):
        return []
    found = {_loadable(receipt, fields) for receipt in receipts}
    columns = found.pop() if len(found) == 1 else None
    if columns is None:
        return []
    make = partial(Files, schema=columns.schema, has_others=columns.has_others)
    if not all(map(_is_there, receipts)):
        return [make(f"{n} {r.sha256}", path=r.path) for n, r in enumerate(receipts)]
    groups = [receipts[at : at + _URIS] for at in range(0, len(receipts), _URIS)]
    return [
        make(" ".join(r.sha256 for r in group), uris=tuple(r.path for r in group))
        for group in groups
    ]


class _Columns(NamedTuple):
    schema: pa.Schema
    has_others: bool


def _is_there(receipt: Receipt) -> bool:
    """Whether BigQuery can read the file where it lies."""
    return receipt.path.startswith("gs://")


def _loadable(receipt: Receipt, fields: Sequence[Field]) -> _Columns | None:
    """The table's columns as a staged file has them, if it has them all in the right types.

    It may have others, like the records' own bytes, which BigQuery passes over; but a file that has
    more of those than of the table's is not sent from here.
    """
    stored = _footer(receipt)
    schema = stored.schema.to_arrow_schema()
    found: list[pa.Field] = []
    for field in fields:
        at = schema.get_field_index(field.name)
        if at < 0:
            return None
        column: Any = schema.field(at)
        kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
        if kind != arrow_type(field):
            return None
        found.append(column.with_type(kind))
    wanted = pa.schema(found)
    if _is_there(receipt) or 2 * _bytes(stored, wanted.names) >= _bytes(stored, schema.names):
        return _Columns(wanted, len(schema) > len(fields))
    return None


def _made(
    load: Load, unfit: Collection[int], required: Collection[str], folder: str
) -> Iterator[Files]:
    fields = load.table.fields
    schema = pa.schema([f.with_nullable(f.name not in required) for f in converted_schema(fields)])
    batches = load.batches(without=sorted(unfit))
    batch = next(batches, None)
    number = 0
    while batch is not None:
        path = Path(folder) / f"{uuid.uuid4().hex}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
            full = False
            while batch is not None and not full:
                writer.write_batch(converted(batch, fields, schema), _GROUP_ROWS)
                batch, full = next(batches, None), path.stat().st_size >= _CHUNK_BYTES
        yield Files(f"rows {number}", schema, path=str(path), has_others=False, is_made=True)
        number += 1


def _footer(receipt: Receipt) -> pq.FileMetaData:
    with storage.named(receipt.path, "read"), storage.open_read(receipt.path) as file:
        return pq.read_metadata(file)


def _bytes(stored: pq.FileMetaData, names: Collection[str]) -> int:
    """What the columns take of a file."""
    return sum(
        group.column(at).total_compressed_size
        for group in map(stored.row_group, range(stored.num_row_groups))
        for at in range(group.num_columns)
        if group.column(at).path_in_schema.split(".")[0] in names
    )


def _may_have_nulls(receipts: Sequence[Receipt], names: Collection[str]) -> bool:
    """Whether any of the columns has a null, or is missing, as far as the files say."""
    return any(_nulls(_footer(receipt), name) for receipt in receipts for name in names)


def _nulls(stored: pq.FileMetaData, name: str) -> bool:
    columns = [
        group.column(at)
        for group in map(stored.row_group, range(stored.num_row_groups))
        for at in range(group.num_columns)
        if group.column(at).path_in_schema == name
    ]
    counts = [column.statistics and column.statistics.null_count for column in columns]
    return len(columns) < stored.num_row_groups or any(count != 0 for count in counts)


# ---------------------------------------------------------------- their columns


def schema_fields(schema: pa.Schema) -> list[bigquery.SchemaField]:
    """The columns that BigQuery sees in a file of that schema."""
    return [_schema_field(column) for column in schema]


def _schema_field(column: pa.Field) -> bigquery.SchemaField:
    kind: Any = column.type
    mode = "NULLABLE" if column.nullable else "REQUIRED"
    if pt.is_list(kind):
        kind, mode = kind.value_type, "REPEATED"
    if pt.is_struct(kind):
        inner = [_schema_field(field) for field in kind]
        return bigquery.SchemaField(column.name, "RECORD", mode, fields=inner)
    if pt.is_decimal(kind):
        small = kind.precision - kind.scale <= NUMERIC[0] and kind.scale <= NUMERIC[1]
        return bigquery.SchemaField(column.name, "NUMERIC" if small else "BIGNUMERIC", mode)
    return bigquery.SchemaField(column.name, next(n for test, n in _KINDS if test(kind)), mode)


_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (pt.is_string, "STRING"),
    (pt.is_integer, "INTEGER"),
    (pt.is_floating, "FLOAT"),
    (pt.is_boolean, "BOOLEAN"),
    (pt.is_timestamp, "TIMESTAMP"),
    (pt.is_date, "DATE"),
    (pt.is_binary, "BYTES"),
)
