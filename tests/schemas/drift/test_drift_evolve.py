"""Fields made of values take these values, and contracts only become wider."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import reduce
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.csv.text_columns import text_converter
from millstream.schemas.drift.evolve import evolve, next_version
from millstream.schemas.drift.facts import Drift, Place, Sample, Seen
from millstream.schemas.drift.shapes import Shape, cell_shape, field_of, shape_of
from millstream.schemas.drift.walk import UNREAD, json_text, parse
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import parse_contract

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
    | st.datetimes(timezones=st.just(None)).map(lambda t: t.isoformat() + "Z")
    | st.dates().map(str)
)
NAMES = st.sampled_from(("a", "b", "B", "c d", "e"))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def shape_of_all(values: list[Any]) -> Shape:
    shapes = [shape_of(parse(json.dumps(value).encode())) for value in values]
    return reduce(Shape.merged, shapes)


@given(st.lists(VALUES, min_size=1, max_size=6))
@example(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
@example([10**400, 1.5])
@example([2**53 + 1, 0.5])
@example([[], [1], None, [[None]]])
@example([{}, {"a": {}}, {"a": []}])
def test_a_field_takes_every_value_it_was_made_of(values):
    field = field_of("f", shape_of_all(values))
    contract = Contract("c", "1", "c", (field,))
    payloads = [json.dumps({"f": value}).encode() for value in values]
    decoded = JsonDecoder(contract, "reject", judge=True).decode(pa.array(payloads, pa.binary()))
    assert decoded.violations == []


@given(st.lists(VALUES, min_size=2, max_size=6), st.randoms())
def test_shapes_merge_in_any_order(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    cut = random.randrange(1, len(values))
    halves = shape_of_all(values[:cut]).merged(shape_of_all(values[cut:]))
    assert halves == shape_of_all(values) == shape_of_all(shuffled)


CELLS = st.text("-+0123456789.eE", min_size=1, max_size=6) | st.sampled_from(
    ("true", "TRUE", "x", "2026-01-01", "2026-01-01T00:00:00Z", "9" * 18, "-0", "1e999")
)


@given(st.lists(CELLS, min_size=1, max_size=5))
def test_a_field_takes_every_cell_it_was_made_of(texts):
    field = field_of("f", reduce(Shape.merged, map(cell_shape, texts)))
    assert text_converter(field)(pa.array(texts)).violations == []
    assert field.type != "json"


def test_names_that_are_data_do_not_become_fields():
    shapes = (shape_of({f"k{i}": 1}) for i in range(200))
    assert field_of("f", reduce(Shape.merged, shapes)).type == "json"


@given(VALUES)
def test_text_is_json_again(value):
    parsed = parse(json.dumps(value).encode())
    assert parse(json_text(parsed).encode()) == parsed


# --------------------------------------------------------------------------------- contracts


FIELDS = (
    Field("id", "integer", required=True, storage="int32", primary_key=True),
    Field("small", "integer", storage="int8"),
    Field("natural", "integer", storage="uint8"),
    Field("price", "decimal", precision=5, scale=2),
    Field("text", "string"),
    Field("state", "string", rules=(Rule("enum", ("a", "b")),)),
    Field("day", "date", rules=(Rule("enum", ()),)),
    Field("lines", "array", items=Field("item", "object", fields=(Field("n", "integer"),))),
)
CONTRACT = Contract("c", "1.0.0", "c", FIELDS, primary_key=("id",))


def drift(
    kind: Any, path: str, *seen: str, shape: Shape | None = None, more: bool = False
) -> Drift:
    there = {what: Seen(1, (Sample("f", "0", what),)) for what in seen}
    return Drift(1, {(kind, path): Place(1, there, more, shape)})


def only(found: Drift, contract: Contract = CONTRACT, pinned: str = "") -> Any:
    """The one change that a drift makes."""
    [change] = evolve(found, contract, pinned=pinned).changes
    return change


@pytest.mark.parametrize(
    ("path", "seen", "storage"),
    [
        ("small", ["int16"], "int16"),
        ("small", ["int16", "int64"], "int64"),
        ("natural", ["int16"], "int16"),
        ("natural", ["int8", "int32"], "int32"),
    ],
)
def test_integers_become_longer(path, seen, storage):
    assert only(drift("type", path, *seen)).field.storage == storage


def bounded(storage: str, **rules: Any) -> Contract:
    field = Field("n", "integer", storage=storage, rules=tuple(map(Rule, rules, rules.values())))
    return Contract("c", "1", "c", (field,))


@pytest.mark.parametrize(
    ("contract", "seen"),
    [
        (bounded("int8"), ["int32"]),
        (bounded("uint32"), []),
        (bounded("int64", minimum=-(2**53), maximum=2**53), []),
        (bounded("uint64", exclusiveMaximum=10**6), ["int8"]),
        (bounded("int16", minimum=0, maximum=9), ["int64"]),
    ],
)
def test_integers_that_doubles_hold_become_numbers(contract, seen):
    changed = only(drift("type", "n", "number", *seen), contract).field
    assert (changed.type, changed.storage) == ("number", "float64")


@pytest.mark.parametrize(
    ("contract", "seen"),
    [
        (bounded("int64"), []),
        (bounded("uint64"), []),
        (bounded("int64", minimum=-(2**53)), []),
        (bounded("int64", minimum=-(2**53) - 1, maximum=0), []),
        (bounded("int64", maximum=2**53 + 1, minimum=0), []),
    ],
)
def test_integers_that_a_number_would_round_stay(contract, seen):
    evolution = evolve(drift("type", "n", "number", "string", *seen), contract)
    assert evolution.changes == ()
    rounds, other = evolution.refused["n"].split("; ")
    assert rounds.startswith("as a number it would round what")
    assert "takes string as well" in other


def test_integers_of_which_longer_ones_were_seen_become_longer_and_no_numbers():
    evolution = evolve(drift("type", "n", "number", "int64"), bounded("int8"))
    assert [change.field.storage for change in evolution.changes] == ["int64"]
    assert "would round" in evolution.refused["n"]


def test_decimals_get_more_digits():
    changed = only(drift("type", "price", "decimal(4,3)", "decimal(7,0)")).field
    assert (changed.precision, changed.scale) == (10, 3)


def test_what_is_wider_and_what_is_another_column():
    found = evolve(drift("type", "small", "int16", "string"), CONTRACT)
    assert [change.field.storage for change in found.changes] == ["int16"]
    assert found.refused["small"].startswith("no wider type of int8 takes string as well")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (drift("type", "text", "integer"), "another column"),
        (drift("type", "id", "int64"), "primary key"),
        (drift("type", "small", "more than 64 bits"), "another column"),
        (drift("type", "price", "decimal(40,2)"), "more than 38 digits"),
        (drift("type", "gone", "number"), "does not name it any more"),
        (drift("value", "state", "***"), "classified"),
        (drift("value", "state", '"c"', more=True), "no list of valid ones"),
        (drift("value", "state", UNREAD), "could not be read"),
        (drift("value", "day", '"2026-01-01"'), "for a person to add"),
        (drift("field", "with space", "null", shape=shape_of(1)), "not every destination"),
        (drift("field", "TEXT", "string", shape=shape_of("")), "by its case alone"),
        (drift("field", "new", UNREAD), "could not be read"),
    ],
)
def test_what_no_contract_takes_up_by_itself(found, reason):
    evolution = evolve(found, CONTRACT)
    assert evolution.changes == ()
    assert evolution.fields == FIELDS
    assert reason in next(iter(evolution.refused.values()))


def test_what_is_pinned_keeps_its_type_and_gets_new_neighbours():
    pinned = "somebody holds it"
    assert only(drift("field", "new", "integer", shape=shape_of(1)), pinned=pinned).path == "new"
    for found in (
        drift("type", "small", "int16"),
        drift("field", "lines[].new", "integer", shape=shape_of(1)),
    ):
        [reason] = evolve(found, CONTRACT, pinned=pinned).refused.values()
        assert reason.endswith(pinned)


def test_new_fields_of_items_of_arrays():
    evolution = evolve(drift("field", "lines[].m", "integer", shape=shape_of(1)), CONTRACT)
    lines = evolution.fields[-1]
    assert lines.items is not None
    assert [field.name for field in lines.items.fields] == ["n", "m"]


def test_what_a_contract_takes_already_is_no_change():
    found = drift("field", "new", "integer", shape=shape_of(1))
    evolution = evolve(found, CONTRACT)
    wider = Contract("c", "1.1.0", "c", evolution.fields, primary_key=("id",))
    assert evolve(found, wider).changes == ()
    values = drift("value", "state", '"c"')
    assert evolve(values, Contract("c", "1", "c", evolve(values, CONTRACT).fields)).changes == ()


def test_versions_go_up():
    assert [next_version(v) for v in ("1.0.0", "1", "v2.3-x", "draft")] == [
        "1.1.0",
        "1.1.0",
        "v2.4.0",
        "draft.1",
    ]


# --------------------------------------------------------------------------------- documents

DOCUMENT = """\
# ours
apiVersion: v3.1.0
kind: DataContract
id: c
version: 1.0.0
customProperties:
- {property: team, value: shop}
schema:
- name: other
  properties: [{name: state, logicalType: string}]
- name: c
  properties:
  - {name: small, logicalType: integer, physicalType: tinyint, logicalTypeOptions: {format: i8}}
  - {name: plain, logicalType: integer, logicalTypeOptions: {format: u8, maximum: 9}}
  - {name: price, logicalType: number, physicalType: 'decimal(5,2)'}
  - name: state  # kept
    logicalType: string
    quality:
    - {rule: validValues, validValues: ["a", 'b']}
    - {metric: invalidValues, mustBeLessThan: 3, arguments: {validValues: [a]}}
  - name: lines
    logicalType: array
    items:
      logicalType: object
      properties:
      - {name: n, logicalType: integer}
"""


def written(text: str, *drifts: Drift) -> tuple[str, Contract]:
    from millstream.schemas.drift.document import written as write

    contract = parse_contract(text, "c.yaml", schema="c")
    places = {key: place for one in drifts for key, place in one.places.items()}
    evolution = evolve(Drift(1, places), contract)
    made = write(
        text, contract, evolution.changes, version="1.1.0", properties={"evolvedNumber": 1}
    )
    loaded = parse_contract(made, "next.yaml", schema="c")
    assert {f.name: f for f in loaded.fields}.keys() == {f.name for f in evolution.fields}
    return made, loaded


def test_changes_are_written_where_they_belong_and_nothing_else_changes():
    shape = shape_of({"x": ["2026-01-01"], "y": {"z": 1}})
    made, contract = written(
        DOCUMENT,
        drift("type", "small", "int32"),
        drift("type", "price", "decimal(7,3)"),
        drift("value", "state", '"c"', '"no"'),
        drift("field", "lines[].m", "integer", shape=shape_of(1)),
        drift("field", "new", "object", shape=shape),
    )
    assert contract.version == "1.1.0"
    assert contract.field("small").storage == "int32"
    assert (contract.field("price").precision, contract.field("price").scale) == (7, 3)
    assert contract.field("state").rules == (Rule("enum", ("a", "b", "c", "no")),)
    assert contract.field("new.y.z").type == "integer"
    items = contract.field("new.x").items
    assert items is not None
    assert items.type == "date"
    for said in ("# ours", "- {property: team, value: shop}", "# kept", """["a", 'b', c, 'no']"""):
        assert said in made
    assert "mustBeLessThan: 3, arguments: {validValues: [a]}" in made


def test_integers_that_become_numbers_lose_what_is_of_integers():
    made, contract = written(DOCUMENT, drift("type", "small", "number"))
    assert contract.field("small").type == "number"
    assert "physicalType: double, logicalTypeOptions: {}" in made


def test_json_documents_stay_json():
    text = json.dumps(
        {
            "apiVersion": "v3.1.0",
            "kind": "DataContract",
            "id": "c",
            "version": "1.0.0",
            "schema": [{"name": "c", "properties": [{"name": "n", "logicalType": "integer"}]}],
        }
    )
    made, contract = written(text, drift("field", "new", "number", shape=shape_of(parse(b"1.5"))))
    assert contract.field("new").type == "number"
    assert "#" not in made


def test_decimals_are_written_with_every_digit():
    fields = "  - {name: d, logicalType: number, physicalType: 'decimal(9,2)', quality: "
    text = DOCUMENT + fields + "[{rule: validValues, validValues: [1.10]}]}\n"
    _, contract = written(text, drift("value", "d", "12345.60"))
    assert contract.field("d").rules == (Rule("enum", (Decimal("1.1"), Decimal("12345.6"))),)
