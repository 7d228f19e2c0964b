"""Jobs that are only handed over: a service runs them, and they commit by themselves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.runs import RunRecord

from tests.pipelines.clicks import Done, JobFolder, ingest, page_views
from tests.services.serving import free_port, serving

pytestmark = [pytest.mark.slow, pytest.mark.service]

_ENOUGH = 60
"""Seconds."""


@pytest.fixture(scope="module")
def service(prism) -> Iterator[list[str]]:
    """Flags of a job server with workers of its own; both outlive whoever submits a job."""
    jobs, workers = free_port(), free_port()
    server = [prism, f"--job_port={jobs}", "--serve_http=false", "--log_kind=text"]
    module = "apache_beam.runners.worker.worker_pool_main"
    pool = [sys.executable, "-m", module, f"--service_port={workers}"]
    # The pool starts whatever `python` is.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    with serving(server, jobs), serving(pool, workers, {**os.environ, "PATH": path}):
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{workers}",
        ]


@pytest.fixture
def folder(tmp_path) -> JobFolder:
    return JobFolder.make(tmp_path / "job", events=600)


def submit(folder: JobFolder, service: list[str], *flags: str) -> Done:
    return ingest("--job", folder.job, "--no_wait", *service, *flags, seconds=_ENOUGH)


def ended(folder: JobFolder, run_id: str) -> RunRecord:
    """How a run ended, once it has."""
    runs = folder.path / "warehouse" / "ledger" / "_millstream" / "runs"
    deadline = time.monotonic() + _ENOUGH
    while time.monotonic() < deadline:
        for name in ("record", "failed"):
            for path in runs.glob(f"{run_id}/*/{name}.json"):
                return msgspec.json.decode(path.read_bytes(), type=RunRecord)
        time.sleep(0.1)
    raise AssertionError("the run did not end in time")


def test_a_job_commits_without_its_launcher(folder, service):
    done = submit(folder, service, "--run_id=night")
    assert done.code == exit_codes.OK, done.err
    assert done.out.startswith("run night: submitted job-"), done.out
    assert "nothing waits for it here" in done.err
    assert ended(folder, "night").status == "committed"
    wanted = folder.expected()
    assert folder.records() == wanted.records
    assert folder.letters() == wanted.letters
    assert folder.page_views() == page_views(wanted.records)
    assert not folder.staged()


def test_what_it_has_committed_is_known_to_the_next(folder, service):
    submit(folder, service, "--run_id=night")
    ended(folder, "night")
    before = folder.snapshot()
    again = submit(folder, service, "--run_id=night")
    assert again.code == exit_codes.OK
    assert "run night has been committed already: nothing to do" in again.err
    other = submit(folder, service, "--run_id=other")
    assert other.code == exit_codes.REFUSED
    assert "run night has already committed" in other.err
    assert folder.snapshot() == before


def test_it_goes_on_from_where_the_last_one_stopped(folder, service):
    late = ["--until=now", f"--late=jsonl:{folder.path}/warehouse/late", "--close_windows"]
    assert submit(folder, service, *late).code == exit_codes.OK
    assert ended(folder, "c0000000001").status == "committed"
    assert folder.records() == folder.expected().records


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "the workers of FnApiRunner would end with this process"),
        (["--runner=PrismRunner"], "the workers of PrismRunner would end with this process"),
        (
            ["--runner=PortableRunner", "--job_endpoint=h:1", "--environment_type=LOOPBACK"],
            "the workers of PortableRunner would end with this process",
        ),
        (["--streaming"], "launch a run with until: now from a schedule"),
    ],
)
def test_what_would_end_with_the_launcher_is_waited_for(folder, ingest_here, flags, said):
    done = ingest_here("--job", folder.job, "--no_wait", *flags)
    assert done.code == exit_codes.USAGE
    assert f"--no_wait: {said}" in done.err or said in done.err
    assert not (folder.path / "warehouse").exists()
