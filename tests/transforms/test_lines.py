"""Bytes to lines: however a file is split and read, the same lines at the same offsets."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOADS
from millstream.transforms.read.lines import (
    BOM,
    BrokenStream,
    Lines,
    Oversize,
    Unreadable,
    cut_lines,
    payload_batch,
)

from tests import reference, strategies
from tests.reference import Line

LONG = 1 << 20


def cut(
    data: bytes, longest: int = LONG, start: int = 0, end: int | None = None, chunk: int = LONG
) -> list[Line]:
    """The lines of one range of a file, read a chunk at a time."""
    base = max(start - 1, 0)
    pieces = [data[i : i + chunk] for i in range(base, len(data), chunk)]
    return list(_lines(cut_lines(pieces, start, end, longest)))


def _lines(pieces: Iterator[Any]) -> Iterator[Line]:
    for piece in pieces:
        match piece:
            case Lines(offsets, payloads):
                assert len(offsets) == len(payloads) > 0
                for offset, payload in zip(offsets.to_pylist(), payloads.to_pylist(), strict=True):
                    yield Line(offset, payload)
            case Oversize(begin, stop, _):
                yield Line(begin, stop)
            case _:
                raise AssertionError(piece)


def _pieces(pieces: Any) -> list[Any]:
    return list(pieces)


def in_order(lines: list[Line]) -> list[Line]:
    """Those that are too long leave before the others of their block."""
    return sorted(lines, key=lambda line: line.start)


@settings(max_examples=400)
@given(st.data(), strategies.byte_lines | st.binary(max_size=40), st.integers(1, 12))
def test_ranges_and_chunks_do_not_matter(data, file, chunk):
    """Every line is in exactly one range: the one in which it starts."""
    bounds = data.draw(strategies.cuts(len(file)))
    longest = data.draw(st.sampled_from((1, 2, 3, 5, LONG)))
    found = []
    for start, end in itertools.pairwise(bounds):
        lines = in_order(cut(file, longest, start, end, chunk))
        first = start if start or not file.startswith(BOM) else len(BOM)
        assert all(start <= line.start < max(end, first + 1) for line in lines)
        found += lines
    assert found == reference.lines(file, longest)
    assert in_order(cut(file, longest, chunk=chunk)) == found


@settings(max_examples=100)
@given(strategies.byte_lines, st.sampled_from((2, LONG)))
@example(BOM + b"a\nb", LONG)
def test_ranges_of_one_byte(file, longest):
    """The narrowest split there is: most ranges own nothing, and none of the rest twice."""
    found = []
    for start in range(len(file)):
        found += cut(file, longest, start, start + 1, chunk=3)
    assert in_order(found) == reference.lines(file, longest)


@settings(max_examples=150)
@given(st.data(), strategies.byte_lines, st.integers(1, 7))
def test_uneven_chunks(data, file, longest):
    pieces: Any = strategies.chunks(file, data.draw(strategies.cuts(len(file), most=10)))
    found = list(_lines(cut_lines(pieces, 0, None, longest)))
    assert in_order(found) == reference.lines(file, longest)


@settings(max_examples=150)
@given(st.data(), strategies.byte_lines, st.integers(1, 5))
def test_a_stream_that_breaks_gives_what_was_whole(data, file, chunk):
    """And says from where on it could not be read: nothing lies between the two."""
    broken_at = data.draw(st.integers(0, len(file)))

    def stream() -> Iterator[bytes]:
        for i in range(0, broken_at, chunk):
            yield file[i : min(i + chunk, broken_at)]
        raise BrokenStream("is broken")

    *pieces, last = cut_lines(stream(), 0, None, LONG)
    readable = file[:broken_at]
    skipped = len(BOM) if readable.startswith(BOM) else 0
    whole = max(readable.rfind(b"\n") + 1, skipped)
    if readable.startswith(BOM[:1]) and len(readable) < 3:
        whole = 0
    assert last == Unreadable(whole, readable[whole:], "is broken")
    assert list(_lines(iter(pieces))) == reference.lines(readable[:whole], LONG)


# -------------------------------------------------------------------------------- by example


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", []),
        (b"\r\n\r\n", []),
        (b"a", [(0, b"a")]),
        (b"a\n", [(0, b"a")]),
        (b"a\r\nb\r\n", [(0, b"a"), (3, b"b")]),
        (b"a\r", [(0, b"a")]),  # a CR without its LF at the end of the file
        (b"a\rb\n", [(0, b"a\rb")]),  # a CR alone ends no line
        (b"a\r\r\n", [(0, b"a\r")]),  # one CR belongs to the end, the other to the record
        (b"\n\n a \n\t\n  \r\nb", [(2, b" a "), (12, b"b")]),
        (b"\x0b\n\xc2\xa0\n", [(0, b"\x0b"), (2, b"\xc2\xa0")]),  # blank is space and tab, no more
        (b"\0\n", [(0, b"\0")]),
        (BOM, []),
        (BOM + b"\n", []),
        (BOM + b"a\n" + BOM + b"b", [(3, b"a"), (5, BOM + b"b")]),  # only the first is a mark
        (BOM[:2], [(0, BOM[:2])]),
        (BOM[:1] + b"a", [(0, BOM[:1] + b"a")]),
    ],
)
def test_ends_of_lines(data, expected):
    for chunk in (1, 2, 3, 100):
        assert cut(data, chunk=chunk) == expected


@pytest.mark.parametrize("end", [1, 2, 3])
def test_a_range_that_ends_within_the_mark_owns_the_first_line(end):
    data = BOM + b"a\nb"
    assert cut(data, start=0, end=end) == [(3, b"a")]
    assert cut(data, start=end) == [(5, b"b")]


def test_too_long_is_all_before_the_line_feed():
    """A CR counts: it may be all of the end that has been read so far."""
    assert cut(b"abc\r\nabcd\nabc\n", longest=3) == [(0, 4), (5, 9), (10, b"abc")]
    assert cut(b"abcd", longest=3) == [(0, 4)]


def test_a_long_line_is_passed_over_and_never_held():
    """A file without a line feed must not fill the memory."""

    def stream() -> Iterator[bytes]:
        yield b"first\n"
        for _ in range(1000):
            yield b"x" * 1000
        yield b"\nlast"

    tracemalloc.start()
    try:
        first, oversize, last = _pieces(cut_lines(stream(), 0, None, 5000))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert first.payloads.to_pylist() == [b"first"]
    assert oversize == Oversize(6, 1_000_006, b"x" * 1024)
    assert last.offsets.to_pylist() == [1_000_007]


def test_a_long_line_that_breaks_tells_where_it_began():
    def stream() -> Iterator[bytes]:
        yield b"a\n" + b"x" * 10
        yield b"x" * 10
        raise BrokenStream("is broken")

    lines, unreadable = _pieces(cut_lines(stream(), 0, None, 5))
    assert lines.payloads.to_pylist() == [b"a"]
    assert unreadable == Unreadable(2, b"x" * 10, "is broken")


def test_a_range_reads_no_further_than_its_last_line():
    """What comes after is another's: reading it twice would cost as much as it saves."""
    read = []

    def stream() -> Iterator[bytes]:
        for piece in (b"\na\n", b"b\n", b"c\n", b"d\n"):
            read.append(piece)
            yield piece

    assert list(_lines(cut_lines(stream(), 1, 4, LONG))) == [(1, b"a"), (3, b"b")]
    assert read == [b"\na\n", b"b\n"]


def test_a_batch_of_payloads():
    [lines] = cut_lines([b"a\nb\n"], 0, None, LONG)
    assert isinstance(lines, Lines)
    batch = payload_batch("file.jsonl", lines)
    assert batch.schema == PAYLOADS
    batch.validate(full=True)
    assert batch.to_pylist() == [
        {"_source": "file.jsonl", "_position": 0, "_payload": b"a"},
        {"_source": "file.jsonl", "_position": 2, "_payload": b"b"},
    ]
