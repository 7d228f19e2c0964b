"""What a CSV record is, exactly: one record at a time, for whatever is rare.

RFC 4180, and what everybody makes of the rest:

- A record ends with LF or CRLF, the last one of a file with CR or nothing too.
- A cell that begins with a quote ends with the next one, which a delimiter or the record's end
  must follow. Inside, two quotes mean one, and delimiters and line ends are text.
- In any other cell a quote is a character like any other; a carriage return makes its record
  malformed, since readers do not agree on whether it ends a line.
- Nothing is trimmed. Without a quote character there are no quotes.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from .options import CsvOptions


class Cell(NamedTuple):
    """What a cell says, and whether it said so in quotes."""

    text: bytes
    quoted: bool


def split_cells(record: bytes, options: CsvOptions) -> list[Cell]:
    """The cells of a record, given without its line end and with all its quotes closed."""
    if not options.quote:
        return [Cell(text, False) for text in record.split(options.delimiter.encode())]
    quote = options.quote.encode()
    found, at = [], 0
    while at <= len(record):
        cell = _cell(options.delimiter, options.quote).match(record, at)
        assert cell is not None
        inside = cell[1]
        quoted = inside is not None
        found.append(Cell(inside.replace(quote * 2, quote) if quoted else cell[0], quoted))
        at = cell.end() + 1
    return found


@functools.lru_cache
def _cell(delimiter: str, quote: str) -> re.Pattern[bytes]:
    d, q = (re.escape(c.encode()) for c in (delimiter, quote))
    return re.compile(
        b'"([^"]*(?:""[^"]*)*)"(?=,|\\Z)|[^,]*'.replace(b'"', q).replace(b",", d), re.DOTALL
    )
