"""How payloads of CSV are written, by what their dead letters say of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from .cells import Cell, split_cells
from .options import CsvOptions

_PROBE = bytes(range(0x80)) + b"\x1b$B!!\x1b(B~{!!~}+AGE-\\u0041\\"
"""All of ASCII, and what means something else where a text can switch to another alphabet."""


@dataclass(frozen=True)
class Written:
    """The dialect of single records, and the names of their columns."""

    options: CsvOptions
    columns: tuple[str, ...]

    @functools.cached_property
    def transcodes(self) -> bool:
        """Whether records cannot be cut as bytes of their encoding, and are made UTF-8 first."""
        marks = f"\r\n{self.options.delimiter}{self.options.quote}"
        return not keeps_ascii(self.options.encoding, marks)

    @property
    def encoding(self) -> str:
        """That of the cells."""
        return "utf-8" if self.transcodes else self.options.encoding

    def plain(self, payload: bytes) -> bytes:
        """A record as it can be cut as bytes.

        Raises:
            UnicodeError: it is not of its encoding.
        """
        return payload.decode(self.options.encoding).encode() if self.transcodes else payload

    def cells(self, payload: bytes) -> list[Cell]:
        """The cells of a record, by :attr:`encoding`.

        Raises:
            UnicodeError: where that shows, it is not of its encoding.
        """
        return split_cells(self.plain(payload), self.options)


def written_by(attributes: Mapping[str, str]) -> Written:
    """How the payload of a dead letter with these attributes is written.

    Raises:
        ValueError: they do not say what is a dialect.
    """
    options = attributes.get("csv.options", "{}")
    return _written(options, attributes.get("csv.header", ""))


@functools.lru_cache(maxsize=64)
def _written(text: str, header: str) -> Written:
    options = msgspec.json.decode(text, type=CsvOptions)
    if not isinstance(options.header, bool):
        return Written(options, options.header)
    # Names are text here, whatever the encoding of their file is.
    cells = split_cells(header.encode(), options)
    return Written(options, tuple(cell.text.decode() for cell in cells))


@functools.lru_cache
def keeps_ascii(encoding: str, marks: str) -> bool:
    """Whether some ASCII characters are the same bytes in text of an encoding, and nothing else is.

    So it is in UTF-8, in all of ISO 8859, in EUC; not in UTF-16, and in Shift JIS not for ``|``,
    which is also the second byte of other characters.
    """
    try:
        if _PROBE.decode(encoding) != _PROBE.decode("ascii"):
            return False
    except UnicodeDecodeError:
        return False
    pairs = (bytes([lead, ord(mark)]) for lead in range(0x80, 0x100) for mark in marks)
    return not any(map(functools.partial(_is_one_character, encoding), pairs))


def _is_one_character(encoding: str, pair: bytes) -> bool:
    try:
        return len(pair.decode(encoding)) == 1
    except UnicodeDecodeError:
        return False
