"""Retention: what is older than it is kept goes, nothing younger, and no restart misses it."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import storage_support
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.pipelines.cli import main
from millstream.schemas import dead_letters
from millstream.schemas.arrow import IDENTITY
from millstream.schemas.table import table_of_schema
from millstream.transforms import storage
from millstream.transforms.plan import InputFile, Plan, Token
from millstream.transforms.receipts import Part, Receipt
from millstream.transforms.runs import RunRecord, RunStore
from millstream.transforms.tallies import Tally
from millstream.transforms.write import files, manifests
from millstream.transforms.write.commit import balanced, commit_run, complete
from millstream.transforms.write.destination import Output
from millstream.transforms.write.duckdb.destination import DuckDbDestination
from millstream.transforms.write.files import FilesDestination, live_files
from millstream.transforms.write.garbage import delete_garbage
from millstream.transforms.write.manifests import read_manifest
from millstream.transforms.write.retention import (
    find_completed,
    forget_tokens,
    old_letters,
    old_states,
    settled_runs,
    withdraw,
)
from millstream.transforms.write.stage import StagedFiles
from storage_support import Crash, crash_points
from write_support import commit, numbers

NOW = float(int(time.time()))
DAY = 86_400
MOMENT = pa.timestamp("us", "UTC")
RECORDS = pa.schema([pa.field("n", pa.int64())])
VISIBLE = pa.schema([pa.field("window_start", MOMENT), pa.field("n", pa.int64())])
SLICES = pa.schema(
    [pa.field("slice_start", MOMENT, False), pa.field("run", pa.string()),
     pa.field("rows", pa.int64(), False)]
)  # fmt: skip
SESSIONS = SLICES.insert(1, pa.field("session_end", MOMENT, False))
STATES = {"hours": SLICES, "visits": SESSIONS}

ALL_TABLES = {
    "output": "duckdb:w.duckdb/records",
    "hours": "duckdb:w.duckdb/hours",
    "visits": "duckdb:w.duckdb/visits",
    "dead_letters": "duckdb:w.duckdb/dead_letters",
    "ledger": "duckdb:w.duckdb/ledger",
    "state": "state",
}
ALL_FILES = {
    "output": "parquet:out/records",
    "hours": "parquet:out/hours",
    "visits": "csv:out/visits",
    "dead_letters": "jsonl:out/dead_letters",
    "ledger": "jsonl:out/ledger",
}
MIXED = {
    **ALL_TABLES,
    "visits": "parquet:out/visits",
    "dead_letters": "parquet:out/dead_letters",
    "ledger": "jsonl:out/ledger",
}
MIXES = {"tables": ALL_TABLES, "files": ALL_FILES, "mixed": MIXED}
EVERYTHING = (
    "--older_than=0s", "--tokens_older_than=0s", "--states_older_than=0s",
    "--dead_letters_older_than=0s",
)  # fmt: skip


def at(days: float) -> dt.datetime:
    """The moment so many days ago."""
    return dt.datetime.fromtimestamp(NOW - days * DAY, dt.UTC)


class Shop:
    """A job with records, two aggregates (of hours, of sessions), dead letters and a ledger.

    Run ``r7`` reads one record, 7, and has one dead letter and one state of each aggregate, as of
    so many days ago as :attr:`days` says.
    """

    def __init__(self, folder: Path, mix: dict[str, str] = ALL_TABLES, days: float = 0):
        self.folder, self.mix, self.days = Path(folder), mix, days
        self.store = RunStore(f"{folder}/{mix.get('state', 'out/ledger')}")
        tables: dict[str, dict[Part, Any]] = {"records": {"data": table_of_schema(RECORDS)}}
        tables["dead_letters"] = {"data": table_of_schema(dead_letters.SCHEMA)}
        for name, schema in STATES.items():
            states, visible = table_of_schema(schema), table_of_schema(VISIBLE)
            tables[name] = {"states": states, "data": visible}
        kinds: dict[str, Any] = {"dead_letters": "dead_letters", "records": "records"}
        self.outputs = [
            Output(
                name,
                self.uri(name),
                kinds.get(name, "aggregates"),
                tables=tables[name] if self.is_table(name) else {},
                state=self.store.home,
            )
            for name in ("records", "hours", "visits", "dead_letters")
        ]
        self.by_name = {output.name: output for output in self.outputs}
        if self.is_table("records"):
            # What takes DuckDB longest is to open a file that nobody in the process has open.
            self._held_open = duckdb.connect(f"{folder}/w.duckdb")

    def uri(self, name: str) -> str:
        scheme, _, place = self.mix["output" if name == "records" else name].partition(":")
        return f"{scheme}:{self.folder}/{place}"

    def is_table(self, name: str) -> bool:
        return self.uri(name).startswith("duckdb:")

    def plan(self, number: int, version: str = "1") -> Plan:
        return Plan("shop", "c", "1", "d", (InputFile(f"{number}.jsonl", 1, version),))

    def facts(self, number: int, token: Token, bundles: int = 1) -> list[Tally | Receipt]:
        """What the pipeline of a run gives: other files with every number of bundles."""
        records = [numbers(number, source="a")] + [numbers(source="a")] * (bundles - 1)
        receipts = self.staged("records", token, records[::-1] if bundles % 2 else records)
        for name, schema in STATES.items():
            window = {"window_start": [at(self.days)], "n": [number]}
            state = {
                "slice_start": [at(self.days + (name == "visits"))],
                "session_end": [at(self.days)],
                "run": [token.run_id],
                "rows": [1],
            }
            state = {key: value for key, value in state.items() if key in schema.names}
            receipts += self.staged(name, token, [pa.RecordBatch.from_pydict(window, VISIBLE)])
            batch = pa.RecordBatch.from_pydict(state, schema)
            receipts += self.staged(name, token, [batch], "states")
        letter = {
            "timestamp": at(self.days), "source": "a", "position": str(number), "codes": ["TYPE"],
        }  # fmt: skip
        batch = pa.RecordBatch.from_pylist([letter], dead_letters.SCHEMA)
        receipts += self.staged("dead_letters", token, [batch])
        written = [Tally("a", "written", 1, name) for name in STATES]
        return [Tally("a", "read", 2), *written, *receipts]

    def staged(
        self, name: str, token: Token, batches: Iterable[pa.RecordBatch], part: Part = "data"
    ) -> list[Receipt]:
        dropped = () if name == "dead_letters" else IDENTITY
        staging = StagedFiles(self.by_name[name], token, part, dropped)
        for batch in batches:
            staging.write(batch)
        return staging.close()

    def launch(self, number: int, bundles: int = 1, version: str = "1") -> RunRecord:
        """What a launcher does, from begin to record."""
        for path in storage.list_files(storage.join(self.store.home, "_millstream", "lock")):
            os.unlink(path)  # of a process that died: it is this one, which lives
        run_id = f"r{number}"
        with self.store.lock(run_id) as lock:
            while True:
                decision = self.store.begin(self.plan(number, version), run_id)
                if decision.kind != "resume":
                    break
                assert decision.prepared is not None
                complete(self.store, decision.prepared, check=lock.check)
            if decision.record is not None:
                return decision.record
            facts = self.facts(number, decision.token, bundles)
            return commit_run(self.store, decision.token, self.outputs, self.uri("ledger"), facts)

    def begin(self, number: int) -> Token:
        return self.store.begin(self.plan(number), f"r{number}").token

    def prepare(self, number: int) -> None:
        """A run that dies with everything prepared and nothing committed."""
        token = self.begin(number)
        facts = self.facts(number, token)
        found = balanced(self.store, token, self.outputs, self.uri("ledger"), facts)
        self.store.prepare(found)

    def gc(self, *flags: str) -> tuple[int, str, str]:
        """The command line: its exit code, what it printed, what it said."""
        for path in storage.list_files(storage.join(self.store.home, "_millstream", "lock")):
            os.unlink(path)
        aggregates = [
            {"name": name, "window": window, "metrics": {"n": "count()"}, "output": self.uri(name)}
            for name, window in (("hours", {"fixed": "1h"}), ("visits", {"session": "1h"}))
        ]
        job = {
            "name": "shop", "contract": "none.yaml", "input": "x", "output": self.uri("records"),
            "dead_letters": self.uri("dead_letters"), "ledger": self.uri("ledger"),
            "state": self.store.home, "aggregates": aggregates,
        }  # fmt: skip
        path = self.folder / "job.json"
        path.write_text(json.dumps(job))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["gc", "--job", str(path), *flags])
        return code, out.getvalue(), err.getvalue()

    def swept(self, *flags: str) -> str:
        code, out, err = self.gc(*flags)
        assert (code, "Traceback" in err) == (0, False), err
        return out

    def query(self, query: str, *values: Any) -> list[tuple]:
        if not (self.folder / "w.duckdb").exists():
            return []
        with duckdb.connect(str(self.folder / "w.duckdb")) as db:
            # Else a table that is not there is looked for among the names of this module.
            db.execute("SET python_enable_replacements = false")
            try:
                return db.execute(query, values).fetchall()
            except duckdb.CatalogException:
                return []

    def table(self, name: str, part: Part = "data") -> Counter:
        """Which records, states' or letters' numbers are visible, read without the package."""
        columns = {"records": "n", "hours": "n", "visits": "n", "dead_letters": "position"}
        column = "run" if part == "states" else columns.get(name, "run_id")
        if self.is_table(name):
            suffix = "__states" if part == "states" else ""
            return Counter(v for (v,) in self.query(f'SELECT {column} FROM "{name}{suffix}"'))
        found: Counter = Counter()
        for path in live_files(self.uri(name), part):
            if part == "states" or path.endswith(".parquet"):
                found.update(pq.read_table(path)[column].to_pylist())
            elif path.endswith(".csv"):
                found.update(int(line.rpartition(",")[2]) for line in _lines(path)[1:])
            else:
                found.update(json.loads(line)[column] for line in _lines(path))
        return found

    def kept(self) -> dict[str, Counter]:
        """What no flag of gc's is about."""
        return {name: self.table(name) for name in ("records", "hours", "visits", "ledger")}

    def perishable(self) -> dict[str, Counter]:
        found = {f"{name} states": self.table(name, "states") for name in STATES}
        return {**found, "dead_letters": self.table("dead_letters")}

    def tokens(self, table: str = "records") -> set[str]:
        query = "SELECT run_id FROM _millstream_commits WHERE table_name = ?"
        return {run_id for (run_id,) in self.query(query, table)}

    def backdate(self, run_id: str, days: float) -> None:
        """Have everything that says when the run was at work say so many days ago."""
        when = NOW - days * DAY
        for path in self.folder.rglob("*"):
            if path.is_file() and path.suffix != ".duckdb" and run_id in str(path):
                os.utime(path, (when, when))
        for path in (self.folder / self.store.home).rglob(f"runs/{run_id}/*/record.json"):
            record = msgspec.json.decode(path.read_bytes())
            record["finished_at"] = f"{at(days).isoformat(timespec='seconds')[:19]}Z"
            path.write_bytes(msgspec.json.encode(record))
        if self.query("SELECT 1 FROM _millstream_commits"):
            update = "UPDATE _millstream_commits SET committed_at = ? WHERE run_id = ?"
            self.query(update, at(days), run_id)

    def run_files(self, number: int) -> list[str]:
        folder = Path(self.store.home) / "_millstream/runs" / f"r{number}"
        return sorted(path.name for path in folder.rglob("*") if path.is_file())


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


@pytest.fixture(params=MIXES)
def shop(request, tmp_path) -> Shop:
    return Shop(tmp_path, MIXES[request.param])


@pytest.mark.slow
def test_settled_runs(tmp_path):
    shop = Shop(tmp_path)
    for number, days in ((1, 9), (2, 7)):
        shop.launch(number)
        shop.backdate(f"r{number}", days)
    shop.prepare(3)
    shop.begin(4)
    assert settled_runs(shop.store, NOW - 8 * DAY) == {"r1"}
    assert settled_runs(shop.store, NOW - 6 * DAY) == {"r1", "r2"}
    assert settled_runs(shop.store, NOW - 9 * DAY - 2) == frozenset()


def test_what_runs_were_completed_with(tmp_path):
    shop = Shop(tmp_path)
    shop.launch(1)
    shop.prepare(2)
    folder = shop.store.folder(shop.plan(1).token("r1"))
    folder.remember("stream", "s")
    for run in ("r1", "r2"):
        (attempt,) = (Path(shop.store.home) / "_millstream/runs" / run).iterdir()
        (attempt / "refused-records-0123456789abcdef.parquet").write_bytes(b"PAR1")
    found = list(find_completed(shop.store, {"r1"}))
    assert [Path(garbage.path).name for garbage in found] == [
        "prepared.json", "refused-records-0123456789abcdef.parquet", "stream.note",
    ]  # fmt: skip
    assert all(garbage.bytes == Path(garbage.path).stat().st_size for garbage in found)
    for garbage in found:
        delete_garbage(shop.store.home, garbage)
    assert shop.run_files(1) == ["plan.json", "record.json"]
    assert "prepared.json" in shop.run_files(2)
    assert list(find_completed(shop.store, {"r1"})) == []


def test_an_attempt_without_a_record_keeps_what_it_prepared(tmp_path):
    """It was begun before the one that is recorded, and its pipeline was slow."""
    shop = Shop(tmp_path)
    late = shop.begin(1)
    shop.launch(1, version="2")
    facts = shop.facts(1, late)
    found = balanced(shop.store, late, shop.outputs, shop.uri("ledger"), facts)
    shop.store.prepare(found)
    assert settled_runs(shop.store, NOW + DAY) == frozenset()
    assert len(list(find_completed(shop.store, {"r1"}))) == 1, "that of the recorded attempt"


class TestTokens:
    @pytest.mark.slow
    def test_old_ones_of_settled_runs_are_forgotten(self, tmp_path):
        shop = Shop(tmp_path)
        for number, days in ((1, 9), (2, 9), (3, 1)):
            shop.launch(number)
            shop.backdate(f"r{number}", days)
        to = shop.by_name["records"].destination
        assert isinstance(to, DuckDbDestination)
        before = NOW - 8 * DAY
        assert to.old_tokens(before) == ["r1", "r2"]
        assert forget_tokens(to, {"r1", "r3"}, before, dry_run=True) == 1
        assert shop.tokens() == {"r1", "r2", "r3"}
        assert forget_tokens(to, {"r1", "r3"}, before) == 1
        assert shop.tokens() == {"r2", "r3"}
        assert shop.tokens("hours") == {"r1", "r2", "r3"}, "other tables have tokens of their own"

    @pytest.mark.slow
    def test_another_jobs_tokens_stay(self, tmp_path):
        """Two jobs write to one table; each knows its own runs alone."""
        shop = Shop(tmp_path)
        other = Shop(tmp_path, {**ALL_TABLES, "state": "theirs"})
        shop.launch(1)
        other.prepare(2)
        with pytest.raises(Crash):
            _die_before_the_record(other, 2)
        assert shop.tokens() == {"r1", "r2"}
        shop.swept(*EVERYTHING)
        assert shop.tokens() == {"r2"}
        other.launch(2)
        assert shop.table("records") == Counter([1, 2])

    def test_there_is_no_database_yet(self, tmp_path):
        to = Output("records", f"duckdb:{tmp_path}/w.duckdb/t", state="s").destination
        assert isinstance(to, DuckDbDestination)
        assert forget_tokens(to, {"r1"}, NOW) == 0
        assert to.expire("t", "ts", NOW) == 0
        assert not list(tmp_path.iterdir()), "looking makes none"
        duckdb.connect(f"{tmp_path}/w.duckdb").close()
        assert (to.old_tokens(NOW), to.expire("t", "ts", NOW)) == ([], 0)


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_a_commit_that_comes_after_all_is_forgotten(tmp_path, mix):
    """Of a pipeline that has outlived everything that it could have been told."""
    shop = Shop(tmp_path, MIXES[mix])
    record = shop.launch(1)
    before = shop.kept()
    shop.swept(*EVERYTHING)
    token = shop.plan(1).token("r1")
    late = shop.facts(1, token)
    assert commit_run(shop.store, token, shop.outputs, shop.uri("ledger"), late) == record
    assert shop.kept() == before


def _die_before_the_record(shop: Shop, number: int) -> None:
    def die(*_: object) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "finish", die)
        shop.launch(number)


class TestRowsOfTables:
    @pytest.fixture
    def to(self, tmp_path) -> DuckDbDestination:
        with duckdb.connect(f"{tmp_path}/w.duckdb") as db:
            db.execute("CREATE SCHEMA s")
            db.execute('CREATE TABLE s."a ""b" ("when ""x" TIMESTAMPTZ, n INTEGER)')
            times = ["1900-01-01 00:00Z", "2020-01-01 00:00Z", "-infinity", "infinity", None]
            for n, moment in enumerate(times):
                db.execute('INSERT INTO s."a ""b" VALUES (?, ?)', [moment, n])
        to = Output("t", f'duckdb:{tmp_path}/w.duckdb/s.a "b', state="s").destination
        assert isinstance(to, DuckDbDestination)
        return to

    def left(self, to: DuckDbDestination) -> list[int]:
        with duckdb.connect(to.file) as db:
            return [n for (n,) in db.execute('SELECT n FROM s."a ""b" ORDER BY n').fetchall()]

    @pytest.mark.slow
    def test_what_is_before_goes(self, to):
        exactly = dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp()
        assert to.expire(to.target, 'when "x', exactly, dry_run=True) == 2
        assert self.left(to) == [0, 1, 2, 3, 4]
        assert to.expire(to.target, 'when "x', exactly) == 2
        assert self.left(to) == [1, 3, 4]
        assert to.expire(to.target, 'when "x', exactly + 0.000_001) == 1
        assert self.left(to) == [3, 4]

    def test_a_table_that_is_not_there(self, to):
        assert to.expire(f"{to.target}__states", "ts", NOW) == 0
        for name in ("none.t", "table", "duckdb"):  # also of names that the module has itself
            assert to.expire(name, "ts", NOW) == 0


class TestStatesInFiles:
    def committed(self, to: Output, run: str, schema: pa.Schema, *moments: dict[str, float]):
        states = [
            {**{name: at(days) for name, days in moment.items()}, "run": run, "rows": 1}
            for moment in moments
        ]
        staging = StagedFiles(to, Token(run, "a" * 64), "states")
        # Row groups of their own: each says which times it has.
        for state in states:
            staging.write(pa.RecordBatch.from_pylist([state], schema))
            sink = next(iter(staging._open.values()))
            sink.flush()
        commit(to, Token(run, "a" * 64), staging.close())

    def names(self, to: Output, runs: dict[str, bool], days: float) -> list[str]:
        assert isinstance(to.destination, FilesDestination)
        found = old_states(to.destination, runs, NOW - days * DAY)
        return sorted(Path(garbage.path).name.split("-")[1] for garbage in found)

    def test_the_newest_slice_counts(self, tmp_path):
        to = Output("hours", f"parquet:{tmp_path}", "aggregates")
        self.committed(to, "r1", SLICES, {"slice_start": 30}, {"slice_start": 20})
        self.committed(to, "r2", SLICES, {"slice_start": 10}, {"slice_start": 30})
        runs = {"r1": False, "r2": False}
        assert self.names(to, runs, 21) == []
        assert self.names(to, runs, 20) == []
        assert self.names(to, runs, 19) == ["r1"]
        assert self.names(to, runs, 9) == ["r1", "r2"]

    def test_of_a_session_its_end_counts(self, tmp_path):
        to = Output("visits", f"parquet:{tmp_path}", "aggregates")
        self.committed(to, "r1", SESSIONS, {"slice_start": 30, "session_end": 5})
        assert self.names(to, {"r1": False}, 6) == []
        assert self.names(to, {"r1": False}, 4) == ["r1"]

    def test_of_whom_they_are(self, tmp_path):
        to = Output("hours", f"parquet:{tmp_path}", "aggregates")
        for run in ("r1", "r2", "r3"):
            self.committed(to, run, SLICES, {"slice_start": 30})
        other = Output("other", to.uri, "aggregates")
        self.committed(other, "r1", SLICES, {"slice_start": 30})
        assert self.names(to, {"r1": False, "r2": True}, 1) == ["r1"]

    def test_times_that_no_calendar_has(self, tmp_path):
        to = Output("hours", f"parquet:{tmp_path}", "aggregates")
        for run, micros in (("r1", -(10**17)), ("r2", 10**17)):
            times = pa.array([micros]).view(MOMENT)
            batch = pa.RecordBatch.from_arrays(
                [times, pa.array([run]), pa.array([1])], SLICES.names
            )
            staging = StagedFiles(to, Token(run, "a" * 64), "states")
            staging.write(batch)
            commit(to, Token(run, "a" * 64), staging.close())
        assert self.names(to, {"r1": False, "r2": False}, 0) == ["r1"]

    def test_files_that_do_not_say(self, tmp_path):
        """Without the column, or without statistics, nobody knows how old a state is."""
        to = Output("hours", f"parquet:{tmp_path}", "aggregates")
        self.committed(to, "r1", SLICES, {"slice_start": 30})
        (path,) = live_files(to.uri, "states")
        stored = pq.read_table(path)
        pq.write_table(stored, path, write_statistics=False)
        assert self.names(to, {"r1": False}, 1) == []
        pq.write_table(stored.drop_columns(["slice_start"]), path)
        assert self.names(to, {"r1": False}, 1) == []


class TestWithdrawing:
    def test_the_commit_stands(self, tmp_path):
        shop = Shop(tmp_path, ALL_FILES)
        shop.launch(1)
        to = shop.by_name["dead_letters"].destination
        assert isinstance(to, FilesDestination)
        held = to.committed("r1")
        gone = old_letters(to, {"r1"})
        assert [garbage.reason for garbage in gone] == ["dead letters"]
        withdraw(to, gone)
        assert live_files(to.uri) == []
        assert Path(gone[0].path).exists()
        assert to.committed("r1") == held
        version = read_manifest(to.home).version
        withdraw(to, gone)
        assert read_manifest(to.home).version == version, "nothing is written a second time"

    def test_others_keep_their_files(self, tmp_path):
        shop = Shop(tmp_path, ALL_FILES)
        shop.launch(1)
        shop.launch(2)
        to = shop.by_name["dead_letters"].destination
        assert isinstance(to, FilesDestination)
        withdraw(to, old_letters(to, {"r1"}))
        assert shop.table("dead_letters") == Counter(["2"])

    def test_no_more_manifests_are_kept_than_ever(self, tmp_path):
        shop = Shop(tmp_path, ALL_FILES)
        shop.launch(1)
        to = shop.by_name["dead_letters"].destination
        assert isinstance(to, FilesDestination)
        for _ in range(manifests.KEEP):
            manifest = read_manifest(to.home)
            assert manifests.append(to.home, manifest, [])
        withdraw(to, old_letters(to, {"r1"}))
        assert len(manifests.manifests(to.home)) == manifests.KEEP

    def test_a_number_that_is_taken_meanwhile(self, tmp_path, monkeypatch):
        shop = Shop(tmp_path, ALL_FILES)
        shop.launch(1)
        shop.launch(2)
        to = shop.by_name["dead_letters"].destination
        assert isinstance(to, FilesDestination)
        real, first = files.append, old_letters(to, {"r1"})

        def slow(*arguments):
            monkeypatch.setattr(files, "append", real)
            withdraw(to, old_letters(to, {"r2"}))
            return real(*arguments)

        monkeypatch.setattr(files, "append", slow)
        withdraw(to, first)
        assert shop.table("dead_letters") == Counter()


@pytest.mark.slow
def test_a_forgotten_run_is_still_answered_by_its_record(shop):
    first = shop.launch(1)
    before = shop.kept()
    shop.swept(*EVERYTHING)
    assert shop.tokens() == set()
    assert shop.run_files(1) == ["plan.json", "record.json"]
    assert shop.launch(1) == first
    assert shop.kept() == before
    with pytest.raises(Exception, match=r"run r1 has already committed 1\.jsonl"):
        shop.store.begin(shop.plan(1), "another")


AGES = st.sampled_from([None, 0, 2, 4, 6, 99])
RUNS = st.lists(
    st.tuples(st.sampled_from(["recorded", "prepared", "begun"]), st.sampled_from([1, 3, 5])),
    min_size=1,
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.sampled_from(list(MIXES)), RUNS, AGES, AGES, AGES)
def test_what_is_older_goes_and_nothing_else(tmp_path_factory, mix, runs, tokens, states, letters):
    """Each run was so many days ago, with all that it has; flags say which days are too many."""
    folder = tmp_path_factory.mktemp("ages")
    recorded: dict[int, int] = {}
    for number, (ended, days) in enumerate(runs, 1):
        shop = Shop(folder, MIXES[mix], days)
        if ended == "recorded":
            shop.launch(number)
            recorded[number] = days
        elif ended == "prepared":
            shop.prepare(number)
        else:
            shop.facts(number, shop.begin(number))
        shop.backdate(f"r{number}", days)
    shop = Shop(folder, MIXES[mix])
    flags = ["--older_than=2d"]
    for flag, age in (("tokens", tokens), ("states", states), ("dead_letters", letters)):
        flags += [f"--{flag}_older_than={age}d"] * (age is not None)
    kept, held = shop.kept(), shop.tokens()
    said = shop.swept(*flags, "--dry_run")
    assert (shop.kept(), shop.tokens()) == (kept, held)
    done = shop.swept(*flags)
    # Dates are of the moment at which it is said, to the minute.
    at = re.compile(r" \d\d:\d\d\)")
    assert at.sub(")", done) == at.sub(")", said.replace("would delete", "deleted"))

    def stay(age: int | None) -> list[int]:
        return [n for n, days in recorded.items() if age is None or days < age]

    assert shop.kept() == kept
    for name in STATES:
        assert shop.table(name, "states") == Counter(f"r{n}" for n in stay(states))
    assert shop.table("dead_letters") == Counter(str(n) for n in stay(letters))
    if shop.is_table("records"):
        assert shop.tokens() == {f"r{n}" for n in stay(tokens)}
    for number, (ended, days) in enumerate(runs, 1):
        prepared = ended == "prepared" or number in stay(tokens)
        assert ("prepared.json" in shop.run_files(number)) == prepared
        assert "plan.json" in shop.run_files(number)
        staged = [path for path in folder.rglob("*.staged") if f"r{number}" in path.parts]
        assert bool(staged) == (ended == "prepared" or (ended == "begun" and days < 2))
    assert "deleted 0 files, 0 bytes\n" in shop.swept(*flags)
    every = range(1, len(runs) + 1)
    for number in every:
        shop.launch(number)
    assert shop.table("records") == shop.table("visits") == Counter(every)


@pytest.fixture
def at_changes(monkeypatch):
    """Crash only where something changes: what died as it read is what died before that."""
    changes = {"write_once", "write_replace", "move", "delete", "delete_folder", "open_write"}
    kept = [name for name in storage_support.OPERATIONS if name in changes]
    monkeypatch.setattr(storage_support, "OPERATIONS", kept)


def without(rows: dict[str, Counter], gone: dict[str, Counter]) -> dict[str, Counter]:
    return {name: rows[name] - gone[name] for name in rows}


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_after_any_crash_everything_may_go_but_what_a_restart_needs(
    tmp_path_factory, mix, at_changes
):
    """Died anywhere from begin to record, swept with every age 0, then launched again."""

    def prepare():
        shop = Shop(tmp_path_factory.mktemp("crash"), MIXES[mix])
        shop.launch(1)
        return shop

    undisturbed = prepare()
    undisturbed.launch(2)
    kept, perishable = undisturbed.kept(), undisturbed.perishable()
    points = swept = 0
    for shop in crash_points(lambda shop: shop.launch(2), prepare):
        points += 1
        before = shop.perishable()
        swept += "staged, never committed" in shop.swept(*EVERYTHING)
        gone = without(before, shop.perishable())
        assert gone["dead_letters"]["1"] == 1
        assert shop.swept(*EVERYTHING) == "deleted 0 files, 0 bytes\n"
        shop.launch(2, bundles=2)
        assert shop.kept() == kept
        assert shop.perishable() == without(perishable, gone)
        assert not list(shop.folder.rglob("*.staged"))
    assert points > 40
    assert swept > 5


@pytest.mark.slow
@pytest.mark.parametrize("mix", ["files", "mixed"])
def test_a_crash_in_gc_is_mended_by_the_next(tmp_path_factory, mix, at_changes):
    """At no moment does the newest manifest name a file that is missing."""

    def prepare():
        shop = Shop(tmp_path_factory.mktemp("crash"), MIXES[mix])
        shop.launch(1)
        shop.launch(2)
        shop.prepare(3)
        shop.facts(4, shop.begin(4))
        return shop

    kept = prepare().kept()
    for shop in crash_points(lambda shop: shop.swept(*EVERYTHING), prepare):
        assert shop.kept() == kept, "and all files that are named are there"
        shop.perishable()
        shop.swept(*EVERYTHING)
        assert shop.swept(*EVERYTHING) == "deleted 0 files, 0 bytes\n"
        assert shop.kept() == kept
        assert shop.perishable() == {name: Counter() for name in shop.perishable()}
        shop.launch(3)
        shop.launch(4)
        assert shop.table("records") == Counter([1, 2, 3, 4])


ATTEMPTS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(["launch", "stage", "prepare", "lose the record", "gc"]),
        st.lists(st.sampled_from(EVERYTHING), unique=True, max_size=4),
    ),
    max_size=7,
)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.sampled_from(list(MIXES)), ATTEMPTS)
def test_gc_between_attempts_changes_nothing(tmp_path_factory, mix, attempts):
    """Runs that end, fail or die, with gc of any ages between them or without."""
    swept, plain = (
        _after(Shop(tmp_path_factory.mktemp("laws"), MIXES[mix]), attempts, sweeping)
        for sweeping in (True, False)
    )
    assert swept[0] == plain[0]
    assert swept[1] == plain[1]


def _after(shop: Shop, attempts: list, sweeping: bool) -> tuple[Any, Any]:
    """What is there in the end; of what perishes, with what was swept."""
    swept = {name: Counter() for name in shop.perishable()}
    for number, what, flags in attempts:
        if what == "launch":
            shop.launch(number)
        elif what == "gc":
            if not sweeping:
                continue
            before = shop.perishable()
            shop.swept(*flags)
            for name, rows in without(before, shop.perishable()).items():
                swept[name] += rows
        elif what == "lose the record":
            with contextlib.suppress(Crash):
                _die_before_the_record(shop, number)
        elif shop.store.begin(shop.plan(number), f"r{number}").kind == "start":
            if what == "prepare":
                shop.prepare(number)
            elif what == "stage":
                shop.facts(number, shop.begin(number))
    for number in range(1, 4):
        shop.launch(number)
    found = shop.perishable()
    return shop.kept(), {name: found[name] + swept[name] for name in found}
