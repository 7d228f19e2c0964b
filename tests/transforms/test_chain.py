"""The chain of commits: only one can be next, and whoever is stopped midway leaves no harm."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from millstream.transforms import storage
from millstream.transforms.carry import Carry
from millstream.transforms.intervals import chain as chain_module
from millstream.transforms.intervals.chain import Chain, Head, Overtaken
from millstream.transforms.plan import Interval, Plan, Token
from millstream.transforms.runs import Prepared, RunStore
from millstream.transforms.write.commit import prepared_output
from millstream.transforms.write.destination import Output
from millstream.transforms.write.files import live_files
from millstream.transforms.write.stage import stage_batches


class Killed(BaseException):
    """The process ends here."""


class Process:
    """One process that commits for a job in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chain = Chain(RunStore(str(path / "ledger")))
        self.output = Output("rows", f"jsonl:{path}/rows")

    def begin(self, sequence: int, end: int) -> Token:
        """Begin the commit of a number, of rows up to a position."""
        interval = Interval("s", (sequence - 1) * 100, end)
        return self.chain.begin(Plan("j", "c", "1", "d" * 64, intervals=(interval,)), sequence)

    def prepared(self, token: Token, sequence: int, rows: list[int]) -> Prepared:
        batch = pa.RecordBatch.from_pydict({"n": rows})
        receipts = stage_batches(self.output, token, [batch])
        return Prepared(
            token=str(token),
            outputs=(prepared_output(self.output, receipts),),
            ledger_uri=f"jsonl:{self.path}/ledger",
            ledger=(),
            carry=Carry(sequence=sequence, token=str(token)),
        )

    def commit(self, sequence: int, rows: list[int]) -> Head:
        token = self.begin(sequence, max(rows))
        return self.chain.commit(self.prepared(token, sequence, rows))

    def rows(self) -> list[int]:
        """What is visible."""
        return sorted(
            json.loads(line)["n"]
            for file in live_files(self.output.uri)
            for line in Path(file).read_bytes().splitlines()
        )


@pytest.fixture
def process(tmp_path) -> Process:
    return Process(tmp_path)


def files(path: Path) -> dict[str, bytes]:
    found = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


def killed_at(
    monkeypatch: pytest.MonkeyPatch, name: str, when: str, commit: Callable[[], object]
) -> None:
    """Commit, and be killed before or after a file is written whose path has this in it."""
    plain = storage.write_once

    def write_once(path: str, data: bytes) -> bool:
        if name not in path:
            return plain(path, data)
        if when == "after":
            plain(path, data)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_once", write_once)
        with pytest.raises(Killed):
            commit()


def test_commits_follow_one_another(process):
    assert process.chain.head() is None
    assert process.chain.newest() == 0
    for sequence in (1, 2, 3):
        head = process.commit(sequence, [sequence])
        assert (head.carry.sequence, head.record.run_id) == (sequence, f"c{sequence:010d}")
        assert process.chain.newest() == sequence
        assert Process(process.path).chain.head() == head
    assert process.rows() == [1, 2, 3]


def test_a_commit_that_is_repeated_is_the_same(process):
    token = process.begin(1, 5)
    prepared = process.prepared(token, 1, [1, 2])
    first = process.chain.commit(prepared)
    before = files(process.path)
    assert process.chain.commit(prepared) == first
    assert files(process.path) == before
    assert process.rows() == [1, 2]


def test_of_two_that_are_ready_one_is_told_that_it_has_lost(process):
    other = Process(process.path)
    tokens = process.begin(1, 5), other.begin(1, 7)
    ours, theirs = process.prepared(tokens[0], 1, [5]), other.prepared(tokens[1], 1, [7])
    won = process.chain.commit(ours)
    before = files(process.path)
    with pytest.raises(Overtaken, match=rf"commit 1 of this job \({tokens[0]}\)"):
        other.chain.commit(theirs)
    changed = {name for name, data in files(process.path).items() if before.get(name) != data}
    assert all(name.endswith("prepared.json") for name in changed), "nothing but what it planned"
    assert other.chain.head() == won
    assert process.rows() == [5]


@pytest.mark.parametrize("contestants", [2, 6])
def test_many_race_for_a_number_and_one_wins(tmp_path, contestants):
    ready = threading.Barrier(contestants)
    results: dict[int, Any] = {}

    def run(n: int, prepared: Prepared, process: Process) -> None:
        ready.wait()
        try:
            results[n] = process.chain.commit(prepared)
        except Overtaken as error:
            results[n] = error

    threads = []
    processes = [Process(tmp_path) for _ in range(contestants)]
    tokens = [process.begin(1, n + 1) for n, process in enumerate(processes)]
    for n, (process, token) in enumerate(zip(processes, tokens, strict=True)):
        prepared = process.prepared(token, 1, [n])
        threads.append(threading.Thread(target=run, args=(n, prepared, process)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [n for n, result in results.items() if isinstance(result, Head)]
    assert len(won) == 1
    assert len(results) == contestants
    assert processes[0].rows() == won
    head = processes[0].chain.head()
    assert head is not None
    assert head.record.run_id == "c0000000001"


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("chain/0000000002.json", "after"),
        ("rows/_millstream/", "before"),
        ("rows/_millstream/", "after"),
        ("record.json", "before"),
        ("record.json", "after"),
    ],
)
def test_once_it_is_next_a_restart_completes_it(process, monkeypatch, name, when):
    process.commit(1, [1])
    killed_at(monkeypatch, name, when, lambda: process.commit(2, [2, 3]))
    again = Process(process.path)
    head = again.chain.head()
    assert head is not None
    assert head.carry.sequence == 2
    assert head.record.status == "committed"
    assert again.rows() == [1, 2, 3]
    again.commit(3, [4])
    assert again.rows() == [1, 2, 3, 4]


def test_killed_before_it_was_prepared_nothing_has_been(process, monkeypatch):
    head = process.commit(1, [1])
    killed_at(monkeypatch, "prepared.json", "before", lambda: process.commit(2, [2]))
    again = Process(process.path)
    assert again.chain.head() == head
    again.commit(2, [3])
    assert again.rows() == [1, 3]


@pytest.mark.parametrize(
    ("name", "when"), [("prepared.json", "after"), ("chain/0000000002.json", "before")]
)
def test_what_was_prepared_and_got_no_further_becomes_the_next(process, monkeypatch, name, when):
    """Else it would be committed in place of what a later process has read."""
    process.commit(1, [1])
    killed_at(monkeypatch, name, when, lambda: process.commit(2, [2, 3]))
    assert process.rows() == [1]
    again = Process(process.path)
    head = again.chain.head()
    assert head is not None
    assert head.carry.sequence == 2
    assert again.rows() == [1, 2, 3]
    again.commit(3, [4])
    assert again.rows() == [1, 2, 3, 4]


def test_the_very_first_commit_too(process, monkeypatch):
    killed_at(monkeypatch, "prepared.json", "after", lambda: process.commit(1, [1]))
    head = Process(process.path).chain.head()
    assert head is not None
    assert head.carry.sequence == 1
    assert process.rows() == [1]


def test_what_the_newest_commit_needs_and_is_gone_is_told(process):
    head = process.commit(1, [1])
    folder = process.chain.store.folder(Token.parse(head.carry.token))
    storage.delete(storage.join(folder.path, "prepared.json"))
    with pytest.raises(storage.StorageError, match=r"c0000000001 of .* is gone: restore"):
        process.chain.head()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"format": "millstream.link/9", "token": "x"}']
)
def test_a_link_that_cannot_be_read_is_told(process, content):
    process.commit(1, [1])
    (path,) = (process.path / "ledger" / "_millstream" / "chain").iterdir()
    path.write_bytes(content)
    with pytest.raises(storage.StorageError, match=r"cannot read .*0000000001\.json"):
        process.chain.head()


def test_a_number_that_has_been_committed_is_not_begun_again(process):
    process.commit(1, [1])
    with pytest.raises(Overtaken, match="another process has made commit c0000000001"):
        process.begin(1, 50)


def test_the_newest_links_are_kept(process, monkeypatch):
    monkeypatch.setattr(chain_module, "KEEP_LINKS", 3)
    for sequence in range(1, 7):
        process.commit(sequence, [sequence])
    folder = process.path / "ledger" / "_millstream" / "chain"
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{sequence:010d}.json" for sequence in (4, 5, 6)
    ]
    assert sorted(process.chain.store.runs()) == [f"c{n:010d}" for n in (4, 5, 6)]
    assert process.rows() == [1, 2, 3, 4, 5, 6]
    assert process.chain.newest() == 6
    head = process.chain.head()
    assert head is not None
    assert head.carry.sequence == 6
