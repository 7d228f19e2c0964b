"""compatible ⇔ every record of the old contract is one of the new: held against the decoders."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pyarrow as pa
import pytest
from evolving import evolved
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.evolution.compatible import judge, new_fields, verdicts
from millstream.schemas.evolution.included import issues
from millstream.schemas.evolution.issues import ITEM, path_text
from millstream.schemas.json.decoder import JsonDecoder

from tests import strategies

UNDECIDABLE = {"pattern", "format"}
"""What cannot be decided of every two regular expressions."""

ZONES = ["UTC", "Europe/Oslo", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe"]
DAY = 86_400
NOON = dt.datetime(2026, 3, 29, 12)
BOUNDS = st.datetimes(dt.datetime(2026, 3, 27), dt.datetime(2026, 4, 8))
"""Around days on which several zones change their clocks."""


def _takes(contract: Contract, payload: bytes, unknown: str = "ignore") -> bool:
    decoder = JsonDecoder(contract, unknown, judge=True)  # pyright: ignore[reportArgumentType]
    return not decoder.decode(pa.array([payload])).refused


@given(strategies.contracts(), st.data())
@settings(max_examples=400)
def test_where_nothing_is_found_every_old_record_is_read(old: Contract, data: st.DataObject):
    new = data.draw(evolved(old))
    if any(issues(old.fields, new.fields)):
        return
    for _ in range(5):
        payload = data.draw(strategies.records(old)).payload
        if _takes(old, payload):
            assert _takes(new, payload)


@given(strategies.contracts(), st.data())
@settings(max_examples=400)
def test_what_is_found_is_shown_by_a_record(old: Contract, data: st.DataObject):
    new = data.draw(evolved(old))
    for found in judge(old, new):
        if found.example is None:
            assert found.issue.aspect in UNDECIDABLE
        else:
            assert _takes(old, found.example)
            assert not _takes(new, found.example)


@given(strategies.contracts())
def test_a_contract_is_compatible_with_itself(contract: Contract):
    assert judge(contract, contract) == ()


def _contract(*fields: Field, version: str = "1") -> Contract:
    return Contract("c", version, "c", fields)


def _found(old: Field, new: Field) -> list[tuple[str, str, bool]]:
    found = judge(_contract(old), _contract(new))
    return [(one.issue.place, one.issue.aspect, one.decided) for one in found]


N, S, T = Field("f", "integer"), Field("f", "string"), Field("f", "timestamp")
X = Field("f", "number")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (replace(N, storage="int32"), N),
        (N, X),
        (replace(N, storage="int32"), Field("f", "decimal", precision=10)),
        (Field("f", "decimal", precision=9, scale=2), Field("f", "decimal", precision=10, scale=3)),
        (replace(X, storage="float32"), X),
        (S, Field("f", "json")),
        (T, replace(T, zone="Europe/Oslo")),
        (T, S),
        (replace(T, format="yyyy-MM-dd'T'HH:mm:ssXXX"), T),
        (Field("f", "date", format="yyyy-MM-dd"), Field("f", "date")),
        (replace(N, rules=(Rule("minimum", 5),)), replace(N, rules=(Rule("exclusiveMinimum", 4),))),
        (replace(N, rules=(Rule("multipleOf", 6),)), replace(N, rules=(Rule("multipleOf", 3),))),
        (replace(S, rules=(Rule("format", "uuid"),)), replace(S, rules=(Rule("maxLength", 36),))),
        (
            replace(S, rules=(Rule("format", "ipv4"),)),
            replace(S, rules=(Rule("format", "hostname"),)),
        ),
        (
            replace(S, rules=(Rule("enum", ("a1", "b2")),)),
            replace(S, rules=(Rule("pattern", "^[a-z][0-9]$"),)),
        ),
        (
            Field("f", "integer", rules=(Rule("minimum", 1), Rule("maximum", 3))),
            Field("f", "integer", rules=(Rule("enum", (1, 2, 3, 4)),)),
        ),
    ],
)  # fmt: skip
def test_wider(old: Field, new: Field):
    assert _found(old, new) == []
    assert all(decided for _, _, decided in _found(new, old) or [("", "", True)])


@pytest.mark.parametrize(
    ("old", "new", "aspect"),
    [
        (N, replace(N, storage="int32"), "type"),
        (X, N, "type"),
        (X, Field("f", "decimal", precision=38, scale=10), "type"),
        (S, N, "type"),
        (N, replace(N, required=True), "required"),
        (replace(T, zone="Europe/Oslo"), T, "zone"),
        (replace(T, zone="Europe/Oslo"), replace(T, zone="America/St_Johns"), "zone"),
        (T, replace(T, format="dd.MM.yyyy HH:mm"), "format"),
        (S, replace(S, rules=(Rule("maxLength", 10),)), "maxLength"),
        (S, replace(S, rules=(Rule("pattern", "^[a-z]$"),)), "pattern"),
        (S, replace(S, rules=(Rule("enum", ("a",)),)), "enum"),
        (N, replace(N, rules=(Rule("multipleOf", 2),)), "multipleOf"),
        (X, replace(X, rules=(Rule("maximum", 1e300),)), "maximum"),
    ],
)
def test_narrower(old: Field, new: Field, aspect: str):
    assert _found(old, new) == [("f", aspect, True)]


def test_the_same_text_is_another_instant_in_another_zone():
    noon = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
    rules = (Rule("minimum", noon), Rule("maximum", noon + dt.timedelta(days=1)))
    oslo, johns = (
        replace(T, zone=zone, rules=rules) for zone in ("Europe/Oslo", "America/St_Johns")
    )
    # The same clock shows in St. John's four and a half hours later.
    assert _found(oslo, johns) == [("f", "maximum", True)]
    assert _found(johns, oslo) == [("f", "minimum", True)]


@given(st.sampled_from(ZONES), st.sampled_from(ZONES), BOUNDS, BOUNDS, st.integers(0, 3 * DAY))
@example("Europe/Oslo", "America/St_Johns", dt.datetime(2026, 3, 29, 1), NOON, 0)
@example("America/St_Johns", "Europe/Berlin", dt.datetime(2000, 1, 1), NOON, 1)
def test_bounds_of_texts_in_another_zone(here, there, low, limit, length):
    """Of every text of the old field, by the decoders."""
    low, limit = low.replace(tzinfo=dt.UTC), limit.replace(tzinfo=dt.UTC)
    rules = (Rule("minimum", low), Rule("maximum", low + dt.timedelta(seconds=length)))
    old = _contract(replace(T, zone=here, rules=rules))
    for kind in ("minimum", "maximum"):
        new = _contract(replace(T, zone=there, rules=(Rule(kind, limit),)))
        if judge(old, new):
            continue
        hours = [dt.timedelta(hours=hour) for hour in range(-60, 60)]
        ends = low, low + dt.timedelta(seconds=length)
        for at in (end + hour for end in ends for hour in hours):
            payload = b'{"f":"%s"}' % at.replace(tzinfo=None).isoformat().encode()
            assert _takes(new, payload) or not _takes(old, payload), payload


def test_items_that_differ_in_what_is_left_out_are_alike():
    def lines(*names: str) -> Field:
        item = Field("item", "object", fields=tuple(Field(n, "integer") for n in names))
        return Field("f", "array", items=item, rules=(Rule("uniqueItems", True),))

    assert _found(lines("a", "b"), lines("a")) == [("f", "uniqueItems", True)]
    assert _found(lines("a"), lines("a", "b")) == []


def test_properties_that_are_left_out_are_not_counted():
    def thing(*names: str) -> Field:
        fields = tuple(Field(n, "integer") for n in names)
        return Field("f", "object", fields=fields, rules=(Rule("minProperties", 2),))

    assert _found(thing("a", "b", "c"), thing("a", "b")) == [("f", "minProperties", True)]


def test_what_cannot_be_decided_is_not_taken_for_compatible():
    old = replace(S, rules=(Rule("pattern", "^(?!b)[ab]+$"),))
    new = replace(S, rules=(Rule("pattern", "^[ab]+$"),))
    assert _found(old, new) == [("f", "pattern", False)]


def test_a_place_in_an_array():
    def lines(price: Field) -> Field:
        item = Field("item", "object", required=True, fields=(price,))
        return Field("lines", "array", items=item)

    (found,) = judge(
        _contract(lines(Field("price", "number"))),
        _contract(lines(Field("price", "number", rules=(Rule("minimum", 0.0),)))),
    )
    assert found.issue.place == path_text(("lines", ITEM, "price")) == "lines[].price"
    assert found.example is not None
    assert found.example.startswith(b'{"lines":[{"price":-')


def test_unknown_fields_that_are_rejected():
    old, new = _contract(N, Field("gone", "string")), _contract(N)
    assert judge(old, new) == ()
    (found,) = judge(old, new, unknown="reject")
    assert (found.issue.place, found.decided) == ("gone", True)
    assert found.example is not None
    assert not _takes(new, found.example, "reject")
    assert new_fields(new, old) == ["gone"]


@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        ("backward", [("2", "3")]),
        ("forward", [("3", "2")]),
        ("full", [("2", "3"), ("3", "2")]),
        ("backward_transitive", [("2", "3"), ("1", "3")]),
        ("forward_transitive", [("3", "2"), ("3", "1")]),
        ("full_transitive", [("2", "3"), ("3", "2"), ("1", "3"), ("3", "1")]),
    ],
)
def test_modes(mode, asked):
    first, second, third = (_contract(N, version=v) for v in "123")
    found = verdicts([first, second], third, mode)
    assert [(v.writer.version, v.reader.version) for v in found] == asked


def test_a_record_shows_the_rule_that_is_named():
    """And no other rule of the same place, which it might break in fewer bytes."""

    def tags(*rules: Rule) -> Contract:
        item = Field("item", "string", required=True)
        return _contract(Field("tags", "array", items=item, rules=rules))

    few, unique = Rule("maxItems", 3), Rule("uniqueItems", True)
    examples = {
        found.issue.aspect: json.loads(found.example or b"null")["tags"]
        for found in judge(tags(), tags(few, unique))
    }
    assert len(set(examples["maxItems"])) > 3
    assert len(set(examples["uniqueItems"])) < len(examples["uniqueItems"]) <= 3
