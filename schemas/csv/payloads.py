"""Single CSV records, each taken alone: the payloads of dead letters."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..decoded import Decoded
from .decoder import CsvDecoder, CsvRecords


def decode_payloads(decoder: CsvDecoder, payloads: pa.Array) -> Decoded:
    """Decode a binary array, one record without its line end an element."""
    sizes = pc.fill_null(pc.binary_length(payloads), 0).to_numpy().astype(np.int64)
    data = b"\n".join(payload or b"" for payload in payloads.to_pylist())
    starts = np.cumsum(np.concatenate([[0], sizes[:-1] + 1])) if len(sizes) else sizes
    return decoder.decode(CsvRecords(0, data, starts, starts + sizes, {}))
