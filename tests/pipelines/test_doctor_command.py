"""``millstream doctor``: what stands in the way is told, with what to do; nothing is changed."""

from __future__ import annotations

import json
import socket
from importlib import metadata
from pathlib import Path

import pytest
from millstream.pipelines import doctor, exit_codes
from millstream.transforms import storage

from tests.pipelines.clicks import JobFolder
from tests.pipelines.kafka_jobs import TopicJob, events
from tests.services import kafka
from tests.services.serving import free_port, or_skip


@pytest.fixture
def folder(tmp_path) -> JobFolder:
    return JobFolder.make(tmp_path / "job", events=60)


def test_nothing_stands_in_the_way(cli):
    done = cli("doctor")
    assert done.code == exit_codes.OK
    assert "ok       Python: 3." in done.out
    assert "ok       runner: FnApiRunner" in done.out
    assert done.out.endswith("0 problems\n")


def test_a_job_is_looked_at_and_left_alone(cli, folder):
    before = sorted(folder.path.rglob("*"))
    done = cli("doctor", "--job", folder.job, "--json")
    assert done.code == exit_codes.OK, done.out
    found = [json.loads(line) for line in done.out.splitlines()]
    said = {(one["what"], one["said"].split(",")[0]) for one in found if one["state"] == "ok"}
    assert ("contract", "clicks 1.0.0") in said
    assert ("output", f"page_views: parquet:{folder.path}/warehouse/page_views") in said
    assert {"input", "state", "clock"} <= {what for what, _ in said}
    left = [path for path in sorted(folder.path.rglob("*")) if path.is_file()]
    assert left == [path for path in before if path.is_file()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("clickstream.odcs.yaml", "none.yaml"), "none.yaml: cannot"),
        (("events/*.jsonl,", "gone/*.jsonl,"), "no file matches"),
        (("{fixed: 1m}", "{fixed: soon}"), "aggregates[0]"),
        (("parquet:warehouse/page_views", "parqet:warehouse/page_views"), "parquet"),
        (("ledger: jsonl:warehouse/ledger", "ledger: jsonl:in_the_way/ledger"), "in_the_way"),
    ],
)
def test_what_is_wrong_with_a_job_is_told(cli, folder, change, said):
    (folder.path / "in_the_way").write_text("a file")
    job = Path(folder.job)
    text = job.read_text("utf-8")
    assert change[0] in text
    job.write_text(text.replace(*change), "utf-8")
    done = cli("doctor", "--job", folder.job)
    assert done.code == exit_codes.FAILED, done.out
    (problem,) = [line for line in done.out.splitlines() if line.startswith("PROBLEM")]
    assert said in problem
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runner=PrismRunner", "--prism_location=/none"], "no Prism that can be run at /none"),
        (["--runner=FlinkRunner", "--job_endpoint=localhost:{port}"], "does not answer"),
        (["--runner=DaskRunner", "--dask_client_address=localhost:{port}"], "does not answer"),
        (["--runner=PortableRunner", "--job_endpoint=nowhere"], "nowhere does not answer"),
        (["--runner=PrismRunner", "--job_endpoint=localhost:{port}"], "does not answer"),
        (["--runner=DaskRunner", "--dask_client_address=tcp://h"], "answer: expected HOST:PORT"),
    ],
)
def test_a_runner_that_is_not_reached(cli, flags, said):
    done = cli("doctor", *(flag.format(port=free_port()) for flag in flags))
    assert done.code == exit_codes.FAILED
    assert said in done.out
    assert "->" in done.out


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=FlinkRunner"],
        ["--runner=SparkRunner"],
        ["--runner=PortableRunner"],
        ["--runner=PrismRunner", "--prism_location=/"],
        ["--runner=FlinkRunner", "--flink_job_server_jar=/none.jar"],
        ["--runner=nowhere.Runner"],
    ],
)  # fmt: skip
def test_what_a_run_would_be_refused_for_is_told(cli, folder, flags):
    """In the very words."""
    refused = cli("ingest", "--job", folder.job, *flags)
    assert refused.code == exit_codes.USAGE
    done = cli("doctor", *flags)
    assert done.code != exit_codes.OK
    assert refused.err.removeprefix("millstream: ").strip() in done.out + done.err
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runner=PortableRunner"], "its own image has no millstream"),
        (["--runner=FlinkRunner", "--savepoint_path=/s"], "only a stream goes on from a savepoint"),
    ],
)
def test_what_is_wrong_with_flags_is_told_whatever_server_they_name(cli, flags, said):
    done = cli("doctor", *flags, f"--job_endpoint=localhost:{free_port()}")
    assert done.code == exit_codes.FAILED
    assert said in done.out
    assert "does not answer" in done.out


def test_a_runner_that_answers(cli):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        pool = ["--environment_type=EXTERNAL", f"--environment_config={address}"]
        done = cli("doctor", "--runner=FlinkRunner", f"--job_endpoint={address}", *pool)
    assert done.code == exit_codes.OK, done.out
    assert done.out.count(f"{address} answers") == 2


def test_a_flag_that_nobody_has(cli):
    done = cli("doctor", "--runer=PrismRunner")
    assert done.code == exit_codes.USAGE
    assert "no such flag: --runer" in done.err


def test_a_misspelt_flag_of_a_job(cli, folder):
    done = cli("doctor", "--job", folder.job, "--dedupliate=run")
    assert done.code == exit_codes.USAGE
    assert "no such flag: --dedupliate; did you mean '--deduplicate'?" in done.err


def test_files_that_keep_arriving_need_no_runner_of_streams(cli, folder):
    late = f"--late=jsonl:{folder.path}/late"
    done = cli("doctor", "--job", folder.job, "--streaming", late)
    assert done.code == exit_codes.OK, done.out
    done = cli("doctor", "--job", folder.job, "--streaming", late, "--input=generate://")
    assert done.code == exit_codes.FAILED
    assert "cannot run an unbounded job" in done.out


def test_a_job_that_cannot_be_left_alone(cli, folder):
    done = cli("doctor", "--job", folder.job, "--no_wait")
    assert done.code == exit_codes.FAILED
    assert "the workers of FnApiRunner would end with this process" in done.out


@pytest.mark.parametrize(
    "flags",
    [
        ["--until=now", "--late=jsonl:late", "--disorder=soon"],
        ["--until=now", "--late=jsonl:late", "--deduplicate=horizon", "--horizon=0s"],
        ["--aggregates=[{name: a, window: {fixed: 1m}, metrics: {n: count()}, output: 'csv:a', "
         "allowed_lateness: 1h}]"],
    ],
)  # fmt: skip
def test_what_only_a_run_of_its_kind_needs_is_looked_at(cli, folder, monkeypatch, flags):
    monkeypatch.chdir(folder.path)
    refused = cli("ingest", "--job", folder.job, *flags)
    assert refused.code == exit_codes.USAGE
    done = cli("doctor", "--job", folder.job, *flags)
    assert done.code == exit_codes.FAILED
    assert refused.err.removeprefix("millstream: ").strip() in done.out


def test_a_file_in_the_place_of_a_folder(cli, folder):
    (folder.path / "in_the_way").write_text("a file")
    done = cli("doctor", "--job", folder.job, f"--output=parquet:{folder.path}/in_the_way/clicks")
    assert done.code == exit_codes.FAILED
    assert f"{folder.path}/in_the_way is a file, not a folder" in done.out


def test_a_secret_in_the_place_of_its_reference_is_not_repeated(cli, folder):
    """Nor where it could be taken for a path that is out of the workers' reach."""
    flags = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"]
    for path in folder.path.rglob("*.yaml"):
        text = path.read_text("utf-8")
        path.write_text(
            text.replace("parquet:", "parquet:gs://b/").replace("jsonl:", "jsonl:gs://b/")
        )
    done = cli("doctor", "--job", folder.job, "--input=gs://b/x.jsonl", *flags,
               "--secrets={PGPASSWORD: hunter2}")  # fmt: skip
    assert done.code == exit_codes.FAILED
    assert "PGPASSWORD: there is no file of the name that is given" in done.out
    assert "hunter2" not in done.out + done.err


def test_a_clock_that_is_wrong(cli, folder, monkeypatch):
    modified = storage.modified
    monkeypatch.setattr(storage, "modified", lambda path: modified(path) - 90)
    done = cli("doctor", "--job", folder.job)
    assert done.code == exit_codes.FAILED
    assert "PROBLEM  clock: 90 s from the storage's" in done.out


def test_packages_that_are_missing_or_too_old(monkeypatch):
    version = metadata.version

    def found(name: str) -> str:
        if name == "duckdb":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "pyarrow" else version(name)

    monkeypatch.setattr(metadata, "version", found)
    said = [str(finding) for finding in doctor.packages()]
    assert "PROBLEM  packages: pyarrow is 1.0, and >=25 is needed" in said[0]
    assert "sql" in said[2]
    assert "pip install 'millstream[" in said[2]


@pytest.mark.service
def test_a_topic_and_one_that_is_not_there(cli, tmp_path):
    with or_skip("kafka", kafka.why_not, kafka.running) as broker:
        job = TopicJob.make(tmp_path / "job", broker)
        job.send(events(50))
        done = cli("doctor", "--job", job.folder.job, "--until=now")
        assert done.code == exit_codes.OK, done.out
        assert "4 partitions, 50 messages not read yet" in done.out
        other = f"--input=kafka://{broker.inner}/none"
        done = cli("doctor", "--job", job.folder.job, "--until=now", other)
        assert done.code == exit_codes.FAILED
        assert "none" in done.out
