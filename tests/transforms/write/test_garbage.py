"""Garbage: what dead attempts left is found, and nothing that is committed or a restart needs."""

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms import storage
from millstream.transforms.plan import Plan
from millstream.transforms.runs import RunStore
from millstream.transforms.write import files, manifests
from millstream.transforms.write.destination import Output
from millstream.transforms.write.files import FilesDestination, live_files, run_of
from millstream.transforms.write.garbage import (
    delete_garbage,
    find_garbage,
    find_leftovers,
    staging_of,
    unknown_staged,
)
from millstream.transforms.write.stage import stage_batches
from storage_support import Crash, crash_points
from test_commit_run import Job, _launch
from test_partitions import HOSTILE, folders, table
from write_support import commit, numbers, staged, token

from tests.services.object_stores import object_store

LATER = time.time() + 10**6


def sweep(job, before=LATER):
    """Delete the garbage of all outputs of a job; gives (reason, path) of each file."""
    runs, found = job.store.runs(), []

    def delete(home, garbages):
        for garbage in list(garbages):
            assert garbage.bytes == Path(garbage.path).stat().st_size
            delete_garbage(home, garbage)
            assert not Path(garbage.path).exists()
            found.append((garbage.reason, garbage.path))

    delete(job.store.home, find_leftovers(job.store.home, runs, before))
    for output in [*job.outputs, Output("ledger", job.ledger_uri, "side")]:
        to = output.destination
        assert isinstance(to, FilesDestination)
        delete(to.home, find_garbage(to, runs, before))
    return found


def aged(path, days):
    when = time.time() - days * 86400
    os.utime(path, (when, when))


def garbage_of(output, runs, before=LATER):
    to = output.destination
    assert isinstance(to, FilesDestination)
    return {g.path: g.reason for g in find_garbage(to, runs, before)}


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("clicks-r1-0123456789abcdef.parquet", "r1"),
        ("clicks-r1-0123456789abcdef-12.jsonl", "r1"),
        ("clicks-a-b.c-0123456789abcdef.csv", "a-b.c"),
        ("clicks-r1-0123456789abcdef.parquet.states", "r1"),
        ("clicks-r1-0123456789abcdef.avro", "r1"),
        ("clicks-r1-0123456789abcde.parquet", None),
        ("clicks-r1-0123456789abcdef.parquet.staged", None),
        ("clicks-r1-0123456789abcdef.txt", None),
        ("click-r1-0123456789abcdef.parquet", None),
        ("clicks2-r1-0123456789abcdef.parquet", None),
        ("clicks-0123456789abcdef.parquet", None),
        ("my.parquet", None),
    ],
)
def test_files_are_known_by_their_names(name, run):
    assert run_of(name, "clicks") == run


def test_final_names_are_known(tmp_path):
    to = Output("my-events", f"csv:{tmp_path}?partition_by=n")
    batch = table(n=[1, 1, 2], s=["x", "x", "x"])
    commit(to, token("run-1.a"), stage_batches(to, token("run-1.a"), [batch, batch]))
    assert {run_of(Path(path).name, "my-events") for path in live_files(to.uri)} == {"run-1.a"}


@pytest.mark.slow
def test_after_any_crash_a_sweep_takes_nothing_that_is_needed(tmp_path_factory):
    """Died anywhere from begin to record, swept as if years had passed, then launched again."""

    def prepare():
        folder = tmp_path_factory.mktemp("gc")
        Job(folder, 0, dead=0).launch("r0")
        Job(folder, 1, 9, dead=2).launch("r1")
        return folder

    points = swept = 0
    for folder in crash_points(lambda folder: _launch(folder, bundles=2), prepare):
        points += 1
        job = Job(folder, 2, 3, 9, dead=1, bundles=3)
        live = {n: live_files(f"{f}:{folder}/{n}") for n, f in FORMS.items()}
        rows = job.rows()
        found = sweep(job)
        swept += bool(found)
        assert all(Path(path).exists() for paths in live.values() for path in paths)
        assert job.rows() == rows
        assert sweep(job) == []
        if not job.store.runs().get("r1"):
            assert not list(folder.rglob("*.staged"))
        job = _launch(folder, bundles=3)
        assert job.rows() == [0, 2, 3, 9]
        job.check_seen_files()
        assert sweep(job) == []
    assert points > 60
    assert swept > 5


FORMS = {"records": "parquet", "dead": "jsonl", "ledger": "jsonl"}


@pytest.mark.slow
def test_a_crash_in_a_sweep_is_mended_by_the_next(tmp_path_factory):
    def prepare():
        job = Job(tmp_path_factory.mktemp("gc"), 1, 2, 3)
        job.launch("r1")
        staged(job.records, token("r1"), *[numbers(n) for n in range(5)])
        return job

    for job in crash_points(sweep, prepare):
        sweep(job)
        assert job.rows() == [1, 2, 3]
        job.check_seen_files()


def test_what_is_young_is_left_alone(tmp_path):
    job = Job(tmp_path, 1)
    begun = job.store.begin(job.plan, "r1").token
    old, young = staged(job.records, begun, numbers(1), numbers(2))
    aged(old.path, days=8)
    aged(young.path, days=6)
    assert sweep(job, time.time() - 7 * 86400) == [("staged, never committed", old.path)]
    assert Path(young.path).exists()


def test_runs_of_others_are_left_alone(tmp_path):
    job = Job(tmp_path, 1)
    job.store.begin(job.plan, "r1")
    (mine,) = staged(job.records, token("r1"), numbers(1))
    (strange,) = staged(job.records, token("other"), numbers(1))
    (elsewhere,) = staged(Output("more", job.records.uri), token("r1"), numbers(1))
    final = tmp_path / "records" / f"records-other-{'0' * 16}.parquet"
    final.write_bytes(b"x")
    runs = job.store.runs()
    assert unknown_staged(job.records.destination.staging, runs) == [strange.path]
    assert garbage_of(job.records, runs) == {mine.path: "staged, never committed"}
    assert Path(elsewhere.path).exists()


def test_an_unfinished_run_keeps_all_of_its_files(tmp_path):
    job = Job(tmp_path, 1, 2)
    begun = job.store.begin(job.plan, "r1").token
    _die_before_the_manifest(job, begun)
    moved = list((tmp_path / "records").glob("*.parquet"))
    late = staged(job.records, begun, numbers(7))
    assert len(moved) == 2
    assert job.store.runs() == {"r1": True}
    assert sweep(job) == []
    assert Path(late[0].path).exists()
    job.launch()
    assert job.store.runs() == {"r1": False}
    assert job.rows() == [1, 2]


def _die_before_the_manifest(job, token):
    def die(*_):
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "append", die)
        with pytest.raises(Crash):
            job.commit(token)


def test_final_files_in_no_manifest(tmp_path):
    job = Job(tmp_path, 1)
    job.launch("r1")
    (live,) = live_files(job.records.uri)
    lost = tmp_path / "records" / f"records-r1-{'0' * 16}-1.parquet"
    states = tmp_path / "records/_millstream/states" / f"records-r1-{'0' * 16}.parquet.states"
    partition = tmp_path / "records/a=1/b=2" / f"records-r1-{'0' * 16}.avro"
    others = [
        tmp_path / "records" / "mine.parquet",
        tmp_path / "records" / f"letters-r1-{'0' * 16}.parquet",
        tmp_path / "records" / "sub" / f"records-r1-{'0' * 16}.parquet",
        tmp_path / "records" / "a=1" / "sub" / f"records-r1-{'0' * 16}.parquet",
    ]
    for path in (lost, states, partition, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = sweep(job)
    assert sorted(found) == sorted(
        ("in no manifest", str(path)) for path in (lost, states, partition)
    )
    assert Path(live).exists()
    assert all(path.exists() for path in others)
    assert folders(tmp_path / "records") == ["a=1", "a=1/sub", "sub"]


def test_a_destination_inside_another_is_left_alone(tmp_path):
    """Its files are in a manifest of its own, be it in a folder that looks like a partition."""
    job = Job(tmp_path, 1)
    job.launch("r1")
    for place in ("records/inner", "records/k=1", "records/k=2/l=3"):
        inner = Output("records", f"parquet:{tmp_path}/{place}")
        commit(inner, token("r1"), staged(inner, token("r1"), numbers(5)))
    assert sweep(job) == []


def test_a_name_that_can_be_read_in_two_ways_is_kept(tmp_path):
    """Output a, run b-c, or output a-b, run c, which is unfinished."""
    path = tmp_path / f"a-b-c-{'0' * 16}.parquet"
    path.write_bytes(b"x")
    to = Output("a", f"parquet:{tmp_path}")
    assert garbage_of(to, {"b-c": False, "c": True}) == {}
    assert garbage_of(to, {"b-c": False, "c": False}) == {str(path): "in no manifest"}
    assert garbage_of(to, {"c": False}) == {}


def test_half_written_files(tmp_path):
    job = Job(tmp_path, 1)
    job.launch("r1")
    for place in ("records/_millstream/manifests", "ledger/_millstream/runs/r1"):
        (tmp_path / place / ".00000009.json.0f.millstream-tmp").write_bytes(b"{")
    found = sweep(job)
    assert [reason for reason, _ in found] == ["half written"] * 2
    assert (tmp_path / "ledger/_millstream/runs/r1").exists()


def test_leftovers_of_tables(tmp_path):
    """Rows for tables, of whatever output, are staged in the run store's own folder."""
    store = RunStore(f"{tmp_path}/state")
    old, unfinished = (store.begin(Plan("j", "c", "1", d, ()), f"r{d}").token for d in "ab")
    outputs = [
        Output(name, f"duckdb:{tmp_path}/w.duckdb/{name}", state=store.home)
        for name in ("records", "of_a_former_job")
    ]
    mine = [staged(output, old, numbers(1))[0].path for output in outputs]
    kept = [staged(output, unfinished, numbers(1))[0].path for output in outputs]
    strange = staged(outputs[0], token("other"), numbers(1))[0].path
    staging = Path(staging_of(store.home))
    spill = staging / "ra" / "_deduplicate" / "1.arrow.index"
    spill.parent.mkdir()
    spill.write_bytes(b"keys")
    runs = {"ra": False, "rb": True}
    found = {g.path: g.reason for g in find_leftovers(store.home, runs, LATER)}
    assert found == dict.fromkeys([*mine, str(spill)], "staged, never committed")
    assert unknown_staged(str(staging), runs) == [strange]
    for garbage in list(find_leftovers(store.home, runs, LATER)):
        delete_garbage(store.home, garbage)
    assert sorted(p.name for p in staging.iterdir()) == ["other", "rb"]
    assert all(Path(path).exists() for path in (*kept, strange))


def test_refused_rows_that_were_never_named(tmp_path):
    """Who wrote them died before their file had its name; whoever comes next writes them again."""
    store = RunStore(str(tmp_path))
    run = store.folder(store.begin(Plan("j", "c", "1", "d", ()), "r1").token)
    half = Path(run.path) / f".{'0' * 32}.staged"
    half.write_bytes(b"PAR1")
    named = Path(run.path) / f"refused-records-{'0' * 16}.parquet"
    named.write_bytes(b"PAR1")
    assert list(find_leftovers(store.home, {"r1": True}, before=half.stat().st_mtime)) == []
    found = list(find_leftovers(store.home, {"r1": True}, LATER))
    assert [(g.path, g.reason) for g in found] == [(str(half), "half written")]


def test_old_manifests(tmp_path):
    job = Job(tmp_path, 1)
    job.launch("r1")
    folder = tmp_path / "records/_millstream/manifests"
    for number in range(2, manifests.KEEP + 4):
        shutil.copy(folder / "00000001.json", folder / f"{number:08d}.json")
    found = sweep(job, before=0)
    assert [(reason, Path(path).name) for reason, path in found] == [
        ("old manifest", f"{number:08d}.json") for number in (1, 2, 3)
    ]
    assert job.rows() == [1]


def test_what_is_gone_meanwhile_is_no_error(tmp_path):
    job = Job(tmp_path, 1)
    begun = job.store.begin(job.plan, "r1").token
    one, two = sorted(r.path for r in staged(job.records, begun, numbers(1), numbers(2)))
    to = job.records.destination
    assert isinstance(to, FilesDestination)
    found = find_garbage(to, job.store.runs(), LATER)
    assert next(found).path == one
    os.unlink(two)
    assert list(found) == []


def test_nothing_there_yet(tmp_path):
    job = Job(tmp_path, 1)
    assert sweep(job) == []
    assert not list(tmp_path.iterdir())


ATTEMPTS = st.lists(
    st.tuples(
        st.sampled_from(["r0", "r1", "r2"]),
        st.sampled_from(["commit", "stage", "die", "sweep"]),
        st.integers(0, 3),
    ),
    max_size=8,
)


@settings(max_examples=40)
@given(ATTEMPTS)
def test_sweeps_between_attempts_change_nothing(tmp_path_factory, attempts):
    """Runs that commit, fail or die, with sweeps between them or without, give the same table."""
    swept, plain = (_after(tmp_path_factory.mktemp("laws"), attempts, s) for s in (True, False))
    assert swept.rows() == plain.rows()
    swept.check_seen_files()


def _after(folder, attempts, sweeping):
    held: dict[str, int] = {}
    for run, what, value in attempts:
        # Each run has input of its own; a new value is a new plan of the run.
        job = Job(folder, int(run[1]) * 10 + value, dead=0)
        if what == "commit":
            job.launch(run)
            held[run] = value
        elif what == "sweep" and sweeping:
            sweep(job)
        elif what in ("stage", "die") and not job.store.runs().get(run):
            decision = job.store.begin(job.plan, run)
            if decision.kind == "done":
                continue
            if what == "stage":
                job.facts(decision.token)
            else:
                _die_before_the_manifest(job, decision.token)
    job = Job(folder, 99, dead=0)
    for run, unfinished in job.store.runs().items():
        if unfinished:
            # A launch of any plan completes what was prepared, then goes on with its own.
            Job(folder, int(run[1]) * 10 + held.get(run, 0), dead=0).launch(run)
    if sweeping:
        sweep(job)
    job.launch("r9")
    return job


@pytest.mark.service
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_in_an_object_store(scheme):
    """Partitions, live files and garbage, hostile names included, where there are no folders."""
    # The emulator of Google's store links to objects without escaping their names.
    values = HOSTILE if scheme == "s3" else ["NO", "..", "", "ü", None, "001"]
    with object_store(scheme, "bucket"):
        to = Output("records", f"csv:{scheme}://bucket/x?partition_by=k")
        assert isinstance(to.destination, FilesDestination)
        store = RunStore(f"{scheme}://bucket/ledger")
        old, new = (store.begin(Plan("j", "c", "1", d, ()), "r1").token for d in "ab")
        batch = table(k=values, n=list(range(len(values))))
        commit(to, old, stage_batches(to, old, [batch.slice(0, 3)]))
        commit(to, new, stage_batches(to, new, [batch]))
        live = live_files(to.uri)
        assert len(live) == len(values)
        assert sorted(storage.list_files(to.destination.home, ".csv", deep=True)) == sorted(live)
        begun = time.time()
        (receipt,) = stage_batches(to, new, [batch.slice(5, 1)])
        lost = f"{to.destination.home}/k=%2F/records-r1-{'0' * 16}.csv"
        storage.write_once(lost, b"x")
        assert abs(storage.modified(lost) - begun) < 60
        assert list(find_garbage(to.destination, store.runs(), begun - 60)) == []
        found = list(find_garbage(to.destination, store.runs(), LATER))
        assert [(g.path, g.reason) for g in found] == [
            (receipt.path, "staged, never committed"), (lost, "in no manifest"),
        ]  # fmt: skip
        half = storage.join(store.folder(new).path, f".{'0' * 32}.staged")
        storage.write_once(half, b"x")
        assert [g.path for g in find_leftovers(store.home, store.runs(), LATER)] == [half]
        for garbage in found:
            delete_garbage(to.destination.home, garbage)
        assert sorted(storage.list_files(to.destination.home, ".csv", deep=True)) == sorted(live)
        assert not storage.list_files(to.destination.staging, deep=True)
