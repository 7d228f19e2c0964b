"""Beam's rows to record batches."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_type_hints

import apache_beam as beam
import pyarrow as pa
from apache_beam.portability.api import schema_pb2
from apache_beam.typehints.native_type_compatibility import match_is_named_tuple
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import schema_from_element_type, typing_to_runner_api
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ...schemas.arrow import record_schema
from ...schemas.contract import Contract
from ...schemas.problems import did_you_mean
from ..coder import RecordBatchCoder  # registers it  # noqa: F401
from .columns import row_writer
from .types import (
    TIMESTAMP,
    SchemaRowsError,
    arrow_field_of,
    kind_of_beam,
    named,
    refuse_other_type,
)

PIECE_ROWS = 1000
"""Rows that are made columns at a time."""
BATCH_BYTES = 4 << 20
"""Bytes from which on a batch is complete."""


class FromSchemaRows(beam.PTransform):
    """Rows with a schema to record batches: ``beam.Row``, named tuples, registered dataclasses.

    Batches do not outlive a bundle, and never hold rows of two windows. A batch has the earliest
    time stamp of its rows.

    Args:
        columns: a contract or an Arrow schema: its fields come first, and are of its types.
            Others keep the types that the rows declare. Without one, that holds for all.
        timestamps: keep the time stamp of each row in a column :data:`.types.TIMESTAMP`, from
            which :class:`.to_rows.ToSchemaRows` gives it back.

    Raises:
        SchemaRowsError: the rows have no schema, lack a field, or have one that cannot be a
            column; or, in the pipeline, a value is not of its field's type. No value is named.
    """

    def __init__(
        self, columns: Contract | pa.Schema | None = None, *, timestamps: bool = False
    ) -> None:
        super().__init__()
        self._columns = record_schema(columns) if isinstance(columns, Contract) else columns
        self._timestamps = timestamps

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        schema = self.schema_of(rows)
        to_batches = _ToBatches(schema, self._timestamps)
        return rows | "Batches" >> beam.ParDo(to_batches).with_output_types(pa.RecordBatch)

    def schema_of(self, rows: beam.PCollection[Any]) -> pa.Schema:
        """The columns that batches of these rows will have, without their time stamps.

        Raises:
            SchemaRowsError: they cannot be batches.
        """
        declared = {field.name: field for field in _fields_of(rows.element_type)}
        told = list(self._columns or ())
        for column in told:
            if column.name not in declared:
                hint = did_you_mean(column.name, declared)
                raise SchemaRowsError(
                    f"the rows have no field {column.name!r}{hint}; they have {named(declared)}"
                )
            refuse_other_type(declared[column.name].type, column.type, column.name)
        others = [field for name, field in declared.items() if name not in {c.name for c in told}]
        return pa.schema([*told, *map(arrow_field_of, others)])

    @staticmethod
    def kinds_of(rows: beam.PCollection[Any]) -> dict[str, str | None]:
        """What sort of values each field has, in a contract's words; ``None``: any.

        Raises:
            SchemaRowsError: the rows have no schema.
        """
        return {field.name: kind_of_beam(field.type) for field in _fields_of(rows.element_type)}


def _fields_of(element_type: Any) -> list[schema_pb2.Field]:
    try:
        seen: Any = _seen(element_type)
        if isinstance(seen, RowTypeConstraint):  # schema_from_element_type leaves out options
            translate: Any = typing_to_runner_api
            return list(translate(seen).row_type.schema.fields)
        return list(schema_from_element_type(seen).fields)
    except TypeError:
        raise SchemaRowsError(
            f"the elements are {element_type}, which is no row with a schema: make them with "
            "beam.Select or beam.Row, or say with_output_types(a NamedTuple)"
        ) from None


def _seen(element_type: Any) -> Any:
    """The type with the hints of a named tuple as Beam knows them.

    It takes ``str | None`` for ``Any``, and every hint in a module that puts evaluation off.
    """
    named_tuple = getattr(element_type, "user_type", element_type)
    if not match_is_named_tuple(named_tuple) or hasattr(named_tuple, "_field_descriptions"):
        return element_type  # no named tuple, or one that Beam has made
    hints = get_type_hints(named_tuple).items()
    return RowTypeConstraint.from_fields([(name, _known(hint)) for name, hint in hints])


def _known(hint: Any) -> Any:
    return Union[get_args(hint)] if isinstance(hint, UnionType) else hint  # noqa: UP007


class _ToBatches(beam.DoFn):
    """Gathers rows by window, some at a time as columns, until a batch is large enough."""

    def __init__(self, schema: pa.Schema, timestamps: bool) -> None:
        self._schema = schema
        self._timestamps = timestamps

    def setup(self) -> None:
        self._write = row_writer(self._schema, "")

    def start_bundle(self) -> None:
        self._waiting: dict[Any, _Waiting] = {}

    def process(
        self,
        row: Any,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        waiting = self._waiting.get(window)
        if waiting is None:
            waiting = self._waiting[window] = _Waiting()
        waiting.rows.append(row)
        waiting.micros.append(timestamp.micros)
        if len(waiting.rows) >= PIECE_ROWS:
            self._piece(waiting)
            if waiting.bytes >= BATCH_BYTES:
                yield self._batch(window)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for window in list(self._waiting):
            yield self._batch(window)

    def _piece(self, waiting: _Waiting) -> None:
        columns = self._write(waiting.rows)
        schema = self._schema
        if self._timestamps:
            schema = schema.append(pa.field(TIMESTAMP, pa.timestamp("us", "UTC")))
            columns.append(pa.array(waiting.micros, pa.int64()).cast(schema.field(TIMESTAMP).type))
        piece = pa.RecordBatch.from_arrays(columns, schema=schema)
        waiting.first = min([waiting.first, *waiting.micros] if waiting.pieces else waiting.micros)
        waiting.pieces.append(piece)
        waiting.bytes += piece.nbytes
        waiting.rows, waiting.micros = [], []

    def _batch(self, window: Any) -> WindowedValue:
        waiting = self._waiting.pop(window)
        if waiting.rows:
            self._piece(waiting)
        batch = pa.concat_batches(waiting.pieces)
        return WindowedValue(batch, Timestamp(micros=waiting.first), (window,))


class _Waiting:
    """Rows of one window, and those that are columns already."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.micros: list[int] = []
        self.pieces: list[pa.RecordBatch] = []
        self.bytes = 0
        self.first = 0
