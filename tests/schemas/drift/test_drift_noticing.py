"""Unknown fields are noticed without a change of what is decoded, learned or not."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.contract import Contract, Field
from millstream.schemas.decoded import Decoded
from millstream.schemas.drift.facts import Found
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.json.unknown import unknown_fields

from tests import strategies

CONTRACT = Contract(
    "c",
    "1",
    "c",
    (
        Field("n", "integer"),
        Field("o", "object", fields=(Field("a", "string"), Field("p", "object", fields=(
            Field("q", "integer"),)))),
        Field("l", "array", items=Field("item", "object", fields=(Field("b", "boolean"),))),
        Field("j", "json"),
    ),
)  # fmt: skip
ANY = st.none() | st.booleans() | st.integers(-5, 5) | st.just(1.5) | st.text("xy", max_size=2)
MORE = st.dictionaries(
    st.sampled_from(("u", "v", "w.x", 'y"\\\n')), ANY | st.just({}) | st.just([1])
)


def objects(**known: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional = {name: st.none() | value for name, value in known.items()}
    return st.tuples(st.fixed_dictionaries({}, optional=optional), MORE).map(lambda t: t[0] | t[1])


RECORDS = objects(
    n=st.integers(-9, 9) | st.just("bad"),
    o=objects(a=st.text("ab", max_size=2), p=objects(q=st.integers(0, 3))),
    l=st.lists(objects(b=st.booleans()) | st.none(), max_size=3),
    j=MORE,
)


def same(a: Decoded, b: Decoded) -> None:
    assert a.records == b.records
    assert a.refused == b.refused
    assert a.violations == b.violations
    assert (a.kept is None) == (b.kept is None)


def expected(payloads: list[bytes], decoded: Decoded, contract: Contract) -> dict[Any, Any]:
    """By path, rows and values of what good records have and the contract does not name."""
    rows = range(len(payloads)) if decoded.kept is None else decoded.kept.tolist()
    found: dict[str, list[tuple[int, Any]]] = {}
    for row in rows:
        text = unknown_fields(payloads[row], contract)
        for path, value in (json.loads(text) if text else {}).items():
            found.setdefault(re.sub(r"\[\d+\]", "[]", path), []).append((row, value))
    return {path: sorted(pairs, key=repr) for path, pairs in found.items()}


def told(noticed: Found | None) -> dict[Any, Any]:
    by_path: dict[str, list[tuple[int, Any]]] = {}
    for (_, path), seen in (noticed or {}).items():
        for pairs in seen.values():
            by_path.setdefault(path, []).extend((row, json.loads(text)) for row, text in pairs)
    return {path: sorted(pairs, key=repr) for path, pairs in by_path.items()}


@settings(max_examples=60)
@given(st.lists(RECORDS, max_size=30), st.integers(1, 12))
def test_what_is_noticed_is_what_would_be_kept_at_once_and_once_it_is_learned(records, times):
    payloads = [json.dumps(record).encode() for record in records] * times
    decoder = JsonDecoder(CONTRACT, "notice", judge=True)
    ignoring = JsonDecoder(CONTRACT, "ignore", judge=True).decode(pa.array(payloads, pa.binary()))
    for _ in range(2):
        decoded = decoder.decode(pa.array(payloads, pa.binary()))
        same(decoded, ignoring)
        # A path does not tell a name with a dot from two names.
        assert told(decoded.noticed) == expected(payloads, decoded, CONTRACT)


@settings(max_examples=40)
@given(st.data())
def test_records_of_any_contract_decode_as_they_do_where_nothing_is_noticed(data):
    contract = data.draw(strategies.contracts())
    drawn = data.draw(st.lists(strategies.records(contract), min_size=1, max_size=4))
    payloads = [record.payload for record in drawn]
    payloads += [p.replace(b"{", b'{"no such field":[{}],', 1) for p in payloads] + [b"{", b"[]"]
    payloads = [p.replace(b"],}", b"]}") for p in payloads] * 10
    ignoring = JsonDecoder(contract, "ignore", judge=True).decode(pa.array(payloads, pa.binary()))
    decoder = JsonDecoder(contract, "notice", judge=True)
    for _ in range(2):
        decoded = decoder.decode(pa.array(payloads, pa.binary()))
        same(decoded, ignoring)
        assert told(decoded.noticed) == expected(payloads, decoded, contract)


def test_a_value_that_no_column_holds_costs_no_other_record():
    contract = Contract("c", "1", "c", (Field("n", "integer", storage="uint64"),))
    payloads = pa.array([b'{"n":1,"u":1}', b'{"n":36893488147419103232}', b'{"u":[]}'], pa.binary())
    decoded = JsonDecoder(contract, "notice").decode(payloads)
    assert decoded.refused == [1]
    assert decoded.noticed == {("field", "u"): {"integer": [(0, b"1")], "array": [(2, b"[]")]}}


def test_values_are_not_told_where_something_is_classified():
    fields = (Field("mail", "string", classification="pii"),)
    decoded = JsonDecoder(Contract("c", "1", "c", fields), "notice").decode(
        pa.array([b'{"phone":"555-0199"}'] * 30, pa.binary())
    )
    assert decoded.noticed is not None
    assert {value for _, value in decoded.noticed["field", "phone"]["string"]} == {"***"}
