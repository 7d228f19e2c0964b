"""The run store: what a launcher is told to do, after every history."""

from typing import Literal

import msgspec
import pytest
from millstream.transforms import ledger, storage
from millstream.transforms.plan import InputFile, Plan, PlanError, Token
from millstream.transforms.receipts import Receipt
from millstream.transforms.runs import (
    AlreadyCommitted,
    Prepared,
    PreparedOutput,
    RunRecord,
    RunStore,
)


def plan(*sources, job="clicks", version="1"):
    files = tuple(InputFile(source, 10, version) for source in sources)
    return Plan(job, "clicks", "1.0.0", "c" * 64, files, {"window": "60s"})


def prepared(token):
    row = ledger.LedgerRow(run_id=token.run_id, source="a", output="records", read=3, written=3)
    receipt = Receipt(
        output="records",
        path="/data/records/_millstream/staging/r1/records/0.parquet.staged",
        rows=3,
        bytes=100,
        sha256="1" * 64,
        sources={"a": 3},
    )
    dead = Receipt(
        output="dead", path="1", rows=1, bytes=9, sha256="2" * 64, sources={"a": 1},
        unreadable=("a @ 7-",),
    )  # fmt: skip
    return Prepared(
        token=str(token),
        outputs=(
            PreparedOutput(
                name="records", uri="parquet:/data/records", digest="d" * 64, receipts=(receipt,)
            ),
            PreparedOutput(name="dead", uri="jsonl:/data/dead", digest="e" * 64, receipts=(dead,)),
        ),
        ledger_uri="jsonl:/data/ledger",
        ledger=(row,),
        unreadable=("a @ 7-",),
    )


def record(token, status: Literal["committed", "failed"] = "committed"):
    return RunRecord(
        run_id=token.run_id,
        plan_digest=token.plan_digest,
        status=status,
        finished_at="2026-01-02T03:04:05Z",
        rows={"records": 3, "dead": 1},
        digests={"records": "d" * 64, "dead": "e" * 64},
        unreadable=("a @ 7-",),
        error="it does not balance" if status == "failed" else "",
        ledger=prepared(token).ledger,
    )


@pytest.fixture
def store(tmp_path):
    return RunStore(str(tmp_path))


def commit(store, plan, run_id=None):
    token = store.begin(plan, run_id).token
    store.prepare(prepared(token))
    store.finish(record(token))
    return token


def test_a_first_run_starts(store):
    decision = store.begin(plan("a"))
    assert decision.kind == "start"
    assert decision.token == plan("a").token()
    assert store.record(decision.token) is None


def test_an_attempt_that_prepared_nothing_starts_again(store):
    store.begin(plan("a"))
    assert store.begin(plan("a")).kind == "start"


def test_a_failed_attempt_starts_again(store):
    token = store.begin(plan("a")).token
    store.finish(record(token, "failed"))
    assert store.record(token).error == "it does not balance"
    assert store.begin(plan("a")).kind == "start"
    assert store.record(token) is None, "it is not how the new attempt ended"
    commit(store, plan("a"))
    assert store.record(token).status == "committed"


def test_what_is_prepared_is_resumed(store):
    token = store.begin(plan("a")).token
    store.prepare(prepared(token))
    decision = store.begin(plan("a"))
    assert decision.kind == "resume"
    assert decision.prepared == prepared(token)


def test_what_is_recorded_is_done(store):
    token = commit(store, plan("a"))
    decision = store.begin(plan("a"))
    assert decision.kind == "done"
    assert decision.record == record(token)
    assert list(store.committed()) == [record(token)]


def test_the_first_to_prepare_decides(store):
    token = store.begin(plan("a")).token
    first = store.prepare(prepared(token))
    second = msgspec.structs.replace(first, unreadable=("b @ 0-",))
    assert store.prepare(second) == first
    assert store.prepared(token) == first


def test_the_first_record_stands(store):
    token = commit(store, plan("a"))
    later = msgspec.structs.replace(record(token), finished_at="2027-01-01T00:00:00Z")
    assert store.finish(later) == record(token)


def test_another_plan_replaces(store):
    old = commit(store, plan("a"), "r1")
    decision = store.begin(plan("a", "b"), "r1")
    assert decision.kind == "replace"
    assert store.begin(plan("a", "b"), "r1").kind == "replace"
    commit(store, plan("a", "b"), "r1")
    assert store.begin(plan("a", "b"), "r1").kind == "done"
    assert store.record(old) == record(old), "history is kept"
    (stands,) = store.committed()
    assert stands.plan_digest == decision.token.plan_digest


def test_a_replacement_that_never_prepared_leaves_the_old_run_done(store):
    commit(store, plan("a"), "r1")
    store.begin(plan("a", "b"), "r1")
    assert store.begin(plan("a"), "r1").kind == "done"


def test_back_to_an_older_plan_replaces_again(store):
    commit(store, plan("a"), "r1")
    commit(store, plan("b"), "r1")
    decision = store.begin(plan("a"), "r1")
    assert decision.kind == "replace"
    commit(store, plan("a"), "r1")
    assert store.begin(plan("a"), "r1").kind == "done"


def test_what_another_plan_has_prepared_is_completed_first(store):
    commit(store, plan("a"), "r1")
    second = store.begin(plan("b"), "r1").token
    store.prepare(prepared(second))
    decision = store.begin(plan("a"), "r1")
    assert (decision.kind, decision.token) == ("resume", second)
    store.finish(record(second))
    assert store.begin(plan("a"), "r1").kind == "replace"


def test_committed_inputs_are_refused(store):
    commit(store, plan("a", "b", "c", "d", "e"), "r1")
    with pytest.raises(
        AlreadyCommitted, match=r"run r1 has already committed a, b, c and 1 more; leave them out"
    ):
        store.begin(plan("a", "b", "c", "d", "x"), "r2")
    assert store.begin(plan("x"), "r2").kind == "start"
    assert store.begin(plan("a", "x"), "r3", reprocess=True).kind == "start"


def test_prepared_inputs_are_refused_too(store):
    token = store.begin(plan("a"), "r1").token
    store.begin(plan("a"), "r2")
    store.prepare(prepared(token))
    with pytest.raises(AlreadyCommitted, match="run r1"):
        store.begin(plan("a"), "r2")


def test_a_file_that_changed_is_another_input(store):
    commit(store, plan("a"), "r1")
    assert store.begin(plan("a", version="2"), "r2").kind == "start"


def test_replaced_inputs_are_free_once_the_replacement_is_recorded(store):
    commit(store, plan("a"), "r1")
    store.begin(plan("b"), "r1")
    with pytest.raises(AlreadyCommitted):
        store.begin(plan("a"), "r2")
    commit(store, plan("b"), "r1")
    assert store.begin(plan("a"), "r2").kind == "start"
    with pytest.raises(AlreadyCommitted):
        store.begin(plan("b"), "r3")


def test_bad_run_ids(store):
    with pytest.raises(PlanError, match=r"run id '\.\./x'"):
        store.begin(plan("a"), "../x")


def test_an_unknown_run_is_named(store):
    with pytest.raises(storage.StorageError, match="run r9 has not begun plan aaaaaaaaaaaaaaaa"):
        store.record(Token("r9", "a" * 64))


def test_later_formats_are_refused(store, tmp_path):
    token = store.begin(plan("a"), "r1").token
    path = next(tmp_path.rglob("plan.json")).with_name("prepared.json")
    path.write_bytes(msgspec.json.encode(prepared(token)).replace(b"prepared/1", b"prepared/2"))
    with pytest.raises(storage.StorageError, match=r"format 'millstream\.prepared/2', not"):
        store.prepared(token)
    path.write_bytes(b"{")
    with pytest.raises(storage.StorageError, match=r"cannot read .*prepared\.json"):
        store.begin(plan("a"), "r1")


def test_a_plan_that_cannot_be_read_is_named(store, tmp_path):
    token = store.begin(plan("a"), "r1").token
    path = next(tmp_path.rglob("plan.json"))
    path.write_bytes(b"{")
    for read in (store.folder, store.inputs):
        with pytest.raises(storage.StorageError, match=r"cannot read .*plan\.json: not a plan"):
            read(token)


def test_stored_structures_read_back(golden):
    token = Token("r1", "a" * 64)
    for name, value in (("prepared", prepared(token)), ("record", record(token))):
        golden(name, value)
        again = msgspec.json.decode(msgspec.json.encode(value), type=type(value))
        assert again == value


def test_the_lock_is_the_jobs(store):
    with store.lock("r1"), pytest.raises(RuntimeError, match="run r1"), store.lock("r2"):
        pass
