"""Encodings that cannot be cut as bytes, read as UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from .lines import BrokenStream

_BYTE_ORDERS = {
    "utf-16": ((codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "utf-16-le")),
    "utf-32": ((codecs.BOM_UTF32_BE, "utf-32-be"), (b"", "utf-32-le")),
}


class Transcoder:
    """Reads a stream of text as UTF-8, and gives back the bytes that a piece of it was.

    What cannot be decoded becomes surrogates, which are no UTF-8 either: so only the record that
    they are in is refused, and its bytes are not lost.
    """

    def __init__(self, encoding: str) -> None:
        self._codec = codecs.lookup(encoding).name
        is_utf = self._codec.startswith(("utf-16", "utf-32"))
        self._errors = "surrogatepass" if is_utf else "surrogateescape"

    def read(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The chunks as UTF-8.

        Raises:
            BrokenStream: what comes then is no text of the encoding; or the stream itself is.
        """
        stream = iter(chunks)
        first = b""
        while len(first) < 4 and (chunk := next(stream, b"")):
            first += chunk
        orders = _BYTE_ORDERS.get(self._codec, ())
        self._codec = next((codec for bom, codec in orders if first.startswith(bom)), self._codec)
        decoder = codecs.getincrementaldecoder(self._codec)(self._errors)
        yield from self._decoded(decoder, first, final=False)
        for chunk in stream:
            yield from self._decoded(decoder, chunk, final=False)
        yield from self._decoded(decoder, b"", final=True)

    def _decoded(
        self, decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool
    ) -> Iterator[bytes]:
        broken = ""
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            broken = f"is not {self._codec} from there on: {error.reason}"
            text = str(error.object[: error.start], self._codec, self._errors)
        if text:
            yield text.encode("utf-8", "surrogatepass")
        if broken:
            raise BrokenStream(broken)

    @property
    def codec(self) -> str:
        """Python's name of the encoding; once something was read, with the order of its bytes."""
        return self._codec

    def original(self, text: bytes) -> bytes:
        """The bytes that a piece of the stream was."""
        return text.decode("utf-8", "surrogatepass").encode(self._codec, self._errors)
