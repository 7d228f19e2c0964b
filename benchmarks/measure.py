"""What a command costs: wall time, CPU seconds and memory of all its processes together.

    python benchmarks/measure.py COMMAND …

CPU seconds are what the kernel charged to the command and to everything it started, also to
processes that it left behind: this process makes itself their reaper, so that none gets away.
Memory is the sum of the proportional set sizes (PSS: a shared page counts once, not once a
process), sampled; a peak shorter than the interval may be missed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.05
"""Seconds between two looks at the memory."""
GRACE = 10.0
"""Seconds that processes left behind may still take to end."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Cost:
    """``peak`` is in bytes, 0 if memory was not sampled; ``output`` is stdout and stderr."""

    wall: float
    cpu: float
    peak: int
    code: int
    output: str

    def checked(self) -> Cost:
        """This cost, if the command succeeded.

        Raises:
            RuntimeError: it did not; the message holds the end of its output.
        """
        if self.code != 0:
            raise RuntimeError(f"exit code {self.code}: {self.output[-2000:]}")
        return self


def pss(process: psutil.Process) -> int:
    """The proportional set size in bytes; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_bytes()
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith(b"Pss:")), b"Pss: 0 kB")
    return int(line.split()[1]) * 1024


class Sampler(threading.Thread):
    """Sums the memory of all our descendants until told to stop."""

    def __init__(self, interval: float = INTERVAL) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._interval = interval
        self._ended = threading.Event()

    def run(self) -> None:
        us = psutil.Process()
        while not self._ended.wait(self._interval):
            self.peak = max(self.peak, sum(map(pss, us.children(recursive=True))))

    def stop(self) -> int:
        self._ended.set()
        self.join()
        return self.peak


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(grace: float = GRACE) -> float:
    """Wait for what the command left behind, end what stays; return its CPU seconds."""
    cpu = 0.0
    deadline = time.monotonic() + grace
    while True:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
        elif time.monotonic() > deadline:
            for child in psutil.Process().children(recursive=True):
                child.kill()
            deadline = float("inf")
        else:
            time.sleep(0.01)


def measure(
    command: Sequence[str | Path],
    *,
    memory: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 3600,
) -> Cost:
    """Run a command to its end. Nothing else may be started by this process meanwhile.

    The sampling of memory costs the command a little time: leave it out where time is compared.
    """
    adopt_orphans()
    sampler = Sampler()
    read, written = os.pipe()
    chunks: list[bytes] = []
    reader = threading.Thread(target=lambda: chunks.extend(iter(lambda: os.read(read, 65536), b"")))
    start = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=written,
        stderr=written,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )
    os.close(written)
    reader.start()
    if memory:
        sampler.start()
    killer = threading.Timer(timeout, os.killpg, (child.pid, signal.SIGKILL))
    killer.start()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    killer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    peak = sampler.stop() if memory else 0
    cpu = usage.ru_utime + usage.ru_stime + reap_orphans()
    reader.join()
    os.close(read)
    output = b"".join(chunks).decode(errors="replace")
    return Cost(wall, cpu, peak, child.returncode, output)


def main() -> int:
    if not sys.argv[1:]:
        print(__doc__)
        return 2
    cost = measure(sys.argv[1:])
    print(cost.output, end="")
    print(f"{cost.wall:.2f} s wall, {cost.cpu:.2f} s CPU, {cost.peak / 1e6:.0f} MB peak")
    return cost.code


if __name__ == "__main__":
    sys.exit(main())
