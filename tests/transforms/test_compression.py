"""Each codec: what it gives is the true stream or a beginning of it, and never silently short."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import random
from collections.abc import Callable
from typing import get_args

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms.read import compression
from millstream.transforms.read.compression import Compression, compression_of, decompressed
from millstream.transforms.read.lines import BrokenStream
from millstream.transforms.storage import StorageError

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
}
TEXT = b"".join(b'{"n":%d,"t":"%x"}\n' % (i, random.Random(i).getrandbits(64)) for i in range(16))
LOST = {"gzip": 0, "bzip2": 0, "zstd": compression._PIECE_BYTES, "xz": 0}
"""How much of what could be read may be lost with what comes behind it."""

every_codec = pytest.mark.parametrize("codec", PACK)


def members(codec: str, *parts: bytes) -> bytes:
    return b"".join(map(PACK[codec], parts))


def read(codec: str, data: bytes, chunk: int = 1 << 16) -> tuple[bytes, str]:
    """What is given, and why it breaks off, if it does."""
    return read_by(codec, io.BytesIO(data).read, chunk)


def read_by(codec: str, source: Callable[[int], bytes], chunk: int) -> tuple[bytes, str]:
    got = b""
    try:
        for piece in decompressed(codec, source, chunk):
            assert 0 < len(piece) <= chunk
            got += piece
    except BrokenStream as error:
        return got, str(error)
    return got, ""


def test_every_codec_is_tested():
    assert set(PACK) == set(compression._CODECS) == set(get_args(Compression)) - {"auto", "none"}


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.jsonl.gz", "gzip"), ("a.bz2", "bzip2"), ("a.zst", "zstd"), ("a.zstd", "zstd"),
        ("a.xz", "xz"), ("a.jsonl", ""), ("gz", ""), ("a.gz.jsonl", ""), ("s3://b/x.gz", "gzip"),
    ],
)  # fmt: skip
def test_the_ending_of_a_name_tells(name, codec):
    assert compression_of(name) == codec
    assert compression_of(name, "none") == ""
    assert compression_of(name, "bzip2") == "bzip2"


@every_codec
@settings(max_examples=60)
@given(
    st.lists(st.binary(max_size=300), max_size=4),
    st.integers(1, 400),
    st.lists(st.integers(1, 200), max_size=20),
)
def test_members_one_behind_the_other_are_one_stream(codec, parts, chunk, reads):
    """However much a read gives, and however much is asked for."""
    file = io.BytesIO(members(codec, *parts))
    amounts = iter(reads)
    got = read_by(codec, lambda size: file.read(min(size, next(amounts, size))), chunk)
    assert got == (b"".join(parts), "")


@every_codec
@pytest.mark.parametrize("chunk", [1, 10, 1 << 16])
def test_a_file_cut_off_anywhere(codec, chunk):
    """At every byte: what is whole is given, and unless a member ends there, it is said."""
    first = members(codec, TEXT[:111])
    data = first + members(codec, b"", TEXT[111:])
    whole = {0, len(first), len(first) + len(members(codec, b"")), len(data)}
    given_before = 0
    for size in range(len(data) + 1):
        got, reason = read(codec, data[:size], chunk)
        assert TEXT.startswith(got)
        assert len(got) >= given_before  # more of the file never gives less
        given_before = max(len(got) - LOST[codec], 0)
        assert reason == (
            "" if size in whole else "is truncated: the compressed data ends too early"
        )
    assert got == TEXT


@every_codec
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_byte_that_is_not_what_it_was(codec, flip):
    """At every byte: the members before it are given as they are, and it is noticed."""
    first = members(codec, TEXT[:111])
    data = first + members(codec, TEXT[111:])
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        got, reason = read(codec, damaged)
        if not reason:
            assert got == TEXT  # a field that nobody reads, as gzip's time stamp
            continue
        assert reason.startswith(("is truncated: ", "is corrupt: "))
        if at >= len(first):
            assert got[:111] == TEXT[: min(len(got), 111)]
            assert len(got) >= 111 - LOST[codec]


@every_codec
@settings(max_examples=100)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=5), st.integers(1, 500))
def test_no_damage_makes_reading_fail_otherwise(codec, at, damage, chunk):
    data = members(codec, TEXT[:111], TEXT[111:])
    at %= len(data)
    got, reason = read(codec, data[:at] + damage + data[at + len(damage) :], chunk)
    assert reason or got == TEXT


@pytest.mark.slow
@every_codec
def test_little_is_lost_before_damage(codec):
    """Of many small members, all but the last few."""
    parts = [b"%06d\n" % i for i in range(4000)]
    data = members(codec, *parts)
    got, reason = read(codec, data[:-3])
    assert reason
    assert b"".join(parts).startswith(got)
    assert len(got) >= 7 * 3999 - LOST[codec]


@every_codec
@pytest.mark.parametrize("after", [b"garbage, and enough of it", b"\1", TEXT])
def test_garbage_behind_the_last_member(codec, after):
    got, reason = read(codec, members(codec, TEXT) + after, 1)
    assert got == TEXT
    assert reason.startswith(("is truncated: ", "is corrupt: "))


@every_codec
def test_what_is_no_such_file_at_all(codec):
    for data in (TEXT, b"\0" + members(codec, TEXT), *(PACK[c](TEXT) for c in PACK if c != codec)):
        got, reason = read(codec, data)
        assert got == b""
        assert reason.startswith("is corrupt: ")


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "xz"])
@pytest.mark.parametrize("chunk", [1, 1 << 16])
def test_padding_is_skipped(codec, chunk):
    data = members(codec, TEXT[:111]) + b"\0" * 8 + members(codec, TEXT[111:]) + b"\0" * 600_000
    assert read(codec, data, chunk) == (TEXT, "")


def test_zstd_knows_no_padding():
    """Its own tool refuses it too."""
    assert read("zstd", members("zstd", TEXT) + b"\0" * 8, 1)[1].startswith("is corrupt: ")


def test_zstd_frames_that_are_to_be_skipped():
    """RFC 8878, 3.1.2: parallel compressors put their own notes there."""
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    data = skipped + members("zstd", TEXT[:111]) + skipped + members("zstd", TEXT[111:]) + skipped
    assert read("zstd", data, 7) == (TEXT, "")
    assert "is truncated" in read("zstd", data[:-1], 7)[1]


@every_codec
@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
def test_nothing_is_in_an_empty_file(codec, parts):
    assert read(codec, members(codec, *parts)) == (b"", "")


@pytest.mark.slow
@every_codec
def test_what_expands_a_thousandfold_is_given_in_pieces(codec):
    packed = members(codec, b"\n" * (8 << 20))
    assert len(packed) < 9000
    sizes = [len(piece) for piece in decompressed(codec, io.BytesIO(packed).read, 1 << 20)]
    assert sum(sizes) == 8 << 20
    assert max(sizes) == 1 << 20


def test_an_xz_file_that_asks_for_too_much_memory(monkeypatch):
    monkeypatch.setattr(compression, "_XZ_MEMORY_BYTES", 1 << 20)
    assert read("xz", lzma.compress(TEXT))[1] == "is corrupt: Memory usage limit exceeded"


@every_codec
@pytest.mark.parametrize("failure", [StorageError("cannot read x: 503"), BrokenStream("ends")])
def test_what_reading_the_file_raises_is_not_taken_for_the_codecs(codec, failure):
    pieces = itertools.chain([members(codec, TEXT)[:30]], itertools.repeat(None))

    def source(size: int) -> bytes:
        piece = next(pieces)
        if piece is None:
            raise failure
        return piece

    with pytest.raises(type(failure)) as raised:
        list(decompressed(codec, source, 100))
    assert raised.value is failure
