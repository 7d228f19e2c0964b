"""Bytes to CSV records: cutting a stream into records with their offsets.

Nothing here knows Beam or files: a stream is an iterator of byte chunks. The rules, beside those
of :mod:`millstream.schemas.csv.cells`:

- A line of nothing but spaces and tabs (the delimiter excepted) is not a record, where it is not
  inside quotes.
- A byte-order mark at the start of a file is not part of the first record.
- A quote that is not closed within ``max_record_bytes`` of its record's start, or with something
  else than a delimiter or line end behind it, opens nothing: its record ends with the line that
  it is on, and is malformed. So one stray quote never takes the lines after it with it.
- Where records are lines (``multiline`` is off), a quote must be closed on its line.
- A record longer than ``max_record_bytes`` (all before its LF) is set aside and never held whole.
- A range of a file owns the records that start in it. Only where records are lines can a file be
  read in several ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ...schemas.csv.decoder import CsvLines, CsvRecords
from ...schemas.csv.options import CsvOptions
from .files import CHUNK_BYTES
from .lines import BOM, BrokenStream, Oversize, Unreadable

_PREVIEW = 1024
_LF, _CR = 10, 13
_DECIDED = 2  # bytes behind the last that may close a quote, which tell whether it does
_WINDOW_BYTES = 256 << 10  # what is looked through at a time, to stay in the processor's cache
_LEAST_WINDOW = 4 << 10
_BURST = 1024  # records

NOT_CLOSED = "has a quote that is never closed"
NOT_AT_END = "has text behind a closing quote"


def records_are_lines(options: CsvOptions) -> bool:
    """Whether no record has line ends inside."""
    return not (options.quote and options.multiline)


def cut_records(
    chunks: Iterable[bytes],
    start: int,
    end: int | None,
    options: CsvOptions,
    max_record_bytes: int,
    block_bytes: int = CHUNK_BYTES,
) -> Iterator[CsvRecords | CsvLines | Oversize | Unreadable]:
    """Cut a stream into the records that start in [``start``, ``end``).

    Args:
        chunks: the stream. For ``start`` 0 from its first byte; otherwise from the byte *before*
            ``start``, which tells whether a record begins there. May end, or raise
            :class:`~.lines.BrokenStream`.
        end: ``None`` for the end of the stream.
        block_bytes: about how many bytes of records are given at a time.
    """
    cutter = _Cutter(options, max_record_bytes)
    pending: list[bytes] = []
    at, held = start, 0  # where what is pending begins, and how much it is
    skipping: _Skip | None = None if start == 0 else _Skip(start - 1, b"", ours=False)
    first = start == 0
    wanted = len(BOM) if first else 0  # with fewer bytes a look at them would find nothing more
    broken = ""
    stream = iter(chunks)
    while True:
        try:
            chunk = next(stream, None)
        except BrokenStream as error:
            chunk, broken = None, str(error)
        if skipping is not None:
            if chunk is None:
                break
            newline = chunk.find(b"\n")
            skipping.size += len(chunk) if newline < 0 else newline
            if newline < 0:
                continue
            if skipping.ours:
                yield skipping.record()
            at = skipping.start + skipping.size + 1
            chunk, skipping = chunk[newline + 1 :], None
            if end is not None and at >= end:
                return
        if chunk is not None:
            pending.append(chunk)
            held += len(chunk)
            if held < wanted or (held < block_bytes and (end is None or at + held < end)):
                continue
        data = b"".join(pending)
        if first and data.startswith(BOM):
            data, at = data[len(BOM) :], at + len(BOM)
            end = None if end is None else max(end, at + 1)  # the first record is ours
        first = False
        size = cutter.plain_lines(data)
        if size and (end is None or at + size <= end) and (chunk is not None or size == len(data)):
            yield CsvLines(at, data, 0, size)
        else:
            cut = cutter.cut(data, final=chunk is None and not broken)
            yield from cutter.records(data, cut, at, end)
            size = cut.size
        at += size
        pending = [data[size:]]
        held = len(pending[0])
        wanted = min(2 * held, max_record_bytes + _DECIDED)
        if chunk is None:
            break
        if end is not None and at >= end:
            return
        if held >= max_record_bytes + _DECIDED:
            skipping = _Skip(at, pending[0][:_PREVIEW], ours=True, size=held)
            pending, held, wanted = [], 0, 0
    if skipping is not None and skipping.ours and not broken:
        yield skipping.record()
    elif broken and skipping is not None:
        yield Unreadable(skipping.start if skipping.ours else start, skipping.preview, broken)
    elif broken:
        yield Unreadable(at, pending[0], broken)


def records_of(
    lines: CsvLines, options: CsvOptions, max_record_bytes: int
) -> list[CsvRecords | Oversize]:
    """The records in lines, by where each begins."""
    return _Cutter(options, max_record_bytes).told_apart(lines)


class _Skip:
    """A record being passed over: one that is too long, or one that an earlier range owns."""

    def __init__(self, start: int, preview: bytes, ours: bool, size: int = 0) -> None:
        self.start, self.preview, self.ours, self.size = start, preview, ours, size

    def record(self) -> Oversize:
        return Oversize(self.start, self.start + self.size, self.preview)


class _Cut(NamedTuple):
    """Whole records, one after the other: where the first starts, and each ends, its LF not
    included; those that are malformed, by where they start; where the last one's line ends."""

    start: int
    ends: np.ndarray
    malformed: dict[int, str]
    size: int


class _Cutter:
    def __init__(self, options: CsvOptions, longest: int) -> None:
        self._longest = longest
        self._multiline = options.multiline
        self._delimiter = options.delimiter.encode()
        self._quote = options.quote.encode()
        self._unquoted = re.compile(b"[^\n" + re.escape(self._delimiter) + b"]*")
        self._blank = b" \t\r".replace(self._delimiter, b"")
        self._is_blank = np.isin(np.arange(256), list(self._blank))

    def plain_lines(self, data: bytes) -> int:
        """How many bytes are whole lines; 0 where there are quotes."""
        return 0 if self._quote and data.find(self._quote) >= 0 else data.rfind(b"\n") + 1

    def told_apart(self, lines: CsvLines) -> list[CsvRecords | Oversize]:
        """The records in lines, by where each begins."""
        ends = _feeds(lines.data, lines.start, lines.end)
        return self.records(lines.data, _Cut(lines.start, ends, {}, lines.end), lines.at, None)

    def cut(self, data: bytes, *, final: bool) -> _Cut:
        """The whole records that ``data`` begins with; with ``final`` nothing comes after it."""
        if self._quote and data.find(self._quote) >= 0:
            return self._cut_quoted(data, final)
        ends = _feeds(data, 0, len(data))
        size = int(ends[-1]) + 1 if len(ends) else 0
        if final and size < len(data):
            ends, size = np.append(ends, len(data)), len(data)
        return _Cut(0, ends, {}, size)

    def _cut_quoted(self, data: bytes, final: bool) -> _Cut:
        """Records are told apart a window at a time, up to the first with a quote out of place.

        That one is looked at by itself. Trouble seldom comes alone: so windows begin small again
        after it, and the nearer it was to the last, the more of what follows is looked at so.
        """
        found: list[np.ndarray] = []
        malformed: dict[int, str] = {}
        start, window, burst = 0, _LEAST_WINDOW, 1
        while start < len(data):
            part = data[start : start + window]
            is_last = len(part) == len(data) - start
            ends, tidy = self._tidy_ends(part)
            found.append(ends + start)
            start += int(ends[-1]) + 1 if len(ends) else 0
            if tidy and (len(ends) or not is_last):
                window = min(2 * window, _WINDOW_BYTES) if len(ends) else 2 * window
                continue
            if tidy and not final and len(data) - start < self._longest + _DECIDED:
                break
            window, burst = _LEAST_WINDOW, 1 if len(ends) else min(2 * burst, _BURST)
            for _ in range(burst):
                end, fault = self._scan(data, start, final)
                if end < 0:
                    return _Cut(0, np.concatenate(found), malformed, start)
                if fault:
                    malformed[start] = fault
                found.append(np.array([end]))
                start = end + 1
                if start >= len(data):
                    break
        return _Cut(0, np.concatenate(found), malformed, min(start, len(data)))

    def _tidy_ends(self, data: bytes) -> tuple[np.ndarray, bool]:
        """Where records end, up to the first that is too long or has a quote out of its place; and
        whether there is none.

        Where all quotes are in their places, a line end ends a record if an even number of quotes
        precedes it.
        """
        text = _whole_lines(data)
        is_feed, is_quote = text == _LF, text == self._quote[0]
        before = is_feed | is_quote | (text == self._delimiter[0])
        behind = before
        if data.find(b"\r") >= 0:
            behind = before.copy()
            behind[:-1] |= (text[:-1] == _CR) & is_feed[1:]
        no_opening, no_closing = is_quote.copy(), is_quote.copy()
        no_opening[1:] &= ~before[:-1]
        no_opening[:1] = False
        no_closing[:-1] &= ~behind[1:]
        feeds, quoted = _bits(is_feed), _between_odd_and_even(is_quote)
        trouble = (_bits(no_opening) & quoted) | (_bits(no_closing) & ~quoted)
        if not self._multiline:
            trouble |= feeds & quoted
        ends = _places_of(feeds & ~quoted)
        tidy = not trouble.any()
        if not tidy:
            ends = ends[: np.searchsorted(ends, _places_of(trouble)[0])]
        if len(text) > self._longest:
            long = np.flatnonzero(np.diff(ends, prepend=-1) > self._longest + 1)
            if len(long):
                return ends[: long[0]], False
        return ends, tidy

    def _scan(self, data: bytes, start: int, final: bool) -> tuple[int, str]:
        """Where the record at ``start`` ends, and what is wrong with its quotes, if anything.

        The end is -1 where that takes more bytes to tell.
        """
        limit = start + self._longest
        decided = final or len(data) >= limit + _DECIDED
        if not self._multiline and (newline := data.find(b"\n", start)) >= 0:
            limit, decided = min(limit, newline), True
        at = start
        while True:
            if data[at : at + 1] != self._quote:
                cell = self._unquoted.match(data, at)
                assert cell is not None
                after = cell.end()
            else:
                after, fault = self._behind_quoted(data, at, limit)
                if fault == NOT_CLOSED and not decided:
                    return -1, ""
                if fault:
                    return _line_end(data, at, final), fault
            if data[after : after + 1] != self._delimiter:
                return _line_end(data, after, final), ""
            at = after + 1

    def _behind_quoted(self, data: bytes, opened: int, limit: int) -> tuple[int, str]:
        """Where the cell ends whose quote is at ``opened``, or what is wrong with that quote."""
        at = opened + 1
        while True:
            closed = data.find(self._quote, at, limit)
            if closed < 0:
                return -1, NOT_CLOSED
            at = closed + 2
            behind = data[closed + 1 : closed + 3]
            if behind[:1] != self._quote:
                ends = behind[:1] in (self._delimiter, b"\n", b"") or behind in (b"\r\n", b"\r")
                return closed + 1, "" if ends else NOT_AT_END

    def records(
        self, data: bytes, cut: _Cut, at: int, end: int | None
    ) -> list[CsvRecords | Oversize]:
        """What was cut at offset ``at`` and starts before ``end``, without blank lines; by where
        each begins."""
        ends = cut.ends
        starts = np.empty_like(ends)
        starts[:1], starts[1:] = cut.start, ends[:-1] + 1
        if end is not None:
            ours = np.searchsorted(starts, end - at)
            starts, ends = starts[:ours], ends[:ours]
        lengths = ends - starts
        fitting = lengths <= self._longest
        found: list[CsvRecords | Oversize] = [
            Oversize(at + first, at + last, data[first : min(first + _PREVIEW, last)])
            for first, last in zip(starts[~fitting].tolist(), ends[~fitting].tolist(), strict=True)
        ]
        if data.find(b"\r") >= 0:
            text = np.frombuffer(data, np.uint8)
            ends = ends - ((lengths > 0) & (text[ends - 1] == _CR))
        keep = fitting & (ends > starts)
        for i in self._perhaps_blank(data, starts, ends, keep):
            keep[i] = bool(data[starts[i] : ends[i]].strip(self._blank))
        if not keep.all():
            starts, ends = starts[keep], ends[keep]
        if len(starts):
            malformed = _by_row(cut.malformed, starts)
            found.append(CsvRecords(at, data, starts, ends, malformed))
            found.sort(key=lambda p: p.first if isinstance(p, CsvRecords) else p.start)
        return found

    def _perhaps_blank(
        self, data: bytes, starts: np.ndarray, ends: np.ndarray, keep: np.ndarray
    ) -> list[int]:
        """Those of the records to keep that begin and end as a blank line does."""
        text = np.frombuffer(data, np.uint8)
        some = np.flatnonzero(keep & self._is_blank[text[starts]])
        return some[self._is_blank[text[ends[some] - 1]]].tolist()


def _by_row(malformed: dict[int, str], starts: np.ndarray) -> dict[int, str]:
    """What is wrong, by the number of the record rather than its start."""
    rows = np.searchsorted(starts, list(malformed))
    there = rows < len(starts)
    there[there] = starts[rows[there]] == np.array(list(malformed), np.int64)[there]
    return {
        row: fault
        for row, fault, kept in zip(rows.tolist(), malformed.values(), there.tolist(), strict=True)
        if kept
    }


def _bits(mask: np.ndarray) -> np.ndarray:
    """A mask, as long as a multiple of 64, as bits in words (uint64)."""
    return np.packbits(mask, bitorder="little").view("<u8")


def _between_odd_and_even(mask: np.ndarray) -> np.ndarray:
    """Bits that are set from each odd one of a mask to just before the next, which is an even one:
    what quotes enclose, with the opening one."""
    words = _bits(mask)
    for distance in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(distance)
    is_odd = (words >> np.uint64(63)).astype(bool)
    words[1:][np.logical_xor.accumulate(is_odd)[:-1]] ^= ~np.uint64(0)
    return words


def _places_of(bits: np.ndarray) -> np.ndarray:
    """Where bits are set (int64)."""
    return np.unpackbits(bits.view(np.uint8), bitorder="little").view(bool).nonzero()[0]


def _whole_lines(data: bytes) -> np.ndarray:
    """The lines that have an end, filled up with NUL to a multiple of 64."""
    size = data.rfind(b"\n") + 1
    text = np.zeros(-(-size // 64) * 64, np.uint8)
    text[:size] = np.frombuffer(data, np.uint8, size)
    return text


def _line_end(data: bytes, at: int, final: bool) -> int:
    newline = data.find(b"\n", at)
    return len(data) if newline < 0 and final else newline


def _feeds(data: bytes, start: int, end: int) -> np.ndarray:
    """Where lines end (int64)."""
    found = []
    for first in range(start, end, _WINDOW_BYTES):
        part = np.frombuffer(data, np.uint8, min(_WINDOW_BYTES, end - first), first)
        found.append((part == _LF).nonzero()[0] + first)
    return np.concatenate(found) if found else np.empty(0, np.int64)
