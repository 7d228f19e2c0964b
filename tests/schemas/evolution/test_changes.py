"""Every change is named, and judged for writers and for readers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evolving import evolved
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.evolution.changes import Change, changes
from millstream.schemas.evolution.compatible import judge
from millstream.schemas.evolution.included import bare

from tests import strategies

N, S, T = Field("f", "integer"), Field("f", "string"), Field("f", "timestamp")


def _contract(*fields: Field, **said) -> Contract:
    return Contract("c", "1", "c", fields, **said)


def _only(old: Contract, new: Contract) -> Change:
    (change,) = changes(old, new)
    return change


@pytest.mark.parametrize(
    ("old", "new", "kind", "writers", "readers"),
    [
        (replace(N, storage="int32"), N, "type widened", "fine", "breaks"),
        (N, replace(N, storage="int32"), "type narrowed", "breaks", "breaks"),
        (S, N, "type changed", "breaks", "breaks"),
        (N, replace(N, required=True), "now required", "breaks", "fine"),
        (replace(N, required=True), N, "now optional", "fine", "breaks"),
        (N, replace(N, rules=(Rule("minimum", 1),)), "rule added", "breaks", "fine"),
        (replace(N, rules=(Rule("minimum", 1),)), N, "rule removed", "fine", "breaks"),
        (
            replace(N, rules=(Rule("minimum", 1),)),
            replace(N, rules=(Rule("exclusiveMinimum", 1),)),
            "rule tightened", "breaks", "fine",
        ),
        (
            replace(S, rules=(Rule("enum", ("a",)),)),
            replace(S, rules=(Rule("enum", ("a", "b")),)),
            "rule loosened", "fine", "breaks",
        ),
        (
            replace(S, rules=(Rule("pattern", "^(?!b)[ab]+$"),)),
            replace(S, rules=(Rule("pattern", "^[ab]+$"),)),
            "rule changed", "may break", "breaks",
        ),
        (
            Field("f", "array", items=N, rules=(Rule("maxItems", 5),)),
            Field("f", "array", items=N, rules=(Rule("maxItems", 3),)),
            "rule tightened", "breaks", "fine",
        ),
        (T, replace(T, format="dd.MM.yyyy HH:mm"), "format changed", "breaks", "fine"),
        (T, replace(T, zone="Europe/Oslo"), "zone changed", "fine", "fine"),
        (
            replace(T, zone="UTC"), replace(T, zone="Europe/Oslo"),
            "zone changed", "breaks", "breaks",
        ),
        (N, replace(N, unique=True), "uniqueness changed", "fine", "fine"),
        (N, replace(N, classification="pii"), "classification changed", "fine", "fine"),
        (N, replace(N, description="x"), "description changed", "fine", "fine"),
        (  # the same column holds the same values
            replace(N, storage="int32", rules=(Rule("minimum", 0), Rule("maximum", 9))),
            replace(N, rules=(Rule("minimum", 0), Rule("maximum", 9))),
            "type widened", "fine", "fine",
        ),
    ],
)  # fmt: skip
def test_a_field(old: Field, new: Field, kind: str, writers: str, readers: str):
    found = _only(_contract(old), _contract(new))
    assert (found.place, found.kind, found.writers, found.readers) == ("f", kind, writers, readers)
    assert found.breaking == (writers != "fine" or readers != "fine")


def test_fields_that_come_and_go():
    old, new = _contract(N, Field("b", "string")), _contract(N, Field("c", "string"))
    added, removed = changes(old, new)
    assert (added.kind, added.place, added.breaking) == ("field added", "c", False)
    assert added.note == "perhaps renamed from b: one is gone, another is new"
    assert (removed.kind, removed.place, removed.readers) == ("field removed", "b", "breaks")
    must = _only(_contract(N), _contract(N, Field("c", "string", required=True)))
    assert (must.writers, must.writers_example) == ("breaks", b"{}")


def test_the_whole():
    two = (N, replace(N, name="g", type="timestamp"))
    old = _contract(*two, primary_key=("f",), event_time="g")
    new = replace(old, version="2", primary_key=(), event_time=None, fields=two[::-1])
    assert [(c.kind, c.before, c.after, c.readers) for c in changes(old, new)] == [
        ("version changed", "1", "2", "fine"),
        ("primary key changed", "f", "none", "breaks"),
        ("event time changed", "g", "none", "breaks"),
        ("order changed", "f, g", "g, f", "fine"),
    ]


def test_what_follows_from_another_change_is_said_at_its_place():
    def thing(*names: str) -> Contract:
        fields = tuple(Field(n, "integer") for n in names)
        return _contract(Field("f", "object", fields=fields, rules=(Rule("minProperties", 2),)))

    found = {(c.place, c.kind): c.writers for c in changes(thing("a", "b", "c"), thing("a", "b"))}
    assert found == {("f.c", "field removed"): "fine", ("f", "values changed"): "breaks"}


@given(strategies.contracts(), st.data())
@settings(max_examples=150)
def test_a_change_breaks_writers_just_if_the_contracts_are_incompatible(
    old: Contract, data: st.DataObject
):
    new = data.draw(evolved(old))
    found = changes(old, new)
    worst = {change.writers for change in found} - {"fine"}
    judged = {"breaks" if one.decided else "may break" for one in judge(old, new)}
    assert bool(worst) == bool(judged)
    assert ("breaks" in worst) == ("breaks" in judged)
    same = [bare(f) for f in old.fields] == [bare(f) for f in new.fields]
    assert found or (same and [f.name for f in old.fields] == [f.name for f in new.fields])
