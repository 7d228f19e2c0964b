"""What dead letters hold that the contract does not foresee.

The payload of a letter is read again, and looked through beside the contract. It is slow work, and
done for what has been refused alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import apache_beam as beam
import pyarrow as pa

from ...schemas.arrow_json import json_rows
from ...schemas.avro.framing import BARE
from ...schemas.avro.single import SingleDatums
from ...schemas.avro.types import AvroSchemaError, parse_avro_schema
from ...schemas.contract import Contract
from ...schemas.csv.written import written_by
from ...schemas.drift.facts import Drift, Rows, drift_of
from ...schemas.drift.walk import CODES, Walk, parse
from ...schemas.json.nesting import is_too_deep

_COLUMNS = ["payloadBytes", "attributes", "violations"]


class NoticeLetters(beam.PTransform):
    """Look through dead letters of records: batches of them → ``PCollection[Drift]``.

    Args:
        contract: of the records.
        all_letters: look for unknown fields in letters that say nothing of them too.
    """

    def __init__(self, contract: Contract, *, all_letters: bool = False) -> None:
        super().__init__()
        self._contract = contract
        self._all = all_letters

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        look = beam.FlatMap(_noticed, self._contract, self._all)
        return pcoll | "Look" >> look.with_output_types(Any)


def _noticed(letters: pa.RecordBatch, contract: Contract, all_letters: bool) -> Iterator[Drift]:
    drift = notice(letters, contract, all_letters=all_letters)
    if drift is not None:
        yield drift


def notice(
    letters: pa.RecordBatch, contract: Contract, *, all_letters: bool = False
) -> Drift | None:
    """What a batch of dead letters holds; ``None`` if that is all foreseen."""
    walk = Walk(contract)
    columns = [letters.column(name).to_pylist() for name in _COLUMNS]
    for row, (payload, pairs, violations) in enumerate(zip(*columns, strict=True)):
        wrong = {(v["field"] or "", v["code"]) for v in violations or ()}
        if not (all_letters or any(code in CODES for _, code in wrong)) or payload is None:
            continue
        said = {pair["key"]: pair["value"] for pair in pairs or ()}
        try:
            value = _READ.get(said.get("format", ""), _json)(payload, said)
        except (ValueError, LookupError, TypeError, AvroSchemaError):
            value = None  # as it was for the decoder, which has said so
        if isinstance(value, dict):
            walk.record(row, value, wrong, cells=said.get("format") == "csv")
        else:
            walk.unread(row, wrong)
    rows = Rows(letters.column("source"), letters.column("position"))
    return drift_of(walk.found, rows, walk.shapes)


def _json(payload: bytes, said: dict[str, str]) -> Any:
    return None if is_too_deep(payload) else parse(payload)


def _csv(payload: bytes, said: dict[str, str]) -> dict[str, str | None]:
    """The texts of a CSV record by the names of their columns."""
    how = written_by(said)
    null = set(how.options.null)
    record = {}
    for name, cell in zip(how.columns, how.cells(payload), strict=True):
        text = cell.text.decode(how.encoding)
        record[name] = None if text in null and not cell.quoted else text
    return record


def _avro(payload: bytes, said: dict[str, str]) -> Any:
    """An Avro datum as what its JSON is; ``None`` where its schema is not at hand."""
    if said.get("avro.framing", BARE.name) != BARE.name:
        return None
    found, corrupt = _datums(said["avro.schema"]).read(pa.array([payload], pa.binary()))
    if corrupt:
        return None
    [part] = found
    return parse(json_rows(part.batch)[0].as_py())


@lru_cache(maxsize=64)
def _datums(schema: str) -> SingleDatums:
    return SingleDatums(parse_avro_schema(schema))


_READ = {"csv": _csv, "avro": _avro}
