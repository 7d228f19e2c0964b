"""The shape of a dead letter: Google's six columns first, so that dashboards made for Google's
Dataflow templates read ours; then millstream's, all nullable."""

import pyarrow as pa

FORMAT = "millstream.dead_letter/1"

SAYING = ("format", "avro.schema", "avro.framing", "csv.options", "csv.header")
"""Attributes that say how a payload is read."""
AGGREGATE = "aggregate"
"""The attribute with the aggregate that a record was late for."""
REACHED = "reached"
"""The attribute with a later stage than the letter's own that its record has come to before."""
OURS = frozenset({*SAYING, AGGREGATE, REACHED})
"""Attributes that hold nothing of what is in a record."""

VIOLATION = pa.struct(
    [
        pa.field("field", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""One broken rule: dotted path (``items[3].price``; empty for the whole record), code, message."""

SCHEMA = pa.schema(
    [
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("payloadString", pa.string()),
        pa.field("payloadBytes", pa.binary()),
        pa.field(
            "attributes",
            pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.string())])),
        ),
        pa.field("errorMessage", pa.string()),
        pa.field("stacktrace", pa.string()),
        pa.field("id", pa.string()),
        pa.field("codes", pa.list_(pa.string())),
        pa.field("violations", pa.list_(VIOLATION)),
        pa.field("stage", pa.string()),
        pa.field("pipeline", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("contract_id", pa.string()),
        pa.field("contract_version", pa.string()),
        pa.field("source", pa.string()),
        pa.field("position", pa.string()),
        pa.field("event_time", pa.timestamp("us", "UTC")),
        pa.field("attempt", pa.int32()),
        pa.field("replay_of", pa.string()),
    ],
    {"millstream.format": FORMAT},
)
"""``id`` is a hash of source, position and payload: the same record has the same id in every run.
``attempt`` is 0 for a first refusal. ``position`` is an offset, or ``from-to`` for a region of
which the bytes are not (all) held in ``payloadBytes``."""
