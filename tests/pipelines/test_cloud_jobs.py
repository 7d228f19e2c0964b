"""The example job on object stores of our own: input, outputs, ledger and lock on a bucket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.transforms import storage

from tests.pipelines.clicks import Done, JobFolder, ingest, page_views
from tests.services import s3
from tests.services.object_stores import object_store

pytestmark = [pytest.mark.cloud, pytest.mark.service]

BUCKET = "bucket"


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> JobFolder:
    """A day of generated events, plain and gzip, on which the job has run. Not to be changed."""
    folder = JobFolder.make(tmp_path_factory.mktemp("day") / "day", events=1200)
    done = ingest("--job", folder.job)
    assert done.code == exit_codes.OK, done.err
    return folder


@pytest.fixture(scope="module")
def gcs_address() -> Iterator[str]:
    with object_store("gs", BUCKET) as address:
        yield address


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with object_store("s3", BUCKET) as address:
        yield address


@pytest.fixture(params=["gs", "s3"])
def store(request) -> str:
    request.getfixturevalue("gcs_address" if request.param == "gs" else "s3_address")
    return f"{request.param}://{BUCKET}"


@dataclass(frozen=True)
class CloudJob:
    """A job whose every file but contract and job file lies in a folder of a bucket."""

    base: str
    folder: JobFolder

    @classmethod
    def make(cls, store: str, day: JobFolder, place: Path) -> CloudJob:
        base = storage.join(store, uuid.uuid4().hex)
        for file in day.files:
            storage.write_replace(storage.join(base, "events", file.name), file.read_bytes())
        folder = JobFolder.make(place / "job")
        job = Path(folder.job)
        text = job.read_text("utf-8")
        for name in ("events/", "warehouse/"):
            assert name in text
            text = text.replace(name, f"{base}/{name}")
        job.write_text(text, "utf-8")
        return cls(base, folder)

    def ingest(self, *arguments: str) -> Done:
        return ingest("--job", self.folder.job, *arguments)

    def fetched(self, place: Path) -> JobFolder:
        """What the job made, in a local folder: manifests name files relative to theirs."""
        for path in storage.list_files(storage.join(self.base, "warehouse"), deep=True):
            local = place / path.removeprefix(f"{self.base}/")
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(storage.read_bytes(path))
        return JobFolder(place)

    def versions(self) -> dict[str, str]:
        """Every file of the job, its locks apart, and what changes when it is written anew."""
        files = storage.match_remote(f"{self.base}/**")
        return {file.path: file.version for file in files if "/lock/" not in file.path}


@pytest.fixture
def job(store, day, tmp_path) -> CloudJob:
    return CloudJob.make(store, day, tmp_path)


def same_ledger(rows: list[dict[str, Any]]) -> list[str]:
    """Rows without what names the run and the place."""
    dropped = ("run_id", "source")
    return sorted(
        str([Path(r["source"]).name, *((k, v) for k, v in r.items() if k not in dropped)])
        for r in rows
    )


def assert_as_on_disk(made: JobFolder, day: JobFolder) -> None:
    assert made.records() == day.records() == day.expected().records
    assert made.letters() == day.letters() == day.expected().letters
    assert made.page_views() == day.page_views() == page_views(day.expected().records)
    assert same_ledger(made.ledger()) == same_ledger(day.ledger())
    assert made.visible() == [path for path in made.visible() if "staged" not in path]
    assert made.staged() == []


def test_a_job_on_a_bucket_gives_what_it_gives_on_a_disk(job, day, tmp_path):
    done = job.ingest()
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert_as_on_disk(job.fetched(tmp_path / "fetched"), day)

    before = job.versions()
    again = job.ingest()
    assert again.code == exit_codes.OK
    assert "nothing to do" in again.err
    assert job.versions() == before


DIES = """
import os, sys
from millstream.pipelines.cli import main
from millstream.transforms import object_stores
from millstream.transforms.write import commit

def die(*arguments, **options):
    if not arguments[1:] or not isinstance(arguments[1], str) or arguments[1].endswith(".staged"):
        os._exit(137)

if sys.argv[1] == "prepared":
    commit.complete = die
else:
    object_stores._Gcs.delete = object_stores._S3.delete = die
sys.exit(main(["ingest", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("moment", ["prepared", "a file copied and not yet deleted"])
def test_a_run_that_dies_in_its_commit_is_completed(job, day, tmp_path, moment):
    command = [sys.executable, "-c", DIES, moment, "--job", job.folder.job]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 137
    assert [path for path in job.versions() if path.endswith("/prepared.json")]
    assert [path for path in job.versions() if path.endswith(".staged")]

    done = job.ingest()
    assert done.code == exit_codes.OK, done.err
    assert "completing what run" in done.err
    assert_as_on_disk(job.fetched(tmp_path / "fetched"), day)


def test_of_two_runs_at_once_one_is_refused(s3_address, day, tmp_path):
    job = CloudJob.make(f"s3://{BUCKET}", day, tmp_path)
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job", job.folder.job]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # Who comes after the other has ended finds nothing left to do.
    late = any("nothing to do" in text for text in said)
    assert codes == [exit_codes.OK, exit_codes.OK if late else exit_codes.REFUSED], said
    assert_as_on_disk(job.fetched(tmp_path / "fetched"), day)


BY_FLAGS = """
import sys
from millstream.pipelines.cli import main
from millstream.transforms import storage

storage.use_options(sys.argv[1:])
sys.exit(main(["ingest", *sys.argv[1:]]))
"""


def test_worker_processes_reach_the_store_by_flags(s3_address, day, tmp_path):
    """Beam's local runner tells its worker processes nothing of a pipeline's options."""
    job = CloudJob.make(f"s3://{BUCKET}", day, tmp_path)
    bare = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    flags = [f"--s3_endpoint_url={s3_address}", "--s3_access_key_id=k"]
    flags += [f"--s3_secret_access_key={s3.SECRET}", "--s3_region_name=us-east-1"]
    flags += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, "-c", BY_FLAGS, "--job", job.folder.job, *flags]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=120)
    assert done.returncode == exit_codes.OK, done.stderr
    assert s3.SECRET not in done.stdout + done.stderr
    assert_as_on_disk(job.fetched(tmp_path / "fetched"), day)


@pytest.mark.parametrize(
    ("flag", "code", "words"),
    [
        (
            "--input={}://nowhere/*.jsonl",
            exit_codes.USAGE,
            "--input: cannot match .*no such bucket",
        ),
        ("--input={}://bucket/nothing/*", exit_codes.USAGE, "--input: no file matches"),
        ("--ledger=jsonl:{}://nowhere/l", exit_codes.FAILED, "cannot list .*no such bucket"),
        ("--output=parquet:{}://nowhere/o", exit_codes.FAILED, "cannot write .*no such bucket"),
    ],
)
def test_a_wrong_place_is_one_line(job, flag, code, words):
    done = job.ingest(flag.format(job.base.partition("://")[0]))
    assert done.code == code
    assert re.search(words, done.err)
    assert len(done.err.splitlines()) == 1
