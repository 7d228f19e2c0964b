"""How a CSV file is written: the ``csv`` key of a job."""

from __future__ import annotations

import codecs

import msgspec


class CsvOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dialect of CSV files; the defaults are RFC 4180 with a header line.

    ``quote`` may be empty: then nothing is quoted. ``header`` is whether the first record names
    the columns, or the names where it does not. ``null`` are the unquoted texts that mean null.
    Without ``multiline`` a record is a line, whatever is quoted, and large files are split.

    Raises:
        ValueError: an option that cannot be used; the message names it.
    """

    delimiter: str = ","
    quote: str = '"'
    header: bool | tuple[str, ...] = True
    encoding: str = "utf-8"
    null: tuple[str, ...] = ("",)
    multiline: bool = True

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter: expected one character, got {self.delimiter!r}")
        if len(self.quote) > 1 or self.quote in ("\r", "\n", self.delimiter):
            raise ValueError(f"quote: expected one character or none, got {self.quote!r}")
        if self.header is False:
            raise ValueError("header: expected true, or the names of the columns, got false")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"encoding: no such encoding: {self.encoding!r}") from None
