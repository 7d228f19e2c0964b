"""CSV files to records: however a file is cut, the same records, and every byte in one of them."""

from __future__ import annotations

import gzip
import itertools
import pickle
import tracemalloc
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.codes import Code
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.decoder import CsvDecoder, CsvLines, CsvRecords, HeaderError
from millstream.schemas.csv.options import CsvOptions
from millstream.schemas.csv.written import keeps_ascii
from millstream.transforms.dead_letters import Origin
from millstream.transforms.read import csv_records
from millstream.transforms.read.csv import CsvReader, ReadFromCsv
from millstream.transforms.read.csv_records import (
    NOT_AT_END,
    NOT_CLOSED,
    cut_records,
    records_are_lines,
    records_of,
)
from millstream.transforms.read.files import local_file
from millstream.transforms.read.lines import BOM, BrokenStream, Oversize, Unreadable
from millstream.transforms.read.records import Piece

from tests import strategies
from tests.running import rows, run

LONG = 1 << 20
PLAIN = CsvOptions()


class Cut(NamedTuple):
    """A record of a file: where it starts, its bytes (or where it ends if it is too long), and
    what is wrong with its quotes."""

    start: int
    payload: bytes | int
    fault: str = ""


# ------------------------------------------------------------------------------ the reference


def reference(data: bytes, options: CsvOptions, longest: int = LONG) -> list[Cut]:
    """The records of a file, one byte at a time."""
    found = []
    at = len(BOM) if data.startswith(BOM) else 0
    blank = b" \t\r".replace(options.delimiter.encode(), b"")
    while at < len(data):
        end, fault = _record(data, at, options, longest)
        payload = data[at:end].removesuffix(b"\r")
        if end - at > longest:
            found.append(Cut(at, end))
        elif payload.strip(blank):
            found.append(Cut(at, payload, fault))
        at = end + 1
    return found


def _record(data: bytes, start: int, options: CsvOptions, longest: int) -> tuple[int, str]:
    delimiter, quote = ord(options.delimiter), ord(options.quote or "\0")
    limit = start + longest
    if not options.multiline:
        limit = min(limit, _line_end(data, start))
    at, opened, begins = start, -1, True
    while at < len(data):
        byte = data[at]
        if opened >= 0:
            if at >= limit:
                return _line_end(data, opened), NOT_CLOSED
            if byte == quote and data[at + 1 : at + 2] == bytes([quote]):
                at += 1
            elif byte == quote:
                rest = data[at + 1 : at + 3]
                if rest[:1] not in (b"", b"\n", bytes([delimiter])) and rest not in (
                    b"\r\n",
                    b"\r",
                ):
                    return _line_end(data, opened), NOT_AT_END
                opened = -1
        elif options.quote and begins and byte == quote:
            opened, begins = at, False
        elif byte == ord("\n"):
            return at, ""
        else:
            begins = byte == delimiter
        at += 1
    if opened >= 0:
        return _line_end(data, opened), NOT_CLOSED
    return len(data), ""


def _line_end(data: bytes, at: int) -> int:
    newline = data.find(b"\n", at)
    return len(data) if newline < 0 else newline


# ------------------------------------------------------------------------------------ cutting


def cut(
    data: bytes,
    options: CsvOptions = PLAIN,
    longest: int = LONG,
    start: int = 0,
    end: int | None = None,
    chunk: int = LONG,
    block: int = 1,
) -> list[Cut]:
    """The records of one range of a file, read a chunk at a time."""
    base = max(start - 1, 0)
    pieces = [data[i : i + chunk] for i in range(base, len(data), chunk)]
    return in_order(
        told_apart(cut_records(pieces, start, end, options, longest, block), options, longest)
    )


def told_apart(
    pieces: Iterator[Any], options: CsvOptions, longest: int = LONG
) -> Iterator[CsvRecords | Oversize | Unreadable]:
    for piece in pieces:
        if isinstance(piece, CsvLines):
            yield from records_of(piece, options, longest)
        else:
            yield piece


def in_order(pieces: Iterator[Any]) -> list[Cut]:
    """What was cut; records that are too long leave before the others of their block."""
    return sorted(_cuts(pieces), key=lambda c: c.start)


def _cuts(pieces: Iterator[Any]) -> Iterator[Cut]:
    for piece in pieces:
        match piece:
            case CsvRecords():
                positions = piece.positions.to_pylist()
                payloads = piece.payloads(np.arange(len(positions))).to_pylist()
                assert positions[0] == piece.first
                for row, (start, payload) in enumerate(zip(positions, payloads, strict=True)):
                    assert piece.payload(row) == payload
                    yield Cut(start, payload, piece.malformed.get(row, ""))
            case Oversize(start, end, _):
                yield Cut(start, end)
            case _:
                raise AssertionError(piece)


_MARKS = (b'"', b'"', b'""', b",", b"\n", b"\r\n", b"\r", b" ", b"\t", b"a", b"bc", b"'", b";")
texts = st.lists(st.sampled_from(_MARKS) | st.binary(max_size=3), max_size=25).map(b"".join) | (
    st.builds(lambda bom, text: bom + text, st.just(BOM), st.text('",\n\r a').map(str.encode))
)
"""Files with all that can be odd about quotes and line ends."""

dialects = st.builds(
    CsvOptions,
    delimiter=st.sampled_from(",;\t a"),
    quote=st.sampled_from('""\'') | st.just(""),
    multiline=st.booleans(),
)
longests = st.sampled_from((1, 2, 3, 5, 8, LONG, LONG))


@settings(max_examples=300)
@given(texts, dialects, longests, st.integers(1, 9), st.integers(1, 20))
@example(b'"a\nb,"c\nd', CsvOptions(), LONG, 1, 1)
@example(b'a,"b\nc"d\n"e\nf",g', CsvOptions(), LONG, 2, 1)
@example(b'""a', CsvOptions(), 1, 1, 1)
@example(b'"aa"\nb', CsvOptions(), 3, 1, 1)
def test_chunks_do_not_matter(file, options, longest, chunk, block):
    expected = reference(file, options, longest)
    assert cut(file, options, longest, chunk=chunk, block=block) == expected
    assert cut(file, options, longest) == expected


@settings(max_examples=150)
@given(texts, dialects, longests, st.integers(1, 9))
def test_how_much_is_looked_at_at_a_time_does_not_matter(file, options, longest, window):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "_LEAST_WINDOW", window)
        patch.setattr(csv_records, "_WINDOW_BYTES", 3 * window)
        patch.setattr(csv_records, "_BURST", 2)
        assert cut(file, options, longest) == reference(file, options, longest)


@settings(max_examples=150)
@given(st.data(), texts, dialects.filter(records_are_lines), longests, st.integers(1, 9))
def test_ranges_do_not_matter(data, file, options, longest, chunk):
    """Every record is in exactly one range: the one in which it starts."""
    bounds = data.draw(strategies.cuts(len(file)))
    found = []
    for start, end in itertools.pairwise(bounds):
        part = cut(file, options, longest, start, end, chunk, data.draw(st.sampled_from((1, LONG))))
        first = start if start or not file.startswith(BOM) else len(BOM)
        assert all(start <= c.start < max(end, first + 1) for c in part)
        found += part
    assert found == reference(file, options, longest)


@settings(max_examples=100)
@given(texts, dialects)
def test_every_byte_is_in_one_record(file, options):
    """What lies between two records is blank."""
    at = len(BOM) if file.startswith(BOM) else 0
    blank = b" \t\r\n".replace(options.delimiter.encode(), b"")
    for start, payload, _ in cut(file, options, chunk=7):
        assert isinstance(payload, bytes)
        assert start >= at
        assert not file[at:start].strip(blank)
        assert file[start : start + len(payload)] == payload
        at = start + len(payload)
    assert not file[at:].strip(blank)


@settings(max_examples=100)
@given(st.data(), texts, dialects, st.integers(1, 5))
def test_a_stream_that_breaks_gives_what_was_whole(data, file, options, chunk):
    """And says from where on it could not be read: only blank lines lie between the two."""
    broken_at = data.draw(st.integers(0, len(file)))

    def stream() -> Iterator[bytes]:
        for i in range(0, broken_at, chunk):
            yield file[i : min(i + chunk, broken_at)]
        raise BrokenStream("is broken")

    *pieces, last = told_apart(cut_records(stream(), 0, None, options, LONG, 4), options)
    assert type(last) is Unreadable
    assert last.reason == "is broken"
    assert last.start + len(last.cut) == broken_at
    whole = in_order(iter(pieces))
    assert whole == [c for c in reference(file, options) if c.start < last.start]


@pytest.mark.parametrize("multiline", [True, False])
def test_one_stray_quote_does_not_take_the_lines_after_it_with_it(multiline):
    lines = [b"%d,x" % i for i in range(1000)]
    lines[10] = b'10,"x'
    lines[20] = b'20,"x" y'
    lines[30] = b'30,x" y'
    found = cut(b"\n".join(lines), CsvOptions(multiline=multiline))
    assert [c.payload for c in found] == lines
    faults = {c.payload: c.fault for c in found if c.fault}
    assert faults == {b'10,"x': NOT_AT_END if multiline else NOT_CLOSED, b'20,"x" y': NOT_AT_END}


@pytest.mark.slow
def test_stray_quotes_everywhere_do_not_take_longer_than_a_while():
    file = b'a"b,"c\n' * 20_000 + b'"""x\n' * 20_000 + b'a,b"\n' * 20_000
    found = cut(file, chunk=LONG)
    assert len(found) == 60_000 - 1  # the last quote of the second kind is closed
    assert sum(bool(c.fault) for c in found) == 40_000 - 1


def test_a_quote_that_is_never_closed_ends_with_its_line():
    """Only what max_record_bytes allows is looked through for its end."""
    file = b'a,"b\n' + b"c,d\n" * 100
    found = cut(file, longest=50, chunk=10)
    assert found[0] == Cut(0, b'a,"b', NOT_CLOSED)
    assert len(found) == 101


def test_a_record_that_is_too_long_is_never_held_whole():
    def stream(quote: bytes) -> Iterator[bytes]:
        yield b"a\n" + quote
        for _ in range(200):
            yield b"x" * (1 << 20)
        yield b"\nb\n"

    for quote in (b"", b'"', b'"",'):
        tracemalloc.start()
        cut = cut_records(stream(quote), 0, None, CsvOptions(), 1 << 20)
        pieces = list(told_apart(cut, CsvOptions()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        size = (200 << 20) + len(quote)
        assert [type(p) for p in pieces] == [CsvRecords, Oversize, CsvRecords]
        assert pieces[1][:2] == (2, 2 + size)
        assert peak < 50 << 20


# ------------------------------------------------------------------------------------ reading

CONTRACT = Contract(
    "orders",
    "2.1.0",
    "orders",
    (
        Field("id", "integer", required=True, rules=(Rule("minimum", 1),)),
        Field("note", "string", rules=(Rule("maxLength", 5),)),
        Field("at", "timestamp"),
    ),
    event_time="at",
)
HEADER = b"id,note,at\n"


class Read(NamedTuple):
    """What a file is read as."""

    good: list[tuple[int, dict[str, Any], bytes]]
    bad: list[tuple[int, bytes, list[tuple[str, str, str]]]]
    regions: list[Any]

    @property
    def messages(self) -> list[str]:
        return [f"{field}: {text}" for _, _, found in self.bad for field, _, text in found]


@pytest.fixture
def read(tmp_path):
    """Reads a file of some bytes."""

    def reading(data: bytes, options: CsvOptions = PLAIN, name: str = "f.csv", **more: Any) -> Read:
        path = tmp_path / name
        path.write_bytes(data)
        reader = pickle.loads(pickle.dumps(CsvReader(CONTRACT, options, judge=True, **more)))
        found = Read([], [], [])
        for part in reader.ranges([local_file(str(path))]):
            for piece in reader.read(part):
                _take(piece, found) if isinstance(piece, Piece) else found.regions.append(piece)
        return found

    return reading


def _take(piece: Piece, found: Read) -> None:
    decoded, size = piece.decoded, len(piece.positions)
    kept = np.arange(size) if decoded.kept is None else decoded.kept
    assert sorted([*kept.tolist(), *decoded.refused]) == list(range(size))
    positions = piece.positions.to_pylist()
    payloads = piece.payloads(kept).to_pylist()
    for row, record, payload in zip(kept, decoded.records.to_pylist(), payloads, strict=True):
        found.good.append((positions[row], record, payload))
    refused = piece.payloads(np.array(decoded.refused, np.int64)).to_pylist()
    for row, payload in zip(decoded.refused, refused, strict=True):
        wrong = [(v.field, v.code.value, v.message) for v in decoded.violations if v.row == row]
        assert wrong
        found.bad.append((positions[row], payload, wrong))


def test_records_have_their_positions_and_bytes(read):
    data = HEADER + b'1,"a",\r\n\r\n  \n2,"b\nb",2026-01-01T00:00:00Z\n"3",,\n'
    found = read(data)
    assert [(r["id"], r["note"]) for _, r, _ in found.good] == [(1, "a"), (2, "b\nb"), (3, None)]
    for position, _, payload in found.good:
        assert data[position : position + len(payload)] == payload
    assert [p for _, _, p in found.good] == [
        b'1,"a",',
        b'2,"b\nb",2026-01-01T00:00:00Z',
        b'"3",,',
    ]
    assert found.bad == found.regions == []


def test_a_bad_record_harms_no_other_and_says_all(read):
    found = read(
        HEADER
        + b"1,ok,\n"
        + b"x,too long,2026-01-01\n"
        + b"2,ok\n"
        + b"3,ok,,\n"
        + b"4\n"
        + b'5,"a" b,\n'
        + b"6,\xff,\n"
        + b"7,a\rb,\n"
        + b"0,ok,2026-01-01T00:00:00Z\n"
        + b"8,ok,\n"
    )
    assert [r["id"] for _, r, _ in found.good] == [1, 8]
    assert [wrong for _, _, wrong in found.bad] == [
        [
            ("id", "TYPE", "expected an integer, got 'x'"),
            (
                "at",
                "FORMAT",
                "expected a time stamp with an offset, such as 2026-11-24T13:45:00Z, "
                "got '2026-01-01'",
            ),
            ("note", "LENGTH", "expected at most 5 characters, got 8"),
        ],
        [("", "MALFORMED", "has 2 cells, the header has 3")],
        [("", "MALFORMED", "has 4 cells, the header has 3")],
        [("", "MALFORMED", "has 1 cell, the header has 3")],
        [("", "MALFORMED", "has text behind a closing quote")],
        [("", "ENCODING", "is not UTF-8: invalid start byte at byte 2")],
        [("", "MALFORMED", "has a carriage return outside quotes")],
        [("id", "RANGE", "expected at least 1, got 0")],
    ]
    assert found.bad[5][1] == b"6,\xff,"


cells = st.sampled_from((b"1", b"22", b"NA", b"abc", b"", b"x", b"\xff", b" ", b"\xef\xbb\xbf"))
marked = st.sampled_from((b'"a"', b'"', b'""', b"1\n", b"\r"))


def lines_of(cell: Any) -> Any:
    lines = st.lists(cell, min_size=1, max_size=4).map(b",".join)
    ends = st.sampled_from((b"\n", b"\n", b"\r\n", b"\n\n", b"\n \n", b""))
    return st.lists(st.tuples(lines, ends).map(b"".join), max_size=12).map(b"".join)


@settings(max_examples=150)
@given(lines_of(cells) | lines_of(cells | marked) | st.binary(max_size=60), st.booleans())
def test_any_bytes_are_good_or_bad_and_never_raise(tmp_path_factory, data, multiline):
    """The same ones however the file is split, and whether lines are told apart before their cells
    or by them."""
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(HEADER + data)
    options = CsvOptions(multiline=multiline, null=("", "NA"))
    longest = 12
    expected = reference(HEADER + data, options, longest)[1:]
    found = []
    for range_bytes, by_cells in ((LONG, True), (LONG, False), (7, True)):
        reader = CsvReader(
            CONTRACT,
            options,
            unknown_fields="keep",
            max_record_bytes=longest,
            range_bytes=range_bytes,
        )
        got = Read([], [], [])
        with pytest.MonkeyPatch.context() as patch:
            if not by_cells:
                patch.setattr(CsvDecoder, "decode_lines", lambda *given: None)
            for part in reader.ranges([local_file(str(path))]):
                for piece in reader.read(part):
                    _take(piece, got) if isinstance(piece, Piece) else got.regions.append(piece)
        spans = [(p, b) for p, *_, b in got.good] + [(p, b) for p, b, _ in got.bad]
        spans += [(region.start, region.end) for region in got.regions]
        assert sorted(spans, key=lambda s: s[0]) == [(c.start, c.payload) for c in expected]
        found.append(got)
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("range_bytes", [1, 3, 10, 1 << 20])
def test_ranges_share_the_header_of_their_file(read, range_bytes):
    data = b"\n \n\n" + HEADER + b"".join(b"%d,n,\n" % i for i in range(1, 40))
    found = read(data, CsvOptions(multiline=False), range_bytes=range_bytes)
    assert [r["id"] for _, r, _ in found.good] == list(range(1, 40))
    assert found.bad == found.regions == []


@pytest.mark.parametrize(
    "data", [b"", b"\n \n", BOM, HEADER, HEADER[:-1], BOM + HEADER, HEADER + b"\r\n\n"]
)
def test_files_without_records(read, data):
    assert read(data) == Read([], [], [])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_a_missing_last_line_end(read, end):
    found = read(BOM + end.join([b"note,id,at", b"a,1,", b"b,2,"]))
    assert [r["id"] for _, r, _ in found.good] == [1, 2]
    assert found.good[0][0] == 3 + len(b"note,id,at" + end)


def test_a_byte_order_mark_elsewhere_is_text(read):
    found = read(b"note,id\n" + BOM + b"a,1\n")
    assert [r["note"] for _, r, _ in found.good] == ["\ufeffa"]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (
            b"idd;notes;at\n",
            "has a header that names no field of the contract: expected 'id', 'note', 'at', "
            "got 'idd;notes;at'",
        ),
        (
            b"ID,nots\n",
            "has a header that names no field of the contract: expected 'id', 'note', 'at', "
            "got 'ID', 'nots'; did you mean 'id'?",
        ),
        (b"id,note,id\n", "has a header that names the column 'id' twice"),
        (b"id,,\n", "has a header that names the column '' twice"),
        (b'id,"note\n', "has a header that has a quote that is never closed"),
        (b"id,\xff\n", "has a header that is not UTF-8: invalid start byte at byte 0"),
        (b"id," + b"x" * 100 + b"\n", "has a header of more than 90 bytes"),
    ],
)
@pytest.mark.parametrize("range_bytes", [5, 1 << 20])
def test_a_header_that_cannot_be_used_is_one_dead_letter(read, header, reason, range_bytes):
    options = CsvOptions(multiline=False)
    found = read(b"\n" + header + b"1,2,3\n", options, range_bytes=range_bytes, max_record_bytes=90)
    cut = b"" if len(header) > 90 else header[:-1]
    assert found == Read([], [], [Unreadable(0, cut, reason)])


def test_columns_that_the_job_names(read):
    options = CsvOptions(header=("note", "id", "more"))
    found = read(b"a,1,x\nb,2\n", options)
    assert [(r["id"], r["note"], r["at"]) for _, r, _ in found.good] == [(1, "a", None)]
    assert found.messages == [": has 2 cells, the header has 3"]
    with pytest.raises(HeaderError, match="no field of the contract: expected 'id', 'note', 'at'"):
        CsvReader(CONTRACT, CsvOptions(header=("x", "y")))


def test_columns_that_the_contract_does_not_name(read):
    data = b'id,x,y\n1,,\n2,a,\n3,,""""\n'
    assert [r["id"] for _, r, _ in read(data).good] == [1, 2, 3]
    kept = read(data, unknown_fields="keep").good
    assert [r["_unknown"] for _, r, _ in kept] == [None, '{"x":"a"}', '{"y":"\\""}']
    refused = read(data, unknown_fields="reject")
    assert [r["id"] for _, r, _ in refused.good] == [1]
    assert refused.messages == ["x: is not in the contract", "y: is not in the contract"]


def test_what_means_null(read):
    options = CsvOptions(null=("", "NA"))
    data = b'id,note\n1,NA\n2,"NA"\n3,\n4,""\nNA,x\n'
    found = read(data, options)
    assert [r["note"] for _, r, _ in found.good] == [None, "NA", None, ""]
    assert found.messages == ["id: is required, but missing or null"]
    none = read(b"id,note\n1,\n", CsvOptions(null=()))
    assert [r["note"] for _, r, _ in none.good] == [""]


def test_a_record_that_is_too_long(read):
    found = read(HEADER + b"1," + b"x" * 100 + b",\n2,a,\n", max_record_bytes=50)
    assert [r["id"] for _, r, _ in found.good] == [2]
    assert [r[:2] for r in found.regions] == [(11, 11 + 103)]


@pytest.mark.slow
def test_a_truncated_gzip_file_gives_what_is_readable(read):
    data = HEADER + b"".join(b"%d,n,\n" % i for i in range(1, 100_000))
    whole = gzip.compress(data, mtime=0)
    found = read(whole[: len(whole) // 2], name="f.csv.gz")
    [region] = found.regions
    assert region.reason == "is truncated: the compressed data ends too early"
    assert data[region.start :].startswith(region.cut)
    count = data[: region.start].count(b"\n") - 1
    assert [r["id"] for _, r, _ in found.good] == list(range(1, count + 1))
    assert count > 1000


# ---------------------------------------------------------------------------------- encodings

TEXT = 'note,id,at\r\nä€,1,\r\n"ö\r\n|",2,\r\nü,x,\r\n'


@pytest.mark.parametrize("encoding", ["cp1252", "iso8859-15", "utf-16", "utf-16-be", "utf-32"])
def test_encodings(read, encoding):
    found = read(TEXT.encode(encoding), CsvOptions(encoding=encoding))
    assert [(r["id"], r["note"]) for _, r, _ in found.good] == [(1, "ä€"), (2, "ö\r\n|")]
    [(position, payload, _)] = found.bad
    bare = f"{encoding}-le" if encoding in ("utf-16", "utf-32") else encoding
    assert payload == "ü,x,".encode(bare)
    counted = encoding if keeps_ascii(encoding, ',"\r\n') else "utf-8"
    bom = len(BOM) if bare != encoding else 0
    assert position == len(TEXT[: TEXT.index("ü")].encode(counted)) + bom


@pytest.mark.parametrize(
    ("encoding", "bad"),
    [("cp1252", b"\x81"), ("shift_jis", b"\xff"), ("euc-jp", b"\xff"), ("utf-16-le", b"\x00\xd8")],
)
def test_what_cannot_be_decoded_is_its_record_alone(read, encoding, bad):
    lines = [line.encode(encoding) for line in ("id,note\n", "1,a\n", "2,", "\n", "3,c\n")]
    lines.insert(3, bad)
    found = read(b"".join(lines), CsvOptions(encoding=encoding))
    assert [r["id"] for _, r, _ in found.good] == [1, 3]
    [(_, payload, [(field, code, message)])] = found.bad
    assert (field, code) == ("", "ENCODING")
    assert message.startswith(f"is not {encoding}")
    assert payload == lines[2] + bad


def test_text_that_ends_within_a_character(read):
    found = read("id\n1\n".encode("utf-16-le") + b"x", CsvOptions(encoding="utf-16-le"))
    assert [r["id"] for _, r, _ in found.good] == [1]
    assert found.regions == [Unreadable(5, b"", "is not utf-16-le from there on: truncated data")]


def test_which_encodings_are_cut_as_bytes():
    marks = ',"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "ascii", "latin-1", "cp1251", "koi8-r", "euc-kr"):
        assert keeps_ascii(encoding, marks)
    for encoding in ("utf-16", "utf-32-le", "utf-7", "cp037", "iso2022_jp", "hz", "unicode_escape"):
        assert not keeps_ascii(encoding, marks)
    assert keeps_ascii("shift_jis", ",")
    assert not keeps_ascii("shift_jis", "|")


# ------------------------------------------------------------------------------- as a transform


@pytest.mark.slow
def test_the_transform(tmp_path):
    (tmp_path / "a.csv").write_bytes(HEADER + b"1,a,2026-01-01T00:00:00Z\nx,b,\n0,c,\n2,d,\n")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(HEADER + b"3,e,\n")[:-9])
    (tmp_path / "c.csv").write_bytes(b"foo\n")
    (tmp_path / "d.csv").write_bytes(b"")

    def build(pipeline: Any) -> dict[str, Any]:
        files = str(tmp_path / "*")
        read = pipeline | ReadFromCsv(files, CONTRACT, judge=True, origin=Origin("parse", "p"))
        return read._asdict()

    out = run(build)
    good = rows(out["records"])
    assert [(r["id"], r["_payload"]) for r in sorted(good, key=lambda r: r["id"])] == [
        (1, b"1,a,2026-01-01T00:00:00Z"),
        (2, b"2,d,"),
        (3, b"3,e,"),
    ]
    letters = {
        (r["source"].rsplit("/", 1)[1], r["position"]): (r["stage"], r["codes"], r["payloadBytes"])
        for r in rows(out["dead_letters"])
    }
    assert letters == {
        ("a.csv", "36"): ("parse", [Code.TYPE], b"x,b,"),
        ("a.csv", "41"): ("validate", [Code.RANGE], b"0,c,"),
        ("b.csv.gz", "16-"): ("read", [Code.UNREADABLE], None),
        ("c.csv", "0-"): ("read", [Code.UNREADABLE], b"foo"),
    }
    read = {t.source.rsplit("/", 1)[1]: 0 for t in out["tallies"]}
    for tally in out["tallies"]:
        read[tally.source.rsplit("/", 1)[1]] += tally.rows
    assert read == {"a.csv": 4, "b.csv.gz": 2, "c.csv": 1, "d.csv": 0}
    assert len(good) + len(letters) == sum(read.values())
