"""The run lock: one holder at a time, whoever dies and whenever."""

import subprocess
import sys
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millstream.transforms import lock as lock_module
from millstream.transforms import storage
from millstream.transforms.lock import Holder, Locked, LockLost, RunLock
from storage_support import interleave


def holder(folder):
    return msgspec.json.decode(storage.read_bytes(storage.list_files(folder)[-1]), type=Holder)


def occupy(folder, *, pid, expires, host=None):
    """The lock as another process left it."""
    import socket

    data = Holder(
        owner="x", run_id="r0", host=host or socket.gethostname(), pid=pid, expires=expires
    )
    storage.write_once(storage.join(folder, "00000001.json"), msgspec.json.encode(data))


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "lock")


def test_a_second_run_is_refused_and_told_by_whom(folder):
    with (
        RunLock(folder, "r1"),
        pytest.raises(Locked, match=r"at work: run r1, process \d+ on .*, lease until 2\d{3}-"),
    ):
        RunLock(folder, "r2").acquire()
    with RunLock(folder, "r2"):
        assert holder(folder).run_id == "r2"
    assert holder(folder).expires == 0
    assert len(storage.list_files(folder)) == 1


@pytest.mark.slow
def test_a_second_run_can_wait(folder):
    first = RunLock(folder, "r1")
    first.acquire()
    timer = threading.Timer(0.2, first.release)
    timer.start()
    with RunLock(folder, "r2", wait_seconds=20):
        assert holder(folder).run_id == "r2"
    timer.join()


def test_a_lease_that_ran_out_is_taken_over(folder):
    occupy(folder, pid=1, host="elsewhere", expires=time.time() - 1)
    RunLock(folder, "r2").acquire()
    assert holder(folder).run_id == "r2"


def test_a_lease_of_another_host_stands(folder, dead_pid):
    occupy(folder, pid=dead_pid, host="elsewhere", expires=time.time() + 60)
    with pytest.raises(Locked, match="on elsewhere"):
        RunLock(folder, "r2").acquire()


def test_a_dead_process_of_this_host_holds_nothing(folder, dead_pid):
    occupy(folder, pid=dead_pid, expires=time.time() + 60)
    RunLock(folder, "r2").acquire()
    assert holder(folder).run_id == "r2"


def test_a_live_process_of_this_host_stands(folder):
    occupy(folder, pid=1, expires=time.time() + 60)
    with pytest.raises(Locked, match="process 1 on"):
        RunLock(folder, "r2").acquire()


@pytest.mark.slow
def test_the_lease_is_renewed_while_the_block_runs(folder):
    with RunLock(folder, "r1", lease_seconds=0.3) as lock:
        first = holder(folder).expires
        time.sleep(0.6)
        assert holder(folder).expires > first
        lock.check()


def test_who_lost_the_lock_is_told(folder):
    slow = RunLock(folder, "r1", lease_seconds=-1)
    slow.acquire()
    fast = RunLock(folder, "r2")
    fast.acquire()
    for question in (slow.check, slow.renew):
        with pytest.raises(LockLost, match="taken the lock over"):
            question()
    slow.release()
    assert holder(folder).run_id == "r2"
    assert holder(folder).expires > 0


def test_a_lock_that_was_overwritten_is_lost(folder):
    """A store that cannot refuse to overwrite lets two take the same number; the later has it."""
    first, second = RunLock(folder, "r1"), RunLock(folder, "r2")
    first.acquire()
    [second._path] = storage.list_files(folder)
    storage.write_replace(second._path, second._holder(time.time() + 60))
    for question in (first.check, first.renew):
        with pytest.raises(LockLost, match="taken the lock over"):
            question()
    first.release()
    second.check()
    assert holder(folder).run_id == "r2"
    assert holder(folder).expires > 0


@settings(max_examples=100)
@given(st.lists(st.integers(0, 2), max_size=60), st.booleans())
def test_of_racing_runs_one_gets_it(tmp_path_factory, schedule, abandoned):
    folder = str(tmp_path_factory.mktemp("race"))
    if abandoned:
        occupy(folder, pid=1, host="elsewhere", expires=0)
    results = interleave(iter(schedule), *(RunLock(folder, f"r{n}").acquire for n in range(3)))
    assert results.count(None) == 1
    assert [type(r) for r in results if r is not None] == [Locked] * 2
    assert holder(folder).run_id == f"r{results.index(None)}"


@settings(max_examples=100)
@given(st.lists(st.integers(0, 2), max_size=90))
def test_holders_never_overlap(tmp_path_factory, schedule):
    """Three runs, each takes the lock and gives it back as soon as it can."""
    folder = str(tmp_path_factory.mktemp("race"))
    inside: list[int] = []

    def run(number):
        def work():
            lock = RunLock(folder, f"r{number}")
            for _ in range(3):
                try:
                    lock.acquire()
                except Locked:
                    continue
                assert not inside
                inside.append(number)
                lock.check()
                inside.remove(number)
                lock.release()

        return work

    assert interleave(iter(schedule), *map(run, range(3))) == [None] * 3


def test_golden_lock(golden):
    golden("lock", Holder(owner="0f" * 16, run_id="r1", host="worker-1", pid=7, expires=1.5))
    assert lock_module.FORMAT == "millstream.lock/1"
