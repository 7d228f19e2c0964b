"""Drift through the data plane: from dead letters and readers to a contract that takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOADS
from millstream.schemas.contract import Contract, ContractError, Field
from millstream.schemas.drift.facts import Drift, merged
from millstream.schemas.drift.walk import Walk
from millstream.schemas.json.decoder import JsonDecoder
from millstream.schemas.odcs import parse_contract
from millstream.transforms import decoding
from millstream.transforms.dead_letters import Origin
from millstream.transforms.decoding import attach_helpers, detach_helpers, open_decoding
from millstream.transforms.drift.evolved import Base, save, versions
from millstream.transforms.drift.letters import notice
from millstream.transforms.drift.report import (
    DriftReport,
    lines,
    read_report,
    report_of,
    report_path,
)
from millstream.transforms.drift.watch import Policy, Watch
from millstream.transforms.parse import Parse
from millstream.transforms.plan import InputFile, Plan
from millstream.transforms.quality.gate import GateClosed
from millstream.transforms.read.avro import ReadFromAvro
from millstream.transforms.read.csv import ReadFromCsv
from millstream.transforms.read.parquet import ReadFromParquet
from millstream.transforms.runs import Prepared, RunStore
from millstream.transforms.storage import StorageError
from millstream.transforms.tallies import Tally

from tests.running import run

pytestmark = pytest.mark.slow

DOCUMENT = """\
apiVersion: v3.1.0
kind: DataContract
id: orders
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, required: true}
  - name: state
    logicalType: string
    quality: [{metric: invalidValues, mustBe: 0, arguments: {validValues: [a, b]}}]
  - {name: n, logicalType: integer, logicalTypeOptions: {format: i8}}
  - {name: price, logicalType: number, physicalType: 'decimal(4,2)'}
  - name: device
    logicalType: object
    properties: [{name: os, logicalType: string}, {name: v, logicalType: integer}]
  - name: lines
    logicalType: array
    items:
      logicalType: object
      properties: [{name: sku, logicalType: string}]
"""
BASE = Base(DOCUMENT, "orders.odcs.yaml")
CONTRACT = parse_contract(DOCUMENT, "orders.odcs.yaml")


def payloads(*records: dict[str, Any]) -> pa.RecordBatch:
    lines = [json.dumps(record).encode() for record in records]
    columns = [["in.jsonl"] * len(lines), range(len(lines)), lines]
    return pa.RecordBatch.from_arrays(
        [pa.array(c, f.type) for c, f in zip(columns, PAYLOADS, strict=True)], schema=PAYLOADS
    )


def refused(records: list[dict[str, Any]], contract: Contract = CONTRACT) -> pa.RecordBatch | None:
    """The dead letters of records, unknown fields refused."""
    opened = open_decoding(contract, "reject", judge=True, origin=Origin("parse"))
    task = (payloads(*records),)
    [(_, decoded)] = [*opened.put(task), *opened.drain()]
    return decoded.letters


def counts(drift: Drift | None) -> dict[tuple[str, str], dict[str, int]]:
    assert drift is not None
    return {
        key: {what: seen.records for what, seen in place.seen.items()}
        for key, place in drift.places.items()
    }


# ---------------------------------------------------------------------------- dead letters

SMALL = st.integers(-(2**20), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.none() | st.booleans() | SMALL | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
UNKNOWN = st.dictionaries(st.sampled_from(("new", "odd name", "STATE")), JSON, max_size=2)


def objects(known: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.fixed_dictionaries({}, optional=known), UNKNOWN).map(lambda t: t[0] | t[1])


RECORDS = objects(
    {
        "state": st.sampled_from(("a", "b", "c", "d" * 300)) | JSON,
        "n": st.integers(-128, 127) | JSON,
        "price": st.sampled_from((1, 1.25, 99.99, 100.5, 1.125, "free")),
        "device": objects({"os": st.text(max_size=2), "v": st.integers(0, 9) | JSON}),
        "lines": st.lists(objects({"sku": st.text(max_size=2)}), max_size=2),
    }
).map(lambda record: {"id": 1, **record})


def codes_of(letters: pa.RecordBatch) -> list[list[tuple[str, str]]]:
    lists = letters.column("violations").to_pylist()
    return [[(v["field"], v["code"]) for v in violations] for violations in lists]


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=6))
def test_an_evolved_contract_takes_all_but_what_it_says_it_does_not(tmp_path_factory, records):
    letters = refused(records)
    if letters is None:
        return
    drift = notice(letters, CONTRACT)
    assert drift is not None
    state = str(tmp_path_factory.mktemp("state"))
    saved = save(state, BASE, drift, by="run")
    text = saved.version.text if saved.version else DOCUMENT
    evolved = parse_contract(text, "next")
    assert [c.path for c in saved.evolution.changes] == [] or evolved.version == "1.1.0"
    left = refused(records, evolved)
    told = set(saved.evolution.refused)
    for violations in codes_of(left) if left is not None else ():
        assert any(path_of(path) in told for path, _ in violations), (violations, told)
    valid = JsonDecoder(CONTRACT, "reject", judge=True)
    before = valid.decode(payloads(*records).column("_payload"))
    after = JsonDecoder(evolved, "reject", judge=True).decode(payloads(*records).column("_payload"))
    assert set(after.refused) <= set(before.refused)


def path_of(path: str) -> str:
    return re.sub(r"\[\d+\]", "[]", path)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, min_size=2, max_size=8), st.data())
def test_letters_are_counted_the_same_however_they_come(records, data):
    letters = refused(records)
    if letters is None:
        return
    cut = data.draw(st.integers(0, letters.num_rows))
    parts = [notice(letters.slice(0, cut), CONTRACT), notice(letters.slice(cut), CONTRACT)]
    assert merged(filter(None, parts)) == notice(letters, CONTRACT)


def test_letters_of_avro_that_cannot_be_read_here_are_told_by_what_is_said_of_them():
    letters = refused([{"id": 1, "new": 1}, {"id": 2, "lines": [{}, {"x": 1}]}])
    assert letters is not None
    said = [[{"key": "format", "value": "avro"}, {"key": "avro.framing", "value": "confluent"}]] * 2
    place = letters.schema.get_field_index("attributes")
    field = letters.schema.field(place)
    letters = letters.set_column(place, field, pa.array(said, field.type))
    assert counts(notice(letters, CONTRACT)) == {
        ("field", "new"): {"not read": 1},
        ("field", "lines[].x"): {"not read": 1},
    }


# ------------------------------------------------------------------------------- readers

ROWS = [
    {"id": 1, "n": 5, "new": None},
    {"id": 2, "n": 6, "new": 7},
    {"id": 3, "n": 300, "new": 8},
]
AVRO = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "n", "type": "long"},
        {"name": "new", "type": ["null", "long"]},
    ],
}


def written(path: Path, form: str) -> str:
    file = path / f"in.{form}"
    match form:
        case "csv":
            lines = (",".join("" if v is None else str(v) for v in row.values()) for row in ROWS)
            file.write_text("\n".join(["id,n,new", *lines, ""]))
        case "avro":
            with file.open("wb") as stream:
                fastavro.writer(stream, AVRO, ROWS)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), file)
    return str(file)


READERS: dict[str, Callable[..., beam.PTransform]] = {
    "csv": ReadFromCsv,
    "avro": ReadFromAvro,
    "parquet": ReadFromParquet,
}


@pytest.mark.parametrize("form", READERS)
def test_what_files_hold_is_noticed_once_of_good_records_and_once_of_dead_ones(form, tmp_path):
    path = written(tmp_path, form)

    def build(pipeline: Any) -> dict[str, Any]:
        read = READERS[form](path, CONTRACT, judge=True, unknown_fields="notice")
        return (pipeline | "Read" >> read)._asdict()

    found = run(build)
    noticed = [fact for fact in found["tallies"] if isinstance(fact, Drift)]
    assert [fact for fact in found["tallies"] if isinstance(fact, Tally)]
    dead = [notice(batch, CONTRACT, all_letters=True) for batch in found["dead_letters"]]
    assert counts(merged([*noticed, *filter(None, dead)])) == {
        ("field", "new"): {"integer": 2},
        ("type", "n"): {"int16": 1},
    }


@pytest.mark.parametrize("form", READERS)
def test_what_files_hold_is_told_of_their_letters(form, tmp_path):
    path = written(tmp_path, form)

    def build(pipeline: Any) -> dict[str, Any]:
        read = READERS[form](path, CONTRACT, judge=True, unknown_fields="reject")
        return {"letters": (pipeline | "Read" >> read).dead_letters}

    letters = run(build)["letters"]
    drift = merged(filter(None, (notice(batch, CONTRACT) for batch in letters)))
    assert counts(drift) == {("field", "new"): {"integer": 2}, ("type", "n"): {"int16": 1}}
    shape = drift.places["field", "new"].shape
    assert shape is not None
    assert shape.kinds == {"integer"}


def test_parse_gives_what_it_noticed_as_tallies():
    batch = payloads({"id": 1, "new": "x"}, {"id": 2})

    def build(pipeline: Any) -> dict[str, Any]:
        lines = pipeline | beam.Create([batch], reshuffle=False).with_output_types(pa.RecordBatch)
        parsed = lines | Parse(CONTRACT, judge=True, unknown_fields="notice")
        return {"records": parsed.records, "tallies": parsed.tallies}

    found = run(build)
    [drift] = found["tallies"]
    assert counts(drift) == {("field", "new"): {"string": 1}}
    assert sum(records.num_rows for records in found["records"]) == 2


def test_helpers_notice_the_same():
    batch = payloads(*({"id": i, "new": i, **({"v": [i]} if i % 3 else {})} for i in range(3000)))
    here = open_decoding(CONTRACT, "notice", judge=True)
    [(_, expected)] = here.put((batch,))
    attach_helpers(CONTRACT, "notice", 1, judge=True)
    try:
        helped = open_decoding(CONTRACT, "notice", judge=True)
        assert isinstance(helped, decoding._HelpedDecoding)
        [(_, decoded)] = [*helped.put((batch,)), *helped.drain()]
    finally:
        detach_helpers()
    assert decoded.drift == expected.drift
    assert counts(decoded.drift) == {
        ("field", "new"): {"integer": 3000},
        ("field", "v"): {"array": 2000},
    }


# ------------------------------------------------------------------------------ versions


def drift_of_records(*records: dict[str, Any]) -> Drift:
    letters = refused(list(records))
    assert letters is not None
    drift = notice(letters, CONTRACT)
    assert drift is not None
    return drift


def test_a_version_is_made_once_and_the_next_is_made_of_it(tmp_path):
    state = str(tmp_path)
    first = drift_of_records({"id": 1, "new": 1})
    made = save(state, BASE, first, by="one")
    again = save(state, BASE, first, by="one")
    assert made.version == again.version
    assert (made.before_path, again.before_path) == (BASE.path, BASE.path)
    other = save(state, BASE, first, by="another")
    assert other.version is None
    second = save(state, BASE, drift_of_records({"id": 1, "newer": "x"}), by="two")
    assert second.version is not None
    assert second.before_path == made.version.path if made.version else False
    assert [v.by for v in versions(state, BASE)] == ["one", "two"]
    contract = parse_contract(second.version.text, "two")
    assert contract.version == "1.2.0"
    assert [f.name for f in contract.fields][-2:] == ["new", "newer"]


def test_versions_of_another_document_are_none_of_this_one(tmp_path):
    state = str(tmp_path)
    save(state, BASE, drift_of_records({"id": 1, "new": 1}), by="one")
    changed = BASE._replace(text=DOCUMENT + "# changed\n")
    assert versions(state, changed) == []
    made = save(state, changed, drift_of_records({"id": 1, "other": 1}), by="two")
    assert made.version is not None
    assert made.version.path.endswith("orders-1.2.0.odcs.yaml")


def test_versions_of_another_job_are_none_of_this_one(tmp_path):
    state = str(tmp_path)
    mine, other = BASE._replace(job="a"), BASE._replace(job="b")
    save(state, mine, drift_of_records({"id": 1, "n": 300}), by="one")
    assert versions(state, other) == []
    made = save(state, other, drift_of_records({"id": 1, "new": 1}), by="two", pinned="a table")
    assert [(v.by, v.number) for v in versions(state, other)] == [("two", 1)]
    assert made.version is not None
    assert parse_contract(made.version.text, "two").field("n").storage == "int8"
    assert len(versions(state, mine)) == 1


def test_one_change_that_cannot_be_written_keeps_none_of_the_others(tmp_path):
    # Options are shared with another field: to change them would change both.
    text = DOCUMENT.replace(
        "{name: n, logicalType: integer, logicalTypeOptions: {format: i8}}",
        "{name: n, logicalType: integer, logicalTypeOptions: &i8 {format: i8}}\n"
        "  - {name: m, logicalType: integer, logicalTypeOptions: *i8}",
    )
    contract = parse_contract(text, "x")
    letters = refused([{"id": 1, "new": 1}, {"id": 2, "n": 300}], contract)
    assert letters is not None
    drift = notice(letters, contract)
    assert drift is not None
    saved = save(str(tmp_path), Base(text, "x"), drift, by="one")
    assert [change.path for change in saved.evolution.changes] == ["new"]
    assert saved.evolution.refused == {"n": "the document says it in a way that cannot be added to"}


@pytest.mark.parametrize(
    "said", ["description: {purpose: 2026-99-99}\n", "customProperties: [{value: x}]\n"]
)
def test_a_document_that_not_every_reader_takes_stops_no_run(tmp_path, said):
    base = Base(DOCUMENT.replace("schema:", f"{said}schema:", 1), "x")
    saved = save(str(tmp_path), base, drift_of_records({"id": 1, "new": 1}), by="one")
    assert saved.version is not None or list(saved.evolution.refused) == ["new"]


def test_samples_without_values_say_where_they_are():
    report = report_of(drift_of_records({"id": 1, "new": "ZZSECRETZZ"}), "r", "warn", values=False)
    [place] = report.places
    assert [sample.value for seen in place.seen for sample in seen.samples] == [""]
    assert place.seen[0].samples[0].position
    assert "ZZSECRETZZ" not in repr(report) + "".join(lines(report))


def test_what_is_told_of_drift_is_a_line_whatever_names_hold():
    name = "\x1b[2J\n"
    drift = drift_of_records({"id": 1, name: 1})
    told = list(lines(report_of(drift, "r", "warn")))
    assert len(told) == 2
    assert all(line.isprintable() for line in told)


def test_a_letter_with_a_code_of_others_is_passed_over():
    walk = Walk(CONTRACT)
    walk.unread(0, {("id", "DataException"), ("id", "TYPE")})
    assert list(walk.found) == [("type", "id")]


def test_a_document_that_has_become_none_is_told(tmp_path):
    made = save(str(tmp_path), BASE, drift_of_records({"id": 1, "new": 1}), by="one")
    assert made.version is not None
    Path(made.version.path).write_text(made.version.text.replace("integer", "integr"))
    with pytest.raises(ContractError):
        save(str(tmp_path), BASE, drift_of_records({"id": 1, "b": 1}), by="two")


def test_fields_of_a_contract_with_classified_ones_are_classified_until_somebody_says_otherwise():
    fields = (*CONTRACT.fields, Field("mail", "string", classification="pii"))
    contract = Contract("c", "1", "c", fields)
    letters = refused([{"id": 1, "phone": "555-0199"}], contract)
    assert letters is not None
    drift = notice(letters, contract)
    assert "555" not in repr(drift)


# --------------------------------------------------------------------------------- the watch


class Begun:
    """A run that has been begun, and what it would commit."""

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(str(folder))
        plan = Plan("orders", "orders", "1.0.0", CONTRACT.digest, (InputFile("a", 1, "1"),))
        self.token = self.store.begin(plan, "r1").token
        self.prepared = Prepared(
            token=str(self.token), outputs=(), ledger_uri=f"jsonl:{folder}", ledger=()
        )

    def judged(self, policy: Policy, *facts: Any) -> Prepared:
        return Watch(policy, None, BASE).judge(self.store, self.prepared, facts)

    def report(self) -> DriftReport | None:
        return read_report(self.store, self.token)


@pytest.fixture
def begun(tmp_path) -> Begun:
    return Begun(tmp_path)


DRIFT = drift_of_records({"id": 1, "new": 1, "n": "x"}, {"id": 2, "state": "c"})


def test_what_is_judged_again_is_judged_the_same(begun):
    assert begun.judged("evolve", DRIFT) == begun.prepared
    first = begun.report()
    assert first is not None
    assert first.evolved is not None
    assert begun.judged("evolve", DRIFT) == begun.prepared
    again = begun.report()
    assert again is not None
    assert again.evolved is not None
    assert (again.evolved.path, again.places) == (first.evolved.path, first.places)
    assert len(versions(begun.store.home, BASE)) == 1


def test_what_did_not_drift_leaves_no_report(begun):
    for policy in ("warn", "quarantine", "evolve", "freeze"):
        assert begun.judged(policy) == begun.prepared
    assert begun.report() is None


def test_a_frozen_run_is_recorded_as_failed(begun):
    with pytest.raises(GateClosed, match=r"(?s)nothing was committed.*unknown field  new"):
        begun.judged("freeze", DRIFT)
    record = begun.store.record(begun.token)
    assert record is not None
    assert record.status == "failed"
    assert not begun.store.is_settled(begun.token)
    begun.store.prepare(begun.prepared)
    assert begun.store.is_settled(begun.token)


def test_a_report_that_cannot_be_read_is_told(begun):
    begun.judged("warn", DRIFT)
    Path(report_path(begun.store, begun.token)).write_text("{")
    with pytest.raises(StorageError, match="cannot read"):
        begun.report()


def test_golden_drift(begun, golden):
    begun.judged("warn", DRIFT)
    golden("drift", Path(report_path(begun.store, begun.token)).read_bytes())
