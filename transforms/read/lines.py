"""Bytes to lines: cutting a stream into batches of records with their offsets.

Nothing here knows Beam or files: a stream is an iterator of byte chunks. The rules:

- A line ends with LF or CRLF; the last one may have no end. The end is not part of the record.
- A line of nothing but spaces and tabs is not a record.
- A byte-order mark at the start of a file is not part of the first record.
- A line longer than ``max_record_bytes`` (all before its LF) is set aside and never held whole.
- A range of a file owns the lines that start in it, so that ranges neither lose nor double any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.arrow import PAYLOADS

BOM = b"\xef\xbb\xbf"
_PREVIEW = 1024
_LF = 10


class Lines(NamedTuple):
    """Records in a row: their offsets in the stream (int64) and exact bytes (binary)."""

    offsets: pa.Array
    payloads: pa.Array


class Oversize(NamedTuple):
    """A line that is too long: the bytes [start, end) of the stream, and how it begins."""

    start: int
    end: int
    preview: bytes


class Unreadable(NamedTuple):
    """From ``start`` to ``end`` (``None``: to its end) the stream could not be read; ``cut`` is how
    a record there begins."""

    start: int
    cut: bytes
    reason: str
    end: int | None = None


class BrokenStream(Exception):
    """Raised by a chunk iterator that cannot go on; the message says why."""


def cut_lines(
    chunks: Iterable[bytes], start: int, end: int | None, max_record_bytes: int
) -> Iterator[Lines | Oversize | Unreadable]:
    """Cut a stream into the lines that start in [``start``, ``end``).

    Args:
        chunks: the stream. For ``start`` 0 from its first byte; otherwise from the byte *before*
            ``start``, which tells whether a line begins there. May end, or raise
            :class:`BrokenStream`.
        end: ``None`` for the end of the stream.
    """
    tail = b""
    at = start  # where the tail begins
    skipping: _Skip | None = None if start == 0 else _Skip(start - 1, b"", ours=False)
    broken = ""
    stream = iter(chunks)
    first = start == 0
    while True:
        if skipping is None and end is not None and at >= end:
            return
        try:
            chunk = next(stream, None)
        except BrokenStream as error:
            chunk, broken = None, str(error)
        if chunk is None:
            break
        if skipping is not None:
            newline = chunk.find(b"\n")
            skipping.size += len(chunk) if newline < 0 else newline
            if newline < 0:
                continue
            if skipping.ours:
                yield skipping.line()
            at = skipping.start + skipping.size + 1
            chunk, skipping = chunk[newline + 1 :], None
            if end is not None and at >= end:
                return
        data = tail + chunk if tail else chunk
        if first and len(data) < len(BOM) and BOM.startswith(data):
            tail = data  # too little to tell
            continue
        if first:
            first = False
            if data.startswith(BOM):
                data, at = data[len(BOM) :], at + len(BOM)
                end = None if end is None else max(end, at + 1)  # the first line is ours
        cut = _owned(data, at, end)
        if cut:
            yield from _block(data, cut, at, max_record_bytes)
            if end is not None and at + cut >= end:
                return
        tail = data[cut:]
        at += cut
        if len(tail) > max_record_bytes:
            skipping = _Skip(at, tail[:_PREVIEW], ours=True, size=len(tail))
            tail = b""
    if broken:
        if skipping is not None and skipping.ours:
            yield Unreadable(skipping.start, skipping.preview, broken)
        else:
            yield Unreadable(at, tail, broken)
    elif skipping is not None and skipping.ours:
        yield skipping.line()
    elif tail and (end is None or at < end):
        yield from _block(tail, len(tail), at, max_record_bytes)


class _Skip:
    """A line being passed over: one that is too long, or one that an earlier range owns."""

    def __init__(self, start: int, preview: bytes, ours: bool, size: int = 0) -> None:
        self.start, self.preview, self.ours, self.size = start, preview, ours, size

    def line(self) -> Oversize:
        return Oversize(self.start, self.start + self.size, self.preview)


def _owned(data: bytes, at: int, end: int | None) -> int:
    """How many bytes of ``data`` are whole lines that start before ``end``."""
    if end is not None and at + len(data) >= end:
        # the last line that is ours contains the byte before the end, or ends with it
        newline = data.find(b"\n", max(end - 1 - at, 0))
        if newline >= 0:
            return newline + 1
    return data.rfind(b"\n") + 1


def _block(data: bytes, size: int, at: int, max_record_bytes: int) -> Iterator[Lines | Oversize]:
    """The lines in the first ``size`` bytes, which start with a line's start, at offset ``at``."""
    bounds = pa.py_buffer(np.array([0, size], np.int64))
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, pa.py_buffer(data)])
    payloads = pc.split_pattern(whole, b"\n").values.cast(pa.binary())
    if data[size - 1] == _LF:
        payloads = payloads.slice(0, len(payloads) - 1)
    lengths = pc.binary_length(payloads).to_numpy().astype(np.int64)
    offsets = at + np.cumsum(lengths + 1) - (lengths + 1)
    oversize = lengths > max_record_bytes  # a CR counts: it may be all that has been read so far
    for i in np.flatnonzero(oversize).tolist():
        start = int(offsets[i])
        yield Oversize(start, start + int(lengths[i]), payloads[i].as_py()[:_PREVIEW])
    if data.find(b"\r", 0, size) >= 0:
        ends = pc.ends_with(payloads, b"\r")
        if pc.any(ends).as_py():
            payloads = pc.if_else(ends, pc.binary_slice(payloads, 0, -1), payloads)
            lengths = lengths - ends.to_numpy(zero_copy_only=False)
    keep = (lengths > 0) & ~oversize
    blank = pc.is_in(pc.binary_slice(payloads, 0, 1), pa.array([b" ", b"\t", b"\r"], pa.binary()))
    for i in np.flatnonzero(blank.to_numpy(zero_copy_only=False)).tolist():
        keep[i] &= bool(payloads[i].as_py().strip(b" \t\r"))
    if not keep.all():
        mask = pa.array(keep)
        payloads, offsets = payloads.filter(mask), offsets[keep]
    if len(payloads):
        yield Lines(pa.array(offsets), payloads)


def payload_batch(source: str, lines: Lines) -> pa.RecordBatch:
    """Lines of one source as a batch of payloads."""
    sources = source_column(source, len(lines.payloads))
    return pa.RecordBatch.from_arrays([sources, lines.offsets, lines.payloads], schema=PAYLOADS)


def source_column(source: str, size: int) -> pa.Array:
    """The column ``_source`` of records that are all of one source."""
    indices = pa.repeat(pa.scalar(0, pa.int32()), size)
    return pa.DictionaryArray.from_arrays(indices, pa.array([source], pa.string()))
