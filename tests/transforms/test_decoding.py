"""Helper processes: the same results as without, and nothing lost when one dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from millstream.schemas.arrow import PAYLOAD
from millstream.schemas.contract import Contract, Field, Rule
from millstream.schemas.decoded import Decoded
from millstream.schemas.json.decoder import JsonDecoder
from millstream.transforms import decoding
from millstream.transforms.decoding import (
    Decoding,
    attach_helpers,
    detach_helpers,
    open_decoding,
)

CONTRACT = Contract(
    "c",
    "1.0.0",
    "c",
    (
        Field("n", "integer", rules=(Rule("minimum", 0),)),
        Field("s", "string"),
        Field("d", "date"),
        Field("l", "array", items=Field("item", "decimal", precision=9, scale=2)),
        Field("j", "json"),
    ),
)


SLOT_BYTES = 1 << 20


def batch(number: int, rows: int = 1500, padding: int = 0) -> pa.RecordBatch:
    """Records that tell which batch they are of; each seventh is bad."""
    text = b"x" * padding
    payloads = [
        b"{bad" if i % 7 == 3 else b'{"n":%d,"s":"%d%s","d":"2026-11-24","l":[1.10],"j":{"i":%d}}'
        % (number, i, text, i)
        for i in range(rows)
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays([pa.array(payloads, pa.binary())], [PAYLOAD])


def run(decoding: Decoding, batches: list[pa.RecordBatch]) -> list[tuple[Any, Decoded]]:
    done = []
    for number, one in enumerate(batches):
        done += decoding.put((one, number))
    done += decoding.drain()
    return done


def assert_as_in_place(done: list[tuple[Any, Decoded]], batches: list[pa.RecordBatch]) -> None:
    """All batches, in their order, each with what the decoder itself makes of it."""
    assert [task[1] for task, _ in done] == list(range(len(batches)))
    decoder = JsonDecoder(CONTRACT)
    for (task, got), one in zip(done, batches, strict=True):
        assert task[0] is one
        expected = decoder.decode(one.column(PAYLOAD))
        assert got.records.equals(expected.records)
        assert got.refused == expected.refused
        assert got.violations == expected.violations
        assert got.well_typed == expected.well_typed
        assert got.event_times.equals(expected.event_times)
        assert _numbers(got) == _numbers(expected)


def _numbers(decoded: Decoded) -> list[int] | None:
    return None if decoded.kept is None else decoded.kept.tolist()


@pytest.fixture(scope="module")
def two_helpers() -> Iterator[decoding.Helpers]:
    """Started once for all tests that leave them alive: it takes a second. Slots of one MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_SLOT_BYTES", SLOT_BYTES)
        helpers = decoding.Helpers(CONTRACT, "ignore", 2)
    yield helpers
    helpers.close()


@pytest.fixture
def helpers(two_helpers, monkeypatch):
    monkeypatch.setattr(decoding, "_attached", two_helpers)
    return two_helpers


def pids(helpers: decoding.Helpers) -> list[int]:
    assert helpers._pool is not None
    return list(helpers._pool._processes)


def left_over(names: list[str]) -> list[str]:
    """Which of the shared memory is still there."""
    found = []
    for name in names:
        try:
            memory = shared_memory.SharedMemory(name)
        except FileNotFoundError:
            continue
        memory.close()
        found.append(name)
    return found


# ---------------------------------------------------------------------------------- in place


def test_without_helpers_batches_are_decoded_in_place():
    batches = [batch(i, rows=10) for i in range(3)]
    in_place = open_decoding(CONTRACT, "ignore")
    assert isinstance(in_place, decoding.InPlace)
    assert_as_in_place(run(in_place, batches), batches)


def test_helpers_serve_only_their_own_contract(helpers):
    assert isinstance(open_decoding(CONTRACT, "ignore"), decoding._HelpedDecoding)
    assert isinstance(open_decoding(CONTRACT, "keep"), decoding.InPlace)
    assert isinstance(open_decoding(CONTRACT, "ignore", judge=True), decoding.InPlace)
    other = Contract("c", "2.0.0", "c", CONTRACT.fields)
    assert isinstance(open_decoding(other, "ignore"), decoding.InPlace)


# ------------------------------------------------------------------------------- with helpers


@pytest.mark.slow
def test_helpers_give_the_same_in_the_same_order(helpers):
    batches = [batch(i, rows=(i * 700) % 3001) for i in range(12)]
    assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)
    assert sorted(helpers.free) == list(range(len(helpers._slots)))


def test_helpers_do_take_part(helpers, monkeypatch):
    """The test above would pass if all were decoded here."""
    monkeypatch.setattr(helpers, "decoder", None)
    done = run(open_decoding(CONTRACT, "ignore"), [batch(1), batch(2)])
    assert [d.records.num_rows for _, d in done] == [1286, 1286]


def test_what_does_not_fit_a_slot_is_decoded_here(helpers):
    """Payloads of more than a slot, between others: nothing is lost, and the order is kept."""
    large = batch(2, rows=200, padding=7000)
    assert large.nbytes > SLOT_BYTES
    batches = [batch(0), batch(1), large, batch(3)]
    assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)


@pytest.mark.slow
def test_an_answer_that_does_not_fit_its_slot_comes_another_way(helpers):
    """Columns can be larger than the payloads that they come from: a digit takes 16 bytes here."""
    payloads = [b'{"l":[%s]}' % b",".join([b"1"] * 10_000)] * 15
    wide = pa.RecordBatch.from_arrays([pa.array(payloads)], [PAYLOAD])
    assert wide.nbytes < SLOT_BYTES < JsonDecoder(CONTRACT).decode(wide.column(0)).records.nbytes
    batches = [batch(0), wide, batch(2)]
    assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)


def test_a_slice_of_a_batch_is_decoded_alone(helpers):
    sliced = batch(0, rows=100).slice(10, 5)
    assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), [sliced]), [sliced])


def test_two_stages_share_the_helpers(helpers):
    """Fused into one bundle their batches interleave: no slot may serve both at once."""
    one, other = open_decoding(CONTRACT, "ignore"), open_decoding(CONTRACT, "ignore")
    batches = {one: [], other: []}
    done: dict[Any, list[Any]] = {one: [], other: []}
    for number in range(10):
        for stage in (one, other):
            mine = batch(number * 100 + (stage is one), rows=800)
            batches[stage].append(mine)
            done[stage] += stage.put((mine, number))
    for stage in (one, other):
        done[stage] += stage.drain()
        assert_as_in_place(done[stage], batches[stage])
    assert sorted(helpers.free) == list(range(len(helpers._slots)))


def test_stages_in_threads_share_the_helpers(helpers):
    """A runner may have a thread for each bundle."""
    failures = []

    def work(seed: int) -> None:
        batches = [batch(seed * 100 + i, rows=300) for i in range(8)]
        try:
            assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(helpers.free) == list(range(len(helpers._slots)))


# ---------------------------------------------------------------------------- death and memory


def test_there_may_be_no_room_for_shared_memory(monkeypatch):
    """A container has 64 MB of it by default; to write to what is not there kills the process."""
    calls = []

    def full(handle: int, start: int, size: int) -> None:
        calls.append(size)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    slots = decoding._allocate(4)
    names = [slot.name for slot in slots]
    assert len(slots) == 1
    for slot in slots:
        decoding._release(slot)
    assert left_over(names) == []

    helpers = attach_helpers(CONTRACT, "ignore", 1)
    assert helpers._pool is None  # none at all: no helpers, no processes
    assert isinstance(open_decoding(CONTRACT, "ignore"), decoding.InPlace)
    detach_helpers()


@pytest.mark.slow
def test_detaching_gives_processes_and_memory_back():
    helpers = attach_helpers(CONTRACT, "ignore", 2)
    names = [slot.name for slot in helpers._slots]
    assert left_over(names) == names
    processes = pids(helpers)
    batches = [batch(i) for i in range(3)]
    assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)
    detach_helpers()
    assert left_over(names) == []
    assert not any(map(_is_alive, processes))
    assert isinstance(open_decoding(CONTRACT, "ignore"), decoding.InPlace)
    detach_helpers()  # once more does no harm


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("killed", [1, 2])
def test_a_helper_that_is_killed_loses_nothing(killed):
    """In the middle of its work: what it was at, and all that comes after, is decoded here."""
    helpers = attach_helpers(CONTRACT, "ignore", 2)
    try:
        names = [slot.name for slot in helpers._slots]
        stage = open_decoding(CONTRACT, "ignore")
        batches = [batch(i, rows=8000) for i in range(9)]
        done = []
        for number, one in enumerate(batches):
            done += stage.put((one, number))
            if number == 3:
                for pid in pids(helpers)[:killed]:
                    os.kill(pid, signal.SIGKILL)
        done += stage.drain()
        assert_as_in_place(done, batches)
        again = [batch(i, rows=50) for i in range(3)]
        assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), again), again)
    finally:
        detach_helpers()
    assert left_over(names) == []


@pytest.mark.slow
def test_a_helper_that_is_killed_while_it_starts_loses_nothing():
    helpers = attach_helpers(CONTRACT, "ignore", 1)
    try:
        for pid in pids(helpers):
            os.kill(pid, signal.SIGKILL)
        batches = [batch(i, rows=500) for i in range(4)]
        assert_as_in_place(run(open_decoding(CONTRACT, "ignore"), batches), batches)
    finally:
        detach_helpers()


LAUNCHER = """
import os, sys, time
from millstream.schemas.contract import Contract, Field
from millstream.transforms.decoding import attach_helpers, detach_helpers

if __name__ == "__main__":
    helpers = attach_helpers(Contract("c", "1", "c", (Field("n", "integer"),)), "ignore", 2)
    helpers._pool.submit(os.getpid).result()
    print(*helpers._pool._processes, flush=True)
    print(*(slot.name for slot in helpers._slots), flush=True)
    if sys.argv[1] == "wait":
        time.sleep(60)
    if sys.argv[1] == "raise":
        raise SystemExit(3)
    detach_helpers()
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["return", "raise", "wait"])
def test_helpers_end_with_their_process_however_it_ends(tmp_path: Path, ending):
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    launcher = subprocess.Popen(
        [sys.executable, str(script), ending], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert launcher.stdout is not None
    processes = list(map(int, launcher.stdout.readline().split()))
    names = launcher.stdout.readline().split()
    assert len(processes) == 2
    if ending == "wait":
        launcher.kill()
    _, errors = launcher.communicate(timeout=30)
    until = time.monotonic() + 20
    while time.monotonic() < until and (any(map(_runs, processes)) or _exist(names)):
        time.sleep(0.05)
    assert not any(map(_runs, processes))
    assert not _exist(names)
    if ending == "return":
        assert errors == ""  # nothing leaked, nothing to warn about


def _runs(pid: int) -> bool:
    """Alive, and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _exist(names: list[str]) -> list[str]:
    return [name for name in names if Path("/dev/shm", name).exists()]
