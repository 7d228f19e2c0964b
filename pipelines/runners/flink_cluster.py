"""Flink's REST API: finding a job by its name, and cancelling it.

https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/ops/rest_api/
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

_ANSWER_SECONDS = 10.0
_APPEARS_SECONDS = 10.0
"""For how long a job that was submitted may not be known yet."""
_ENDS_SECONDS = 60.0
"""How long a job may take to end once it is told to."""
_PAUSE_SECONDS = 0.2

_TERMINAL = {"CANCELED", "FINISHED", "FAILED"}
"""States that a job does not leave: ``JobStatus.isGloballyTerminalState``."""


class NoAnswer(Exception):
    """What was asked of a cluster could not be done. The message says why."""


class TaskManager(NamedTuple):
    """Slots of a task manager, how many of them are free, and its memory in bytes."""

    slots: int
    free: int
    managed: int
    network: int


@dataclass(frozen=True)
class Cluster:
    """A cluster whose REST API is at ``url``."""

    url: str

    def task_managers(self) -> list[TaskManager]:
        """Those that the cluster has.

        Raises:
            NoAnswer: it does not answer as Flink does.
        """
        found = []
        for listed in self._ask("/taskmanagers")["taskmanagers"]:
            memory = self._ask(f"/taskmanagers/{listed['id']}")["memoryConfiguration"]
            slots, free = listed["slotsNumber"], listed["freeSlots"]
            found.append(TaskManager(slots, free, memory["managedMemory"], memory["networkMemory"]))
        return found

    def cancel(
        self, name: str, *, appears: float = _APPEARS_SECONDS, ends: float = _ENDS_SECONDS
    ) -> str:
        """Cancel the job of a name, wait until it has ended, and give its id.

        Args:
            appears: seconds for which the job may be unknown yet.
            ends: seconds that it may take to end.

        Raises:
            NoAnswer: there is no such job, or more than one, or it does not end.
        """
        job_id = self._find(name, time.monotonic() + appears)
        deadline = time.monotonic() + ends
        state = self._state(job_id)
        if state not in _TERMINAL:
            self._ask(f"/jobs/{job_id}?mode=cancel", "PATCH")
        while (state := self._state(job_id)) not in _TERMINAL:
            if time.monotonic() > deadline:
                raise NoAnswer(f"its job {job_id} is still {state} after {ends:.0f} s")
            time.sleep(_PAUSE_SECONDS)
        return job_id

    @property
    def by_hand(self) -> str:
        """How to cancel a job by hand."""
        return f"cancel it by: curl -X PATCH '{self.url}/jobs/JOB_ID?mode=cancel'"

    def _find(self, name: str, deadline: float) -> str:
        """The id of the job of a name: of the one that runs, else of one that has ended."""
        while True:
            jobs = [job for job in self._ask("/jobs/overview")["jobs"] if job["name"] == name]
            running = [job["jid"] for job in jobs if job["state"] not in _TERMINAL]
            if len(running) > 1:
                raise NoAnswer(f"{len(running)} jobs have that name: {', '.join(sorted(running))}")
            if found := running or [job["jid"] for job in jobs]:
                return found[0]
            if time.monotonic() > deadline:
                raise NoAnswer(f"{self.url} knows no job of that name")
            time.sleep(_PAUSE_SECONDS)

    def _state(self, job_id: str) -> str:
        return self._ask(f"/jobs/{job_id}")["state"]

    def _ask(self, path: str, method: str = "GET") -> Any:
        import http.client
        import urllib.error
        import urllib.request

        request = urllib.request.Request(self.url + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise NoAnswer(f"{self.url} answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise NoAnswer(f"{self.url} does not answer: {reason}") from error


def of(master: str) -> Cluster | None:
    """The cluster that ``--flink_master`` names; ``None`` if it leaves that to the job server."""
    if not master or master.startswith("["):
        return None
    return Cluster((master if "://" in master else f"http://{master}").rstrip("/"))
