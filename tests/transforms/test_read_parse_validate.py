"""From files to valid records: whole pipelines, where nothing is lost, doubled or changed."""

from __future__ import annotations

import datetime as dt
import gzip
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.transforms import error_handling
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from millstream.schemas.arrow import PAYLOADS, batch_schema
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.dead_letters import SCHEMA
from millstream.transforms.dead_letters import Origin, dead_letter_id
from millstream.transforms.decoding import attach_helpers, detach_helpers
from millstream.transforms.parse import Parse
from millstream.transforms.read import ReadFromJsonLines
from millstream.transforms.read.files import NoFiles
from millstream.transforms.rows import ToPayloads, ToRows
from millstream.transforms.validate import Validate

from tests.running import RUNNER, rows, run

CONTRACT = Contract(
    "orders",
    "2.1.0",
    "orders",
    (
        Field("id", "integer", required=True, rules=(Rule("minimum", 1),)),
        Field("at", "timestamp"),
        Field("price", "decimal", precision=6, scale=2),
        Field("note", "string", rules=(Rule("maxLength", 5),)),
    ),
    event_time="at",
)
GOOD = b'{"id":%d,"at":"2026-11-24T12:00:00Z","price":1.10,"note":"\xc3\xa9"}'
LINES = [
    GOOD % 1,
    b'{"id":0,"at":"2026-11-24T12:00:00Z","note":"too long"}',  # two rules
    b'{"id":"2","price":1.234,"note":"too long"}',  # a type, a precision, and a rule
    b"not JSON",
    b"\xff\xfe\x00",
    b'  {"id":3}  ',
    b"{}",  # what is required is missing
    GOOD % 4 + b"{}",
    GOOD % 5,
    b'{"id":6,"more":[1e999]}',
]
LONGEST = 200


class Files(NamedTuple):
    """Files as they are found in the world, and what is in them."""

    folder: Path
    content: dict[str, bytes]  # decompressed

    @property
    def pattern(self) -> str:
        return str(self.folder / "*")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return written(tmp_path_factory.mktemp("files"))


def written(folder: Path) -> Files:
    plain = b"\n".join(LINES) + b"\n"
    windows = b"\xef\xbb\xbf" + b"\r\n".join(LINES) + b"\r\n\r\n"
    oversize = b"\n".join([GOOD % 1, b'{"note":"%s"}' % (b"x" * LONGEST), GOOD % 2])
    content = {
        "plain.jsonl": plain,
        "windows.jsonl": windows,
        "packed.jsonl.gz": plain,
        "oversize.jsonl": oversize,
        "empty.jsonl": b"",
        "blank.jsonl": b"\n \n",
        "cut.jsonl.gz": plain,
    }
    for name, data in content.items():
        packed = gzip.compress(data, mtime=0) if name.endswith(".gz") else data
        (folder / name).write_bytes(packed[:-20] if name.startswith("cut") else packed)
    return Files(folder, content)


def chain(
    pipeline: Any, pattern: str, range_bytes: int = 64 << 20, **options: Any
) -> dict[str, Any]:
    """Read, parse and validate: the records, all dead letters, and the tallies.

    With ``judge`` there is nothing left to validate.
    """
    read = pipeline | ReadFromJsonLines(
        pattern, range_bytes=range_bytes, max_record_bytes=LONGEST, origin=Origin("read", "p", "r1")
    )
    parsed = read.records | Parse(CONTRACT, origin=Origin("parse", "p", "r1"), **options)
    if options.get("judge"):
        letters = (read.dead_letters, parsed.dead_letters) | beam.Flatten()
        return {"records": parsed.records, "dead_letters": letters, "tallies": read.tallies}
    valid = parsed.records | Validate(CONTRACT, origin=Origin("validate", "p", "r1"))
    letters = (read.dead_letters, parsed.dead_letters, valid.dead_letters) | beam.Flatten()
    return {"records": valid.records, "dead_letters": letters, "tallies": read.tallies}


@pytest.fixture(scope="module")
def out(files) -> dict[str, list[Any]]:
    return run(lambda p: chain(p, files.pattern))


# --------------------------------------------------------------------------- nothing is lost


@pytest.mark.slow
def test_each_source_balances(files, out):
    """What was read is either a record or a dead letter, source by source."""
    read = Counter[str]()
    for tally in out["tallies"]:
        assert tally.outcome == "read"
        read[tally.source] += tally.rows
    records = Counter(row["_source"] for row in rows(out["records"]))
    dead = Counter(row["source"] for row in rows(out["dead_letters"]))
    names = {str(files.folder / name) for name in files.content}
    assert set(read) == names  # an empty file is in the ledger too
    for name in names:
        assert read[name] == records[name] + dead[name], name
    assert {Path(name).name: n for name, n in read.items() if "cut" not in name} == {
        "plain.jsonl": 10,
        "windows.jsonl": 10,
        "packed.jsonl.gz": 10,
        "oversize.jsonl": 3,
        "empty.jsonl": 0,
        "blank.jsonl": 0,
    }
    good = Counter(Path(row["_source"]).name for row in rows(out["records"]))
    assert good["plain.jsonl"] == good["windows.jsonl"] == good["packed.jsonl.gz"] == 4


def test_payloads_are_the_very_bytes_of_the_input(files, out):
    """Whether a record is good or bad, its bytes are where its position says."""
    for row in rows(out["records"]):
        data = files.content[Path(row["_source"]).name]
        start, payload = row["_position"], row["_payload"]
        assert data[start : start + len(payload)] == payload
    for row in rows(out["dead_letters"]):
        data = files.content[Path(row["source"]).name]
        start, _, end = row["position"].partition("-")
        payload = row["payloadBytes"]
        if row["codes"] == ["OVERSIZE"]:
            assert payload is None
            assert data[int(start) : int(end)].startswith(row["payloadString"].encode())
            continue
        assert data[int(start) : int(start) + len(payload)] == payload
        assert row["payloadString"] == payload.decode("utf-8", "replace")


def test_records_are_typed_and_carry_their_identity(files, out):
    for batch in out["records"]:
        assert batch.schema == batch_schema(CONTRACT)
        assert batch.num_rows > 0
    source = str(files.folder / "plain.jsonl")
    [row] = [r for r in rows(out["records"]) if (r["_source"], r["_position"]) == (source, 0)]
    assert row == {
        "id": 1,
        "at": dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC),
        "price": Decimal("1.10"),
        "note": "é",
        "_source": source,
        "_position": 0,
        "_payload": GOOD % 1,
    }


# ------------------------------------------------------------------------------- dead letters


def letters_of(out: dict[str, list[Any]], name: str) -> list[dict[str, Any]]:
    """The dead letters of a file, in the order of their positions."""
    found = [row for row in rows(out["dead_letters"]) if Path(row["source"]).name == name]
    return sorted(found, key=lambda row: int(row["position"].split("-")[0]))


def test_one_dead_letter_tells_all(out):
    said = [
        [(v["field"], v["code"]) for v in row["violations"]]
        for row in letters_of(out, "plain.jsonl")
    ]
    assert said == [
        [("id", "RANGE"), ("note", "LENGTH")],
        [("id", "TYPE"), ("price", "PRECISION"), ("note", "LENGTH")],
        [("", "MALFORMED")],
        [("", "ENCODING")],
        [("id", "REQUIRED")],
        [("", "MALFORMED")],
    ]


@pytest.mark.slow
def test_a_dead_letter_names_the_stage_that_its_origin_says():
    def build(pipeline: Any) -> dict[str, Any]:
        lines = pipeline | beam.Create([b"x", b'{"id":0}']) | ToPayloads()
        parsed = lines | Parse(CONTRACT, origin=Origin("intake"))
        valid = parsed.records | Validate(CONTRACT, origin=Origin("gate"))
        judged = lines | "At once" >> Parse(CONTRACT, judge=True, origin=Origin("intake"))
        return {
            "apart": (parsed.dead_letters, valid.dead_letters) | beam.Flatten(),
            "at once": judged.dead_letters,
        }

    found = run(build)
    stages = {name: sorted(row["stage"] for row in rows(found[name])) for name in found}
    assert stages == {"apart": ["gate", "intake"], "at once": ["intake", "validate"]}


def test_dead_letters_carry_their_format():
    assert SCHEMA.metadata == {b"millstream.format": b"millstream.dead_letter/1"}


def test_google_s_six_columns_come_first(out):
    """Dashboards made for Google's Dataflow templates read them by name, type and mode."""
    for batch in out["dead_letters"]:
        assert batch.schema == SCHEMA
        batch.validate(full=True)
    names = SCHEMA.names[:6]
    assert names == [
        "timestamp", "payloadString", "payloadBytes", "attributes", "errorMessage", "stacktrace",
    ]  # fmt: skip
    types = [SCHEMA.field(name).type for name in names]
    pair = pa.struct([("key", pa.string()), ("value", pa.string())])
    text = pa.string()
    assert types == [pa.timestamp("us", "UTC"), text, pa.binary(), pa.list_(pair), text, text]
    assert [f.name for f in SCHEMA if not f.nullable] == ["timestamp"]


def test_a_dead_letter_in_full(files, out):
    letter = letters_of(out, "plain.jsonl")[0]
    written = letter.pop("timestamp")
    assert abs(written - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    payload = LINES[1]
    source = str(files.folder / "plain.jsonl")
    position = str(len(LINES[0]) + 1)
    messages = ["expected at least 1, got 0", "expected at most 5 characters, got 8"]
    assert letter == {
        "payloadString": payload.decode(),
        "payloadBytes": payload,
        "attributes": None,
        "errorMessage": f"id: {messages[0]}; note: {messages[1]}",
        "stacktrace": None,
        "id": dead_letter_id(source, position, payload),
        "codes": ["RANGE", "LENGTH"],
        "violations": [
            {"field": "id", "code": "RANGE", "message": messages[0]},
            {"field": "note", "code": "LENGTH", "message": messages[1]},
        ],
        "stage": "validate",
        "pipeline": "p",
        "run_id": "r1",
        "contract_id": "orders",
        "contract_version": "2.1.0",
        "source": source,
        "position": position,
        "event_time": dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC),
        "attempt": 0,
        "replay_of": None,
    }


def test_what_is_too_long_or_unreadable_names_its_region(files, out):
    [oversize] = letters_of(out, "oversize.jsonl")
    start = len(GOOD % 1) + 1
    end = files.content["oversize.jsonl"].rindex(b"\n")
    assert oversize["position"] == f"{start}-{end}"
    assert oversize["stage"] == "read"
    message = f"is {end - start} bytes long, more than the 200 that max_record_bytes allows"
    assert oversize["violations"] == [{"field": "", "code": "OVERSIZE", "message": message}]
    *_, unreadable = letters_of(out, "cut.jsonl.gz")
    start, _, end = unreadable["position"].partition("-")
    assert end == ""
    assert files.content["cut.jsonl.gz"][int(start) :].startswith(unreadable["payloadBytes"] or b"")
    assert unreadable["codes"] == ["UNREADABLE"]
    assert unreadable["errorMessage"] == (
        "the file is truncated: the compressed data ends too early"
    )


def test_an_id_is_a_hash_of_its_parts_apart():
    """Parts that run into each other would give two records one id."""
    ids = {
        dead_letter_id(*parts)
        for parts in (("a", "1", b"x"), ("a1", "", b"x"), ("a", "", b"1x"), ("", "a1", b"x"))
    }
    assert len(ids) == 4
    assert dead_letter_id(None, None, None) == dead_letter_id("", "", b"")
    assert dead_letter_id("a.jsonl", "17", b"{}") == "d11bb5946aa79eb08759491b29e17aa6"


# --------------------------------------------------------------------- every run is the same


def fates(out: dict[str, list[Any]]) -> dict[str, Any]:
    """What became of each record, whatever the batches were."""
    found = {}
    for row in rows(out["records"]):
        identity = dead_letter_id(row["_source"], str(row["_position"]), row["_payload"])
        found[identity] = {k: v for k, v in row.items() if k[0] != "_"}
    for row in rows(out["dead_letters"]):
        assert row["id"] not in found
        kept = ("position", "stage", "errorMessage", "violations", "event_time")
        found[row["id"]] = {name: row[name] for name in kept}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("range_bytes", [17, 100])
def test_ids_and_verdicts_do_not_depend_on_the_split(files, out, range_bytes):
    again = run(lambda p: chain(p, files.pattern, range_bytes))
    assert fates(again) == fates(out)
    assert sum(t.rows for t in again["tallies"]) == sum(t.rows for t in out["tallies"])


@pytest.mark.slow
def test_judging_while_parsing_is_validating_after_it(files, out):
    """One pass instead of two, and the same dead letters of the same stages."""
    at_once = run(lambda p: chain(p, files.pattern, judge=True))
    assert fates(at_once) == fates(out)


@pytest.mark.slow
@pytest.mark.parametrize("judge", [False, True])
def test_helpers_change_nothing(files, out, judge):
    attach_helpers(CONTRACT, "ignore", 2, judge=judge)
    try:
        helped = run(lambda p: chain(p, files.pattern, 100, judge=judge))
    finally:
        detach_helpers()
    assert fates(helped) == fates(out)


@pytest.mark.slow
def test_records_may_leave_their_bytes_behind(files, out):
    """Where nobody behind Parse will refuse them; dead letters have them all the same."""
    light = run(lambda p: chain(p, files.pattern, judge=True, payload=False))
    bare = [{k: v for k, v in row.items() if k != "_payload"} for row in rows(out["records"])]
    assert sorted(rows(light["records"]), key=str) == sorted(bare, key=str)
    letters = {row["id"]: row["payloadBytes"] for row in rows(out["dead_letters"])}
    assert {row["id"]: row["payloadBytes"] for row in rows(light["dead_letters"])} == letters


# -------------------------------------------------------------------------- unknown fields


@pytest.mark.slow
def test_unknown_fields_pass_through_or_are_refused(files):
    plain = str(files.folder / "plain.jsonl")
    kept = run(lambda p: chain(p, plain, unknown_fields="keep"))
    assert kept["records"][0].schema == batch_schema(CONTRACT, keep_unknown=True)
    assert {r["id"]: r["_unknown"] for r in rows(kept["records"])}[6] == '{"more":[1e999]}'
    rejected = run(lambda p: chain(p, plain, unknown_fields="reject"))
    assert [r["id"] for r in rows(rejected["records"])] == [1, 3, 5]
    last = letters_of(rejected, "plain.jsonl")[-1]
    assert last["violations"] == [
        {"field": "more", "code": "UNKNOWN_FIELD", "message": "is not in the contract"}
    ]


# ------------------------------------------------------------------------- Beam's own ways


@pytest.mark.slow
def test_dead_letters_go_to_beam_s_error_handler(files, out):
    """As dicts; the stage then gives its records alone."""

    def build(pipeline: Any) -> dict[str, Any]:
        with error_handling.CollectingErrorHandler() as handler:
            records = (
                pipeline
                | ReadFromJsonLines(files.pattern, max_record_bytes=LONGEST).with_error_handler(
                    handler
                )
                | Parse(CONTRACT).with_error_handler(handler)
                | Validate(CONTRACT).with_error_handler(handler)
            )
        return {"records": records, "errors": handler.output()}

    handled = run(build)
    assert sorted(r["id"] for r in rows(handled["records"])) == sorted(
        r["id"] for r in rows(out["records"])
    )
    assert all(type(error) is dict for error in handled["errors"])
    assert {e["id"] for e in handled["errors"]} == {r["id"] for r in rows(out["dead_letters"])}


@pytest.mark.slow
def test_an_error_handler_can_be_any_transform(files):
    def build(pipeline: Any) -> dict[str, Any]:
        payloads = pipeline | beam.Create(LINES) | ToPayloads()
        with error_handling.ErrorHandler(beam.Map(lambda row: row["codes"])) as handler:
            records = payloads | Parse(CONTRACT).with_error_handler(handler)
        return {"records": records, "errors": handler.output()}

    handled = run(build)
    assert len(rows(handled["records"])) == 6
    assert ["ENCODING"] in handled["errors"]


class KeepLarge(beam.DoFn):
    """What a user might put between two stages."""

    def process(self, batch: pa.RecordBatch) -> Any:
        yield batch.filter(pa.array([n > 1 for n in batch.column("id").to_pylist()]))


@pytest.mark.slow
def test_rows_in_own_step_rows_out():
    """Each stage stands alone in a pipeline of the user's own."""

    def build(pipeline: Any) -> dict[str, Any]:
        parsed = (
            pipeline
            | beam.Create([{"id": 1}, '{"id":2,"note":"x"}', b'{"id":3}', {"id": "4"}])
            | ToPayloads("my rows")
            | Parse(CONTRACT)
        )
        large = parsed.records | beam.ParDo(KeepLarge())
        return {
            "rows": large | ToRows(),
            "with identity": large | "Identified" >> ToRows(identity=True),
            "dead": parsed.dead_letters | "Dead" >> ToRows(),
        }

    found = run(build)
    bare = {"at": None, "price": None, "note": None}
    assert sorted(found["rows"], key=lambda row: row["id"]) == [
        {"id": 2, **bare, "note": "x"},
        {"id": 3, **bare},
    ]
    identity = {"_source": "my rows", "_position": None, "_payload": b'{"id":3}'}
    assert {"id": 3, **bare, **identity} in found["with identity"]
    [dead] = found["dead"]
    assert (dead["payloadBytes"], dead["source"], dead["position"]) == (
        b'{"id":"4"}',
        "my rows",
        None,
    )
    assert dead["codes"] == ["TYPE"]


@pytest.mark.slow
def test_rows_that_came_out_can_go_in_again(files, out):
    """Decimals keep their digits, time stamps their offset."""
    before = [{k: v for k, v in row.items() if k[0] != "_"} for row in rows(out["records"])]

    def build(pipeline: Any) -> dict[str, Any]:
        parsed = pipeline | beam.Create(before) | ToPayloads() | Parse(CONTRACT)
        return {"rows": parsed.records | ToRows(), "dead": parsed.dead_letters}

    again = run(build)
    assert again["dead"] == []
    assert sorted(again["rows"], key=str) == sorted(before, key=str)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_say_is_refused_and_not_read_as_null(value):
    contract = Contract("c", "1", "c", (Field("n", "number"), Field("m", "string")))
    nested = [{"n": value, "m": None}, {"n": 1.0, "x": [{"y": value}]}, {"n": None, "m": "null"}]

    def build(pipeline: Any) -> dict[str, Any]:
        parsed = pipeline | beam.Create(nested) | ToPayloads() | Parse(contract)
        return {"records": parsed.records, "dead": parsed.dead_letters}

    found = run(build)
    assert rows(found["records"]) == [{"n": None, "m": "null", **_no_position(nested[2])}]
    assert [row["codes"] for row in rows(found["dead"])] == [["MALFORMED"]] * 2


def _no_position(row: dict[str, Any]) -> dict[str, Any]:
    payload = b'{"n":null,"m":"null"}'
    return {"_source": "rows", "_position": None, "_payload": payload}


@pytest.mark.slow
def test_windows_and_time_stamps_are_kept():
    """Whatever a stage makes of a batch stays in the batch's window."""

    def build(pipeline: Any) -> dict[str, Any]:
        parsed = (
            pipeline
            | beam.Create([(1, 5), (0, 5), ('"2"', 65), (3, 65)])
            | beam.MapTuple(lambda id, time: TimestampedValue(f'{{"id":{id}}}', time))
            | beam.WindowInto(FixedWindows(60))
            | ToPayloads()
            | Parse(CONTRACT)
        )
        valid = parsed.records | Validate(CONTRACT)
        outputs = {
            "records": valid.records,
            "parse": parsed.dead_letters,
            "validate": valid.dead_letters,
        }
        return {name: c | name >> beam.Map(_with_window) for name, c in outputs.items()}

    assert {name: sorted(seen) for name, seen in run(build).items()} == {
        "records": [(0, True, b'{"id":1}'), (60, True, b'{"id":3}')],
        "parse": [(60, True, b'{"id":"2"}')],
        "validate": [(0, True, b'{"id":0}')],
    }


def _with_window(
    batch: pa.RecordBatch, window: Any = beam.DoFn.WindowParam, time: Any = beam.DoFn.TimestampParam
) -> tuple[int, bool, bytes]:
    column = "_payload" if "_payload" in batch.schema.names else "payloadBytes"
    [payload] = batch.column(column).to_pylist()
    return int(window.start), window.start <= time < window.end, payload


def test_rows_are_gathered_into_batches_of_bounded_size():
    def build(pipeline: Any) -> dict[str, Any]:
        lines = pipeline | beam.Create([b"x" * 100] * 50, reshuffle=False)
        return {"batches": lines | ToPayloads(batch_bytes=1000)}

    batches = run(build)["batches"]
    assert sum(batch.num_rows for batch in batches) == 50
    assert max(batch.num_rows for batch in batches) == 10
    assert all(batch.schema == PAYLOADS for batch in batches)


# ----------------------------------------------------------------------------------- edges


@pytest.mark.slow
def test_nothing_to_read(tmp_path):
    with pytest.raises(NoFiles):
        ReadFromJsonLines(str(tmp_path / "*.jsonl"))
    read = run(
        lambda p: (p | ReadFromJsonLines(str(tmp_path / "*.jsonl"), allow_no_match=True))._asdict()
    )
    assert read == {"records": [], "dead_letters": [], "tallies": []}


def test_a_file_that_vanishes_fails_the_run(tmp_path):
    files = written(tmp_path)
    pipeline: Any = beam.Pipeline(runner=RUNNER)
    _ = pipeline | ReadFromJsonLines(files.pattern)
    (files.folder / "plain.jsonl").unlink()
    with pytest.raises(Exception, match=r"cannot read .*plain\.jsonl: not found"):
        pipeline.run()


@pytest.mark.slow
def test_batches_that_are_all_bad_or_all_good():
    """No batch without rows leaves a stage."""

    def build(pipeline: Any) -> dict[str, Any]:
        lines = pipeline | beam.Create([GOOD % 1, GOOD % 2]) | ToPayloads()
        worse = pipeline | "Bad" >> beam.Create([b"x", b"y"]) | "P" >> ToPayloads()
        good, bad = lines | Parse(CONTRACT), worse | "Parse bad" >> Parse(CONTRACT)
        low = (
            pipeline
            | "Low" >> beam.Create([b'{"id":0}'])
            | "L" >> ToPayloads()
            | "Parse low" >> Parse(CONTRACT)
        ).records | Validate(CONTRACT)
        return {
            "good": good.records, "good dead": good.dead_letters,
            "bad": bad.records, "bad dead": bad.dead_letters,
            "low": low.records, "low dead": low.dead_letters,
        }  # fmt: skip

    counts = {name: sum(b.num_rows for b in found) for name, found in run(build).items()}
    assert counts == {"good": 2, "good dead": 0, "bad": 0, "bad dead": 2, "low": 0, "low dead": 1}
