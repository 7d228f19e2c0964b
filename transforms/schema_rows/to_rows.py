"""Record batches to Beam's rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.arrow import HIDDEN
from ...schemas.contract import Contract
from .types import (
    MAX_DIGITS,
    TIMESTAMP,
    SchemaRowsError,
    declared_schema,
    is_list,
    named,
    not_null,
    row_type,
)

PIECE_ROWS = 1000
"""Rows that are Python objects at a time: with more of them Python's collector takes over."""


class ToSchemaRows(beam.PTransform):
    """Record batches to rows with a schema, one a record.

    Identity columns are left out. Rows have the time stamp and the window of their batch, or,
    where it has the column :data:`.types.TIMESTAMP`, a time stamp of their own from there.

    Args:
        columns: of the batches: a contract (what it requires is not null in the rows' schema: hold
            records against it before), or an Arrow schema.

    Raises:
        SchemaRowsError: a column has no place in Beam's schema; or, in the pipeline, batches have
            other columns, or a null where there must be none.
    """

    def __init__(self, columns: Contract | pa.Schema) -> None:
        super().__init__()
        schema = declared_schema(columns)
        self._schema = pa.schema([f for f in schema if f.name not in (*HIDDEN, TIMESTAMP)])
        self._row_type = row_type(self._schema)

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> Any:
        to_rows = _ToRows(self._schema, self._row_type)
        return batches | "SchemaRows" >> beam.ParDo(to_rows).with_output_types(self._row_type)


class _ToRows(beam.DoFn):
    def __init__(self, schema: pa.Schema, row_type: RowTypeConstraint) -> None:
        self._schema = schema
        self._row_type = row_type

    def setup(self) -> None:
        hints = dict(self._row_type._fields)
        self._readers = [_reader(field, hints[field.name], field.name) for field in self._schema]
        self._make: Any = self._row_type.user_type._make

    def process(self, batch: pa.RecordBatch, window: Any = beam.DoFn.WindowParam) -> Iterator[Any]:
        self._refuse_others(batch.schema)
        for start in range(0, batch.num_rows, PIECE_ROWS):
            yield from self._rows(batch.slice(start, PIECE_ROWS), window)

    def _rows(self, batch: pa.RecordBatch, window: Any) -> Iterator[Any]:
        columns = [
            read(batch.column(name))
            for name, read in zip(self._schema.names, self._readers, strict=True)
        ]
        rows = map(self._make, zip(*columns, strict=True) if columns else [()] * batch.num_rows)
        if TIMESTAMP not in batch.schema.names:
            return rows
        # not as TimestampedValue: for that Beam would assign windows anew
        times = _instants(batch.column(TIMESTAMP))
        return map(WindowedValue, rows, times, itertools.repeat((window,)))

    def _refuse_others(self, schema: pa.Schema) -> None:
        ours = {name for name in schema.names if name not in (*HIDDEN, TIMESTAMP)}
        if ours != set(self._schema.names):
            raise SchemaRowsError(
                f"batches have the columns {named(sorted(ours))}; ToSchemaRows was told "
                f"{named(self._schema.names)}: give it the schema that they have"
            )
        for field in self._schema:
            if not _same_values(schema.field(field.name).type, field.type):
                raise SchemaRowsError(
                    f"field {field.name}: batches have {schema.field(field.name).type}, "
                    f"ToSchemaRows was told {field.type}: give it the schema that they have"
                )


def _same_values(given: pa.DataType, told: pa.DataType) -> bool:
    """Whether two types are one, whatever they say of what may be null."""
    if pt.is_struct(given) and pt.is_struct(told):
        ours, theirs = list(given), list(told)
        return [f.name for f in ours] == [f.name for f in theirs] and all(
            _same_values(a.type, b.type) for a, b in zip(ours, theirs, strict=True)
        )
    if is_list(given) and is_list(told):
        return _same_values(given.value_type, told.value_type)
    return given == told


# ------------------------------------------------------------- columns to lists of Python values

Reader = Callable[[pa.Array], list[Any]]


def _reader(field: pa.Field, hint: Any, path: str) -> Reader:
    """What makes a list of values of a column, null included."""
    read = _reader_of(field.type, not_null(hint), path)
    if field.nullable:
        return read

    def read_all(column: pa.Array) -> list[Any]:
        if column.null_count:
            raise SchemaRowsError(
                f"field {path}: {column.null_count} values are null, where the schema lets none "
                "be: hold the records against their contract before (Validate)"
            )
        return read(column)

    return read_all


def _reader_of(type: pa.DataType, hint: Any, path: str) -> Reader:
    if pt.is_timestamp(type):
        return _instants
    if pt.is_time(type):
        return _times
    if pt.is_decimal(type) and type.precision > MAX_DIGITS:
        return _decimal_reader(path)
    if pt.is_struct(type):
        return _struct_reader(type, hint, path)
    if is_list(type):
        return _list_reader(_reader(type.value_field, get_args(hint)[0], f"{path}[]"))
    if pt.is_map(type):
        key, value = get_args(hint)
        keys = _reader(type.key_field, key, f"{path} (keys)")
        return _map_reader(keys, _reader(type.item_field, value, f"{path}[]"), path)
    return lambda column: column.to_pylist()


def _instants(column: pa.Array) -> list[Any]:
    micros = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_pylist()
    return [None if us is None else Timestamp(0, us) for us in micros]


def _times(column: pa.Array) -> list[Any]:
    return [None if time is None else time.isoformat() for time in column.to_pylist()]


def _decimal_reader(path: str) -> Reader:
    def read(column: pa.Array) -> list[Any]:
        values = column.to_pylist()
        if any(value is not None and len(value.as_tuple().digits) > MAX_DIGITS for value in values):
            raise SchemaRowsError(
                f"field {path}: a decimal of more than {MAX_DIGITS} digits, which Beam's coder "
                "would round; cast the field to a string before"
            )
        return values

    return read


def _struct_reader(type: pa.DataType, row_type: RowTypeConstraint, path: str) -> Reader:
    hints = dict(row_type._fields)
    readers = [_reader(field, hints[field.name], f"{path}.{field.name}") for field in type]
    make: Any = row_type.user_type._make

    def read(column: pa.Array) -> list[Any]:
        valid = column.is_valid()
        held = column.filter(valid).flatten()  # below a null nothing is required
        lists = [read(values) for read, values in zip(readers, held, strict=True)]
        rows = map(make, zip(*lists, strict=True) if lists else itertools.repeat(()))
        return [next(rows) if there else None for there in valid.to_pylist()]

    return read


def _list_reader(read_items: Reader) -> Reader:
    def read(column: pa.Array) -> list[Any]:
        items = iter(read_items(column.flatten()))
        sizes = pc.list_value_length(column).to_pylist()
        return [None if n is None else list(itertools.islice(items, n)) for n in sizes]

    return read


def _map_reader(read_keys: Reader, read_values: Reader, path: str) -> Reader:
    def read(column: pa.Array) -> list[Any]:
        offsets = column.offsets.to_pylist()  # into the keys and items of what it is a slice of
        keys, values = read_keys(column.keys), read_values(column.items)
        found: list[Any] = []
        for there, (start, end) in zip(
            column.is_valid().to_pylist(), itertools.pairwise(offsets), strict=True
        ):
            pairs = dict(zip(keys[start:end], values[start:end], strict=True))
            if len(pairs) < end - start:
                raise SchemaRowsError(f"field {path}: a map has a key twice, and Beam's has not")
            found.append(pairs if there else None)
        return found

    return read
