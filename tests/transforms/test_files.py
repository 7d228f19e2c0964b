"""Files to bytes: what patterns match, how ranges cover, and what broken files still give."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import os
import random
import re
import zlib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import zstandard
from apache_beam.io.filesystem import FileMetadata, FileSystem, MatchResult
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms.plan import InputFile
from millstream.transforms.read.files import (
    FileRange,
    NoFiles,
    chunks,
    file_ranges,
    local_file,
    match_files,
)
from millstream.transforms.read.lines import BrokenStream, Lines, Unreadable, cut_lines
from millstream.transforms.storage import StorageError

from tests import reference, strategies

LONG = 1 << 20


def written(path: Path, data: bytes) -> InputFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return local_file(str(path))


def read(part: FileRange, chunk: int = 1 << 16) -> tuple[bytes, str]:
    """What a range gives, and why it breaks off, if it does."""
    data = b""
    try:
        for piece in chunks(part, chunk):
            assert 0 < len(piece) <= chunk
            data += piece
    except BrokenStream as error:
        return data, str(error)
    return data, ""


def whole(file: InputFile) -> FileRange:
    [part] = file_ranges([file], range_bytes=1 << 40)
    return part


def records(part: FileRange, chunk: int = 1 << 16) -> tuple[list[tuple[int, bytes]], Any]:
    """The lines of a range and where they lie, and the region that could not be read."""
    found: list[tuple[int, bytes]] = []
    unreadable = None
    for piece in cut_lines(chunks(part, chunk), part.start, part.end, LONG):
        assert unreadable is None
        if isinstance(piece, Lines):
            found += zip(piece.offsets.to_pylist(), piece.payloads.to_pylist(), strict=True)
        else:
            assert isinstance(piece, Unreadable)
            unreadable = piece
    return found, unreadable


# ---------------------------------------------------------------------------------- patterns


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files as jobs leave them: finished ones, and what is not for readers."""
    for name in (
        "a.jsonl", "b.jsonl.gz", "c.txt", "_SUCCESS", ".hidden.jsonl", "_staged.jsonl", "[x].jsonl",
        "2026/d.jsonl", "2026/11/e.jsonl", "2026/_temporary/f.jsonl", "2026/.trash/g.jsonl",
        "_logs/h.jsonl",
    ):  # fmt: skip
        written(tmp_path / name, b"{}\n")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "gone")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["[x].jsonl", "a.jsonl"]),
        ("*", ["[x].jsonl", "a.jsonl", "b.jsonl.gz", "c.txt"]),
        ("[ab].jsonl*", ["a.jsonl", "b.jsonl.gz"]),
        ("[x].jsonl", ["[x].jsonl"]),  # a file of that very name goes before its meaning
        ("**/*.jsonl", ["2026/11/e.jsonl", "2026/d.jsonl", "[x].jsonl", "a.jsonl"]),
        ("*/*.jsonl", ["2026/d.jsonl"]),
        ("2026/**", ["2026/11/e.jsonl", "2026/d.jsonl"]),
        # what a pattern names itself is not hidden from it
        ("_SUCCESS", ["_SUCCESS"]),
        ("_*.jsonl", ["_staged.jsonl"]),
        (".h*.jsonl", [".hidden.jsonl"]),
        ("_logs/*.jsonl", ["_logs/h.jsonl"]),
        ("*/_temporary/*", ["2026/_temporary/f.jsonl"]),
        ("2026/.trash/*", ["2026/.trash/g.jsonl"]),
    ],
)
def test_what_a_pattern_matches(tree, pattern, names):
    found = match_files([str(tree / pattern)])
    assert [os.path.relpath(f.source, tree) for f in found] == names
    assert all(f.size == 3 and f.version for f in found)


@pytest.mark.parametrize("pattern", ["*.csv", "gone.jsonl", "gone/*.jsonl", "2026", "folder.jsonl"])
def test_a_pattern_without_files_is_an_error(tree, pattern):
    with pytest.raises(NoFiles, match=r"no file matches .*" + pattern.replace("*", r"\*")):
        match_files([str(tree / "a.jsonl"), str(tree / pattern)])
    assert match_files([str(tree / pattern)], allow_none=True) == []


def test_a_file_that_two_patterns_match_is_read_once(tree):
    found = match_files([str(tree / p) for p in ("a.*", "*.jsonl", "a.jsonl", "./a.jsonl")])
    assert [Path(f.source).name for f in found] == ["[x].jsonl", "a.jsonl"]


def test_names_do_not_depend_on_the_working_directory(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert match_files(["a.jsonl", "2026/*"]) == match_files(
        [str(tree / "a.jsonl"), str(tree / "2026" / "*")]
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tree):
    (tree / "a.jsonl").chmod(0)
    with pytest.raises(StorageError, match=r"a\.jsonl: permission denied"):
        match_files([str(tree / "*.jsonl")])


# ------------------------------------------------------------------------------------ ranges


@settings(max_examples=300)
@given(st.lists(st.integers(0, 300), max_size=4), st.integers(1, 100))
def test_ranges_cover_each_byte_once(sizes, range_bytes):
    files = [InputFile(f"f{i}", size, "1") for i, size in enumerate(sizes)]
    parts = file_ranges(files, range_bytes=range_bytes)
    for file in files:
        own = [p for p in parts if p.file == file]
        assert own[0].start == 0
        assert own[-1].end == file.size
        assert all(a.end == b.start for a, b in itertools.pairwise(own))
        assert all(p.start < (p.end or 0) for p in own) or file.size == 0
        assert all((p.end or 0) - p.start <= range_bytes * 9 // 8 for p in own)
        assert not any(p.compression for p in own)


@pytest.mark.parametrize(
    ("ending", "codec"), [("gz", "gzip"), ("bz2", "bzip2"), ("zst", "zstd"), ("xz", "xz")]
)
def test_a_compressed_file_is_one_range(ending, codec):
    plain, packed = InputFile("f", 10**9, "1"), InputFile(f"f.{ending}", 10**9, "1")
    assert file_ranges([packed]) == [FileRange(packed, 0, None, codec)]
    assert file_ranges([plain], codec) == [FileRange(plain, 0, None, codec)]
    assert len(file_ranges([packed], "none")) > 10
    assert len(file_ranges([plain])) == len(file_ranges([packed], "none"))


@settings(max_examples=50)
@given(st.data())
def test_ranges_of_a_file_give_its_lines_once(tmp_path_factory, data):
    content = data.draw(strategies.byte_lines)
    file = written(tmp_path_factory.getbasetemp() / "ranges", content)
    parts = file_ranges([file], range_bytes=data.draw(st.integers(1, 20)))
    found = [line for part in parts for line in records(part, data.draw(st.integers(1, 9)))[0]]
    assert found == [tuple(line) for line in reference.lines(content, LONG)]


def test_a_range_starts_one_byte_early_and_reads_no_further_than_it_must(tmp_path):
    data = bytes(range(256)) * 4096
    part = FileRange(written(tmp_path / "f", data), 1000, 300_000)
    pieces = list(chunks(part, 1 << 17))
    assert b"".join(pieces) == data[999:]
    ends = itertools.accumulate(map(len, pieces), initial=999)
    past = [len(piece) for piece, start in zip(pieces, ends, strict=False) if start >= 300_000]
    assert max(past) <= 1 << 16  # the end of the last line is not far


# ----------------------------------------------------------------------------- changed files


def touch(file: InputFile) -> None:
    os.utime(file.source, ns=(10**18, 10**18))


def test_a_file_of_the_same_size_that_has_changed_is_refused(tmp_path):
    file = written(tmp_path / "f", b"a\nb\n")
    Path(file.source).write_bytes(b"c\nd\n")
    touch(file)
    with pytest.raises(StorageError, match="has changed since the run was planned; run again"):
        read(whole(file))


def test_a_file_that_is_gone_is_named(tmp_path):
    file = written(tmp_path / "f", b"a\n")
    Path(file.source).unlink()
    with pytest.raises(StorageError, match=r"cannot read .*/f: not found"):
        read(whole(file))


@pytest.mark.parametrize("name", ["f", "f.gz"])
def test_what_was_appended_since_the_plan_is_not_read(tmp_path, name):
    """It belongs to the next run: the plan says how long the file is."""
    pack = gzip.compress if name.endswith(".gz") else bytes
    file = written(tmp_path / name, pack(b"a\nb\n"))
    with open(file.source, "ab") as appended:
        appended.write(pack(b"c\n"))
    touch(file)
    assert records(whole(file)) == ([(0, b"a"), (2, b"b")], None)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 5])
def test_a_plain_file_that_has_become_shorter(tmp_path, left):
    """What is there is read, and a dead letter stands for the rest, whichever the range."""
    data = b"a\nbcd\ne\n"
    file = written(tmp_path / "f", data)
    Path(file.source).write_bytes(data[:left])
    found, unreadable = records(whole(file))
    end = data.rfind(b"\n", 0, left) + 1
    assert found == records(whole(written(tmp_path / "g", data[:end])))[0]
    reason = f"ends at byte {left}, {len(data) - left} bytes before its planned end"
    assert unreadable == Unreadable(end, data[end:left], reason)
    for start in range(1, len(data)):
        lines, unreadable = records(FileRange(file, start, len(data)))
        assert unreadable is not None
        assert all(at < left for at, _ in lines)


def test_a_compressed_file_that_has_become_shorter(tmp_path):
    """Cut between two members it is whole again as a file, but not the file of the plan."""
    first, second = gzip.compress(b"a\n"), gzip.compress(b"b\n")
    file = written(tmp_path / "f.gz", first + second)
    Path(file.source).write_bytes(first)
    found, unreadable = records(whole(file))
    assert found == [(0, b"a")]
    assert unreadable.start == 2
    assert f"{len(second)} bytes before its planned end" in unreadable.reason


# -------------------------------------------------------------------------- compressed files

TEXT = b"".join(b'{"n":%d,"t":"%x"}\n' % (i, random.Random(i).getrandbits(64)) for i in range(16))
LINES = [(m, line) for m, line in zip(
    itertools.accumulate((len(part) + 1 for part in TEXT.split(b"\n")[:-1]), initial=0),
    TEXT.split(b"\n")[:-1], strict=False,
)]  # fmt: skip


def members(*parts: bytes) -> bytes:
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("f.bz2", bz2.compress(TEXT[:111]) + bz2.compress(TEXT[111:])),
        ("f.zst", zstandard.compress(TEXT[:111]) + zstandard.compress(TEXT[111:])),
        ("f.xz", lzma.compress(TEXT[:111]) + lzma.compress(TEXT[111:])),
    ],
)
def test_a_file_is_read_as_its_name_says(tmp_path, name, data):
    assert records(whole(written(tmp_path / name, data)), 100) == (LINES, None)
    found, unreadable = records(whole(written(tmp_path / name, data[:-1])), 100)
    assert found == LINES[: len(found)]
    assert "is truncated" in unreadable.reason


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 16])
@pytest.mark.parametrize(
    "data",
    [
        members(TEXT),
        members(TEXT[:111], TEXT[111:300], TEXT[300:]),  # cut within lines
        members(TEXT[:111], b"", TEXT[111:], b""),
        members(TEXT[:111]) + b"\0" * 7 + members(TEXT[111:]) + b"\0" * 600_000,
        members(*(TEXT[i : i + 1] for i in range(len(TEXT)))),
        gzip.compress(TEXT, 0, mtime=0),
        gzip.compress(TEXT, mtime=10**9),
    ],
    ids=["one", "three", "empty members", "padded", "a byte each", "stored", "with a time"],
)
def test_all_members_are_read(tmp_path, data, chunk):
    file = written(tmp_path / "f.gz", data)
    assert read(whole(file), chunk) == (TEXT, "")
    assert records(whole(file), chunk) == (LINES, None)


def test_a_header_with_every_optional_field(tmp_path):
    """RFC 1952: extra field, name, comment and header checksum."""
    header = b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff" + b"\x03\0abc" + b"name\0" + b"comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    raw = zlib.compressobj(wbits=-15)
    body = raw.compress(TEXT) + raw.flush()
    trailer = zlib.crc32(TEXT).to_bytes(4, "little") + len(TEXT).to_bytes(4, "little")
    assert read(whole(written(tmp_path / "f.gz", header + body + trailer))) == (TEXT, "")


@pytest.mark.parametrize("data", [b"", members(b""), members(b"", b"")])
def test_nothing_is_in_an_empty_file(tmp_path, data):
    assert read(whole(written(tmp_path / "f.gz", data))) == (b"", "")


def test_what_expands_a_thousandfold_is_read_in_pieces(tmp_path):
    file = written(tmp_path / "f.gz", gzip.compress(b"\n" * (8 << 20)))
    sizes = [len(piece) for piece in chunks(whole(file), 1 << 20)]
    assert sum(sizes) == 8 << 20
    assert max(sizes) == 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [10, 1 << 16])
@pytest.mark.parametrize("data", [members(TEXT), members(TEXT[:111], TEXT[111:])], ids=["1", "2"])
def test_a_file_cut_off_anywhere(tmp_path, data, chunk):
    """What is whole is read, and where the rest would be is said, at every byte."""
    boundaries = {0, len(data), len(members(TEXT[:111])) if len(data) > len(members(TEXT)) else 0}
    readable = 0
    for size in range(len(data)):
        part = whole(written(tmp_path / "f.gz", data[:size]))
        got, reason = read(part, chunk)
        assert TEXT.startswith(got)
        assert len(got) >= readable  # more of the file never gives less
        readable = len(got)
        assert bool(reason) == (size not in boundaries), size
        found, unreadable = records(part, chunk)
        lines = got.rfind(b"\n") + 1
        if reason:
            assert reason == "is truncated: the compressed data ends too early"
            assert unreadable == Unreadable(lines, got[lines:], reason)
            assert found == [line for line in LINES if line[0] < lines]
        else:
            assert unreadable is None


def _flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        _flipped(members(TEXT), -8),  # the checksum
        _flipped(members(TEXT), -1),  # the length
        _flipped(members(TEXT), 0),
        _flipped(members(TEXT), 2),
        members(TEXT) + b"garbage",
        members(TEXT) + b"\0\0x",
        members(TEXT) + b"\x1f",
        members(TEXT) + b"\x1f\x8b\x08",
        TEXT,
        b"\0" + members(TEXT),
        b"BZh9" + TEXT,
    ],
)
def test_a_corrupt_file_says_so(tmp_path, data):
    """Whole members before the damage are read, and a region stands for the rest."""
    part = whole(written(tmp_path / "f.gz", data))
    got, reason = read(part)
    assert got == (TEXT if data.startswith(members(TEXT)) else b"")
    assert reason.startswith(("is corrupt: ", "is truncated: "))
    found, unreadable = records(part)
    assert found == [line for line in LINES if line[0] < len(got)]
    assert unreadable.start == len(got)


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3), st.integers(1, 500))
def test_no_damage_makes_reading_fail_otherwise(tmp_path_factory, at, damage, chunk):
    """Whatever happens to a file, the lines before the damage are right or it is reported."""
    data = members(TEXT[:111], TEXT[111:])
    at %= len(data)
    path = tmp_path_factory.getbasetemp() / "damaged.gz"
    got, reason = read(whole(written(path, data[:at] + damage + data[at + len(damage) :])), chunk)
    assert reason or got == TEXT


# ------------------------------------------------------------------------------ remote files


class MemoryFiles(FileSystem):
    """Files that Beam reaches by ``mem://``, so that nothing here needs a cloud."""

    files: ClassVar[dict[str, bytes]] = {}
    failure: ClassVar[Exception | None] = None

    @classmethod
    def scheme(cls) -> str:
        return "mem"

    def match(self, patterns: list[str], limits: Any = None) -> list[MatchResult]:
        return [MatchResult(pattern, self._matching(pattern)) for pattern in patterns]

    def _matching(self, pattern: str) -> list[FileMetadata]:
        matches = re.compile(self.translate_pattern(pattern)).fullmatch
        return [FileMetadata(n, len(d), 17.5) for n, d in self.files.items() if matches(n)]

    def open(self, path: str, *_: Any, **__: Any) -> Any:
        return _Stream(self.files[path])

    # what is abstract, and not used here
    copy = create = delete = exists = has_dirs = join = mkdirs = None  # type: ignore[assignment]
    last_updated = metadata = rename = size = split = _list = None  # type: ignore[assignment]


class _Stream(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        if MemoryFiles.failure and self.tell():
            raise MemoryFiles.failure
        return super().read(size)


@pytest.fixture
def remote(monkeypatch):
    monkeypatch.setattr(MemoryFiles, "files", {})
    return MemoryFiles.files


def test_remote_files_are_matched_by_the_same_rules(remote):
    for name in ("a.jsonl", "_b.jsonl", "_tmp/c.jsonl", "d/e.jsonl", "d/.f/g.jsonl"):
        remote[f"mem://bucket/{name}"] = b"{}\n"
    found = match_files(["mem://bucket/**.jsonl"])
    assert found == [
        InputFile("mem://bucket/a.jsonl", 3, "17.5"),
        InputFile("mem://bucket/d/e.jsonl", 3, "17.5"),
    ]
    assert len(match_files(["mem://bucket/_tmp/*"])) == 1
    with pytest.raises(NoFiles):
        match_files(["mem://bucket/none*"])


def test_remote_files_are_read_in_ranges(remote):
    remote["mem://b/f"] = TEXT
    [file] = match_files(["mem://b/f"])
    parts = file_ranges([file], range_bytes=100)
    assert [line for part in parts for line in records(part, 30)[0]] == LINES


def test_a_broken_remote_file_is_a_broken_stream_too(remote):
    """Not an error of the client library, which would fail the run."""
    remote["mem://b/f.gz"] = members(TEXT)[:-5]
    [file] = match_files(["mem://b/f.gz"])
    assert read(whole(file))[1] == "is truncated: the compressed data ends too early"
    remote["mem://b/f.gz"] = members(TEXT)[:-9]
    assert "4 bytes before its planned end" in read(whole(file))[1]


def test_what_a_client_library_raises_names_the_file(remote, monkeypatch):
    remote["mem://b/f"] = TEXT
    [file] = match_files(["mem://b/f"])
    monkeypatch.setattr(MemoryFiles, "failure", RuntimeError("503"))
    with pytest.raises(StorageError, match="cannot read mem://b/f: 503"):
        read(whole(file), 100)
