"""What travels with messages to their commit: their ids, and what they are acknowledged by."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from .pulled import Pulled


class Delivered(NamedTuple):
    """Messages that were given to us: columns of their ids, publishing times (microseconds) and
    acknowledgement ids; ``again`` where a message had been read before, and only has to be
    acknowledged once more."""

    ids: np.ndarray
    published: np.ndarray
    ack_ids: list[str]
    again: np.ndarray


_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("published", pa.int64()),
        ("ack_id", pa.string()),
        ("again", pa.bool_()),
    ]
)
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def receipt(pulled: Pulled, again: bool) -> str:
    """One text for many messages."""
    columns = [pulled.ids, pulled.published, pulled.ack_ids, np.full(len(pulled), again)]
    batch = pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue()).decode()


def delivered(receipts: Iterable[str]) -> Delivered:
    """What :func:`receipt` was given, of all together."""
    tables = [pa.ipc.open_stream(base64.b64decode(text)).read_all() for text in receipts]
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    ids, published, ack_ids, again = table.columns
    return Delivered(
        ids.to_numpy(),
        published.to_numpy(),
        ack_ids.to_pylist(),
        again.to_numpy(),
    )
