"""Backfills: the windows of a span are as a clean run would give them, and no other is touched."""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from millstream.schemas.aggregates.open_windows import Trigger, given_schema, of_one
from millstream.schemas.aggregates.spec import AggregateSpec
from millstream.schemas.aggregates.states import finalise, state_schema
from millstream.transforms.backfill import publish, replacing
from millstream.transforms.backfill.compare import compare, standing
from millstream.transforms.backfill.history import History
from millstream.transforms.backfill.parts import Part, needed_from, needed_until, parts
from millstream.transforms.backfill.publish import Publishing, target_of
from millstream.transforms.backfill.replacing import Rewriting
from millstream.transforms.backfill.results import Results
from millstream.transforms.backfill.units import Units, Work, needed_columns
from millstream.transforms.plan import Plan, Token
from millstream.transforms.receipts import Span, content_digest
from millstream.transforms.runs import RunStore
from millstream.transforms.stored import open_stored
from millstream.transforms.write.commit import LEDGER
from millstream.transforms.write.destination import Commit, Output
from millstream.transforms.write.errors import DestinationError, Unavailable
from millstream.transforms.write.replacements import complete_replacements
from millstream.transforms.write.stage import stage_batches

from tests.services.destinations import DESTINATIONS
from tests.transforms.replay.test_corrections import (
    EPOCH,
    RECORDS,
    WINDOWS,
    Record,
    Views,
    counted,
    spec_of,
)

pytestmark = pytest.mark.slow

SCHEMA = pa.schema(
    [("at", pa.timestamp("us", "UTC")), ("page", pa.string()), ("amount", pa.int64())]
)
MINUTE = 60_000_000
DAY = 1440 * MINUTE
START = int(EPOCH.timestamp()) * 1_000_000
DAILY = START - 60 * MINUTE
"""Where Berlin's day begins."""


def micros(table: list[dict[str, Any]], column: str = "window_start") -> list[int]:
    return [round(row[column].timestamp() * 1_000_000) for row in table]


class Job:
    """An output of records, an aggregate over them, and a backfill of it."""

    def __init__(self, folder: str, scheme: str, spec: AggregateSpec, uri: str = "") -> None:
        self.folder, self.spec = folder, spec
        place = f"{folder}/lake.duckdb/views" if scheme == "duckdb" else f"{folder}/views"
        self.views = Views(uri or f"{scheme}:{place}", spec, f"{folder}/state")
        self.records = Output("records", f"parquet:{folder}/records")
        self.store = RunStore(f"{folder}/state")
        self.committed = 0

    def write(self, records: list[Record]) -> None:
        """Commit records to their output, beside those that are there."""
        rows = [
            {"at": EPOCH + dt.timedelta(seconds=at), "page": page, "amount": amount}
            for at, page, amount in records
        ]
        self.committed += 1
        token = Token(f"w{self.committed}", f"{self.committed:064x}")
        batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
        receipts = stage_batches(self.records, token, [batch])
        commit = Commit(token, content_digest(receipts), tuple(receipts))
        self.records.destination.commit(commit)

    def parts(self, start: int, end: int, length: int) -> list[Part]:
        return parts([self.spec.window], start, end, length)

    def results(self, some: list[Part]) -> Results:
        history = History(self.records, SCHEMA, "at", tuple(needed_columns([self.spec])))
        work = Work(f"{self.folder}/backfill", history, (self.spec,))
        start, end, window = some[0].start, some[-1].end, self.spec.window
        around = [Part(needed_from(window, start), start), *some]
        around.append(Part(end, needed_until(window, end)))
        done = [work(part) for part in around if part.start < part.end]
        while True:
            results = Results(Units(f"{self.folder}/backfill"), tuple(done))
            if not results.goes_on(self.spec, end):
                return results
            done.append(work(Part(done[-1].end, done[-1].end + some[0].end - some[0].start)))

    def publish(self, some: list[Part], number: int = 1) -> None:
        results = self.results(some)
        plan = Plan("job", "c", "1", "0", settings={"number": str(number)})
        publishing = Publishing(
            store=self.store,
            plan=plan,
            name=f"b{number}",
            ledger_uri=f"jsonl:{self.folder}/{LEDGER}",
            source="records",
            edges=(*(part.start for part in some), some[-1].end),
        )
        target = target_of(self.views.output, self.spec, Trigger(), 1)
        for part in some:
            made = {self.spec.name: results.of_part(part, self.spec)}
            publishing.publish(part, made, [target])

    def states(self) -> pa.Table:
        wanted = state_schema(self.spec)
        batches = list(open_stored(self.views.output, "states", wanted).batches())
        return pa.Table.from_batches(batches).cast(wanted) if batches else wanted.empty_table()

    def of_states(self) -> Counter[Any]:
        return counted(finalise(of_one(self.states(), self.spec), self.spec).to_pylist())


def clean(spec: AggregateSpec, records: list[Record], folder: str) -> list[dict[str, Any]]:
    """What a clean run makes of records."""
    views = Views(f"parquet:{folder}/clean", spec)
    views.run(records)
    return views.rows()


def whole(spec: AggregateSpec) -> tuple[int, int, int]:
    """A span that holds all records, and the length of parts in it."""
    if "daily" in spec.window.words:
        return DAILY - DAY, DAILY + 2 * DAY, DAY
    return START - 10 * MINUTE, START + 30 * MINUTE, 4 * MINUTE


DENSE = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from(["a", "b"]), st.integers(-5, 5)),
    min_size=1,
    max_size=20,
)
"""Records of which many are of one session."""
AROUND_EDGES: list[Record] = [
    *((at, "a", at) for at in (100, 130, 230, 260, 300)),
    *((at, "b", at) for at in (150, 250, 300, 390)),
]
"""Sessions that go on over the beginning of a span from 120 to 240 s, and over its end."""
SCHEMES = ["parquet", "duckdb"]
KINDS = pytest.mark.parametrize("window", WINDOWS, ids=lambda window: next(iter(window)))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@KINDS
@settings(max_examples=5)
@given(wrong=st.lists(RECORDS, min_size=1, max_size=2), right=RECORDS, later=RECORDS)
def test_all_history_is_as_if_it_had_been_right_at_once(
    window: dict[str, Any],
    scheme: str,
    wrong: list[list[Record]],
    right: list[Record],
    later: list[Record],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(folder, scheme, spec_of(window))
        for records in wrong:
            job.views.run(records)
        job.write(right)
        job.publish(job.parts(*whole(job.spec)))
        expected = counted(clean(job.spec, right, folder))
        assert counted(job.views.standing()) == expected
        assert job.of_states() == expected
        # What comes later corrects the new windows as it would those of a clean run.
        job.views.correct(later)
        assert counted(job.views.standing()) == counted(
            clean(job.spec, [*right, *later], f"{folder}/later")
        )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [*SCHEMES, "jsonl"])
@KINDS
@settings(max_examples=6)
@given(records=DENSE, first=st.integers(0, 6), count=st.integers(1, 4))
@example(records=AROUND_EDGES, first=2, count=2)
def test_only_windows_that_begin_in_the_span_are_made_anew(
    window: dict[str, Any], scheme: str, records: list[Record], first: int, count: int
) -> None:
    wrong = [(at, page, None if amount is None else amount + 100) for at, page, amount in records]
    with tempfile.TemporaryDirectory() as folder:
        job = Job(folder, scheme, spec_of(window))
        for n in range(4):  # several contributions to one session
            job.views.correct(wrong[n::4])
        job.write(records)
        start, end, length = START + first * MINUTE, START + (first + count) * MINUTE, 2 * MINUTE
        if "daily" in job.spec.window.words:
            start, end, length = DAILY, DAILY + DAY, DAY
        job.publish(job.parts(start, end, length))
        old, new = (
            clean(job.spec, some, f"{folder}/{i}") for i, some in enumerate((wrong, records))
        )
        expected = [row for row, at in zip(old, micros(old), strict=True) if not start <= at < end]
        expected += [row for row, at in zip(new, micros(new), strict=True) if start <= at < end]
        assert counted(job.views.standing()) == counted(expected)
        if "sliding" not in job.spec.window.words:
            assert job.of_states() == counted(expected)


@pytest.mark.service
@pytest.mark.parametrize("scheme", ["postgresql", "delta", "iceberg"])
def test_services_replace_windows_too(scheme: str, tmp_path) -> None:
    known = DESTINATIONS[scheme]
    with known.running_or_skip() as peer:
        for number, window in enumerate(WINDOWS):
            wrong: list[Record] = [(0, "a", 1), (30, None, 4), (95, "a", 5), (700, "b", 2)]
            right: list[Record] = [(0, "a", 2), (50, "a", 4), (99, None, 5), (700, "b", 2)]
            folder = tmp_path / str(number)
            job = Job(str(folder), scheme, spec_of(window), peer.uri(f"views_{number}"))
            for record in wrong:
                job.views.run([record])
            job.write(right)
            job.publish(job.parts(*whole(job.spec)))
            expected = counted(clean(job.spec, right, str(folder)))
            assert counted(job.views.standing()) == expected, window
            assert job.of_states() == expected, window


@pytest.mark.parametrize("scheme", ["parquet", pytest.param("duckdb", marks=pytest.mark.slow)])
@KINDS
def test_what_was_right_is_equal(window: dict[str, Any], scheme: str, tmp_path) -> None:
    records: list[Record] = [(0, "a", 1), (30, None, None), (95, "a", 5), (700, "b", 2)]
    job = Job(str(tmp_path), scheme, spec_of(window))
    job.views.run(records)
    job.write(records)
    before = counted(job.views.standing())
    some = job.parts(*whole(job.spec))
    results = job.results(some)
    for part in some:
        old = standing(job.views.output, job.spec, part)
        found = compare(old, results.of_part(part, job.spec).visible, job.spec)
        assert found.is_equal
    assert counted(job.views.standing()) == before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_was_prepared_is_completed_before_others_commit(scheme, tmp_path, monkeypatch) -> None:
    job = Job(str(tmp_path), scheme, spec_of({"fixed": "1m"}))
    job.views.run([(0, "a", 1)])
    job.write([(0, "a", 2)])
    assert complete_replacements(job.store) == []
    publish_and_die(job, monkeypatch)
    (run_id,) = complete_replacements(job.store)
    assert run_id.startswith("backfill-b1-")
    assert [row["s"] for row in job.views.rows()] == [2]
    assert complete_replacements(job.store) == []


def publish_and_die(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare the publication of the first minute, and no more."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(publish, "complete", killed)
        with pytest.raises(Killed):
            job.publish(job.parts(START, START + MINUTE, MINUTE))


def test_what_can_never_be_completed_says_how_it_is_given_up(tmp_path, monkeypatch) -> None:
    job = Job(str(tmp_path), "duckdb", spec_of({"fixed": "1m"}))
    job.views.run([(0, "a", 1)])
    job.write([(0, "a", 2)])
    publish_and_die(job, monkeypatch)
    (database,) = tmp_path.rglob("*.duckdb")
    database.write_bytes(b"no database any more")
    with pytest.raises((DestinationError, Unavailable)) as raised:
        complete_replacements(job.store, patience=0)
    (path,) = re.findall(r"for good, delete (\S+) to give it up", str(raised.value))
    Path(path).unlink()
    assert complete_replacements(job.store) == []


def test_published_twice_is_published_once(tmp_path) -> None:
    job = Job(str(tmp_path), "parquet", spec_of({"fixed": "1m"}))
    job.views.run([(0, "a", 1)])
    job.write([(0, "a", 2), (70, "b", 3)])
    some = job.parts(*whole(job.spec))
    job.publish(some)
    rows = counted(job.views.rows())
    job.publish(some)
    assert counted(job.views.rows()) == rows
    assert len(rows) == 2


@pytest.mark.parametrize("scheme", ["parquet", "jsonl"])
def test_what_is_left_of_files_is_cut_into_few(scheme: str, tmp_path, monkeypatch) -> None:
    """All of them are open at a time, and a file may hold rows of thousands of parts."""
    monkeypatch.setattr(replacing, "MOST_CUTS", 3)
    job = Job(str(tmp_path), scheme, spec_of({"fixed": "1m"}))
    records: list[Record] = [(at * 60, "a", at) for at in range(-1, 12)]
    job.views.run(records)
    output, span = job.views.output, Span("window_start", START, START + MINUTE)
    edges = range(START, START + 11 * MINUTE, MINUTE)
    columns = given_schema(job.spec, Trigger())
    rewriting = Rewriting(output, columns, edges, Token("w", "0" * 64))
    left, gone = rewriting.without("data", span)
    assert len(gone) == 1
    assert sorted(receipt.rows for receipt in left) == [1, 3, 4, 4]
    job.write([(at, page, at // 60 + 1) for at, page, _ in records])
    job.publish(job.parts(START, START + 10 * MINUTE, MINUTE))
    sums = {row["window_start"]: row["s"] for row in job.views.rows()}
    expected = [-1, *range(1, 11), 10, 11]
    assert [sums[at] for at in sorted(sums)] == expected


def test_a_unit_is_done_again_only_if_its_records_are_others(tmp_path) -> None:
    job = Job(str(tmp_path), "parquet", spec_of({"fixed": "1m"}))
    job.write([(0, "a", 2), (600, "b", 3)])
    some = job.parts(START, START + 20 * MINUTE, 10 * MINUTE)
    first = {unit.part: unit.files for unit in job.results(some).done}
    job.write([(601, "b", 3)])
    second = {unit.part: unit.files for unit in job.results(some).done}
    assert [first[part] == second[part] for part in some] == [True, False]
    (row,) = job.results(some).of_part(some[1], job.spec).visible.to_pylist()
    assert row["n"] == 2


def test_a_column_whose_type_nobody_knows_is_not_lost(tmp_path) -> None:
    """Of JSON lines: panes and revisions of before, which the aggregate gives no more."""
    job = Job(str(tmp_path), "jsonl", spec_of({"fixed": "1m"}))
    columns = given_schema(job.spec, Trigger(early=True))
    end = EPOCH + dt.timedelta(minutes=1)
    row = {"window_start": EPOCH, "window_end": end, "page": "a", "n": 1}
    rows = [row | {"pane": "early", "revision": 1}]
    batch = pa.RecordBatch.from_pylist(rows, columns)
    token = Token("w", "0" * 64)
    receipts = stage_batches(job.views.output, token, [batch])
    commit = Commit(token, content_digest(receipts), tuple(receipts))
    job.views.output.destination.commit(commit)
    job.write([(0, "a", 2)])
    with pytest.raises(DestinationError, match="the column revision"):
        job.publish(job.parts(START, START + MINUTE, MINUTE))
