"""Compressed files to byte chunks: one table of what can be read, each codec a streaming decoder.

gzip, bzip2 and xz come from the standard library. zstd comes from pyarrow, which is there anyway:
its stream takes any number of frames, gives no more than it is asked for, and tells a truncated
file from a whole one. A codec's own checksum is judged where its block or member ends: what is
wrong before that is given, and reported then.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

from .. import storage
from .lines import BrokenStream

Compression = Literal["auto", "gzip", "bzip2", "zstd", "xz", "none"]
"""How files are compressed; ``auto`` goes by the ending of each name."""

Read = Callable[[int], bytes]
"""Gives at most so many bytes of the compressed file, none at its end."""

_INPUT_BYTES = 64 << 10
_PIECE_BYTES = 4 << 10
_XZ_MEMORY_BYTES = 512 << 20
"""What an xz file may ask for: ``xz -9`` needs an eighth of it, a hostile header 4 GB."""


class _Codec(NamedTuple):
    endings: tuple[str, ...]
    decompress: Callable[[Read, int], Iterator[bytes]]


def compression_of(name: str, compression: Compression = "auto") -> str:
    """The codec that a file is read with, a key of the table; empty for a plain file."""
    if compression == "none":
        return ""
    if compression != "auto":
        return compression
    return next((codec for codec, (ends, _) in _CODECS.items() if name.endswith(ends)), "")


def decompressed(codec: str, read: Read, chunk_bytes: int) -> Iterator[bytes]:
    """The decompressed bytes of a file, in chunks of at most ``chunk_bytes``, none empty.

    All members, frames or streams of a file are read; NUL bytes between and after them are skipped
    where the codec's own tool does so (all but zstd).

    Raises:
        BrokenStream: the data "is truncated: …" or "is corrupt: …", after all that was readable.
    """
    return _CODECS[codec].decompress(read, chunk_bytes)


class _Decompressor(Protocol):
    """One member of a file: the interface that bz2 and lzma share."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _GzipMember:
    """zlib's decompressor (RFC 1952) with the interface of the other two."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _xz_stream() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)


def _members(new: Callable[[], _Decompressor]) -> Callable[[Read, int], Iterator[bytes]]:
    def decompress(read: Read, chunk_bytes: int) -> Iterator[bytes]:
        member: _Decompressor | None = None
        data = padding = b""
        while True:
            if member is None:
                data = (data or read(_INPUT_BYTES)).lstrip(padding)
                if data:
                    member = new()
                elif not (data := read(_INPUT_BYTES)):
                    return
                continue
            if not data and member.needs_input:
                data = read(_INPUT_BYTES)
                if not data:
                    raise BrokenStream(_TRUNCATED)
            try:
                chunk = member.decompress(data, chunk_bytes)
            except (OSError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise BrokenStream(f"is corrupt: {error}") from error
            data = b""
            if member.eof:
                data, member, padding = member.unused_data, None, b"\0"
            if chunk:
                yield chunk

    return decompress


_TRUNCATED = "is truncated: the compressed data ends too early"


def _zstd(read: Read, chunk_bytes: int) -> Iterator[bytes]:
    import pyarrow as pa

    # Read in small pieces: what a call had decompressed when it failed is lost with it.
    stream = pa.CompressedInputStream(pa.PythonFile(_File(read), "r"), "zstd")
    while True:
        pieces: list[bytes] = []
        missing, broken = chunk_bytes, None
        try:
            while missing and (piece := stream.read(min(missing, _PIECE_BYTES))):
                pieces.append(piece)
                missing -= len(piece)
        except BrokenStream as error:
            broken = error
        except storage.StorageError:
            raise
        except OSError as error:
            truncated = "Truncated" in str(error)
            broken = BrokenStream(_TRUNCATED if truncated else f"is corrupt: {error}")
        if pieces:
            yield b"".join(pieces)
        if broken:
            raise broken
        if missing:
            return


class _File:
    """As much of a file object as pyarrow asks for."""

    closed = False

    def __init__(self, read: Read) -> None:
        self.read: Any = read

    def close(self) -> None:
        self.closed = True


_CODECS = {
    "gzip": _Codec((".gz",), _members(_GzipMember)),
    "bzip2": _Codec((".bz2",), _members(bz2.BZ2Decompressor)),
    "zstd": _Codec((".zst", ".zstd"), _zstd),
    "xz": _Codec((".xz",), _members(_xz_stream)),
}
