"""The same jobs on every runner that starts here, and on any whose job server is named.

``MILLSTREAM_JOB_ENDPOINT=HOST:PORT`` names one, Flink's or Spark's say, and
``MILLSTREAM_JOB_FLAGS`` the flags that it needs, as a shell has them, such as::

    MILLSTREAM_JOB_FLAGS='--flink_master=localhost:8081 --environment_type=LOOPBACK'

Its workers have to see the folders of this machine.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator

import psutil
import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.job import JobError
from millstream.pipelines.runners import (
    LOCAL,
    choosing,
    chosen,
    for_streams,
    quiet_beam,
    refuse_unknown,
    root_message,
    works_here,
)
from millstream.transforms.storage import StorageError

from tests.pipelines.clicks import JobFolder
from tests.pipelines.runner_suite import RunnerSuite, alone, clicks, day, whole
from tests.services.serving import free_port, serving

__all__ = ["alone", "clicks", "day"]

pytestmark = pytest.mark.slow

ENDPOINT, FLAGS = "MILLSTREAM_JOB_ENDPOINT", "MILLSTREAM_JOB_FLAGS"
STREAMS = frozenset({"stream"})


class TestOneProcess(RunnerSuite):
    cannot = STREAMS

    @pytest.fixture
    def flags(self) -> list[str]:
        return ["--helpers=2"]


class TestSeveralWorkerProcesses(RunnerSuite):
    cannot = STREAMS

    @pytest.fixture
    def flags(self) -> list[str]:
        return ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.mark.service
class TestPrism(RunnerSuite):
    @pytest.fixture
    def flags(self, prism, tmp_path) -> Iterator[list[str]]:
        ours = tmp_path / "prism"
        ours.symlink_to(prism)
        yield ["--runner=PrismRunner", f"--prism_location={ours}"]
        # A server that nobody needs any more would stay for ever.
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert [line for line in lines if str(ours) in line] == []


@pytest.mark.service
class TestDask(RunnerSuite):
    """Two worker processes of a cluster."""

    cannot = STREAMS

    @pytest.fixture
    def flags(self, dask) -> list[str]:
        return ["--runner=DaskRunner", f"--dask_client_address={dask}", "--shards=3"]


@pytest.mark.service
class TestJobServer(RunnerSuite):
    """The job server that the environment names."""

    @pytest.fixture
    def flags(self, skip_visibly, monkeypatch) -> list[str]:
        endpoint = os.environ.get(ENDPOINT)
        if not endpoint:
            skip_visibly(f"a job server: {ENDPOINT} names none (and {FLAGS} what it needs)")
        given = shlex.split(os.environ.get(FLAGS, ""))
        found = ["--runner=PortableRunner", f"--job_endpoint={endpoint}", *given]
        if not works_here(found):
            monkeypatch.setattr(self, "cannot", frozenset({"be killed"}), raising=False)
        return found


@pytest.fixture(scope="module")
def prism_server(prism) -> Iterator[str]:
    """The address of a Prism that runs as a job server."""
    port = free_port()
    command = [prism, f"--job_port={port}", "--serve_http=false", "--log_kind=text"]
    with serving(command, port):
        yield f"localhost:{port}"


@pytest.mark.service
class TestPrismAsJobServer(TestJobServer):
    """The same, by the same variables, on a job server that is there everywhere."""

    # These Prism has had already: it is no other for being a job server.
    test_formats = None  # pyright: ignore[reportAssignmentType]
    test_runs_that_go_on = None  # pyright: ignore[reportAssignmentType]

    @pytest.fixture(autouse=True)
    def variables(self, prism_server, monkeypatch) -> None:
        monkeypatch.setenv(ENDPOINT, prism_server)
        monkeypatch.setenv(FLAGS, "--environment_type=LOOPBACK --shards=1")


def test_direct_runner_is_the_local_batch_runner(clicks, tmp_path, alone):
    folder, done = whole(clicks, tmp_path, "--runner=DirectRunner", "--helpers=0")
    assert done.code == exit_codes.OK, done.err
    assert done.err == "millstream: DirectRunner: running on Beam's FnApiRunner\n"
    assert folder.records() == alone.whole.records()
    manifests = folder.path / "warehouse/clicks/_millstream/manifests"
    assert [p.name for p in manifests.iterdir()] == ["00000001.json"], "it ran more than once"


def test_direct_runner_refuses_an_unbounded_job(clicks: JobFolder, tmp_path):
    arguments = ["--runner=DirectRunner", "--streaming", "--input=generate://"]
    folder, done = whole(clicks, tmp_path, *arguments)
    assert done.code == exit_codes.USAGE
    assert done.err == (
        "millstream: --streaming: DirectRunner cannot run an unbounded job; "
        "use --runner=PrismRunner\n"
    )
    assert not (folder.path / "warehouse").exists()


@pytest.mark.parametrize(
    "name",
    [
        "SwitchingDirectRunner",
        "testdirectrunner",
        "apache_beam.runners.direct.direct_runner.SwitchingDirectRunner",
        LOCAL,
    ],
)
def test_beams_switch_by_any_name_is_the_local_batch_runner(name):
    """It would look for Prism first, and may download it."""
    assert chosen([f"--runner={name}", "--x=1"]) == [f"--runner={LOCAL}", "--x=1"]


@pytest.mark.parametrize("name", ["nowhere.Runner", "os.path", ".Runner", "os."])
def test_a_class_that_is_no_runner(name):
    with pytest.raises(JobError, match=f"^--runner: there is no runner {name}; expected package"):
        refuse_unknown([f"--runner={name}"], [])


def test_a_runner_of_ones_own_is_let_pass():
    refuse_unknown(["--runner=apache_beam.runners.runner.PipelineRunner"], [])


TIMEOUT = "--job_server_timeout=315360000"
UNDIVIDED = "--experiments=prism_disable_sdf_split"


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        (["--runner=PrismRunner"], [TIMEOUT, UNDIVIDED]),
        (["--runner=PrismRunner", "--job_server_timeout=60"], [UNDIVIDED]),
        (["--runner=PortableRunner"], [TIMEOUT, UNDIVIDED]),
        (["--runner=SparkRunner"], [TIMEOUT]),
        (["--runner=DataflowRunner"], []),
        (
            ["--runner=FlinkRunner", "--job_name=clicks", "--checkpointing_interval=9"],
            [TIMEOUT, "--finish_bundle_before_checkpointing"],
        ),
    ],
)
def test_what_runners_need_for_a_stream(flags, added):
    assert for_streams(flags) == [*flags, *added]


SECOND = "Bundle processing associated with i3 has failed. Check prior failing response"
ELSEWHERE = f"""split[i3] error from SDK: RuntimeError: Original Exception: StorageError: no
Traceback (most recent call last):
  File "worker.py", line 1, in run
OSError: [Errno 20] Not a directory

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "worker.py", line 2, in run
millstream.transforms.storage.StorageError: cannot write f [while running 'Step']

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
RuntimeError: {SECOND} and attached exception for details."""


@pytest.mark.parametrize("message", [SECOND, ELSEWHERE])
@pytest.mark.parametrize("cause", [None, NotADirectoryError(20, "Not a directory")])
def test_what_a_worker_says_second_hides_nothing(message, cause):
    """Nor what an error of ours has as its cause: the error has told it already."""
    quiet_beam()
    try:
        raise StorageError("cannot write f [while running 'Step']", "f") from cause
    except StorageError as error:
        logging.getLogger("apache_beam.runners.common").exception(error)
    assert root_message(RuntimeError(message)) == "cannot write f (in step Step)"


def test_what_a_worker_elsewhere_says_last_hides_nothing(monkeypatch):
    """Another process raised it: there is nothing but the text."""
    monkeypatch.setattr(choosing, "_raised", [])
    assert root_message(RuntimeError(ELSEWHERE)) == "cannot write f (in step Step)"


def test_the_cause_of_an_error_that_is_not_ours_is_told():
    error = RuntimeError("the worker failed")
    error.__cause__ = ValueError("no such step")
    assert root_message(error) == "no such step"
