"""Regular expressions inside one another: told only where it is so."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.evolution.patterns import is_included
from millstream.schemas.rules import FORMATS

pytest.importorskip("greenery", reason="greenery is not installed")


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("^[a-z]{2,5}$", "^[a-z]{1,10}$"),
        (r"^ORD\-\d{6}$", r"^[A-Z]{3}-[0-9]+$"),
        ("^(?:SE|NO)$", "^[A-Z][A-Z]$"),
        ("^a.c$", "^.*$"),
        (r"^[\w.]+$", r"^[^ ]+$"),
        (FORMATS["uuid"][1], "^[0-9a-fA-F-]{36}$"),
    ],
)
def test_inside(inner: str, outer: str):
    assert is_included(inner, outer)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("^[a-z]{1,10}$", "^[a-z]{2,5}$"),
        ("a", "^a$"),  # found anywhere
        ("^a|b$", "^[ab]$"),  # begins with a, or ends with b
        ("^a$|b", "^a$"),
        (r"^a\$", r"^a.$"),
        (r"^[^b]$", "^.$"),  # a line feed
        ("^(?!x)[a-y]+$", "^[a-y]+$"),
        ("^(?i)a$", "^a$"),
        ("^(a)\\1$", "^aa$"),
        ("^[a-z]{1,64}@[a-z]{1,64}$", "^[a-z]{1,99}@[a-z]{1,99}$"),  # too large to be compared
        ("^[[:alpha:]]$", "^[a-z:]$"),
        (r"^\bx$", "^bx$"),
        (r"^\x61$", "^x61$"),
        (r"^\p{L}$", "^p.L.$"),
    ],
)
def test_not_told(inner: str, outer: str):
    assert not is_included(inner, outer)


_PIECES = st.sampled_from(
    ["a", "b", "[ab]", "[^a]", ".", r"\d", "-", r"\.", "(?:a|b)", "[a-c]", "(ab)", r"[\w-]"]
)
_TIMES = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "{2,}"])
_PATTERNS = st.lists(st.tuples(_PIECES, _TIMES).map("".join), min_size=1, max_size=3).map(
    lambda pieces: f"^{''.join(pieces)}$"
)


@given(_PATTERNS, _PATTERNS, st.data())
@settings(max_examples=150)
def test_what_is_inside_matches(inner: str, outer: str, data: st.DataObject):
    if is_included(inner, outer):
        texts = st.from_regex(re.compile(inner.replace("$", r"\Z"), re.ASCII), fullmatch=True)
        text = data.draw(texts)
        matched = [
            pc.match_substring_regex(pa.array([text]), pattern)[0].as_py()
            for pattern in (inner, outer)
        ]
        assert matched != [True, False]
