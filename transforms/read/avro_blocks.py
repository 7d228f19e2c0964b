"""Avro object container files to blocks: header, codecs, sync markers.

Source: the Avro specification 1.12, "Object Container Files". Nothing here knows what is in a
block. A block is what lies between two sync markers: a range of a file owns the blocks that start
in it, and finds the first one behind the first marker that ends at its own start or later.

What cannot be read is set aside up to the next marker, wherever that stands; reading goes on there.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from ...schemas.avro.values import CorruptDatum, read_long
from .lines import BrokenStream, Unreadable

MAGIC = b"Obj\x01"
MARKER_BYTES = 16
MAX_HEADER_BYTES = 64 << 20
MAX_BLOCK_BYTES = 1 << 30
"""How long a block may be, decompressed."""

_READ_BYTES = 4 << 20
_PART_BYTES = 256 << 10
_LONGEST_INTEGERS = 20  # bytes: a block's count and size


class Header(NamedTuple):
    """What a file says of itself: its writer's schema as JSON, its codec, its sync marker, and
    where its first block starts."""

    schema: bytes
    codec: str
    marker: bytes
    end: int


class Block(NamedTuple):
    """A block in the bytes [start, end) of the file: how many records it says to hold, and their
    data, decompressed."""

    start: int
    end: int
    count: int
    data: bytes | memoryview


class NotAvro(ValueError):
    """A file without a header that can be used. The message goes on after "the file"."""


class File(Protocol):
    """A file as long as it was when the run was planned."""

    def seek(self, at: int) -> None: ...
    def read(self, size: int) -> bytes: ...


def read_header(file: File) -> Header:
    """The header of a file.

    Raises:
        NotAvro: it has none, or a codec that is not known.
        BrokenStream: it has become shorter than planned.
    """
    file.seek(0)
    data, size = b"", 64 << 10
    while True:
        piece = file.read(size - len(data))
        data += piece
        if not data.startswith(MAGIC[: len(data)]) or not data:
            raise NotAvro("is no Avro file: it does not begin with Obj and a byte 1")
        try:
            return _header(data)
        except IndexError:
            if not piece:
                raise NotAvro("is no Avro file: it ends within its header") from None
        if len(data) >= MAX_HEADER_BYTES:
            raise NotAvro(f"has a header of more than {MAX_HEADER_BYTES} bytes")
        size = max(size, 4 * len(data))


def _header(data: bytes) -> Header:
    """The header that ``data`` begins with.

    Raises:
        IndexError: ``data`` ends before it does.
        NotAvro: it cannot be used.
    """
    said: dict[bytes, bytes] = {}
    at = len(MAGIC)
    try:
        while True:
            count, at = read_long(data, at)
            if count < 0:
                count = -count
                _, at = read_long(data, at)
            if not count:
                break
            for _ in range(count):
                key, at = _bytes(data, at)
                said[key], at = _bytes(data, at)
    except CorruptDatum as error:
        raise NotAvro(f"is no Avro file: its header {error}") from None
    marker = data[at : at + MARKER_BYTES]
    if len(marker) < MARKER_BYTES:
        raise IndexError
    codec = said.get(b"avro.codec", b"null").decode("utf-8", "replace")
    if codec not in _CODECS:
        raise NotAvro(f"is compressed with {codec!r}, not with one of {', '.join(_CODECS)}")
    if b"avro.schema" not in said:
        raise NotAvro("is no Avro file: its header has no schema")
    return Header(said[b"avro.schema"], codec, marker, at + MARKER_BYTES)


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_long(data, at)
    if size < 0:
        raise CorruptDatum(f"has a string of {size} bytes")
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def read_blocks(
    file: File, header: Header, start: int, end: int, read_bytes: int = _READ_BYTES
) -> Iterator[Block | Unreadable]:
    """The blocks that start in [``start``, ``end``), and what of that cannot be read, in order.

    Each byte behind the header that a range owns is in a block or a region, up to the next range's
    first block.
    """
    window = _Window(file, read_bytes)
    at: int | None = start
    try:
        # a marker that ends at the start of the range or later
        at = window.after_marker(header.marker, max(start, header.end) - MARKER_BYTES)
        while at is not None and at < end and window.fill(at, 1):
            try:
                block = _block(window, header, at)
            except _NoBlock as error:
                after = window.after_marker(header.marker, at)
                yield Unreadable(at, b"", f"has a block that cannot be read: {error}", after)
                at = after
                continue
            yield block
            at = block.end
    except BrokenStream as error:
        yield Unreadable(start if at is None else at, b"", str(error))


class _NoBlock(ValueError):
    """Bytes that are no block; the message says why."""


def _block(window: _Window, header: Header, at: int) -> Block:
    window.fill(at, _LONGEST_INTEGERS)
    try:
        count, begin = read_long(window.data, at - window.at)
        size, begin = read_long(window.data, begin)
    except IndexError:
        raise _NoBlock("it ends too early") from None
    except CorruptDatum as error:
        raise _NoBlock(f"it {error}") from None
    if count < 0 or not 0 <= size <= MAX_BLOCK_BYTES:
        raise _NoBlock(f"it says to hold {count} records in {size} bytes")
    begin += window.at
    whole = begin + size + MARKER_BYTES
    if not window.fill(at, whole - at):
        raise _NoBlock("it ends too early")
    if window.peek(begin + size, MARKER_BYTES) != header.marker:
        raise _NoBlock("it does not end with the file's sync marker")
    return Block(at, whole, count, _CODECS[header.codec](window.peek(begin, size)))


class _Window:
    """A part of a file in memory, from byte ``at`` on, which only moves forward."""

    def __init__(self, file: File, read_bytes: int) -> None:
        self._file = file
        self._read_bytes = read_bytes
        self.at = -1  # nothing has been read
        self.data = b""

    def fill(self, at: int, size: int) -> bool:
        """Have the bytes from ``at`` on, if the file has so many; those before it may go."""
        if self.at < 0:
            self._file.seek(at)
            self.at = at
        missing = at + size - (self.at + len(self.data))
        if missing <= 0:
            return True
        kept = self.data[at - self.at :]
        parts, left = [kept], max(missing, self._read_bytes)
        while left > 0 and (piece := self._file.read(left)):
            parts.append(piece)
            left -= len(piece)
        self.data, self.at = b"".join(parts), at
        return len(self.data) >= size

    def peek(self, at: int, size: int) -> memoryview:
        """Bytes that are there. They outlive the window's moving."""
        return memoryview(self.data)[at - self.at : at - self.at + size]

    def after_marker(self, marker: bytes, at: int) -> int | None:
        """The end of the first marker that begins at ``at`` or later; ``None`` if there is none."""
        while self.fill(at, MARKER_BYTES):
            found = self.data.find(marker, at - self.at)
            if found >= 0:
                return self.at + found + MARKER_BYTES
            at = self.at + len(self.data) - MARKER_BYTES + 1
        return None


# Codecs: each takes the bytes of a block and gives its data, or raises _NoBlock.

_Codec = Callable[[memoryview], bytes | memoryview]


def _corrupt(error: object) -> _NoBlock:
    return _NoBlock(f"it cannot be decompressed, {error}")


def _within_limit(size: int) -> None:
    if size > MAX_BLOCK_BYTES:
        raise _NoBlock(f"it holds more than {MAX_BLOCK_BYTES} bytes")


def _deflate(data: memoryview) -> bytes:
    # Python's writers leave three bytes of the checksum behind that zlib ends with
    return _by_object(data, zlib.decompressobj(wbits=-15), left_over=4)


def _bzip2(data: memoryview) -> bytes:
    return _by_object(data, bz2.BZ2Decompressor())


def _xz(data: memoryview) -> bytes:
    return _by_object(data, lzma.LZMADecompressor(memlimit=512 << 20))


def _by_object(data: memoryview, decompressor: Any, left_over: int = 0) -> bytes:
    """Decompress with an object of the standard library; so many bytes may follow."""
    try:
        found = decompressor.decompress(data, MAX_BLOCK_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise _corrupt(error) from None
    _within_limit(len(found))
    if not decompressor.eof:
        raise _corrupt("the data end too early")
    if len(decompressor.unused_data) > left_over:
        raise _corrupt("there is something left over")
    return found


def _snappy(data: memoryview) -> bytes:
    """Snappy without frames, then the CRC-32 of what it holds."""
    packed, checksum = data[:-4], int.from_bytes(data[-4:], "big")
    size = 0
    for i, octet in enumerate(packed[:5]):
        size |= (octet & 127) << (7 * i)
        if octet < 128:
            break
    else:
        raise _corrupt("its length is not said")
    _within_limit(size)
    try:
        found = pa.Codec("snappy").decompress(packed, size, asbytes=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(error) from None
    if zlib.crc32(found) != checksum:
        raise _corrupt("its checksum does not match")
    return found


def _zstandard(data: memoryview) -> bytes:
    # frames may not say how long they are, and what is asked for is allocated
    parts: list[bytes] = []
    size = 0
    try:
        stream = pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), "zstd")
        while part := stream.read(_PART_BYTES):
            parts.append(part)
            size += len(part)
            _within_limit(size)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(error) from None
    return b"".join(parts)


_CODECS: dict[str, _Codec] = {
    "null": lambda data: data,
    "deflate": _deflate,
    "snappy": _snappy,
    "zstandard": _zstandard,
    "bzip2": _bzip2,
    "xz": _xz,
}
