"""Dead letters: the rows that tell what a refused record was, and why.

``attributes`` hold what it takes to read the payload again (``format``, ``avro.schema``,
``csv.header`` and the like), and, where a message of a stream was refused as it was read or parsed,
what the message carried beside it: its key, headers, attributes and times, under names that begin
with the transport's (each source's ``inputs`` lists them). One name may be there several times, as
headers may. They are of the transport and no fields of the contract: whatever the contract says of
fields is not said of them, and who may not read a payload may not read them either. Where a job
encrypts payloads, they are encrypted too: see :mod:`.encryption`.

Dead letters of later stages (a step, a destination that refuses, a record that is late) have none
of what a message carried: it does not travel with records. Their source and position find the
message again. What a file says of how it is read they get from the file (:mod:`.read.described`),
those of a destination when they are replayed. What fails again in a replay keeps what it had.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..schemas.arrow import PAYLOAD, POSITION, SOURCE
from ..schemas.codes import Code
from ..schemas.contract import Contract
from ..schemas.dead_letters import SCHEMA, VIOLATION
from ..schemas.rules import Violation

Attributes = Sequence[tuple[str, str | None]]
"""Names and values, in an order of their own; a name may be there again."""


class Origin(NamedTuple):
    """What all dead letters of a stage have in common. Empty strings are stored as null."""

    stage: str
    pipeline: str = ""
    run_id: str = ""
    contract_id: str = ""
    contract_version: str = ""

    def of(self, contract: Contract) -> Origin:
        """The same, with the contract's id and version."""
        return self._replace(contract_id=contract.id, contract_version=contract.version)


def dead_letter_id(source: str | None, position: str | None, payload: bytes | None) -> str:
    """A record's identity: 128 bits (hex) of a BLAKE2b hash of source, position and payload."""
    digest = hashlib.blake2b(digest_size=16)
    for part in ((source or "").encode(), (position or "").encode(), payload or b""):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def refused_batch(
    records: pa.RecordBatch,
    violations: Sequence[Violation],
    origin: Origin,
    *,
    stages: Sequence[str] | None = None,
    event_times: pa.Array | None = None,
    attributes: Mapping[str, str] | None = None,
) -> pa.RecordBatch:
    """Dead letters of the rows of ``records`` that have violations.

    Args:
        records: a batch with the identity columns.
        violations: at least one; ``row`` is the row in ``records``.
        stages: the stage of each dead letter, where it is not the origin's for all.
        event_times: the event time of each dead letter, where it is known.
        attributes: what they all carry besides, by name.
    """
    ordered = sorted(violations, key=lambda v: v.row)  # stable: the order of fields is kept
    rows = sorted({v.row for v in ordered})
    taken = records.take(pa.array(rows, pa.int64()))
    payloads = taken.column(PAYLOAD)
    return dead_letter_batch(
        taken.column(SOURCE).cast(pa.string()),
        taken.column(POSITION).cast(pa.string()),
        payloads,
        ordered,
        origin,
        event_times=event_times,
        stages=stages,
        attributes=attributes,
    )


def with_attributes(letters: pa.RecordBatch, more: Sequence[Attributes]) -> pa.RecordBatch:
    """Dead letters with attributes of their own behind those that they have.

    Args:
        more: of each dead letter.
    """
    place = letters.schema.get_field_index("attributes")
    held = letters.column(place).to_pylist()
    pairs = [
        [*(ours or ()), *({"key": name, "value": value} for name, value in theirs)] or None
        for ours, theirs in zip(held, more, strict=True)
    ]
    field = SCHEMA.field("attributes")
    return letters.set_column(place, field, pa.array(pairs, field.type))


def region_batch(
    source: str,
    position: str,
    payload: bytes | None,
    code: Code,
    message: str,
    origin: Origin,
    preview: str | None = None,
) -> pa.RecordBatch:
    """One dead letter for a region of a source that is no whole record.

    Args:
        position: ``from-to`` in bytes; ``from-`` where the end is not known.
        preview: text for ``payloadString`` where the payload itself is not held.
    """
    return dead_letter_batch(
        pa.array([source]),
        pa.array([position]),
        pa.array([payload], pa.binary()),
        [Violation(0, "", code, message)],
        origin,
        previews=[preview] if preview is not None else None,
    )


def dead_letter_batch(
    sources: pa.Array,
    positions: pa.Array,
    payloads: pa.Array,
    violations: Sequence[Violation],
    origin: Origin,
    *,
    event_times: pa.Array | None = None,
    stages: Sequence[str] | None = None,
    previews: list[str | None] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> pa.RecordBatch:
    """Dead letters by :data:`millstream.schemas.dead_letters.SCHEMA`, one a row.

    Args:
        violations: sorted by ``row``; each element of the arrays has at least one.
    """
    size = len(payloads)
    lists = _violation_lists(violations)
    now = datetime.datetime.now(datetime.UTC)
    raw = payloads.to_pylist()
    ids = list(map(dead_letter_id, sources.to_pylist(), positions.to_pylist(), raw))
    columns = {
        "timestamp": _constant(now, size, SCHEMA.field("timestamp").type),
        "payloadString": pa.array(previews, pa.string()) if previews else _texts(payloads),
        "payloadBytes": payloads,
        "attributes": _attributes(attributes, size) if attributes else None,
        "errorMessage": pa.array(lists.messages, pa.string()),
        "id": pa.array(ids, pa.string()),
        "codes": lists.codes,
        "violations": lists.violations,
        "stage": pa.array(stages) if stages else _constant(origin.stage, size),
        "pipeline": _constant(origin.pipeline, size),
        "run_id": _constant(origin.run_id, size),
        "contract_id": _constant(origin.contract_id, size),
        "contract_version": _constant(origin.contract_version, size),
        "source": sources,
        "position": positions,
        "event_time": event_times,
        "attempt": _constant(0, size, pa.int32()),
    }
    return pa.RecordBatch.from_arrays(
        [
            pa.nulls(size, f.type) if columns.get(f.name) is None else columns[f.name]
            for f in SCHEMA
        ],
        schema=SCHEMA,
    )


class _Lists(NamedTuple):
    codes: pa.Array
    violations: pa.Array
    messages: list[str]


def _violation_lists(violations: Sequence[Violation]) -> _Lists:
    """Violations sorted by row as one list a row."""
    rows = np.fromiter((v.row for v in violations), np.int64, len(violations))
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1))
    offsets = np.append(starts, len(rows)).astype(np.int32)
    flat = pa.StructArray.from_arrays(
        [
            pa.array([v.field for v in violations], pa.string()),
            pa.array([v.code for v in violations], pa.string()),
            pa.array([v.message for v in violations], pa.string()),
        ],
        fields=list(VIOLATION),
    )
    lines = [f"{v.field}: {v.message}" if v.field else v.message for v in violations]
    bounds = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    return _Lists(
        pa.array(
            [list(dict.fromkeys(v.code.value for v in violations[a:b])) for a, b in bounds],
            SCHEMA.field("codes").type,
        ),
        pa.ListArray.from_arrays(pa.array(offsets), flat, type=SCHEMA.field("violations").type),
        ["; ".join(lines[a:b]) for a, b in bounds],
    )


def _attributes(attributes: Mapping[str, str], size: int) -> pa.Array:
    pairs = [{"key": key, "value": value} for key, value in sorted(attributes.items())]
    return pa.repeat(pa.scalar(pairs, SCHEMA.field("attributes").type), size)


def _texts(payloads: pa.Array) -> pa.Array:
    """The payloads as text; what is not UTF-8 is replaced, for the eye only."""
    try:
        return payloads.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [None if p is None else p.decode("utf-8", "replace") for p in payloads.to_pylist()]
        return pa.array(texts, pa.string())


def _constant(value: object, size: int, to: pa.DataType | None = None) -> pa.Array:
    to = to or pa.string()
    return pa.nulls(size, to) if value == "" else pa.repeat(pa.scalar(value, to), size)
