"""The coder for Arrow record batches.

Beam has none and would pickle them, and a pickled slice ships its whole parent. Here an element is
one Arrow IPC stream (schema and body), which writes only what the slice holds.
"""

from __future__ import annotations

import pyarrow as pa
from apache_beam.coders import Coder, registry


class RecordBatchCoder(Coder):
    """Encodes ``pyarrow.RecordBatch`` elements as Arrow IPC streams, uncompressed."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(pa.BufferReader(encoded)) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        return value.nbytes  # of a slice, what it holds; not its parent's buffers

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type:
        return pa.RecordBatch

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


registry.register_coder(pa.RecordBatch, RecordBatchCoder)
