"""How a CSV file is written: the ``csv`` key of a job."""

from __future__ import annotations

from encodings import aliases

import msgspec

from ..problems import did_you_mean


class CsvOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dialect of CSV files; the defaults are RFC 4180 with a header line.

    ``delimiter`` and ``quote`` are characters of ASCII; ``quote`` may be empty: then nothing is
    quoted. ``header`` is whether the first record names the columns, or the names where it does
    not. ``encoding`` is the name of one of Python's text encodings. ``null`` are the unquoted texts
    that mean null. Without ``multiline`` a record is a line, whatever is quoted, and large files
    are split.

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
        if not _is_mark(self.delimiter) or self.delimiter == '"':
            raise ValueError(f"delimiter: expected one ASCII character, got {self.delimiter!r}")
        if self.quote and (not _is_mark(self.quote) or self.quote == self.delimiter):
            raise ValueError(
                f"quote: expected one ASCII character that is not the delimiter, or none, "
                f"got {self.quote!r}"
            )
        if self.header is False:
            raise ValueError("header: expected true, or the names of the columns, got false")
        self._check_encoding()
        for text in self.null:
            if any(mark in text for mark in ("\r", "\n", self.delimiter, self.quote or "\n")):
                raise ValueError(
                    f"null: expected texts without delimiters, quotes and line ends, got {text!r}"
                )

    def _check_encoding(self) -> None:
        try:
            "".encode(self.encoding)  # refuses those that are not of text, such as base64
        except LookupError:
            known = sorted(set(aliases.aliases.values()) | {"utf-8", "utf-16", "utf-32"})
            near = did_you_mean(self.encoding, known)
            raise ValueError(f"encoding: no text encoding {self.encoding!r}{near}") from None


def _is_mark(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text not in "\r\n"
