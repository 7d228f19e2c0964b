"""Enrichment from files: what is added is what a loop over all rows would add."""

from __future__ import annotations

import datetime as dt
import json
import logging
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import apache_beam as beam
import fastavro
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.enrich.reference import Reference
from millstream.schemas.enrich.spec import EnrichJob
from millstream.schemas.steps import StepError
from millstream.transforms.enrich import references
from millstream.transforms.enrich.enrich_step import EnrichStep
from millstream.transforms.enrich.references import HeldReference, reference_version
from millstream.transforms.enrich.sources import SourceError
from millstream.transforms.enrich.spec import ReferenceSpec
from millstream.transforms.step import Step

from tests.running import rows, run

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
CONTRACT = Contract(
    "orders",
    "1",
    "orders",
    (
        Field("country", "string"),
        Field("product", "integer", storage="int32"),
        Field("ts", "timestamp"),
    ),
    event_time="ts",
)
SCHEMA = batch_schema(CONTRACT)
COUNTRIES = {"DE": "Germany", "FR": "France", "IT": None}


def batch_of(records: Sequence[dict[str, Any]], source: str = "a.jsonl") -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {"_source": source, "_position": i, "_payload": str(i).encode(), **record}
            for i, record in enumerate(records)
        ],
        SCHEMA,
    )


def of_countries(*countries: str | None) -> pa.RecordBatch:
    return batch_of([{"country": country} for country in countries])


def step_of(source: str, contract: Contract = CONTRACT, **said: Any) -> EnrichStep:
    said = {"from": source, "on": {"country": "code"}, "add": {"name": "name"}} | said
    return EnrichStep(msgspec.convert(said, EnrichJob), SCHEMA, contract)


# ------------------------------------------------------------------------------- every format


def write_parquet(path: str, table: pa.Table) -> None:
    pq.write_table(table, path)


def write_jsonl(path: str, table: pa.Table) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in table.to_pylist():
            file.write(json.dumps(row) + "\n")


def write_csv(path: str, table: pa.Table) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(",".join(table.schema.names) + "\n")
        for row in table.to_pylist():
            file.write(",".join("" if v is None else f'"{v}"' for v in row.values()) + "\n")


def write_avro(path: str, table: pa.Table) -> None:
    kinds = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double"}
    fields = [{"name": f.name, "type": ["null", kinds[f.type]]} for f in table.schema]
    schema = {"type": "record", "name": "r", "fields": fields}
    with open(path, "wb") as file:
        fastavro.writer(file, schema, table.to_pylist())


WRITERS: dict[str, Callable[[str, pa.Table], None]] = {
    "parquet": write_parquet,
    "jsonl": write_jsonl,
    "csv": write_csv,
    "avro": write_avro,
}


@pytest.fixture
def countries(tmp_path) -> Callable[..., str]:
    """A reference of countries in a format; gives its URI."""

    def make(format: str = "parquet", names: dict[Any, Any] = COUNTRIES) -> str:
        codes = pa.array(list(names), pa.string())
        table = pa.table({"code": codes, "name": pa.array(list(names.values()), pa.string())})
        WRITERS[format](str(tmp_path / f"countries.{format}"), table)
        return f"{format}:{tmp_path}/countr*.{format}"

    return make


@pytest.mark.parametrize("format", WRITERS)
def test_files_of_every_format_are_references(countries, format):
    step = step_of(countries(format))
    assert step.schema.names == ["country", "product", "ts", "name", *SCHEMA.names[3:]]
    records, failures = step.attempt(of_countries("FR", None, "XX", "IT", "DE", "FR"))
    assert records.schema == step.schema
    assert records["name"].to_pylist() == ["France", None, None, None, "Germany", "France"]
    assert records.drop_columns(["name"]) == of_countries("FR", None, "XX", "IT", "DE", "FR")
    assert not failures


@pytest.mark.parametrize("format", WRITERS)
def test_several_files_are_one_reference(tmp_path, format):
    for i, code in enumerate(("A", "B", "C")):
        table = pa.table({"code": [code], "name": [f"name of {code}"]})
        WRITERS[format](str(tmp_path / f"{i}.{format}"), table)
    step = step_of(f"{format}:{tmp_path}/*.{format}")
    records, _ = step.attempt(of_countries("C", "A"))
    assert records["name"].to_pylist() == ["name of C", "name of A"]


@pytest.mark.parametrize("format", WRITERS)
def test_a_column_that_is_not_there_is_an_error_at_start(countries, format):
    uri = countries(format)
    with pytest.raises(SourceError) as caught:
        step_of(uri, add={"name": "nmae"})
    assert "'nmae'; did you mean 'name'?" in str(caught.value)


@pytest.mark.parametrize("format", WRITERS)
def test_a_pattern_without_files_is_an_error_at_start(tmp_path, format):
    with pytest.raises(SourceError, match="no file matches"):
        step_of(f"{format}:{tmp_path}/*.{format}")


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_no_such_file_is_an_error(tmp_path, format):
    (tmp_path / "x").write_bytes(b'\xff\xfe{"code": "A"\x00\n{"code": "B", "name": 1}\n')
    with pytest.raises(SourceError) as caught:
        step_of(f"{format}:{tmp_path}/x").attempt(of_countries("A"))
    assert str(tmp_path) in str(caught.value)


def test_types_of_text_are_the_records_own_or_said(tmp_path):
    (tmp_path / "p.csv").write_text("id,price,since,zip\n7,1.50,2024-01-01,007\n300,2,,8\n")
    step = EnrichStep(
        msgspec.convert(
            {
                "from": f"csv:{tmp_path}/p.csv",
                "on": {"product": "id"},
                "add": {"price": "price", "since": "since", "zip": "zip"},
                "types": {"price": "decimal(10,2)", "since": "date"},
            },
            EnrichJob,
        ),
        SCHEMA,
    )
    records, _ = step.attempt(batch_of([{"product": 7}, {"product": 300}, {"product": -1}]))
    assert records["price"].to_pylist() == [Decimal("1.50"), Decimal("2.00"), None]
    assert records["since"].to_pylist() == [dt.date(2024, 1, 1), None, None]
    assert records["zip"].to_pylist() == ["007", "8", None]


def test_types_of_json_are_what_it_has(tmp_path):
    lines = [{"id": 7, "x": 1, "o": {"a": [1]}}, {"id": 300, "x": 2.5, "o": None}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    uri = f"jsonl:{tmp_path}/p.jsonl"
    step = step_of(uri, on={"product": "id"}, add={"x": "x", "o": "o"})
    records, _ = step.attempt(batch_of([{"product": 300}, {"product": 7}]))
    assert records["x"].to_pylist() == [2.5, 1.0]
    assert [text and json.loads(text) for text in records["o"].to_pylist()] == [None, {"a": [1]}]


def test_text_that_does_not_fit_is_an_error_without_its_value(tmp_path):
    (tmp_path / "p.csv").write_text("code,name,x\nA,B,secret\nC,D,1\n")
    step = step_of(f"csv:{tmp_path}/p.csv", add={"x": "x"}, types={"x": "integer"})
    with pytest.raises(SourceError) as caught:
        step.attempt(of_countries("A"))
    assert "p.csv: 1 records do not fit; of the first, x is wrong (TYPE)" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_types_are_not_said_of_what_has_some(countries):
    with pytest.raises(StepError, match="types: parquet: has types of its own"):
        step_of(countries(), types={"name": "string"})
    with pytest.raises(StepError, match="types: nam is no column that is needed; did you mean"):
        step_of(countries("csv"), types={"nam": "string"})
    with pytest.raises(StepError, match="which there is not; did you mean 'string'"):
        step_of(countries("csv"), types={"name": "strng"})


def test_a_dialect_of_csv(tmp_path):
    (tmp_path / "c.csv").write_text("A;x\nB;y\n")
    said = {"delimiter": ";", "header": ["code", "name"]}
    step = step_of(f"csv:{tmp_path}/c.csv", csv=said)
    assert step.attempt(of_countries("B")).records["name"].to_pylist() == ["y"]
    with pytest.raises(SourceError, match="has no column 'nme'"):
        step_of(f"csv:{tmp_path}/c.csv", csv=said, add={"n": "nme"})


def test_a_column_that_has_become_another_is_an_error(tmp_path):
    write_parquet(str(tmp_path / "a.parquet"), pa.table({"code": ["A"], "name": ["x"]}))
    write_parquet(str(tmp_path / "b.parquet"), pa.table({"code": ["B"], "name": [[1]]}))
    with pytest.raises(SourceError, match="name holds what is no string: it is of the type list"):
        step_of(f"parquet:{tmp_path}/*").attempt(of_countries("A"))


def test_a_column_that_no_field_holds_is_an_error_at_start(tmp_path):
    write_parquet(str(tmp_path / "a.parquet"), pa.table({"code": ["A"], "name": [b"x"]}))
    with pytest.raises(SourceError, match="name is of the Arrow type binary"):
        step_of(f"parquet:{tmp_path}/*")


def test_an_unknown_place_is_an_error_at_start():
    with pytest.raises(SourceError, match="unknown scheme parqet:; did you mean 'parquet'"):
        step_of("parqet:x")
    with pytest.raises(SourceError, match="expected a scheme before the place; known are avro:"):
        step_of("countries.csv")
    with pytest.raises(SourceError, match="csv: names no place"):
        step_of("csv:")
    with pytest.raises(SourceError) as caught:
        step_of("mysql://root:secret@host/db")
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------- misses

LOOSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
CODES = st.sampled_from(["DE", "FR", "IT", "XX", None])


@LOOSE
@given(codes=st.lists(CODES, max_size=10), missing=st.sampled_from(["keep", "dead", "filter"]))
def test_a_miss_becomes_what_the_job_says(countries, codes, missing):
    step = step_of(countries(), missing=missing)
    batch = of_countries(*codes)
    records, failures = step.attempt(batch)
    kept = [i for i, code in enumerate(codes) if missing == "keep" or code in COUNTRIES]
    expected = [batch.to_pylist()[i] | {"name": COUNTRIES.get(codes[i])} for i in kept]
    assert records.to_pylist() == expected
    dead = [i for i in range(len(codes)) if i not in kept] if missing == "dead" else []
    assert [row for row, _ in failures] == dead
    for row, error in failures:
        said = "country is null" if codes[row] is None else "has nothing for country 'XX'"
        assert said in str(error)


def test_records_can_be_chosen_by_a_reference_alone(countries):
    step = step_of(countries(), add={}, missing="filter")
    assert step.schema == SCHEMA
    assert step.attempt(of_countries("XX", "IT")).records["country"].to_pylist() == ["IT"]


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["keep", "dead", "filter"])
def test_in_a_pipeline_every_record_is_accounted_for(countries, missing):
    batches = [of_countries("DE", "XX", "FR"), of_countries(None), of_countries()]
    step = Step(step_of(countries(), missing=missing), contract=CONTRACT)
    found = run(lambda p: (p | beam.Create(batches, reshuffle=False) | step)._asdict())
    counts = Counter(kept=len(rows(found["records"])), dead=len(rows(found["dead_letters"])))
    counts["filtered"] = sum(tally.rows for tally in found["tallies"])
    assert (
        counts
        == {
            "keep": {"kept": 4, "dead": 0, "filtered": 0},
            "dead": {"kept": 2, "dead": 2, "filtered": 0},
            "filter": {"kept": 2, "dead": 0, "filtered": 2},
        }[missing]
    )


def test_a_value_that_no_field_can_be_is_a_failure_of_its_records(tmp_path):
    table = pa.table({"code": ["A", "B"], "name": [1.5, float("nan")]})
    write_parquet(str(tmp_path / "a.parquet"), table)
    records, failures = step_of(f"parquet:{tmp_path}/*").attempt(of_countries("B", "A", "B"))
    assert [row for row, _ in failures] == [0, 2]
    assert "name holds NaN" in str(failures[0].error)
    assert records["country"].to_pylist() == ["A"]


# ------------------------------------------------------------------------------------- time

HOURS = st.none() | st.integers(0, 6)


def hour(hours: int) -> dt.datetime:
    return EPOCH + dt.timedelta(hours=hours)


@LOOSE
@given(
    cuts=st.lists(st.integers(0, 6), max_size=5, unique=True).map(sorted),
    asked=st.lists(st.tuples(CODES, HOURS), max_size=8),
)
def test_what_is_added_was_valid_at_the_event_time(tmp_path, cuts, asked):
    spans = [
        (code, hour(start), end and hour(end))
        for code in ("DE", "FR")
        for start, end in zip(cuts, [*cuts[1:], None], strict=False)
    ]
    times = pa.timestamp("ms", "UTC")
    table = pa.table(
        {
            "code": pa.array([code for code, _, _ in spans], pa.string()),
            "name": pa.array([f"{code} from {start}" for code, start, _ in spans], pa.string()),
            "since": pa.array([start for _, start, _ in spans], times),
            "till": pa.array([end for _, _, end in spans], times),
        }
    )
    write_parquet(str(tmp_path / "a.parquet"), table)
    uri = f"parquet:{tmp_path}/a.parquet"
    moments = [None if hours is None else hour(hours) for _, hours in asked]
    codes = [code for code, _ in asked]
    batch = batch_of([{"country": c, "ts": t} for c, t in zip(codes, moments, strict=True)])
    expected = []
    for asked_code, moment in zip(codes, moments, strict=True):
        found = None
        for code, start, end in spans:
            if code == asked_code and moment and start <= moment < (end or hour(999)):
                found = f"{code} from {start}"
        expected.append(found)
    for valid in ({"from": "since", "to": "till"}, {"from": "since"}):
        records, _ = step_of(uri, valid=valid).attempt(batch)
        assert records["name"].to_pylist() == expected


def test_validity_needs_an_event_time(countries):
    timeless = Contract("c", "1", "c", CONTRACT.fields)
    with pytest.raises(StepError, match="valid: needs the records' event time"):
        step_of(countries(), timeless, valid={"from": "since"})
    gone = Contract("c", "1", "c", CONTRACT.fields, event_time="when")
    with pytest.raises(StepError, match="an earlier step does not leave when"):
        step_of(countries(), gone, valid={"from": "since"})


# ------------------------------------------------------------------------------ at the start


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"on": {"contry": "code"}}, "no field contry; did you mean 'country'?"),
        ({"on": {"product": "code"}}, "product of the records is of the type int32, and code of"),
        ({"add": {"country": "name"}}, "the records have a field country already"),
        ({"add": {"_name": "name"}}, "the name _name is reserved"),
    ],
)
def test_what_does_not_go_together_is_an_error_at_start(countries, said, message):
    with pytest.raises(StepError) as caught:
        step_of(countries(), **said)
    assert message in str(caught.value)


def test_a_key_that_is_there_twice_is_an_error_that_counts(tmp_path):
    table = pa.table({"code": ["A", "B", "A", "C", "C", "C"], "name": list("abcdef")})
    write_parquet(str(tmp_path / "a.parquet"), table)
    with pytest.raises(SourceError, match="there are 2 keys in more than one row"):
        step_of(f"parquet:{tmp_path}/*").attempt(of_countries("B"))


def test_a_reference_that_is_too_large_is_an_error(tmp_path):
    names = ["x" * 1000] * 1000
    table = pa.table({"code": [str(n) for n in range(1000)], "name": names})
    write_parquet(str(tmp_path / "a.parquet"), table)
    with pytest.raises(SourceError) as caught:
        step_of(f"parquet:{tmp_path}/*", max_bytes=100_000).attempt(of_countries("B"))
    assert "is larger than max_bytes, 100000 bytes: its first 1000 rows take" in str(caught.value)
    step_of(f"parquet:{tmp_path}/*", max_bytes=2_000_000).attempt(of_countries("B"))


# ------------------------------------------------------------------------- versions, refreshing


def test_a_plan_knows_which_files_were_there(countries):
    uri = countries()
    before = reference_version(step_of(uri).reference)
    assert before == reference_version(step_of(uri, add={"other": "name"}).reference)
    countries(names={"DE": "Deutschland"})
    assert reference_version(step_of(uri).reference) != before


def test_files_that_change_after_the_start_are_refused(countries):
    uri = countries()
    step = pickle.loads(pickle.dumps(step_of(uri)))
    countries(names={"DE": "Deutschland"})
    with pytest.raises(SourceError, match="have changed since the run was planned"):
        step.attempt(of_countries("DE"))
    fresh = step_of(uri, refresh="1h")
    countries(names={"DE": "Allemagne"})
    assert fresh.attempt(of_countries("DE")).records["name"].to_pylist() == ["Allemagne"]


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def held_of(uri: str, clock: Clock, refresh: float | None = 60.0) -> HeldReference:
    spec = step_of(uri, refresh="1m").reference
    return HeldReference(spec, refresh, clock)


def name_of(reference: Reference, code: str = "DE") -> Any:
    keys = pa.RecordBatch.from_arrays([pa.array([code])], ["country"])
    return reference.take("name", reference.find(keys))[0].as_py()


def settled(held: HeldReference) -> Any:
    """What is held once nobody refreshes it any more."""
    found = held.get()
    if held._thread is not None:
        held._thread.join()
        found = held.get()
    return name_of(found)


def test_a_reference_is_refreshed_when_it_is_due(countries, clock):
    held = held_of(countries(), clock)
    assert name_of(held.get()) == "Germany"
    countries(names={"DE": "Deutschland"})
    clock.now = 59.9
    assert settled(held) == "Germany"
    clock.now = 60.0
    assert settled(held) == "Deutschland"
    countries(names={"DE": "Allemagne"})
    clock.now = 119.9
    assert settled(held) == "Deutschland"


def test_who_asks_long_after_it_was_due_waits_for_the_new_one(countries, clock):
    held = held_of(countries(), clock)
    held.get()
    countries(names={"DE": "Deutschland"})
    clock.now = 120.0
    assert name_of(held.get()) == "Deutschland"


def test_without_refresh_a_reference_stays(countries, clock):
    held = held_of(countries(), clock, None)
    held.get()
    countries(names={"DE": "Deutschland"})
    clock.now = 1e9
    assert settled(held) == "Germany"


def test_what_has_not_changed_is_not_read_again(countries, clock, monkeypatch):
    held = held_of(countries(), clock)
    first = held.get()
    monkeypatch.setattr(references, "load", lambda spec: pytest.fail("read again"))
    clock.now = 60.0
    assert settled(held) == "Germany"
    assert held.get() is first


def test_a_refresh_that_fails_leaves_what_there_was(countries, clock, tmp_path, caplog):
    held = held_of(countries(), clock)
    held.get()
    write_parquet(str(tmp_path / "countries.parquet"), pa.table({"other": [1]}))
    clock.now = 60.0
    with caplog.at_level(logging.WARNING):
        assert settled(held) == "Germany"
    assert "the reference stays as it was" in caplog.text
    countries(names={"DE": "Deutschland"})
    clock.now = 119.9
    assert settled(held) == "Germany"
    clock.now = 120.0
    assert settled(held) == "Deutschland"


def test_a_first_load_that_fails_is_tried_anew(countries, clock, tmp_path):
    uri = countries()
    held = held_of(uri, clock)
    (tmp_path / "countries.parquet").unlink()
    with pytest.raises(SourceError, match="no file matches"):
        held.get()
    countries()
    assert name_of(held.get()) == "Germany"


def test_threads_that_ask_at_once_load_once(countries, clock, monkeypatch):
    held = held_of(countries(), clock)
    loads: list[ReferenceSpec] = []
    load = references.load
    monkeypatch.setattr(references, "load", lambda spec: loads.append(spec) or load(spec))
    at_once = threading.Barrier(8)
    found: list[Reference] = []

    def ask() -> None:
        at_once.wait()
        found.append(held.get())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, found))) == 1


def test_steps_of_a_process_share_a_reference(countries, monkeypatch):
    loads: list[ReferenceSpec] = []
    load = references.load
    monkeypatch.setattr(references, "load", lambda spec: loads.append(spec) or load(spec))
    uri = countries()
    step = step_of(uri)
    for copy in (step, pickle.loads(pickle.dumps(step)), pickle.loads(pickle.dumps(step))):
        assert copy.attempt(of_countries("DE")).records["name"].to_pylist() == ["Germany"]
    assert len(loads) == 1
    # A step that is made later is of another pipeline: it sees what there is then.
    step_of(uri).attempt(of_countries("DE"))
    assert len(loads) == 2


def test_a_step_does_not_take_the_reference_along(countries):
    step = step_of(countries(names={f"{n:05}": "x" for n in range(20_000)}))
    step.attempt(of_countries("DE"))
    assert len(pickle.dumps(step)) < 10_000
