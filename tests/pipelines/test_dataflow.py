"""Jobs on Dataflow, through the real command line and Beam's real runner: what is submitted, what
is staged, and how a launch ends. The service is one of our own, on which nothing runs; what was
submitted to it is run on Beam's local runner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main
from millstream.transforms import storage
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.runs import RunStore
from millstream.transforms.write.files import live_files

from tests.pipelines.clicks import JobFolder, ingest, page_views
from tests.pipelines.dataflow_support import (
    BUCKET,
    IMAGE,
    LATE,
    ONCE,
    STEPS,
    STREAM,
    DataflowJob,
    Submitted,
    artifacts,
    unpickled_bytes,
)
from tests.pipelines.test_stream_jobs import StreamJob
from tests.services import dataflow
from tests.services.dataflow import Dataflow
from tests.services.object_stores import object_store
from tests.services.serving import free_port, serving

pytestmark = [pytest.mark.cloud, pytest.mark.service]

WAIT = 60
"""Seconds for which a process may take to end."""


class Kind(NamedTuple):
    """A kind of job: what its file says besides the example's, what it reads, and its flags."""

    lines: str = ""
    form: str = "jsonl"
    stream: str = ""
    flags: tuple[str, ...] = ()


STREAMING = ("--streaming",)
KINDS = {
    "jsonl": Kind(),
    "csv": Kind(form="csv"),
    "avro": Kind(form="avro"),
    "parquet": Kind(form="parquet"),
    "steps": Kind("steps: [{sql: 'SELECT * FROM records'}, {python: 'mine:same'}]\n"),
    "run": Kind("deduplicate: run\nduplicates: parquet:warehouse/duplicates\n"),
    "committed": Kind("deduplicate: committed\n"),
    "until now": Kind(f"until: now\n{LATE}{ONCE}"),
    "stream": Kind(LATE, stream=STREAM, flags=STREAMING),
    "stream, all of it": Kind(LATE + ONCE + STEPS, stream=STREAM, flags=STREAMING),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Dataflow]:
    with object_store("gs", BUCKET), dataflow.running() as service:
        yield service


@pytest.fixture(autouse=True)
def _at_its_best(request) -> None:
    """The service takes all jobs, and none is active."""
    service: Dataflow = request.getfixturevalue("service")
    service.refusal, service.begins_as = None, "JOB_STATE_RUNNING"
    service.forget()


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> JobFolder:
    """A day of events that the job has run on here, and its records in every format."""
    folder = JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=600)
    for path in folder.files[1:]:
        path.unlink()
    for form in ("csv", "avro", "parquet"):
        to = f"{form}:{folder.path}/as_{form}"
        state = f"{folder.path}/state_{form}"
        done = ingest("--job", folder.job, "--allow_no_input", f"--output={to}", f"--state={state}")
        assert done.code == exit_codes.OK, done.err
        if form != "parquet":
            _clear(folder)
    return folder


def _clear(folder: JobFolder) -> None:
    for path in sorted((folder.path / "warehouse").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


@pytest.fixture
def make(service, day, tmp_path) -> Callable[..., DataflowJob]:
    """A job of a kind, and its input on the bucket."""

    def made(kind: Kind = KINDS["jsonl"]) -> DataflowJob:
        job = DataflowJob.make(tmp_path, service, stream=kind.stream, lines=kind.lines)
        job.write(re.sub(r", gs://\S+gz\]", "]", job.text).replace("*.jsonl", f"*.{kind.form}"))
        (tmp_path / "mine.py").write_text("def same(batch):\n    return batch\n", "utf-8")
        if not kind.stream:
            path = day.files[0]
            if kind.form != "jsonl":
                path = Path(live_files(f"{kind.form}:{day.path}/as_{kind.form}")[0])
            job.put(f"a.{kind.form}", path.read_bytes())
        return job

    return made


@pytest.fixture(scope="module")
def _submissions() -> dict[str, tuple[DataflowJob, Submitted]]:
    return {}


@pytest.fixture(params=KINDS)
def submission(request, make, _submissions) -> tuple[DataflowJob, Submitted]:
    """A job of each kind, submitted once. Not to be changed."""
    if request.param not in _submissions:
        kind = KINDS[request.param]
        job = make(kind)
        _submissions[request.param] = job, job.submitted(*kind.flags, *FLAGS)
    return _submissions[request.param]


FLAGS = (
    "--job_name=clicks-today",
    "--labels=team=data",
    "--resource_hint=min_ram=4GB",
    "--max_num_workers=3",
)
BATCHES = "RecordBatchCoder"
ALLOWED = {
    "kv",
    "iterable",
    "tuple",
    "nullable",
    "varint",
    "bytes",
    "string_utf8",
    "PaneInfoCoder",
    BATCHES,
}
PICKLES = {"FastPrimitivesCoder", "DeterministicFastPrimitivesCoderV2"}
"""Beam's coders for what is none of its own types: they pickle it."""
PICKLED = {
    r"Read/(Ranges/Map\(decode\)|Parts)\[None\]": "what is to be read: a few ranges, or partitions",
    r"Read/Spread/.*": "the same",
    r".*\[(tallies|reached|facts|keys)\]": "counts and positions, some of each bundle",
    r"Stage\w+/Stage\[None\]": "receipts: names, sizes and digests of staged files",
    r"(Facts|CommitRun/.*)\[None\]": "the same, on their way to the commit",
    r"Accumulate_\w+/ParDo\(AccumulateSlices\)\[None\]": "nothing: it gives tagged outputs alone",
    r"Deduplicate/.*\[None\]": "where keys are that were spilled to files",
    r"Accumulate_\w+/(.*)\[None\]": "the same of states",
}
"""What is pickled on its way from step to step → what it is. Never a batch."""


def test_the_job_says_what_it_is(submission, request):
    _, submitted = submission
    streaming = "stream" in request.node.callspec.params["submission"]
    job, environment = submitted.job, submitted.job["environment"]
    assert job["name"] == "clicks-today"
    assert job["type"] == (2 if streaming else 1)  # JOB_TYPE_STREAMING, JOB_TYPE_BATCH
    assert job["labels"] == {"team": "data"}
    assert environment["version"]["job_type"] == ("FNAPI_STREAMING" if streaming else "FNAPI_BATCH")
    assert bool(submitted.options.get("streaming")) == streaming
    assert {"use_runner_v2", "use_portable_job_submission"} <= set(environment["experiments"])
    assert ("enable_streaming_engine" in environment["experiments"]) == streaming
    assert environment["tempStoragePrefix"].startswith(f"storage.googleapis.com/{BUCKET}/")
    assert submitted.options["pipelineUrl"].startswith(f"gs://{BUCKET}/")


def test_workers_have_our_image_and_what_was_asked_for(submission):
    _, submitted = submission
    (image,) = submitted.pool["sdkHarnessContainerImages"]
    assert submitted.pool["workerHarnessContainerImage"] == image["containerImage"] == IMAGE
    assert submitted.pool["autoscalingSettings"]["maxNumWorkers"] == 3
    (environment,) = submitted.pipeline.components.environments.values()
    docker = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
    assert docker.container_image == IMAGE
    assert dict(environment.resource_hints) == {
        "beam:resources:min_ram_bytes:v1": b"4000000000",
    }


def test_nothing_is_staged_but_the_pipeline(submission):
    """No SDK, no package, no pickled main session: the image has them. Beam's list of what is
    installed here is for its own messages."""
    job, submitted = submission
    listed = "submission_environment_dependencies.txt"
    assert set(job.staged()) == {"pipeline.pb", listed}
    assert set(artifacts(submitted.pipeline)) == {listed}
    assert submitted.options["save_main_session"] is False
    assert submitted.options.get("setup_file") is None


def test_batches_are_never_pickled(submission):
    _, submitted = submission
    coders = submitted.coders()
    assert any(BATCHES in said for said in coders.values())
    for flow, said in coders.items():
        used = set(re.findall(r"\w+", said))
        assert used <= ALLOWED | PICKLES, f"{flow}: {said}"
        if used & PICKLES:
            assert BATCHES not in used, f"{flow}: {said}"
            assert any(re.fullmatch(known, flow) for known in PICKLED), f"{flow}: {said}"


def test_nothing_of_the_main_module_is_pickled(submission):
    _, submitted = submission
    looked_at = 0
    for name, payload in submitted.payloads():
        data = unpickled_bytes(payload)
        looked_at += len(data) > len(payload) + 1
        assert b"__main__" not in data, name
    assert looked_at > 10


def test_names_of_steps_hold_nothing_of_a_single_run(submission):
    """They decide what an update carries on."""
    _, submitted = submission
    assert len(set(submitted.steps)) == len(submitted.steps)
    for step in submitted.steps:
        assert not re.search(r"[0-9a-f]{8}|20\d\d|tmp|gs:|0x", step), step


def run_here(pipeline: beam_runner_api_pb2.Pipeline) -> None:
    """Run a submitted pipeline by Beam's local runner. Nothing of it is changed but where its
    workers are, which is no image but this process."""
    here = beam_runner_api_pb2.Pipeline.FromString(pipeline.SerializeToString())
    for environment in here.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        del environment.dependencies[:]
    options = PipelineOptions(["--runner=FnApiRunner"])
    FnApiRunner().run_via_runner_api(here, options).wait_until_finish()


@pytest.mark.parametrize("name", ["jsonl", "run", "parquet", "until now"])
def test_what_is_submitted_is_the_whole_job(name, make, day, tmp_path):
    kind = KINDS[name]
    job = make(kind)
    submitted = job.submitted(*kind.flags)
    run_here(submitted.pipeline)
    made = fetched(job, tmp_path / "fetched")
    assert made.records() == day.expected().records
    if kind.form == "jsonl":
        assert made.letters() == {
            letter._replace(source="a.jsonl"): count
            for letter, count in day.expected().letters.items()
        }
    if "until" not in kind.lines:  # else windows are still open
        assert made.page_views() == page_views(day.expected().records)
    assert made.staged() == []
    again = job.ingest("--no_wait", *kind.flags)
    assert again.code == exit_codes.OK, again.err
    assert "nothing to do" in again.err


@pytest.mark.slow
def test_a_submitted_stream_runs_and_is_gone_on_with(prism, make, tmp_path):
    """On Prism, with workers of its own; where it stops, a run on the local runner goes on."""
    kind = KINDS["stream"]
    job = make(Kind(f"{kind.lines}shards: 1\ncommit_every: 1\n", stream=STREAM))
    submitted = job.submitted("--streaming")
    ports = free_port(), free_port()
    server = [prism, f"--job_port={ports[0]}", "--serve_http=false", "--log_kind=text"]
    module = "apache_beam.runners.worker.worker_pool_main"
    pool = [sys.executable, "-m", module, f"--service_port={ports[1]}"]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    variables = {**job.variables(), "PATH": path}
    with serving(server, ports[0]), serving(pool, ports[1], variables):
        result = run_on_prism(submitted.pipeline, *ports)
        try:
            until(lambda: commits_of(job) >= 2)
        finally:
            result.cancel()
    assert main(["ingest", "--job", job.folder.job, "--until=now", "--close_windows"]) == 0
    made = fetched(job, tmp_path / "fetched")
    shutil.copy(job.folder.path / "clickstream.odcs.yaml", made.path)
    StreamJob(made, STREAM).assert_exact()


def run_on_prism(pipeline: beam_runner_api_pb2.Pipeline, jobs: int, workers: int) -> PipelineResult:
    """Run a submitted pipeline, unchanged but for where its workers are."""
    there = beam_runner_api_pb2.Pipeline.FromString(pipeline.SerializeToString())
    pool = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{workers}")
    payload = beam_runner_api_pb2.ExternalPayload(endpoint=pool).SerializeToString()
    for environment in there.components.environments.values():
        environment.urn, environment.payload = common_urns.environments.EXTERNAL.urn, payload
        del environment.dependencies[:]
    options = PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{workers}",
            "--streaming",
            "--experiments=prism_disable_sdf_split",
        ]
    )
    return PortableRunner().run_portable_pipeline(there, options)


def commits_of(job: DataflowJob) -> int:
    """How many commits a stream has made."""
    return Chain(RunStore(f"{job.base}/warehouse/ledger")).newest()


def until(done: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 2 * WAIT
    while not done():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.5)


def fetched(job: DataflowJob, place: Path) -> JobFolder:
    """What a job made, in a local folder: manifests name files relative to theirs."""
    for path in storage.list_files(storage.join(job.base, "warehouse"), deep=True):
        local = place / path.removeprefix(f"{job.base}/")
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(storage.read_bytes(path))
    return JobFolder(place)


def test_secrets_are_nowhere_in_what_is_sent(make, service):
    hush = "s3cr3t-w0rd"
    job = make(KINDS["stream, all of it"])
    reference = storage.join(job.base, "secret.txt")
    storage.write_replace(reference, hush.encode())
    job.write(f"{job.text}secrets: {{MINE: {reference}, KEYS: {{file: {reference}}}}}\n")
    submitted = job.submitted("--streaming")
    sent = [str(submitted.job), submitted.done.out, submitted.done.err]
    sent += [data.decode("latin-1") for data in job.staged().values()]
    sent += [unpickled_bytes(p).decode("latin-1") for _, p in submitted.payloads()]
    assert not any(hush in text for text in sent)
    assert reference in str(submitted.options)
    assert "millstream.transforms.worker" in submitted.options["beam_plugins"]


def waiting(job: DataflowJob, service: Dataflow, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """A launch that waits for its job; the job's id."""
    process = job.start(*flags)
    try:
        job_id = service.wait_for_job()["id"]
    except AssertionError as error:
        process.send_signal(signal.SIGABRT)  # where it stands is told by faulthandler
        _, err = process.communicate(timeout=WAIT)
        raise AssertionError(f"{error}: {err}") from None
    assert process.stderr is not None
    for line in process.stderr:
        if "https://console.cloud.google.com/" in line:
            assert job_id in line
            return process, job_id
    raise AssertionError(f"it ended: {process.wait(WAIT)}")


@pytest.mark.parametrize(
    ("name", "code"), [("stream", exit_codes.OK), ("jsonl", exit_codes.FAILED)]
)
def test_ctrl_c_cancels_the_job(name, code, make, service):
    kind = KINDS[name]
    process, job_id = waiting(make(kind), service, *kind.flags)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == code, err
    assert service.asked == [(job_id, "JOB_STATE_CANCELLED")]
    assert f"Dataflow job {job_id} is being cancelled" in err
    assert "committed first" not in err


@pytest.mark.parametrize("name", ["stream", "jsonl"])
def test_a_job_that_fails_is_named_with_its_reason(name, make, service):
    kind = KINDS[name]
    process, job_id = waiting(make(kind), service, *kind.flags)
    service.say(job_id, "Traceback (most recent call last):\n  File x\nOSError: the disk is full")
    service.set_state(job_id, "JOB_STATE_FAILED")
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == exit_codes.FAILED
    last = err.splitlines()[-1]
    assert f"the run failed: Dataflow job {job_id} failed: OSError: the disk is full" in last
    console = f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{job_id}?project="
    assert f"{console}project-one" in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("state", "kept"), [("DRAINED", False), ("CANCELLED", False), ("UPDATED", True)]
)
def test_a_stream_that_somebody_else_ends_has_ended(state, kept, make, service):
    """What it has staged and not committed will be read again, but for that of a job that another
    one has replaced: that one commits it."""
    kind = KINDS["stream"]
    job = make(kind)
    process, job_id = waiting(job, service, *kind.flags)
    staged = stage(job)
    service.set_state(job_id, f"JOB_STATE_{state}")
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == exit_codes.OK, err
    assert err.splitlines()[-1].endswith(f"0 commits: {state}")
    assert storage.exists(staged) == kept


def stage(job: DataflowJob) -> str:
    """A file as a worker of the job's only run would have staged it."""
    base = f"{job.base}/warehouse/ledger/_millstream/runs/"
    paths = [file.path.removeprefix(base) for file in storage.match_remote(f"{base}**")]
    (run_id,) = {path.partition("/")[0] for path in paths}
    staged = f"{job.base}/warehouse/clicks/_millstream/staging/{run_id}/records/x.staged"
    storage.write_replace(staged, b"x")
    return staged


def test_a_job_that_cannot_be_asked_any_more_keeps_what_it_has_staged(make, service):
    """Its workers may be at work: nothing of theirs is deleted."""
    job = make(KINDS["run"])
    process, job_id = waiting(job, service)
    staged = stage(job)
    service.lost = True
    _, err = process.communicate(timeout=2 * WAIT)
    assert process.returncode == exit_codes.FAILED
    assert f"Dataflow does not say how job {job_id} is" in err.splitlines()[-1]
    assert "it may go on" in err.splitlines()[-1]
    assert storage.exists(staged)


REFUSALS: dict[str, tuple[tuple[int, str, str], str]] = {
    "malformed": (
        (400, "INVALID_ARGUMENT", "The workflow could not be created."),
        "Dataflow refused the job: The workflow could not be created",
    ),
    "forbidden": (
        (403, "PERMISSION_DENIED", "Could not create workflow; no write access"),
        "give the account the role roles/dataflow.developer",
    ),
    "no such project": ((404, "NOT_FOUND", "no project"), "see that --project and --region"),
    "name in use": (
        (409, "ALREADY_EXISTS", "There is already an active job named clicks."),
        "active job named clicks; wait for it, replace it with --update, or choose another",
    ),
    "quota": ((429, "RESOURCE_EXHAUSTED", "Quota exceeded"), "Quota exceeded; try again later"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_job_is_one_sentence(name, make, service):
    service.refusal, said = REFUSALS[name]
    kind = KINDS["stream"]
    job = make(kind)
    done = job.ingest("--no_wait", *kind.flags)
    assert done.code == exit_codes.FAILED
    (line,) = own_lines(done.err)
    assert said in line
    assert "http://127.0.0.1" not in line


def own_lines(err: str) -> list[str]:
    """What was said, without what Beam has to say of a bucket's costs."""
    return [line for line in err.splitlines() if "soft-delete policy" not in line]


def test_of_two_jobs_of_one_name_the_second_is_refused_and_can_replace_the_first(make, service):
    kind = KINDS["stream"]
    flags = [*kind.flags, "--job_name=clicks"]
    job = make(kind)
    first = job.submitted(*flags)
    refused = job.ingest("--no_wait", *flags)
    assert refused.code == exit_codes.FAILED
    assert "There is already an active job named clicks" in refused.err
    second = job.submitted(*flags, "--update", '--transform_name_mapping={"Read": "Read"}')
    assert second.job["replaceJobId"] == first.job["id"]
    assert second.job["transformNameMapping"] == {"Read": "Read"}
    assert service.jobs[first.job["id"]]["currentState"] == "JOB_STATE_UPDATED"
    assert second.steps == first.steps


def test_an_update_of_nothing_is_said_at_once(make):
    kind = KINDS["stream"]
    done = make(kind).ingest("--no_wait", *kind.flags, "--update", "--job_name=nobody")
    assert done.code == exit_codes.FAILED
    (line,) = own_lines(done.err)
    assert "--update: no job named nobody is running in europe-west1" in line


def test_a_classic_template_of_a_stream_is_written_and_no_job_is_begun(make, service):
    kind = KINDS["stream"]
    job = make(kind)
    place = f"{job.base}/templates/clicks"
    done = job.ingest(*kind.flags, f"--template_location={place}")
    assert done.code == exit_codes.OK, done.err
    assert b'"JOB_TYPE_STREAMING"' in storage.read_bytes(place)
    assert service.jobs == {}


def test_the_launch_of_a_flex_template_leaves_its_job_to_the_launcher(make, service):
    job = make()
    place = f"{job.base}/staging/template_launches/2026-01-01_00_00_00-1/job_object"
    done = job.ingest(f"--template_location={place}")
    assert done.code == exit_codes.OK, done.err
    assert b'"JOB_TYPE_BATCH"' in storage.read_bytes(place)
    assert service.jobs == {}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--template_location=gs://bucket/t"], "use a Flex Template"),
        (["--output=parquet:/tmp/clicks"], "/tmp/clicks is on this machine"),
        (["--streaming"], "files that keep arriving"),
        (["--temp_location=gs://nowhere/t"], "--temp_location: .* there is no such bucket"),
        (["--input=kafka://localhost:9092/clicks", "--streaming"], "localhost is this machine"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(flags, said, make, service):
    done = make().ingest("--no_wait", *flags)
    assert done.code == exit_codes.USAGE
    (line,) = done.err.splitlines()
    assert re.search(said, line)
    assert service.jobs == {}
