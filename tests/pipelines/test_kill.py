"""The whole process is killed (SIGKILL) somewhere on its way; the same command then mends it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.write.files import live_files

from tests.pipelines.clicks import JobFolder, ingest, page_views

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc (Linux)"),
]

ARGUMENTS = ["--job", "job.yaml", "--helpers=2"]
COMMAND = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", *ARGUMENTS]
MOMENTS = random.Random(20261124)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return JobFolder.make(tmp_path_factory.mktemp("kill") / "job", events=12_000).path


@pytest.fixture(scope="module")
def seconds(files, tmp_path_factory) -> float:
    """How long a run takes that nobody kills."""
    folder = copied(files, tmp_path_factory.mktemp("whole"))
    started = time.monotonic()
    assert ingest(*ARGUMENTS, cwd=folder.path).code == exit_codes.OK
    return time.monotonic() - started


def copied(files: Path, place: Path) -> JobFolder:
    shutil.copytree(files, place / "job")
    return JobFolder(place / "job")


def after(share: float) -> Callable[[JobFolder, float], Callable[[], bool]]:
    """The moment at a share of the time that a whole run takes."""

    def moment(folder: JobFolder, seconds: float) -> Callable[[], bool]:
        until = time.monotonic() + share * seconds
        return lambda: time.monotonic() >= until

    return moment


def once_there_is(pattern: str) -> Callable[[JobFolder, float], Callable[[], bool]]:
    """The moment at which a file of the job appears."""

    def moment(folder: JobFolder, seconds: float) -> Callable[[], bool]:
        return lambda: any((folder.path / "warehouse").glob(pattern))

    return moment


@pytest.mark.parametrize(
    "moment",
    [
        *(
            pytest.param(after(share), id=f"at {share:.0%} of the time")
            for share in sorted(MOMENTS.uniform(0.3, 0.9) for _ in range(2))
        ),
        pytest.param(once_there_is("*/_millstream/staging/**/*.staged"), id="staging"),
        pytest.param(once_there_is("ledger/_millstream/runs/*/*/prepared.json"), id="prepared"),
        pytest.param(once_there_is("clicks/_millstream/manifests/*.json"), id="one committed"),
        pytest.param(once_there_is("ledger/_millstream/manifests/*.json"), id="all committed"),
    ],
)
def test_a_run_that_is_killed_is_mended_by_the_same_command(
    files, tmp_path, seconds, moment, ingest_here
):
    folder = copied(files, tmp_path)
    left = run_and_kill(folder, moment(folder, seconds))
    assert_gone(left)

    again = ingest(*ARGUMENTS, cwd=folder.path)
    assert again.code == exit_codes.OK, again.err
    assert "Traceback" not in again.err
    expected = folder.expected()
    assert folder.records() == expected.records
    assert folder.letters() == expected.letters
    assert folder.page_views() == page_views(expected.records)
    assert len(folder.ledger()) == 2 * len(folder.files)
    assert_by_glob_as_by_manifest(folder)
    assert folder.staged() == []

    before = folder.snapshot()
    third = ingest_here("--job", folder.job)
    assert third.code == exit_codes.OK
    assert "nothing to do" in third.err
    assert folder.snapshot() == before


def test_an_interrupt_ends_it_all_without_ado(files, tmp_path):
    """Ctrl-C, which a terminal sends to every process of the job."""
    folder = copied(files, tmp_path)
    with subprocess.Popen(
        COMMAND, cwd=folder.path, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(once_there_is("*/_millstream/staging/**/*.staged")(folder, 0), process)
        left = Left(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGCONT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (
        exit_codes.FAILED,
        "millstream: interrupted; run it again\n",
    )
    assert_gone(left)
    again = ingest(*ARGUMENTS, cwd=folder.path)
    assert again.code == exit_codes.OK, again.err
    assert folder.records() == folder.expected().records
    assert folder.letters() == folder.expected().letters


@pytest.mark.parametrize("wait", [0, 60])
def test_two_runs_at_once(files, tmp_path, wait):
    folder = copied(files, tmp_path)
    command = [*COMMAND, f"--wait={wait}"]
    both = [
        subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    if wait:
        assert codes == [exit_codes.OK, exit_codes.OK], said
        assert sum("nothing to do" in text for text in said) == 1
    else:
        # Who comes after the other has ended finds nothing left to do.
        late = any("nothing to do" in text for text in said)
        assert codes == [exit_codes.OK, exit_codes.OK if late else exit_codes.REFUSED], said
        assert late != any("another run of this job is at work" in text for text in said)
    expected = folder.expected()
    assert folder.records() == expected.records
    assert folder.letters() == expected.letters
    assert folder.page_views() == page_views(expected.records)
    assert_by_glob_as_by_manifest(folder)


class Left:
    """What a process has that must not outlive it: other processes, shared memory."""

    def __init__(self, pid: int) -> None:
        self.processes: list[psutil.Process] = []
        self.memory: set[Path] = set()
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it was quicker than we
            process = psutil.Process(pid)
            process.suspend()  # so that nothing is started between the look and the blow
            self.processes = process.children(recursive=True)
            maps = Path(f"/proc/{pid}/maps").read_text("utf-8")
            self.memory = {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", maps)}


def run_and_kill(folder: JobFolder, is_time: Callable[[], bool]) -> Left:
    silent = subprocess.DEVNULL
    with subprocess.Popen(COMMAND, cwd=folder.path, stdout=silent, stderr=silent) as process:
        try:
            wait_for(is_time, process)
            left = Left(process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    return left


def wait_for(is_time: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not is_time() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)


def assert_gone(left: Left) -> None:
    _, alive = psutil.wait_procs(left.processes, timeout=15)
    for process in alive:
        process.kill()
    assert not alive, "helper processes outlive the process that they help"
    deadline = time.monotonic() + 5
    while any(map(Path.exists, left.memory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    there = [path for path in left.memory if path.exists()]
    for path in there:
        path.unlink(missing_ok=True)
    assert not there, "shared memory outlives the process that made it"


def assert_by_glob_as_by_manifest(folder: JobFolder) -> None:
    live = [
        Path(path)
        for uri in ("parquet:clicks", "parquet:page_views", "jsonl:dead_letters", "jsonl:ledger")
        for path in live_files(uri.replace(":", f":{folder.path}/warehouse/"))
    ]
    assert sorted(str(path.relative_to(folder.path)) for path in live) == folder.visible()
