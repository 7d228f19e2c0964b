"""A contender at work: started, watched until its results are there, and stopped."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from measure import pss

LOOK_SECONDS = 0.05
STOP_SECONDS = 60
Rows = Callable[[Path], int]
"""How many result rows are visible in an output folder."""


class Running:
    """A command with all its processes, in a session of its own; what it says goes to a file."""

    def __init__(
        self, command: Sequence[str | int | Path], log: Path, env: Mapping[str, str]
    ) -> None:
        self._log = log
        self._before = _children_cpu()
        self.began = time.monotonic()
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """The exit code; ``None`` while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def failure(self, why: str = "") -> RuntimeError:
        """What to raise when it has ended too soon, or else failed; what it said is kept."""
        kept = shutil.copy(self._log, self._log.parent.parent.parent / "failed.log")
        errors = [line for line in self.output.splitlines() if "Error" in line] or ["no error"]
        said = why or f"exit code {self.code}: {errors[-1][-300:]}"
        return RuntimeError(f"{said} (its log: {kept})")

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def cpu(self) -> float:
        """CPU seconds of all processes until now; who has ended counts with its parent."""
        if self.code is not None:
            return _children_cpu() - self._before
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def memory(self) -> int:
        """Bytes of memory now, of all processes; what they share counts once."""
        return sum(map(pss, self.processes()))

    def stop(self) -> int:
        """End it as one ends a service; gives its exit code. What stays is killed."""
        left = self.processes()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return self._process.returncode


class Sampler(threading.Thread):
    """Notes something again and again, with the time, until told to stop."""

    def __init__(self, value: Callable[[], int], interval: float) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self._value = value
        self._interval = interval
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._interval):
            self.seen.append((time.time(), self._value()))

    def stop(self) -> list[tuple[float, int]]:
        self._ended.set()
        self.join()
        return self.seen


@dataclass(frozen=True, slots=True)
class Drained:
    """What it took until all results were there, from the start of the process on."""

    seconds: float
    cpu: float


def drain(
    running: Running,
    out: Path,
    rows: Rows,
    wanted: int,
    patience: float,
    look: Callable[[], None] = lambda: None,
) -> Drained:
    """Wait until so many rows are visible, or it has ended, or nothing has come for a while;
    meanwhile ``look`` is called again and again.

    Raises:
        RuntimeError: it failed, or gave nothing.
    """
    seen, last = 0, time.monotonic()
    cpu = 0.0
    while True:
        code, now = running.code, time.monotonic()
        if code:
            raise running.failure()
        found = rows(out)
        if found != seen:
            seen, last, cpu = found, now, running.cpu()
        if code == 0:
            return Drained(now - running.began, running.cpu())
        if found == 0 and now - last > patience:
            raise running.failure(f"no result for {patience:g} s")
        if found >= wanted or now - last > patience:
            return Drained(last - running.began, cpu)
        look()
        time.sleep(LOOK_SECONDS)


def _children_cpu() -> float:
    """CPU seconds of all processes that we have started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# What is visible


def committed_rows(out: Path) -> int:
    """Of the files of results that the newest manifest names."""
    return sum(file["rows"] for file in committed_files(out / "page_views"))


def committed_files(home: Path) -> list[dict[str, Any]]:
    """The files of results that the newest manifest names, as it has them.

    It is read as users of other languages would: nothing of millstream is imported here.
    """
    while found := sorted((home / "_millstream" / "manifests").glob("*.json")):
        with suppress(FileNotFoundError):  # a newer one has come, and old ones are tidied away
            newest = json.loads(found[-1].read_bytes())
            older = [found[-1].parent / "older" / name for name in newest.get("older", [])]
            parts = [*(json.loads(path.read_bytes()) for path in older), newest]
            entries = [entry for part in parts for entry in part["entries"]]
            return [f for entry in entries for f in entry["files"] if f["part"] == "data"]
    return []


@dataclass
class ParquetRows:
    """Rows of the Parquet files of a folder; each is looked at once."""

    known: dict[Path, int] = field(default_factory=dict)

    def __call__(self, out: Path) -> int:
        for path in (out / "page_views").rglob("[!.]*.parquet"):
            if path not in self.known:
                with suppress(Exception):  # half written
                    self.known[path] = pq.read_metadata(path).num_rows
        return sum(self.known.values())


def no_rows(out: Path) -> int:
    """For who ends by itself."""
    return 0
