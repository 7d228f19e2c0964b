"""A Dataflow of our own: its REST API, and jobs of which nothing runs.

It keeps what is submitted, for a test to look at, and says of a job the state that the test has
set. It checks what the service checks at once: the name of a job, whether another one of that name
is active, and what an update replaces.

Beam speaks REST, and not gRPC, to an endpoint in which the word ``localhost`` or ``sandbox`` is.
What begins with ``localhost`` it takes for no service, and then leaves out what it checks and adds
for a real one, such as a pickled main session. So the word is ``sandbox``, in the path.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]

_PATH = re.compile(
    r"/sandbox/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs"
    r"(?:/(?P<job>[^/]+)(?:/(?P<part>messages|metrics))?)?"
)
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?")
"""The name of a job, as the service's reference has it (projects.jobs, ``name``)."""
_OVER = {f"JOB_STATE_{state}" for state in ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")}
_ASKED = {2: "JOB_STATE_DONE", 5: "JOB_STATE_CANCELLED", 8: "JOB_STATE_DRAINING"}
"""States that may be asked for, by their numbers in the API."""
_CREATED = "2026-01-01T00:00:00Z"


class Refusal(Exception):
    """An answer of the API that is an error, as ``(409, "ALREADY_EXISTS", "…")``."""


@dataclass
class Dataflow:
    """The service: its jobs by their ids, and how it treats the next ones.

    Attributes:
        begins_as: the state of a job that has just been created.
        refusal: how the next job is refused: the HTTP code, its name and what is said of it.
        asked: states that were asked for: a job's id, and the state.
        lost: whether it knows nothing of the jobs that it has.
    """

    address: str = ""
    jobs: dict[str, Json] = field(default_factory=dict)
    messages: dict[str, list[Json]] = field(default_factory=dict)
    begins_as: str = "JOB_STATE_RUNNING"
    refusal: tuple[int, str, str] | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    lost: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def last(self) -> Json:
        """The job that was submitted last."""
        return list(self.jobs.values())[-1]

    def set_state(self, job: str, state: str) -> None:
        """Say of a job that it is in a state."""
        with self._changed:
            self.jobs[job]["currentState"] = state
            self._changed.notify_all()

    def forget(self) -> None:
        """Have no jobs any more, as at the beginning."""
        with self._changed:
            self.jobs.clear()
            self.messages.clear()
            self.asked.clear()
            self.lost = False

    def say(self, job: str, text: str, importance: str = "JOB_MESSAGE_ERROR") -> None:
        """Have the service say something of a job."""
        said = self.messages.setdefault(job, [])
        said.append(
            {
                "id": str(len(said)),
                "time": _CREATED,
                "messageText": text,
                "messageImportance": importance,
            }
        )

    def wait_for_job(self, seconds: float = 150) -> Json:
        """The first job, once it has been submitted."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.jobs, seconds), "no job was submitted"
            return next(iter(self.jobs.values()))

    def wait_for_request(self, seconds: float = 60) -> tuple[str, str]:
        """The first state that was asked for: a job's id, and the state."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked, seconds), "no state was asked for"
            return self.asked[0]

    def answer(self, method: str, path: str, body: Json) -> Json:
        """The answer to a request.

        Raises:
            Refusal: it is an error.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"no such method: {path}")
        job, part = found["job"], found["part"]
        with self._changed:
            if method == "POST" and job is None:
                return self._create(found["project"], found["region"], body)
            if method == "GET" and job is None:
                return {"jobs": list(self.jobs.values())}
            if self.lost:
                raise Refusal(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "no access any more")
            if job not in self.jobs:
                raise Refusal(HTTPStatus.NOT_FOUND, "NOT_FOUND", f"no job {job}")
            if method == "PUT":
                return self._update(job, body)
            if part == "messages":
                return {"jobMessages": self.messages.get(job, [])}
            if part == "metrics":
                return {"metrics": []}
            return self.jobs[job]

    def _create(self, project: str, region: str, body: Json) -> Json:
        if self.refusal is not None:
            raise Refusal(*self.refusal)
        name = body["name"]
        if not _NAME.fullmatch(name):
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", f"bad job name {name!r}")
        if replaced := body.get("replaceJobId"):
            self._check_update(body, replaced)
        elif any(self._is_active(job, name) for job in self.jobs.values()):
            said = f"There is already an active job named {name}."
            raise Refusal(HTTPStatus.CONFLICT, "ALREADY_EXISTS", said)
        job = f"2026-01-01_00_00_00-{len(self.jobs)}"
        created = {
            **body,
            "id": job,
            "projectId": project,
            "location": region,
            "createTime": _CREATED,
            "currentState": self.begins_as,
            "currentStateTime": _CREATED,
        }
        self.jobs[job] = created
        if replaced:
            self.jobs[replaced]["currentState"] = "JOB_STATE_UPDATED"
        self._changed.notify_all()
        return created

    def _check_update(self, body: Json, replaced: str) -> None:
        old = self.jobs.get(replaced)
        if old is None or not self._is_active(old, body["name"]):
            said = f"no active job {replaced} named {body['name']}"
            raise Refusal(HTTPStatus.BAD_REQUEST, "FAILED_PRECONDITION", said)
        if old["type"] != body["type"]:
            said = "a job is replaced by one of its type"
            raise Refusal(HTTPStatus.BAD_REQUEST, "FAILED_PRECONDITION", said)

    @staticmethod
    def _is_active(job: Json, name: str) -> bool:
        return job["name"] == name and job["currentState"] not in _OVER

    def _update(self, job: str, body: Json) -> Json:
        asked = body["requestedState"]
        state = _ASKED[asked] if isinstance(asked, int) else asked
        self.asked.append((job, state))
        self.jobs[job] |= {"requestedState": state, "currentState": state}
        self._changed.notify_all()
        return self.jobs[job]


@contextmanager
def running() -> Iterator[Dataflow]:
    """The service, for as long as the block lasts."""
    service = Dataflow()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    service.address = f"http://127.0.0.1:{server.server_address[1]}/sandbox"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(folder: Path) -> dict[str, str]:
    """What a process needs to know to use it: the folder is given a ``sitecustomize``, which Python
    imports when it starts.

    It lets Beam believe that it has looked for credentials, for which it takes 20 seconds
    (``--no_auth`` does not reach all of its clients), and lets an endpoint have a port.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE, "utf-8")
    others = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    return {"PYTHONPATH": os.pathsep.join([str(folder), *others]), "NO_GCE_CHECK": "true"}


_SITE = '''
import importlib.abc
import importlib.util
import sys


def anonymous(module):
    module._Credentials._credentials_init = True


def ports(module):
    module.PipelineOptionsValidator.validate_endpoint_url = lambda self, url: True


CHANGES = {
    "apache_beam.internal.gcp.auth": anonymous,
    "apache_beam.options.pipeline_options_validator": ports,
}


class Changing(importlib.abc.MetaPathFinder):
    """Changes modules when they are imported, and not before."""

    def find_spec(self, name, path, target=None):
        change = CHANGES.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Changing())
'''


def _handler(service: Dataflow) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            try:
                code = int(HTTPStatus.OK)
                said = service.answer(self.command, urlsplit(self.path).path, body)
            except Refusal as refusal:
                code, status, message = refusal.args
                said = {"error": {"code": int(code), "status": status, "message": message}}
            payload = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
