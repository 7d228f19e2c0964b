"""One run of a job at a time: a lock with an owner and a lease.

The lock is a row of numbered files, of which the highest counts. To take it over is to create the
next number, which only one can do; nothing is ever renamed or deleted that another might hold.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from types import TracebackType

import msgspec

from . import storage

FORMAT = "millstream.lock/1"
LEASE_SECONDS = 60.0


class Locked(RuntimeError):
    """Another run of the job is at work. The message names its owner."""


class LockLost(RuntimeError):
    """The lease ran out, and another run has taken the lock over."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the lock, until when (seconds since the epoch; 0: given back)."""

    format: str = FORMAT
    owner: str
    run_id: str
    host: str
    pid: int
    expires: float

    def is_free(self, now: float) -> bool:
        """Whether the lock can be taken: given back, run out, or its process is no more."""
        if self.expires <= now:
            return True
        return self.host == socket.gethostname() and not _alive(self.pid)

    def __str__(self) -> str:
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.expires))
        return f"run {self.run_id}, process {self.pid} on {self.host}, lease until {until}"


class RunLock:
    """Hold the lock in a ``with`` block; a thread renews the lease while the block runs.

    Args:
        folder: where the lock's files lie.
        run_id: what the lock is held for; others are told.
        wait_seconds: how long to wait for another run to end.
        lease_seconds: how long the lock outlives an owner that says no more.

    Raises:
        Locked: on entry, another run holds it and did not end in time.
    """

    def __init__(
        self,
        folder: str,
        run_id: str,
        *,
        wait_seconds: float = 0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._folder = folder
        self._run_id = run_id
        self._wait_seconds = wait_seconds
        self._lease_seconds = lease_seconds
        self._owner = uuid.uuid4().hex
        self._path = ""
        self._released = threading.Event()
        self._lost: str | None = None
        self._renewer: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        self.acquire()
        self._released.clear()
        self._renewer = threading.Thread(target=self._renew, name="millstream-lock", daemon=True)
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        if self._renewer:
            self._renewer.join()
        self.release()

    def acquire(self) -> None:
        """Take the lock, waiting as long as allowed."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            holder = self._try()
            if holder is None:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise Locked(f"another run of this job is at work: {holder}")
            time.sleep(min(1.0, left))

    def check(self) -> None:
        """Ask whether the lock is still ours.

        Raises:
            LockLost: it is not.
        """
        if self._lost is None and not self._is_ours():
            self._lost = "another run has taken the lock over"
        if self._lost:
            raise LockLost(self._lost)

    def _is_ours(self) -> bool:
        if self._files()[-1:] != [self._path]:
            return False
        # Where a store cannot refuse to overwrite, the later of two that took it at once has it.
        try:
            return _holder_in(self._path).owner == self._owner
        except storage.StorageError:
            if self._files()[-1:] == [self._path]:
                raise
            return False

    def renew(self) -> None:
        """Prolong the lease.

        Raises:
            LockLost: another run has taken the lock over.
        """
        self.check()
        storage.write_replace(self._path, self._holder(time.time() + self._lease_seconds))

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        if self._path and self._is_ours():
            storage.write_replace(self._path, self._holder(0))
        self._path = ""

    def _try(self) -> Holder | None:
        """Take the lock if it is free, else say who holds it."""
        files = self._files()
        number = 0
        if files:
            try:
                holder = _holder_in(files[-1])
            except storage.StorageError:
                if self._files()[-1:] == files[-1:]:
                    raise
                return self._try()  # tidied away since we listed it: there is a newer one
            if not holder.is_free(time.time()):
                return holder
            number = int(files[-1].rpartition("/")[2].removesuffix(".json"))
        path = storage.join(self._folder, f"{number + 1:08d}.json")
        mine = self._holder(time.time() + self._lease_seconds)
        if not storage.write_once(path, mine):
            return self._try()
        if self._files()[-1] != path:
            # The number had been used and tidied away while we looked: it counts for nothing.
            storage.delete(path)
            return self._try()
        self._path, self._lost = path, None
        for old in files:
            storage.delete(old)
        return None

    def _renew(self) -> None:
        while not self._released.wait(self._lease_seconds / 3):
            try:
                self.renew()
            except LockLost:
                return
            except storage.StorageError:
                continue  # the lease outlives two failed renewals; check() tells if it did not

    def _files(self) -> list[str]:
        return storage.list_files(self._folder, ".json")

    def _holder(self, expires: float) -> bytes:
        return msgspec.json.encode(
            Holder(
                owner=self._owner,
                run_id=self._run_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                expires=expires,
            )
        )


def _holder_in(path: str) -> Holder:
    return msgspec.json.decode(storage.read_bytes(path), type=Holder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and belongs to someone else
    return True
