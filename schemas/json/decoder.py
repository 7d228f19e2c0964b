"""JSON records to typed columns, strictly and fast.

msgspec decodes each record straight into a Struct made from the contract; a column is then one
``attrgetter`` over the Structs. Records are taken a thousand at a time so that the objects stay in
the processor's cache (three times faster than a whole batch at once). The first record that does
not fit interrupts only itself: it is put aside and :mod:`.refusals` later finds everything
that is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import UNKNOWN, record_schema
from ..contract import Contract
from ..decoded import TIME, Decoded, UnknownFields
from ..drift.facts import Found, without
from ..drift.noticing import Noticing
from ..rules import Violation, find_violations
from .columns import column_builder, convert, object_getters
from .nesting import too_deep
from .refusals import Refusals
from .structs import record_decoder
from .unknown import unknown_fields

_CHUNK = 1000  # records decoded at a time; 500 to 4,000 measured alike, above it slows


class JsonDecoder:
    """Decodes JSON objects, one a record, by a contract.

    A key that is repeated counts as its last occurrence; each occurrence must be of its type.

    Args:
        judge: hold what is well typed against the contract's rules too, while it is in the
            processor's cache.

    >>> from millstream.schemas.contract import Contract, Field
    >>> decoder = JsonDecoder(Contract("c", "1", "c", (Field("n", "integer"),)))
    >>> decoder.decode(pa.array([b'{"n": 1}', b'{"n": "1"}'])).refused
    [1]
    """

    def __init__(
        self, contract: Contract, unknown: UnknownFields = "ignore", *, judge: bool = False
    ) -> None:
        self._contract = contract
        self._judges = judge
        self._unknown = unknown
        self._schema = record_schema(contract, keep_unknown=unknown == "keep")
        self._decode = record_decoder(contract.fields, forbid=unknown == "reject")
        self._noticing = Noticing(contract) if unknown == "notice" else None
        self._getters = object_getters(contract.fields, attributes=True)
        self._builders = [column_builder(f) for f in contract.fields]
        self._refusals = Refusals(contract, reject_unknown=unknown == "reject")

    @property
    def schema(self) -> pa.Schema:
        """The schema of ``Decoded.records``."""
        return self._schema

    def decode(self, payloads: pa.Array) -> Decoded:
        """Decode a binary array, one record an element. No content whatever makes it raise."""
        payloads = pc.fill_null(payloads, b"") if payloads.null_count else payloads
        unfit = {*_not_utf8(payloads), *too_deep(payloads)}
        refused = set(unfit)
        found: Found = {}
        chunks: list[list[pa.Array]] = []
        for start in range(0, max(len(payloads), 1), _CHUNK):
            lines = payloads.slice(start, _CHUNK).to_pylist()
            for i in unfit & set(range(start, start + _CHUNK)) if unfit else ():
                lines[i - start] = b""  # which no decoder takes; the bytes are kept elsewhere
            columns, failed = self._columns(lines, start, found)
            refused.update(start + i for i in failed)
            chunks.append(columns)
        columns = [pa.concat_arrays(parts) for parts in zip(*chunks, strict=True)]
        rows = _all_but(len(payloads), refused)
        columns, misfits = self._convert(columns)
        broken = self._broken_rules(columns, misfits)
        breakers = sorted({v.row for v in broken})
        event_times = self._event_times(columns, breakers)
        if misfits or broken:
            numbers = np.arange(len(payloads)) if rows is None else rows
            refused.update(numbers[list(misfits)].tolist())
            broken = [v._replace(row=int(numbers[v.row])) for v in broken]
            fine = pa.array(_mask(len(columns[0]), misfits.union(breakers)))
            columns = [c.filter(fine) for c in columns]
            rows = _all_but(len(payloads), refused.union(v.row for v in broken))
            breakers = numbers[breakers].tolist()
        if self._unknown == "keep":
            kept = payloads if rows is None else payloads.take(pa.array(rows))
            columns.append(self._unknown_column(kept))
        records = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        violations = self._refusals.explain(payloads, sorted(refused)) if refused else []
        every = sorted(refused.union(breakers))
        times = dict(zip(breakers, event_times, strict=True))
        return Decoded(
            records,
            rows,
            every,
            sorted([*violations, *broken], key=lambda v: v.row),  # stable: in order of fields
            [row in times for row in every],
            pa.array([times.get(row) for row in every], pa.int64()).view(TIME),
            noticed=without(found, set(every)),
        )

    def _broken_rules(self, columns: list[pa.Array], misfits: set[int]) -> list[Violation]:
        if not self._judges:
            return []
        found = find_violations(columns, self._contract.fields)
        return [v for v in found if v.row not in misfits] if misfits else found

    def _event_times(self, columns: list[pa.Array], rows: list[int]) -> list[int | None]:
        """The event times of some rows, in microseconds since the epoch."""
        name = self._contract.event_time
        if not rows or name is None:
            return [None] * len(rows)
        column = columns[self._schema.get_field_index(name)]
        return column.take(pa.array(rows)).view(pa.int64()).to_pylist()

    def _columns(
        self, lines: list[bytes], start: int, found: Found
    ) -> tuple[list[pa.Array], list[int]]:
        """Storage columns of the records that fit, and the indices of those that do not. What is
        noticed of the former is added to ``found``, by rows that begin with ``start``."""
        noticing = self._noticing
        decode = noticing.strict if noticing else self._decode
        objects: list[Any] = []
        failed: list[int] = []
        extra: list[int] = []
        remaining = iter(lines)
        while True:
            try:
                objects.extend(map(decode, remaining))
                break
            except Exception:  # whatever bytes can cause: told apart later, never let out
                # extend() has kept what came before; the iterator stands behind the culprit
                culprit = len(objects) + len(failed)
                if noticing and (record := _fitting(noticing.lenient, lines[culprit])) is not None:
                    objects.append(record)
                    extra.append(culprit)
                else:
                    failed.append(culprit)
        try:
            columns = self._build(objects)
        except Exception:  # a value that its column cannot hold, such as 2**64
            columns, failed = self._one_by_one(lines)
            if noticing:
                noticing.note_all(found, start, lines, set(failed))
            return columns, failed
        if noticing:
            noticing.note(found, start, lines, objects, failed, extra)
        return columns, failed

    def _build(self, objects: list[Any]) -> list[pa.Array]:
        return [
            build(list(map(get, objects)))
            for get, build in zip(self._getters, self._builders, strict=True)
        ]

    def _one_by_one(self, lines: list[bytes]) -> tuple[list[pa.Array], list[int]]:
        fitting, failed = [], []
        for i, line in enumerate(lines):
            try:
                record = self._decode(line)
                self._build([record])
                fitting.append(record)
            except Exception:
                failed.append(i)
        return self._build(fitting), failed

    def _convert(self, columns: list[pa.Array]) -> tuple[list[pa.Array], set[int]]:
        converted, misfits = [], set()
        for column, field in zip(columns, self._contract.fields, strict=True):
            values, found = convert(column, field)
            converted.append(values)
            misfits.update(m.row for m in found)
        return converted, misfits

    def _unknown_column(self, payloads: pa.Array) -> pa.Array:
        texts = [unknown_fields(p, self._contract) for p in payloads.to_pylist()]
        return pa.array(texts, self._schema.field(UNKNOWN).type)


def _fitting(decode: Callable[[bytes], Any], line: bytes) -> Any | None:
    try:
        return decode(line)
    except Exception:  # whatever bytes can cause
        return None


def _not_utf8(payloads: pa.Array) -> list[int]:
    try:
        payloads.cast(pa.string())  # validates the whole column at once
        return []
    except pa.ArrowInvalid:
        return [i for i in _not_ascii(payloads) if not _is_utf8(payloads[i].as_py())]


def _not_ascii(payloads: pa.Array) -> list[int]:
    offsets = np.frombuffer(payloads.buffers()[1], np.int32)
    offsets = offsets[payloads.offset : payloads.offset + len(payloads) + 1]
    data = np.frombuffer(payloads.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    places = np.flatnonzero(data >= 0x80) + offsets[0]
    return np.unique(np.searchsorted(offsets, places, side="right") - 1).tolist()


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mask(size: int, without: set[int]) -> np.ndarray:
    keep = np.ones(size, bool)
    keep[list(without)] = False
    return keep


def _all_but(size: int, without: set[int]) -> np.ndarray | None:
    return np.flatnonzero(_mask(size, without)) if without else None
