"""Flex Templates, launched as Google's launcher launches them; and classic ones.

The launcher calls the file that the image names, with a flag for each parameter and its own ones
of Beam, and takes the job that is left at ``--template_location``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.transforms import storage

from tests.pipelines.clicks import Done, JobFolder
from tests.pipelines.dataflow_support import BUCKET, IMAGE, LATE, STREAM, DataflowJob, Submitted
from tests.services import dataflow
from tests.services.object_stores import object_store

pytestmark = [pytest.mark.cloud, pytest.mark.service, pytest.mark.slow]

LAUNCHER = Path(__file__).resolve().parents[2] / "templates" / "launcher.py"
PASSWORD = "hunter2-and-more"


@pytest.fixture(scope="module")
def service() -> Iterator[dataflow.Dataflow]:
    with object_store("gs", BUCKET), dataflow.running() as service:
        yield service


class Launch:
    """A job whose every file is on the bucket, and its template's launch."""

    def __init__(self, job: DataflowJob, template: str) -> None:
        self.job = job
        self.template = template
        self.at = f"{job.base}/staging/template_launches/2026-11-29_00_00_00-1/job_object"
        for name in ("job.yaml", "clickstream.odcs.yaml"):
            data = (job.folder.path / name).read_bytes()
            storage.write_replace(f"{job.base}/jobs/{name}", data)

    def run(self, *parameters: str) -> Done:
        flags = [
            f"--job={self.job.base}/jobs/job.yaml",
            *parameters,
            *self.job.flags(),
            "--job_name=nightly",
            f"--template_location={self.at}",
        ]
        variables = self.job.variables({"MILLSTREAM_TEMPLATE": self.template})
        done = subprocess.run(
            [sys.executable, LAUNCHER, *flags],
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.job.place,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def left(self) -> dict[str, Any]:
        """The job that the launcher takes."""
        return json.loads(storage.read_bytes(self.at))


@pytest.fixture
def batch(tmp_path, service) -> Launch:
    job = DataflowJob.make(tmp_path, service)
    made = JobFolder.make(tmp_path / "made", events=300)
    for file in made.files:
        job.put(file.name, file.read_bytes())
    return Launch(job, "ingest")


@pytest.fixture
def stream(tmp_path, service) -> Launch:
    return Launch(DataflowJob.make(tmp_path, service, stream=STREAM, lines=LATE), "stream")


def test_a_batch_job_is_left_for_the_launcher(batch):
    done = batch.run("--run_id=night")
    assert done.code == exit_codes.OK, done.err
    assert "run night: submitted" in done.out
    assert "handed over; nothing waits for it here" in done.err
    left = batch.left()
    assert left["type"] == "JOB_TYPE_BATCH"
    assert left["name"] == "nightly"
    assert Submitted(left, done).pool["workerHarnessContainerImage"] == IMAGE
    assert not batch.job.service.jobs, "the launcher starts it, and nobody else"


def test_parameters_stand_in_the_place_of_what_the_job_file_says(batch):
    base = batch.job.base
    patterns = f"[{base}/events/*.jsonl, '{base}/events/*.jsonl.gz']"
    done = batch.run(f"--input={patterns}", f"--output=avro:{base}/other", "--reprocess=true")
    assert done.code == exit_codes.OK, done.err
    plans = storage.match_remote(f"{base}/warehouse/ledger/_millstream/runs/**/plan.json")
    plan = json.loads(storage.read_bytes(plans[0].path))
    assert plan["settings"]["output"] == f"avro:{base}/other"
    assert len(plan["inputs"]) == 24


def test_a_stream_is_left_for_the_launcher(stream):
    done = stream.run()
    assert done.code == exit_codes.OK, done.err
    left = stream.left()
    assert left["type"] == "JOB_TYPE_STREAMING"
    assert not stream.job.service.jobs


def test_secrets_come_as_references_alone(stream):
    base = stream.job.base
    storage.write_replace(f"{base}/secrets/password", PASSWORD.encode())
    done = stream.run(f"--secrets={{PGPASSWORD: '{base}/secrets/password'}}")
    assert done.code == exit_codes.OK, done.err
    left = Submitted(stream.left(), done)
    references = json.loads(left.options["millstream_secrets"])
    assert references == {"PGPASSWORD": f"{base}/secrets/password"}
    assert "millstream.transforms.worker" in left.options["beam_plugins"]
    shown = done.out + done.err + json.dumps(left.job)
    assert PASSWORD not in shown
    for name, data in stream.job.staged().items():
        assert PASSWORD.encode() not in data, name


def test_a_launch_that_cannot_be_says_why(batch):
    done = batch.run("--contract=gs://bucket/none.odcs.yaml")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("millstream: gs://bucket/none.odcs.yaml: cannot read the contract")
    assert not storage.exists(batch.at)


def test_an_image_that_names_no_template(batch):
    batch.template = "none"
    done = batch.run()
    assert done.code == exit_codes.USAGE
    assert done.err == "millstream: MILLSTREAM_TEMPLATE: expected ingest or stream, got 'none'\n"


def test_a_classic_template_of_a_stream(stream):
    at = f"{stream.job.base}/templates/stream"
    done = stream.job.ingest("--streaming", f"--template_location={at}")
    assert done.code == exit_codes.OK, done.err
    assert json.loads(storage.read_bytes(at))["type"] == "JOB_TYPE_STREAMING"
    assert not stream.job.service.jobs


def test_a_batch_job_has_no_classic_template(batch):
    at = f"{batch.job.base}/templates/batch"
    done = batch.job.ingest(f"--template_location={at}")
    assert done.code == exit_codes.USAGE
    assert "--template_location: what a batch job reads is fixed when it is launched" in done.err
    assert not storage.exists(at)
