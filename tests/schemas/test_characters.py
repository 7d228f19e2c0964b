"""A quick look at simple patterns: what it is sure of is true."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.characters import keeps_surely

PATTERNS = [
    "^[0-9a-f]{16}$", "^u[0-9]+$", "^[a-z]{2,5}$", "^[A-Z]$", "^[a-z]*$", "^id-[0-9]{3,}$",
    "^aa[ab]{0,2}$", "^/[a-z/]+$", "^[0-9.]+$", "^ab[c]*$",
]  # fmt: skip


@given(
    st.sampled_from(PATTERNS),
    st.lists(st.none() | st.text("aabc0189fuZ/-.id\n é", max_size=18), max_size=6),
    st.integers(0, 3),
    st.data(),
)
def test_what_is_sure_is_true(pattern, texts, cut, data):
    # mostly texts that match, so that there is something to be sure of
    texts += data.draw(st.lists(st.from_regex(pattern.replace("$", r"\Z"), fullmatch=True)))
    column = pa.array(texts, pa.string()).slice(cut)
    keeps = keeps_surely(pattern)
    assert keeps is not None
    exact = re.compile(pattern.replace("$", r"\Z"))
    true = all(text is None or exact.search(text) for text in texts[cut:])
    assert not keeps(column) or true
    if true and None not in texts:
        assert keeps(column)


@pytest.mark.parametrize(
    "pattern",
    ["[0-9]+", "^[0-9]+", "^[^0-9]$", "^[a-Z]$", "^[z-a]$", "^(a|b)$", r"^\d+$", "^[a]{2}x$",
     "^[é]$", "^.[0-9]$", "(?i)^[a]$", "^[[:alpha:]]$", r"^[\w]$", "^[a-]?$"],
)  # fmt: skip
def test_other_patterns_are_left_alone(pattern):
    assert keeps_surely(pattern) is None
