"""Flink and other job servers: what is added to a job's flags, what is refused, and cancelling."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc
from apache_beam.runners.portability.portable_runner import PortableRunner
from millstream.pipelines import runners
from millstream.pipelines.job import JobError
from millstream.pipelines.runners import flink, job_server

from tests.services import flink as flink_service
from tests.services.serving import free_port, or_skip

PORTABLE = "--runner=PortableRunner"
FLINK = "--runner=FlinkRunner"
MASTER = "--flink_master=flink.example:8081"
POOL = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]


class _Server(beam_job_api_pb2_grpc.JobServiceServicer):
    """A job server that takes no jobs, and says which options it has."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def DescribePipelineOptions(self, request: Any, context: Any) -> Any:
        described = [
            beam_job_api_pb2.PipelineOptionDescriptor(
                name=name,
                type=beam_job_api_pb2.PipelineOptionType.BOOLEAN
                if name.startswith("enable")
                else beam_job_api_pb2.PipelineOptionType.STRING,
            )
            for name in self._names
        ]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=described)


@contextmanager
def serving(*names: str) -> Iterator[str]:
    """The address of a job server that describes options of these names."""
    server = grpc.server(ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(_Server(list(names)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def endpoint() -> Iterator[str]:
    with serving("flink_master", "checkpointing_interval") as address:
        yield f"--job_endpoint={address}"


# Whose job server it is


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ([], None),
        ([f"--runner={runners.LOCAL}"], None),
        (["--runner=DataflowRunner"], None),
        (["--runner=PrismRunner"], "prism"),
        (["--runner=flinkrunner"], "flink"),
        (["--runner=apache_beam.runners.portability.flink_runner.FlinkRunner"], "flink"),
        (["--runner=SparkRunner"], "spark"),
        ([PORTABLE, MASTER], "flink"),
        ([PORTABLE, "--spark_master_url=spark://s:7077"], "spark"),
        ([PORTABLE], "unknown"),
        ([PORTABLE, "--job_endpoint=embed"], "unknown"),
    ],
)
def test_a_job_server_is_known_by_the_runner_and_the_master(flags, kind):
    assert job_server.kind_of(flags) == kind


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["parallelism", "flink_master"], "flink"),
        (["spark_master_url"], "spark"),
        (["something"], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_job_server_is_known_by_the_options_that_it_has(options, kind):
    with serving(*options) as address:
        assert job_server.kind_of([PORTABLE, f"--job_endpoint={address}"]) == kind


def test_flags_that_a_job_server_has_are_known():
    with serving("enable_something", "something_else") as address:
        flags = [PORTABLE, f"--job_endpoint={address}"]
        runners.refuse_unknown([*flags, "--enable_something", "--something_else=7"], [])
        with pytest.raises(JobError, match="no such flag: --something_elf; did you mean"):
            runners.refuse_unknown([*flags, "--something_elf=7"], [])


def test_flags_of_flink_are_known_without_a_server():
    flags = [FLINK, "--checkpointing_interval", "7", "--object_reuse", "--savepoint_path=s3://b/s"]
    runners.refuse_unknown(flags, [])
    with pytest.raises(JobError, match="did you mean '--checkpointing_interval'"):
        runners.refuse_unknown([FLINK, "--checkpoint_interval=7"], [])
    with pytest.raises(JobError, match="no such flag: --object_reuse"):
        runners.refuse_unknown([f"--runner={runners.LOCAL}", "--object_reuse"], [])


# What is added


def test_what_flink_needs_is_added_and_what_is_given_stays(endpoint):
    given = [PORTABLE, endpoint, *POOL]
    batch = runners.ready(given, False, "My Clicks!")
    added = batch[len(given) :]
    assert added[:2] == [
        "--experiments=disable_logging_submission_environment",
        "--job_server_timeout=315360000",
    ]
    assert re.fullmatch(r"--job_name=my-clicks-[0-9a-f]{8}", added[2])
    assert added[3:] == []
    stream = runners.ready(given, True, "clicks")[len(given) :]
    assert stream[3:] == ["--checkpointing_interval=10000", "--finish_bundle_before_checkpointing"]
    said = [
        *given, "--experiments=disable_logging_submission_environment", "--job_server_timeout=9",
        "--job_name=mine", "--checkpointing_interval=77", "--finish_bundle_before_checkpointing",
    ]  # fmt: skip
    assert runners.ready(said, True) == said
    assert runners.for_streams(said) == said, "nothing is added twice"


def test_the_name_in_the_cluster_is_another_at_each_launch():
    first, second = (flink.flags([], False, "clicks")[0] for _ in range(2))
    assert first != second


def test_a_job_whose_name_has_no_latin_letter_has_one_in_the_cluster():
    (flag, *_) = flink.flags([], False, "時計")
    assert re.fullmatch(r"--job_name=millstream-[0-9a-f]{8}", flag)


@pytest.mark.parametrize("environment", [POOL, ["--environment_type=LOOPBACK"]])
def test_a_job_needs_no_file_of_this_machine(endpoint, environment):
    """What the job server would have workers on other machines fetch."""
    flags = runners.ready([PORTABLE, endpoint, *environment], False)
    options = PipelineOptions(flags)
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | beam.Create([1])
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    (found,) = proto.components.environments.values()
    assert not found.dependencies


# What is refused


def ready(*flags: str, streaming: bool = False) -> str:
    """Why flags are refused."""
    with pytest.raises(JobError) as refused:
        runners.ready(list(flags), streaming)
    return str(refused.value)


def test_nothing_is_downloaded_for_a_job_server(monkeypatch, tmp_path):
    assert ready(PORTABLE) == "PortableRunner: say which job server: --job_endpoint=HOST:PORT"
    said = ready(FLINK)
    assert said.startswith("FlinkRunner: no job server is named, and Beam would download one: say ")
    assert "--flink_job_server_jar=PATH of org.apache.beam:beam-runners-flink-1.19-job-" in said
    assert "--spark_job_server_jar=PATH of org.apache.beam:beam" in ready("--runner=SparkRunner")
    assert ready(FLINK, "--flink_job_server_jar=/none.jar").endswith("there is no such file")
    jar = tmp_path / "server.jar"
    jar.touch()
    named = [FLINK, f"--flink_job_server_jar={jar}"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ready(*named) == "FlinkRunner: its job server runs on Java, and there is no 'java'"
    assert runners.ready([*named, "--flink_submit_uber_jar"], False)
    program(tmp_path / "java", "")
    assert runners.ready(named, False)


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_nothing_is_downloaded_for_prism(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    said = ready("--runner=PrismRunner")
    assert said.startswith("PrismRunner: there is no Prism on PATH, and Beam would download one")
    assert "go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2." in said
    other = program(tmp_path / "prism", "echo a mock server for HTTP")
    assert ready("--runner=PrismRunner") == said, "another program of that name"
    program(other, "echo '  -job_port int' >&2")
    found = runners.ready(["--runner=PrismRunner"], False)
    assert f"--prism_location={other}" in found
    said = ready("--runner=PrismRunner", "--prism_location=/none")
    assert said.endswith("there is no Prism that can be run at /none")
    said = ready("--runner=PrismRunner", f"--prism_location={tmp_path}")
    assert said.endswith(f"there is no Prism that can be run at {tmp_path}"), "which is a folder"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "its own image has no millstream"),
        (["--environment_type=docker"], "its own image has no millstream"),
        (["--environment_type=EXTERNAL"], "say --environment_config=HOST:PORT of a pool"),
        (["--environment_type=PROCESS"], "say --environment_config='{"),
        (["--environment_type=LOOPBACK", MASTER], "--flink_master=flink.example:8081, with "),
        ([*POOL, MASTER, "--flink_master=me:secret@flink:1"], "a password in it would be printed"),
        ([*POOL, MASTER, "--savepoint_path=s3://b/s"], "only a stream"),
    ],
)
def test_what_would_fail_in_the_cluster_is_refused(endpoint, flags, said):
    assert said in ready(PORTABLE, endpoint, *flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shutdown_sources_after_idle_ms=0"], "for tests of Beam's runner only"),
        (["--checkpointing_interval=-1"], "a stream needs checkpoints"),
        (["--checkpointing_interval=0"], "a stream needs checkpoints"),
        (["--checkpointing_mode=AT_LEAST_ONCE"], "in a window twice"),
    ],
)
def test_what_would_lose_or_double_records_of_a_stream_is_refused(endpoint, flags, said):
    given = [PORTABLE, endpoint, MASTER, *POOL, *flags]
    assert said in ready(*given, streaming=True)
    assert runners.ready(given, False), "a batch has no use for it, and takes no harm"


@pytest.mark.parametrize(
    "flags",
    [
        ["--environment_type=DOCKER", "--environment_config=registry/millstream:1"],
        ["--environment_options=docker_container_image=registry/millstream:1"],
        ["--environment_type=EXTERNAL", "--environment_option=external_service_address=pool:50000"],
        ["--environment_type=LOOPBACK", "--flink_master=http://127.0.0.1:8081"],
        ["--environment_type=LOOPBACK", "--flink_master=[local]"],
    ],
)
def test_what_can_run_is_taken(endpoint, flags):
    assert runners.ready([PORTABLE, endpoint, *flags], False)


def test_workers_of_flink_s_own_runner_are_here_unless_a_cluster_is_named(endpoint):
    assert runners.works_here([FLINK, endpoint])
    assert not runners.works_here([FLINK, endpoint, MASTER])
    assert not runners.stops_itself([FLINK, endpoint])
    assert "its own image has no millstream" in ready(FLINK, endpoint, MASTER)


def test_a_job_server_that_does_not_answer_is_told():
    address = f"localhost:{free_port()}"
    said = ready(PORTABLE, f"--job_endpoint={address}", *POOL)
    assert said.startswith(f"no job server answers at {address} (")
    assert said.endswith("start it, or correct --job_endpoint")
    prism = ready("--runner=PrismRunner", f"--job_endpoint={address}")
    assert prism == said, "for which Beam would wait for ever"
    assert ready(PORTABLE, "--job_endpoint=nowhere") == "--job_endpoint=nowhere: write HOST:PORT"


# A cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[flink_service.Flink]:
    small = {
        "jobmanager.memory.process.size": "1g",
        "taskmanager.memory.process.size": "2g",
        "taskmanager.memory.managed.size": "300m",
        "taskmanager.memory.network.max": "128m",
        "taskmanager.numberOfTaskSlots": 3,
    }
    with or_skip("flink", flink_service.why_not, lambda: flink_service.running(small)) as found:
        yield found


@pytest.fixture
def said(capfd) -> Callable[[], list[str]]:
    return lambda: capfd.readouterr().err.splitlines()


AGAIN = flink_service.ENDLESS + "INSERT INTO nowhere SELECT n, n FROM numbers;"
"""Two jobs of one name."""


@pytest.mark.service
@pytest.mark.slow
def test_cancelling_cancels(cluster, said):
    other = cluster.submit("clicks-2")
    cluster.submit("clicks-1", AGAIN)
    first, second = cluster.jobs("clicks-1")
    flags = [FLINK, f"--flink_master=http://{cluster.rest}/", "--job_name=clicks-1"]
    runners.cancelled(flags)
    assert "2 jobs have that name: " in said()[0], "which of them is meant cannot be told"
    assert cluster.state(second) != "CANCELED"
    cluster.cancel(first)
    for _ in range(2):  # the one that runs; and again, when it has ended
        runners.cancelled(flags)
        assert re.fullmatch(r"millstream: Flink's job \w+ \(clicks-1\) is cancelled", said()[0])
        assert cluster.state(second) == "CANCELED"
    assert cluster.state(other) == "RUNNING"
    cluster.cancel(other)


@pytest.mark.service
@pytest.mark.slow
def test_what_a_cluster_has_too_little_of_is_told(cluster, said):
    flags = [FLINK, f"--flink_master={cluster.rest}"]
    flink.look([*flags, "--parallelism=4"], streaming=False)
    slots, *memory = said()
    assert re.fullmatch(
        r"millstream: Flink: of 3 slots \d are free, and the job waits for 4", slots
    )
    assert memory == [
        "millstream: Flink: 100 MiB of managed memory a slot: batches of some megabytes may fail; "
        "give it 128 MiB (taskmanager.memory.managed.size)",
        "millstream: Flink: 128 MiB of network memory: a batch job with more than one output may "
        "fail; give it 512 MiB (taskmanager.memory.network.min and max)",
    ]
    flink.look(flags, streaming=True)
    assert said()[0].startswith("millstream: Flink: --parallelism is not given: ")


def test_a_cluster_that_does_not_answer_is_told(said):
    address = f"127.0.0.1:{free_port()}"
    flags = [FLINK, f"--flink_master={address}", "--job_name=clicks-1", "--parallelism=1"]
    flink.look(flags, streaming=False)
    runners.cancelled(flags)
    looked, cancelled = said()
    assert looked.startswith(f"millstream: Flink: http://{address} does not answer: ")
    assert cancelled.startswith("millstream: Flink may go on with the job clicks-1: http://")
    by_hand = f"curl -X PATCH 'http://{address}/jobs/JOB_ID?mode=cancel'"
    assert cancelled.endswith(f"cancel it by: {by_hand}")
    runners.cancelled([FLINK, "--flink_job_server_jar=server.jar", "--job_name=x"])
    assert said() == [], "a Flink in the job server ends with it"
    runners.cancelled([FLINK, "--job_endpoint=flink:8099", "--job_name=x"])
    assert "say --flink_master=HOST:PORT to have it cancelled" in said()[0]
