"""What every destination promises: a commit is visible once, whatever fails, dies or comes twice.

The suite runs on the destinations of ``tests/services/destinations.py``, each against its real
service; see there for what one is excused from, and why.
"""

from __future__ import annotations

import itertools
import os
import pickle
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from conformance_support import (
    DIED,
    NOON,
    Interrupted,
    Moment,
    Process,
    Target,
    Work,
    again,
    batch_of,
    event,
    events,
    interrupted,
    raising,
)
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable

LOST = Unavailable("the answer is lost")


# ------------------------------------------------------------------------------ tokens


def test_the_same_token_twice(target: Target):
    work = target.commit(events(1, 2), events(3))
    assert work.held
    again(work)
    target.assert_holds(events(1, 2, 3))
    assert target.staged_files() == []


def test_the_same_rows_staged_once_more_under_the_same_token(target: Target):
    target.commit(events(1, 2))
    work = target.commit(events(1, 2))
    assert work.held
    target.assert_holds(events(1, 2))
    assert target.staged_files() == []


def test_the_same_token_with_other_content(target: Target):
    target.commit(events(1, 2))
    with pytest.raises(CommitConflict, match="r1 with other content"):
        target.commit(events(1, 2, 3))
    target.assert_holds(events(1, 2))


@pytest.mark.slow
def test_another_plan_under_the_same_run_id(target: Target):
    target.needs("one plan")
    target.commit(events(1, 2))
    other = target.staged(events(3), plan="q")
    with pytest.raises(CommitConflict, match="r1 with another plan"):
        other.destination.refuse_replacing("r1")
    with pytest.raises(CommitConflict, match="r1 with another plan"):
        other.do()
    target.assert_holds(events(1, 2))
    other.destination.refuse_replacing("r2")


@pytest.mark.slow
def test_several_runs_add_up(target: Target):
    for n in (1, 2, 3):
        target.commit(events(n), run_id=f"r{n}")
    target.assert_holds(events(1, 2, 3))
    held = [target.output().destination.committed(f"r{n}") for n in (1, 2, 3, 4)]
    assert [found and (found.token.run_id, found.rows) for found in held] == [
        ("r1", 1), ("r2", 1), ("r3", 1), None,
    ]  # fmt: skip


@pytest.mark.slow
def test_two_outputs_of_one_run(target: Target):
    other = target.another()
    for table, n in ((target, 1), (other, 2)):
        table.commit(events(n))
    target.assert_holds(events(1))
    other.assert_holds(events(2))


@pytest.mark.parametrize("query", ["", "mode=upsert", "mode=replace&partition_by=note"])
def test_no_rows(target: Target, query: str):
    target.needs_mode(query)
    work = target.staged(query=query)
    work.destination.check_tables(work.commit.tables)
    work.do()
    assert work.held
    again(work)
    target.assert_holds([])
    target.commit(events(1), run_id="r2", query=query)
    target.commit(run_id="r3", query=query)
    target.assert_holds(events(1))


@pytest.mark.slow
def test_a_million_rows(target: Target):
    rows = 1_000_000
    table = Table((Field("n", "integer", required=True),), has_identity=True)
    batch = batch_of([{"n": n} for n in range(rows // 10)], table)
    files = [batch.set_column(0, "n", pc.add(batch["n"], n * rows // 10)) for n in range(10)]
    target.staged_parts({"data": table}, {"data": files}, kind="records").do()
    read = target.read(table)["n"].to_numpy()
    assert (np.unique(read) == np.arange(rows)).all()
    assert len(read) == rows or not target.known.once


# ------------------------------------------------------------------------------ crashes


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", "mode=upsert"])
@pytest.mark.parametrize("error", [LOST, Interrupted()], ids=["fails", "dies"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_every_call_that_makes_rows_visible(
    target: Target, moment: Moment, error: BaseException, query: str
):
    """The call never comes, or its answer is lost; a second attempt puts it right."""
    target.needs_mode(query)
    where = target.peer.interrupt_commit()
    for call in itertools.count():
        target = target.another()
        target.commit(events(1), run_id="r0", query=query)
        work = target.staged(events(2, 3), events(4), query=query)
        with (
            interrupted(where, moment, raising(error), call) as calls,
            suppress(Unavailable, Interrupted),
        ):
            work.do()
        if calls() <= call:
            assert call, "nothing was interrupted"
            return
        again(work)
        assert work.held
        target.assert_holds(events(1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("made", [True, False], ids=["into a table", "into no table"])
def test_a_process_that_dies_between_staging_and_commit(target: Target, tmp_path, made: bool):
    before = events(0) if made else []
    if made:
        target.commit(before, run_id="r0")
    work = target.staged(events(1, 2), events(3))
    code, said = Process(work, target, moment="before", folder=tmp_path).run()
    assert code == DIED, said
    if target.known.once:
        assert not work.held
        if made:
            target.assert_holds(before)
    again(work)
    target.assert_holds([*before, *events(1, 2, 3)])
    assert target.staged_files() == []


@pytest.mark.slow
def test_a_process_that_dies_after_the_commit(target: Target, tmp_path):
    work = target.staged(events(1, 2), events(3))
    code, said = Process(work, target, moment="after", folder=tmp_path).run()
    assert code == DIED, said
    if target.known.once:
        assert work.held
        target.assert_holds(events(1, 2, 3))
    again(work)
    target.assert_holds(events(1, 2, 3))
    assert target.staged_files() == []


# ---------------------------------------------------------------------- two at once


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", "mode=upsert"])
def test_two_writers_of_one_token(target: Target, tmp_path, query: str):
    target.needs_mode(query)
    work = target.staged(events(*range(2000)), query=query)
    at_once(target, tmp_path, work, work)
    target.assert_holds(events(*range(2000)))
    assert work.held


@pytest.mark.slow
@pytest.mark.parametrize("made", [True, False], ids=["into a table", "into no table"])
def test_two_writers_of_two_tokens(target: Target, tmp_path, made: bool):
    if made:
        target.commit(run_id="r0")
    one = target.staged(events(*range(2000)), run_id="r1")
    two = target.staged(events(*range(2000, 4000)), run_id="r2")
    at_once(target, tmp_path, one, two)
    target.assert_holds(events(*range(4000)))
    assert one.held
    assert two.held


@pytest.mark.slow
def test_two_writers_of_the_same_keys(target: Target, tmp_path):
    query = "mode=upsert"
    target.needs_mode(query)
    target.needs("any order")
    old = [event(n, at=NOON, note="old") for n in range(1000)]
    new = [event(n, note="new") for n in range(500, 1500)]
    one = target.staged(old, query=query, run_id="r1")
    two = target.staged(new, query=query, run_id="r2")
    at_once(target, tmp_path, one, two)
    target.assert_holds([*old[:500], *new])


def at_once(target: Target, folder: Any, *works: Work) -> None:
    """Commit in processes that begin at the same time; those that are told to wait try again."""
    processes = [Process(work, target, folder=folder) for work in works]
    for process in processes:
        process.ready()
    for process in processes:
        process.go()
    ended = [process.end() for process in processes]
    assert [code for code, _ in ended] == [0] * len(works), ended


# ------------------------------------------------------------------------------- secrets


WRONG = "wröng-and-secret"


def test_secrets_are_nowhere(target: Target, monkeypatch, tmp_path, capfd):
    """Neither in what is stored and sent, nor in what is said when the password is wrong."""
    password = target.known.password
    if not password:
        pytest.skip(f"{target.scheme}: it is reached without a password")
    work = target.staged(events(1))
    stored = [pickle.dumps(work), repr(work).encode(), work.destination.uri.encode()]
    work.do()
    stored.append(repr(work.destination.committed("r1")).encode())
    for path in Path(target.state).rglob("*"):
        stored += [bytes(path), path.read_bytes() if path.is_file() else b""]
    for name, value in target.peer.environment.items():
        monkeypatch.setenv(name, with_wrong_password(value, password, tmp_path / name))
    with pytest.raises(DestinationError) as raised:
        target.commit(events(2), run_id="r2")
    stored += [line.encode() for line in traceback.format_exception(raised.value)]
    stored += [text.encode() for text in capfd.readouterr()]
    for secret in (password, WRONG):
        assert not any(secret.encode() in text for text in stored)


def with_wrong_password(value: str, password: str, copy: Path) -> str:
    """The value of an environment variable, or the file that it names, with another password."""
    if os.path.isfile(value):
        copy.write_text(Path(value).read_text("utf-8").replace(password, WRONG), "utf-8")
        copy.chmod(0o600)
        return str(copy)
    return value.replace(password, WRONG)
