"""Reading ahead: the same pieces, the same errors, no more held than was said."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.read.ahead import read_ahead


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_the_same_pieces_in_order(pieces, count):
    assert list(read_ahead(iter(pieces), count)) == pieces


@given(st.integers(0, 6), st.integers(1, 4))
def test_an_error_comes_where_its_piece_is_due(before, count):
    def broken() -> Iterator[int]:
        yield from range(before)
        raise OSError("gone")

    found: list[int] = []
    with pytest.raises(OSError, match="gone"):
        found.extend(read_ahead(broken(), count))
    assert found == list(range(before))


def test_no_more_is_made_than_was_said():
    made: list[int] = []

    def pieces() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    reading = read_ahead(pieces(), 2)
    for n in range(10):
        assert next(reading) == n
        assert len(made) <= n + 3


def test_who_stops_early_leaves_no_thread():
    before = threading.active_count()
    reading = read_ahead(iter(range(100)))
    assert next(reading) == 0
    cast(Generator[int, None, None], reading).close()
    assert threading.active_count() == before
