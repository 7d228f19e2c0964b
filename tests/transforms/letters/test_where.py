"""The grammar of ``--where``: what it takes, and what it refuses."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.letters import Where, WhereError, parse_where

DAY = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("code=TYPE", Where(codes=("TYPE",))),
        ("code=TYPE,RANGE", Where(codes=("TYPE", "RANGE"))),
        (
            "code=TYPE and field=amount and source=*.jsonl and since=2026-11-01",
            Where(codes=("TYPE",), field="amount", source="*.jsonl", since=DAY),
        ),
        (" field = items[*].price ", Where(field="items[*].price")),
        (r'source="a b and \"c\" \\d"', Where(source=r'a b and "c" \d')),
        ("source=a,b", Where(source="a,b")),
        ("id=1,2 and run_id=r", Where(ids=("1", "2"), run_ids=("r",))),
        ("stage=parse", Where(stages=("parse",))),
        ("until=2026-11-01T02:00:00+02:00", Where(until=DAY)),
        ("contract_version=1.0.0", Where(contract_versions=("1.0.0",))),
    ],
)  # fmt: skip
def test_what_is_meant(text, where):
    assert parse_where(text) == where


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected KEY=VALUE at ''"),
        ("code", "expected KEY=VALUE at 'code'"),
        ("code=", "expected KEY=VALUE"),
        ('code=""', "code= says nothing"),
        ("cod=TYPE", "no key 'cod'; did you mean 'code'"),
        ("code=A and code=B", "code is there twice"),
        ("code=A or field=b", "expected 'and' at 'or field=b'"),
        ("code=A and", "expected 'and' at 'and'"),
        ("code=A and ", "expected KEY=VALUE at ' '"),
        ("code=A,", "a value is missing between the commas"),
        ("since=yesterday", "since=yesterday: expected a date or a time"),
        ("since=0001-01-01T00:00:00+14:00", "expected a date or a time"),
        ("code=A; DROP TABLE letters", "expected 'and'"),
        ('source="a', "expected KEY=VALUE"),
        (r'source="\n"', "expected KEY=VALUE"),
        ("code=A'--=", "expected 'and'"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(WhereError) as raised:
        parse_where(text)
    assert said in str(raised.value)


@given(source=st.text(min_size=1), field=st.text(min_size=1))
def test_whatever_a_source_is_called_it_can_be_written(source, field):
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert parse_where(f"source={quoted(source)} and field={quoted(field)}") == Where(
        source=source, field=field
    )
