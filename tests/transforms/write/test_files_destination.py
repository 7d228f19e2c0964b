"""Files and manifest: committed once, whatever happens between two operations."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms import storage
from millstream.transforms.receipts import Receipt, content_digest
from millstream.transforms.write import files, manifests
from millstream.transforms.write.destination import CommitConflict, Committed, Output, destination
from millstream.transforms.write.files import FilesDestination, live_files
from millstream.transforms.write.manifests import FORMAT, Manifest, read_manifest
from storage_support import crash_points, interleave
from write_support import commit, numbers, staged, token


def output(folder, name="events", form="parquet"):
    return Output(name, f"{form}:{folder}")


def rows(folder):
    """What a reader by manifest sees, sorted."""
    found = [pq.read_table(path)["n"].to_pylist() for path in live_files(f"parquet:{folder}")]
    return sorted(n for values in found for n in values)


def visible(folder):
    """What a reader by glob sees: paths of files."""
    return sorted(map(str, Path(folder).glob("*.parquet")))


def test_staged_files_are_seen_by_no_glob(tmp_path):
    staged(output(tmp_path), token(), numbers(1))
    assert not [*tmp_path.rglob("*.parquet"), *tmp_path.rglob("*.jsonl")]


def test_commit_then_look_up(tmp_path):
    to = output(tmp_path)
    receipts = staged(to, token(), numbers(1, 2), numbers(3))
    assert to.destination.committed("r1") is None
    commit(to, token(), receipts)
    assert to.destination.committed("r1") == Committed(token(), content_digest(receipts), 3)
    assert rows(tmp_path) == [1, 2, 3]
    assert visible(tmp_path) == sorted(live_files(to.uri))
    assert not list((tmp_path / "_millstream" / "staging").iterdir())


def test_no_rows_are_committed_too(tmp_path):
    commit(output(tmp_path), token(), [])
    assert output(tmp_path).destination.committed("r1") == Committed(token(), content_digest([]), 0)


def test_twice_is_once(tmp_path):
    to = output(tmp_path)
    receipts = staged(to, token(), numbers(1))
    commit(to, token(), receipts)
    commit(to, token(), receipts)
    assert rows(tmp_path) == [1]
    assert read_manifest(str(tmp_path)).version == 1


def test_equal_files_are_all_kept(tmp_path):
    to = output(tmp_path)
    commit(to, token(), staged(to, token(), numbers(1), numbers(1), numbers(1)))
    assert rows(tmp_path) == [1, 1, 1]


def test_same_token_other_content_is_refused_and_leaves_nothing(tmp_path):
    to = output(tmp_path)
    commit(to, token(), staged(to, token(), numbers(1)))
    with pytest.raises(CommitConflict, match="'events' already holds run r1 with other content"):
        commit(to, token(), staged(to, token(), numbers(2)))
    assert rows(tmp_path) == [1]
    assert visible(tmp_path) == live_files(to.uri)


def test_same_run_other_plan_replaces(tmp_path):
    to = output(tmp_path)
    commit(to, token("r0"), staged(to, token("r0"), numbers(0)))
    commit(to, token("r1", "a"), staged(to, token(), numbers(1), numbers(7)))
    commit(to, token("r1", "b"), staged(to, token(), numbers(2), numbers(7)))
    assert rows(tmp_path) == [0, 2, 7]
    assert visible(tmp_path) == sorted(live_files(to.uri))


def test_outputs_share_a_folder(tmp_path):
    one, two = output(tmp_path, "one"), output(tmp_path, "two")
    first, second = staged(one, token(), numbers(1)), staged(two, token(), numbers(2))
    commit(one, token(), first)
    commit(two, token(), second)
    assert rows(tmp_path) == [1, 2]


def test_states_lie_where_no_glob_of_the_table_looks(tmp_path):
    to = Output("sums", f"parquet:{tmp_path}", "aggregates")
    states = pa.RecordBatch.from_pydict({"n": [1], "rows": [5]})
    receipts = staged(to, token(), numbers(1))
    receipts += [_staged_states(to, states)]
    commit(to, token(), receipts)
    assert rows(tmp_path) == [1]
    (path,) = live_files(to.uri, part="states")
    assert path.startswith(str(tmp_path / "_millstream" / "states"))
    assert pq.read_table(path)["rows"].to_pylist() == [5]
    held = to.destination.committed("r1")
    assert held is not None
    assert held.rows == 1


def _staged_states(to, batch):
    from millstream.transforms.write.stage import Sink

    sink = Sink(to, token(), "states", batch.schema)
    sink.write(batch, batch)
    receipt = sink.close()
    assert receipt.contributions == 5
    return receipt


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    folder = tmp_path / "_millstream" / "manifests"
    folder.mkdir(parents=True)
    (folder / "00000001.json").write_text('{"format":"millstream.manifest/9"}')
    with pytest.raises(
        storage.StorageError, match=r"00000001\.json: format 'millstream.manifest/9'"
    ):
        read_manifest(str(tmp_path))
    (folder / "00000002.json").write_text("{")
    with pytest.raises(storage.StorageError, match="not a manifest"):
        read_manifest(str(tmp_path))


def test_lost_staged_files_are_named(tmp_path):
    to = output(tmp_path)
    (receipt,) = staged(to, token(), numbers(1))
    storage.delete(receipt.path)
    with pytest.raises(storage.StorageError, match=r"cannot move .*\.staged: not found"):
        commit(to, token(), [receipt])


def test_old_manifests_are_tidied_away(tmp_path):
    to = output(tmp_path)
    for number in range(manifests.KEEP + 5):
        commit(to, token(f"r{number}"), staged(to, token(f"r{number}"), numbers(number)))
    assert len(list((tmp_path / "_millstream" / "manifests").iterdir())) == manifests.KEEP
    assert rows(tmp_path) == list(range(manifests.KEEP + 5))


RECEIPTS = st.lists(
    st.builds(
        Receipt,
        output=st.just("events"),
        part=st.sampled_from(["data", "states"]),
        path=st.uuids().map(str),
        rows=st.integers(0, 9),
        bytes=st.integers(0, 9),
        sha256=st.sampled_from(["a" * 64, "b" * 64, "c" * 64]),
    ),
    max_size=8,
)


@given(RECEIPTS, st.randoms())
def test_the_order_of_receipts_changes_neither_digest_nor_names(receipts, source):
    shuffled = source.sample(receipts, len(receipts))
    assert content_digest(shuffled) == content_digest(receipts)
    to = destination("parquet:x", "events")
    assert isinstance(to, FilesDestination)
    named = {r.path: f.path for r, f in files._final_files(to, token(), receipts)}
    assert {r.path: f.path for r, f in files._final_files(to, token(), shuffled)} == named
    assert len(set(named.values())) == len(receipts)


def test_golden_manifest(golden):
    receipts = [
        Receipt(output="events", path="1", rows=3, bytes=10, sha256="1" * 64, sources={"a": 3}),
        Receipt(output="events", part="states", path="2", rows=1, bytes=5, sha256="2" * 64),
    ]
    to = destination("parquet:/data/events", "events")
    assert isinstance(to, FilesDestination)
    found = [file for _, file in files._final_files(to, token(), receipts)]
    entry = to._entry(token(), content_digest(receipts), found, None)
    golden("manifest", Manifest(format=FORMAT, version=7, entries=(entry,)))


@pytest.mark.slow
def test_every_crash_can_be_mended(tmp_path_factory):
    """A commit that replaces an older plan, beside another run, interrupted anywhere."""

    def prepare():
        folder = tmp_path_factory.mktemp("crash")
        to = output(folder)
        commit(to, token("r0"), staged(to, token("r0"), numbers(0)))
        commit(to, token("r1", "a"), staged(to, token(), numbers(1), numbers(7)))
        return to, staged(to, token(), numbers(2), numbers(2), numbers(7))

    def action(state):
        to, receipts = state
        commit(to, token("r1", "b"), receipts)

    points = 0
    for to, receipts in crash_points(action, prepare):
        points += 1
        folder = to.destination.home
        # Who reads by manifest sees the old rows or the new ones, never a mixture.
        assert rows(folder) in ([0, 1, 7], [0, 2, 2, 7])
        action((to, receipts))
        assert rows(folder) == [0, 2, 2, 7]
        assert visible(folder) == sorted(live_files(to.uri))
        assert not list(Path(to.destination.staging).iterdir())
    assert points > 20


@settings(max_examples=60)
@given(st.lists(st.integers(0, 2), max_size=60))
def test_racing_commits_of_three_runs_are_all_there(tmp_path_factory, schedule):
    folder = tmp_path_factory.mktemp("race")
    to = output(folder)

    def commits(number):
        run = token(f"r{number}")
        receipts = staged(to, run, numbers(number))
        return lambda: commit(to, run, receipts)

    assert interleave(iter(schedule), *map(commits, range(3))) == [None] * 3
    assert rows(folder) == [0, 1, 2]
    assert visible(folder) == sorted(live_files(to.uri))
    assert [e.run_id for e in read_manifest(str(folder)).entries].count("r1") == 1


@settings(max_examples=60)
@given(st.lists(st.integers(0, 1), max_size=60))
def test_racing_commits_of_the_same_receipts_are_one(tmp_path_factory, schedule):
    folder = tmp_path_factory.mktemp("race")
    to = output(folder)
    receipts = staged(to, token(), numbers(1), numbers(2))
    twice = [lambda: commit(to, token(), receipts)] * 2
    assert interleave(iter(schedule), *twice) == [None] * 2
    assert rows(folder) == [1, 2]
    assert visible(folder) == sorted(live_files(to.uri))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 1), max_size=60))
def test_of_racing_commits_with_other_content_one_is_refused(tmp_path_factory, schedule):
    folder = tmp_path_factory.mktemp("race")
    to = output(folder)
    mine, yours = staged(to, token(), numbers(1)), staged(to, token(), numbers(2))
    results = interleave(
        iter(schedule), lambda: commit(to, token(), mine), lambda: commit(to, token(), yours)
    )
    # The later one finds the token taken, or its staged files cleared away with the first's.
    assert sorted(result is None for result in results) == [False, True]
    assert rows(folder) == ([1] if results[0] is None else [2])
    assert visible(folder) == live_files(to.uri)


def test_racing_threads(tmp_path):
    """The same without a schedule: real threads, real file system."""
    import threading

    to = output(tmp_path)

    def work(number):
        for step in range(5):
            run = token(f"r{number}-{step}")
            commit(to, run, staged(to, run, numbers(number * 10 + step)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    random.shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(tmp_path) == sorted(n * 10 + s for n in range(6) for s in range(5))
    assert json.loads((tmp_path / "_millstream" / "manifests" / "00000030.json").read_text())
