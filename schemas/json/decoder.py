"""JSON records to typed columns, strictly and fast.

msgspec decodes each record straight into a Struct made from the contract; a column is then one
``attrgetter`` over the Structs. Records are taken a thousand at a time so that the objects stay in
the processor's cache (three times faster than a whole batch at once). The first record that does
not fit interrupts only itself: it is put aside and :mod:`.refusals` later finds everything
that is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import UNKNOWN, record_schema
from ..contract import Contract, Field
from ..decoded import TIME, Decoded, UnknownFields
from ..integers import integer_range
from ..rules import Violation, find_violations
from .columns import Number, column_builder, convert, object_getters
from .nesting import too_deep
from .refusals import Refusals
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
        struct = _struct("Record", contract.fields, forbid=unknown == "reject")
        self._decode = msgspec.json.Decoder(struct, dec_hook=_number, float_hook=Number).decode
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
        chunks: list[list[pa.Array]] = []
        for start in range(0, max(len(payloads), 1), _CHUNK):
            lines = payloads.slice(start, _CHUNK).to_pylist()
            for i in unfit & set(range(start, start + _CHUNK)) if unfit else ():
                lines[i - start] = b""  # which no decoder takes; the bytes are kept elsewhere
            columns, failed = self._columns(lines)
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

    def _columns(self, lines: list[bytes]) -> tuple[list[pa.Array], list[int]]:
        """Storage columns of the records that fit, and the indices of those that do not."""
        objects: list[Any] = []
        failed: list[int] = []
        remaining = iter(lines)
        while True:
            try:
                objects.extend(map(self._decode, remaining))
                break
            except Exception:  # whatever bytes can cause: told apart later, never let out
                # extend() has kept what came before; the iterator stands behind the culprit
                failed.append(len(objects) + len(failed))
        try:
            return self._build(objects), failed
        except Exception:  # a value that its column cannot hold, such as 2**64
            return self._one_by_one(lines)

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


def _integer_type(field: Field) -> Any:
    low, high = integer_range(field.storage)
    if field.storage == "uint64":
        # msgspec's bounds end at 2**63 - 1: what is above 2**64 fails in the column instead
        return Annotated[int, msgspec.Meta(ge=0)]
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


def _number(to: type, value: Any) -> Any:
    if to is Number:
        if type(value) is Number:
            return value
        if type(value) is int:
            return Number(value)
    raise TypeError("not a number")


_PYTHON: dict[str, Callable[[Field], Any]] = {
    "string": lambda f: str,
    "integer": _integer_type,
    "number": lambda f: float,
    "decimal": lambda f: Number,
    "boolean": lambda f: bool,
    "date": lambda f: str,
    "time": lambda f: str,
    "timestamp": lambda f: str,
}


def _python_type(field: Field, forbid: bool) -> Any:
    if field.type == "object":
        return _struct(field.name, field.fields, forbid) | None
    if field.type == "array":
        assert field.items is not None
        return list[_python_type(field.items, forbid)] | None
    if field.type == "json":
        return msgspec.Raw  # which holds a null too, and forms no unions
    return _PYTHON[field.type](field) | None


def _struct(name: str, fields: tuple[Field, ...], forbid: bool) -> type[msgspec.Struct]:
    """A Struct with attributes f0, f1, …, whatever the contract calls its fields."""
    return msgspec.defstruct(
        "Record" if not name.isidentifier() else name,
        [(f"f{i}", _python_type(f, forbid), None) for i, f in enumerate(fields)],
        rename={f"f{i}": f.name for i, f in enumerate(fields)},
        forbid_unknown_fields=forbid,
        gc=False,  # records hold no cycles; keeps the collector out of the hot path
    )
