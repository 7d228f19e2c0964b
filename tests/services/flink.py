"""A Flink cluster on this machine: a job manager and one task manager, from Flink's own libraries.

``python -m tests.services.flink`` fetches them, as the package ``apache-flink-libraries`` has them,
into ``.flink`` of the checkout. Where they cannot be had, it says why and exits 1; tests that need
Flink are skipped then.

It is a cluster without Beam's job server, which is no part of Flink: its configuration, its REST
API and jobs in SQL can be tried on it, a pipeline cannot.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.services.maven import QUICK, NoProgram, Program
from tests.services.maven import main as fetch_or_say
from tests.services.serving import NoServer, free_port, serving

FLINK = Program("Flink", "1.19.3", ".flink", "tests.services.flink")

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_SQL = str(Path(__file__).with_name("FlinkSql.java"))
_SIZES = "org.apache.flink.runtime.util.bash.BashJavaUtils"
"""What Flink's scripts ask for the options of a task manager's Java: it divides up its memory."""
_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"

_FETCH_SECONDS = 600
_START_SECONDS = 120
_SUBMIT_SECONDS = 120
_ASK_SECONDS = 10

ENDLESS = """
CREATE TABLE numbers (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '10');
CREATE TABLE nowhere (n BIGINT, total BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere SELECT n % 3, COUNT(*) FROM numbers GROUP BY n % 3;
"""
"""A job in SQL that never ends, with a source and a state."""


@dataclass(frozen=True)
class Flink:
    """A running cluster. ``rest`` is ``host:port`` of its REST API."""

    rest: str
    folder: Path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the REST API answers; a question with a body is sent as a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.rest}{path}", data)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as answer:
            return json.load(answer)

    def submit(
        self, name: str, sql: str = ENDLESS, settings: Mapping[str, str] | None = None
    ) -> str:
        """Start a job that is written in SQL; gives its id once it runs."""
        host, port = self.rest.split(":")
        sets = {
            "pipeline.name": name,
            "execution.runtime-mode": "streaming",
            "parallelism.default": "1",
            "execution.target": "remote",
            "rest.address": host,
            "rest.port": port,
            **(settings or {}),
        }
        script = self.folder / "job.sql"
        script.write_text(sql, "utf-8")
        said = [f"{key}={value}" for key, value in sets.items()]
        done = subprocess.run(
            _java(_SQL, str(script), *said),
            capture_output=True,
            text=True,
            timeout=_SUBMIT_SECONDS,
        )
        if (job := re.search(r"^job (\w+)$", done.stdout, re.M)) is None:
            raise NoServer(f"Flink does not take a job: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        _until(lambda: self.state(job[1]) == "RUNNING", f"job {name} does not run")
        return job[1]

    def jobs(self, name: str) -> list[str]:
        """The ids of the jobs of a name, whatever has become of them."""
        return [job["jid"] for job in self.ask("/jobs/overview")["jobs"] if job["name"] == name]

    def state(self, job_id: str) -> str:
        """What has become of a job; running ones have all their tasks running."""
        job = self.ask(f"/jobs/{job_id}")
        if job["state"] != "RUNNING":
            return job["state"]
        waiting = [v["status"] for v in job["vertices"] if v["status"] != "RUNNING"]
        return waiting[0] if waiting else "RUNNING"

    def stop(self, job_id: str) -> str:
        """Stop a job with a savepoint; gives where that is."""
        asked = {"drain": False, "targetDirectory": f"file://{self.folder}/savepoints"}
        request = self.ask(f"/jobs/{job_id}/stop", asked)["request-id"]
        place = f"/jobs/{job_id}/savepoints/{request}"
        _until(lambda: self.ask(place)["status"]["id"] == "COMPLETED", "no savepoint is made")
        _until(lambda: self.state(job_id) == "FINISHED", f"job {job_id} does not stop")
        return self.ask(place)["operation"]["location"]

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        request = urllib.request.Request(f"http://{self.rest}/jobs/{job_id}", method="PATCH")
        urllib.request.urlopen(request, timeout=_ASK_SECONDS).close()
        _until(lambda: self.state(job_id) == "CANCELED", f"job {job_id} is not cancelled")


def why_not() -> str:
    """Why there can be none, and what to do; empty if there can."""
    if shutil.which("javac") is None:
        return "a JDK, which Flink and its client need, is not installed"
    if FLINK.home.is_dir():
        return ""
    return f"Flink {FLINK.version} is not fetched; run: python -m {FLINK.module}"


@contextmanager
def running(configuration: Mapping[str, Any] | None = None) -> Iterator[Flink]:
    """A cluster for as long as the block lasts.

    Args:
        configuration: Flink's, as in ``config.yaml``. Addresses, ports and folders are our own.

    Raises:
        NoServer: it does not start.
    """
    rest, rpc, blobs, data = (free_port() for _ in range(4))
    folder = Path(tempfile.mkdtemp(prefix="millstream-flink-"))
    ours = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "jobmanager.bind-host": "127.0.0.1",
        "blob.server.port": blobs,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.data.port": data,
        "io.tmp.dirs": f"{folder}/tmp",
        "state.checkpoints.dir": f"file://{folder}/checkpoints",
        "state.savepoints.dir": f"file://{folder}/savepoints",
    }
    (folder / "tmp").mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**(configuration or {}), **ours}), "utf-8")
    conf = ["--configDir", str(folder)]
    flink = Flink(f"127.0.0.1:{rest}", folder)
    try:
        with serving(_java(_JOB_MANAGER, *conf, options=("-Xmx512m",)), rest):
            options, sizes = _divided(folder)
            with serving(_java(_TASK_MANAGER, *conf, *sizes, options=options), data):
                _until(lambda: flink.ask("/overview")["taskmanagers"] == 1, "no task manager")
                yield flink
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _java(main: str, *arguments: str, options: tuple[str, ...] = (), more: str = "") -> list[str]:
    home = FLINK.home / "pyflink"
    path = f"{home}/lib/*" + (f":{home}/{more}" if more else "")
    return ["java", *QUICK, *options, "-cp", path, main, *arguments]


def _divided(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of Java's, and of the task manager's own, that its memory asks for."""
    command = _java(_SIZES, "GET_TM_RESOURCE_PARAMS", "--configDir", str(folder), more="bin/*")
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_SECONDS)
    found = [
        tuple(line.removeprefix(_RESULT).split())
        for line in done.stdout.splitlines()
        if line.startswith(_RESULT)
    ]
    if len(found) != 2:
        raise NoServer(f"Flink refuses its configuration: {done.stdout[-2000:]}{done.stderr}")
    java, own = found
    return tuple(option for option in java if not option.startswith("-Xms")), own


def _until(answer: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not answer():
        if time.monotonic() > deadline:
            raise NoServer(f"Flink: {what}")
        time.sleep(0.1)


def fetch() -> None:
    """Fetch Flink's libraries into the checkout.

    Raises:
        NoProgram: they cannot be had.
    """
    with FLINK.fetching() as folder:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        wanted = ["--no-deps", "--target", folder, f"apache-flink-libraries=={FLINK.version}"]
        try:
            subprocess.run([*pip, *wanted], timeout=_FETCH_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise NoProgram(str(error)) from error


if __name__ == "__main__":
    sys.exit(fetch_or_say(FLINK, fetch))
