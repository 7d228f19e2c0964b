"""Lines and messages to rows of a contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.arrow import PAYLOADS, WATERMARK_FIELD
from ..parse import Parse as ParseBatches
from ..schema_rows import TIMESTAMP, FromSchemaRows
from ..schema_rows.types import declared_schema
from .errors import outputs
from .identity import SOURCE_NAME, Restamped
from .options import OptionError, error_output, load, names_of, refuse_missing


class Parse(beam.PTransform):
    """Decode JSON records in a field of rows by a contract, and hold them against its rules.

    The rows that leave have the contract's fields and no others. A blank line is no record; a null
    is one that is refused.

    Args:
        contract: path of an ODCS document, or the document itself.
        field: the field that holds a record, as ``bytes`` or ``str``. Not needed where rows have
            one field, as those of ReadFromText.
        table: the contract's table, if it has several.
        unknown_fields: what to do with fields that the contract does not name: ``ignore`` or
            ``reject``.
        error_handling: where records go that are refused: their exact bytes, and why.
    """

    def __init__(
        self,
        contract: str | Mapping[str, Any],
        field: str | None = None,
        table: str | None = None,
        unknown_fields: str = "ignore",
        error_handling: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._contract = load(contract, table)
        self._field = field
        self._unknown_fields = _unknown(unknown_fields)
        self._errors = error_output(error_handling)

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        payloads = (
            rows
            | "Field" >> beam.Select(self._field_of(rows))
            | "Batches" >> FromSchemaRows(timestamps=True)
            | "Payloads" >> beam.FlatMap(_payloads).with_output_types(pa.RecordBatch)
        )
        parse = ParseBatches(
            self._contract, judge=True, payload=False, unknown_fields=self._unknown_fields
        )
        return _outputs(payloads | "Decode" >> parse, self)

    def _field_of(self, rows: beam.PCollection[Any]) -> str:
        fields = FromSchemaRows.kinds_of(rows)
        if self._field is None and len(fields) > 1:
            raise OptionError(f"field: rows have several, say which one it is: {', '.join(fields)}")
        name = self._field or next(iter(fields))
        refuse_missing([name], rows, "field")
        if fields[name] not in ("string", "binary"):
            raise OptionError(
                f"field: {name} is of type {fields[name] or 'Any'} in the rows; expected str or "
                "bytes (of MapToFields with a callable: say output_type)"
            )
        return name


class ReadFromJsonLines(beam.PTransform):
    """Read files of JSON lines, plain or compressed, and decode them by a contract.

    As ReadFromText and Parse do, in a small part of the time; and dead letters say the file and
    the byte that a record begins at.

    Args:
        path: a pattern, or a list of them. They are matched when the pipeline is built.
        contract: path of an ODCS document, or the document itself.
        table: the contract's table, if it has several.
        unknown_fields: ``ignore`` or ``reject`` those that the contract does not name.
        error_handling: where records go that are refused: their exact bytes, and why.
    """

    _yaml_requires_inputs = False

    def __init__(
        self,
        path: str | list[str],
        contract: str | Mapping[str, Any],
        table: str | None = None,
        unknown_fields: str = "ignore",
        error_handling: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        from ..read.json_lines import ReadFromJsonLines as ReadBatches

        self._contract = load(contract, table)
        self._unknown_fields = _unknown(unknown_fields)
        self._errors = error_output(error_handling)
        self._read = ReadBatches(names_of(path, "path"))

    def expand(self, pbegin: Any) -> Any:
        read = pbegin | "Read" >> self._read
        parse = ParseBatches(
            self._contract, judge=True, payload=False, unknown_fields=self._unknown_fields
        )
        parsed = read.records | "Decode" >> parse
        letters = (read.dead_letters, parsed.dead_letters) | "AllLetters" >> beam.Flatten()
        return _outputs(parsed._replace(dead_letters=letters), self)


def _unknown(said: str) -> Any:
    if said not in ("ignore", "reject"):
        raise OptionError(f"unknown_fields: expected 'ignore' or 'reject', got {said!r}")
    return said


def _outputs(parsed: Any, of: Parse | ReadFromJsonLines) -> Any:
    stamped = parsed._replace(records=parsed.records | "Restamp" >> Restamped())
    return outputs(stamped, declared_schema(of._contract), of._errors)


_SCHEMA = pa.schema([*PAYLOADS, WATERMARK_FIELD])


def _payloads(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """Batches of payloads, without those that are blank; time stamps travel along. A null is not
    blank: somebody sent it, and it goes on to be refused."""
    payloads = batch.column(0).cast(pa.binary())
    there = pc.match_substring_regex(payloads, r"[^ \t\r\n]").fill_null(True)
    if not pc.all(there).as_py():
        payloads, batch = payloads.filter(there), batch.filter(there)
    size = batch.num_rows
    sources = pa.DictionaryArray.from_arrays(pa.array([0] * size, pa.int32()), [SOURCE_NAME])
    columns = [sources, pa.nulls(size, pa.int64()), payloads, batch.column(TIMESTAMP)]
    return [pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)] if size else []
