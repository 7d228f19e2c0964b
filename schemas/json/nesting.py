"""How deep JSON may be nested, decided before any decoder recurses into it.

Decoders stop where the interpreter's stack ends, and how much of it is left depends on who calls:
the same record would be fine in one process and refused in another. This limit is the same
everywhere.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_NESTING = 500
"""Levels of arrays and objects in a record, the record itself included."""

_ESCAPE = re.compile(rb"\\.", re.DOTALL)


def too_deep(payloads: pa.Array) -> list[int]:
    """The indices of those elements of a binary array that are nested too deeply."""
    # What is nested so deep is at least that long: most batches need no second look.
    long = pc.greater(pc.binary_length(payloads), MAX_NESTING)
    if not pc.any(long).as_py():
        return []
    indices = np.flatnonzero(long.fill_null(False).to_numpy(zero_copy_only=False)).tolist()
    return [i for i in indices if is_too_deep(payloads[i].as_py())]


def is_too_deep(payload: bytes) -> bool:
    """Whether JSON is nested too deeply; of what is no JSON, whether a decoder might think so."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_NESTING:
        return False
    text = np.frombuffer(_ESCAPE.sub(b"", payload), np.uint8)
    in_string = np.cumsum(text == ord('"'), dtype=np.int64) & 1
    opens = (text == ord("[")) | (text == ord("{"))
    closes = (text == ord("]")) | (text == ord("}"))
    steps = opens.astype(np.int64) - closes
    steps[in_string == 1] = 0
    return bool(np.cumsum(steps).max(initial=0) > MAX_NESTING)
