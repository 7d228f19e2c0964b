"""What is seen of a job for Dataflow before it is submitted: its flags, and what it reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines.job import JobError, load_job
from millstream.pipelines.runners import dataflow
from millstream.pipelines.runners.dataflow import (
    check_flags,
    flags,
    is_flex_launch,
    is_used,
    problems,
)
from millstream.pipelines.runners.dataflow_reach import check_job, out_of_reach

GOOD = [
    "--runner=DataflowRunner",
    "--project=project-one",
    "--region=europe-west1",
    "--temp_location=gs://bucket/temp",
    "--sdk_container_image=images.example/millstream:1",
]
JOB: dict[str, Any] = {
    "name": "clicks",
    "contract": "clicks.odcs.yaml",
    "input": ["gs://bucket/events/*.jsonl"],
    "output": "parquet:gs://bucket/clicks",
    "dead_letters": "jsonl:gs://bucket/dead",
    "ledger": "jsonl:gs://bucket/ledger",
}


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """These tests need nothing of Google's."""
    monkeypatch.setattr(dataflow, "_GCP", ("json",))
    monkeypatch.delenv("MILLSTREAM_TEMPLATE", raising=False)
    for name in ("MILLSTREAM_KAFKA_CONFIG", "SCHEMA_REGISTRY_BASIC_AUTH", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def staged(monkeypatch) -> list[str]:
    """The places that were looked at; all are there."""
    from millstream.transforms import storage

    seen: list[str] = []
    monkeypatch.setattr(storage, "match_remote", lambda pattern: seen.append(pattern) or [])
    return seen


def without(name: str) -> list[str]:
    return [flag for flag in GOOD if not flag.startswith(f"{name}=")]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (["--runner=DataflowRunner"], True),
        (["--runner", "dataflowrunner"], True),
        (["--runner=apache_beam.runners.dataflow.dataflow_runner.DataflowRunner"], True),
        (["--runner=PrismRunner"], False),
        ([], False),
    ],
)
def test_a_job_is_for_dataflow(given, used):
    assert is_used(given) == used


def test_good_flags_pass_and_no_main_session_is_saved():
    check_flags(GOOD, streaming=False)
    check_flags([*GOOD, "--job_name=clicks-1", "--update", "--streaming"], streaming=True)
    assert flags(GOOD) == [*GOOD, "--no_save_main_session"]
    for chosen in ("--no_save_main_session", "--save_main_session"):
        assert flags([*GOOD, chosen]) == [*GOOD, chosen]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (without("--project"), "--project: is not given"),
        (without("--region"), "--region: is not given"),
        (without("--temp_location"), "--temp_location: is not given; say where"),
        ([*without("--temp_location"), "--temp_location=/tmp/x"], "expected gs://BUCKET/FOLDER"),
        ([*GOOD, "--temp_location=gs://bucket"], "expected gs://BUCKET/FOLDER, got 'gs://bucket'"),
        ([*GOOD, "--staging_location=s3://b/x"], "--staging_location: expected gs://BUCKET/FOLDER"),
        ([*GOOD, "--job_name=Clicks"], "--job_name: expected a-z"),
        ([*GOOD, "--job_name=clicks-"], "--job_name: expected a-z"),
        ([*GOOD, "--job_name=1clicks"], "--job_name: expected a-z"),
        ([*GOOD, "--labels=Team=data"], "got Team=data"),
        ([*GOOD, "--label=team=Data"], "got team=Data"),
        ([*GOOD, "--label", "1team=data"], "got 1team=data"),
        ([*GOOD, f"--labels={'k' * 64}=v"], "at most 63 of them"),
        ([*GOOD, "--labels={oops}"], "expected key=value, or a mapping as JSON"),
        ([*GOOD, *(f"--label=k{i}=v" for i in range(65))], "65 labels, and a job has 64 at most"),
        ([*GOOD, "--update", "--job_name=clicks"], "--update: only a stream is replaced"),
        ([*GOOD, '--transform_name_mapping={"a":"b"}'], "is of use only with --update"),
        ([*GOOD, "--s3_secret_access_key=hush"], "the options of a job are shown to all"),
        (without("--sdk_container_image"), "--sdk_container_image: is not given, and the image"),
        ([*GOOD, "--template_location=gs://bucket/templates/clicks"], "use a Flex Template"),
    ],
)
def test_a_flag_that_dataflow_would_refuse_or_ignore_is_refused(given, said):
    with pytest.raises(JobError) as raised:
        check_flags(given, streaming=False)
    assert said in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "labels",
    [
        ["--labels=team=data", "--label=stage=", "--labels", "größe=klein"],
        ['--labels={"goog-dataflow-provided-template-type": "flex", "count": "3"}'],
        ['--labels={\n  "goog-dataflow-provided-template-name" : "files"\n}\n'],
    ],
)
def test_labels_are_taken_as_the_service_takes_them(labels):
    assert list(problems([*GOOD, *labels], streaming=False)) == []


def test_an_update_needs_the_name_of_a_stream():
    assert list(problems([*GOOD, "--update"], streaming=True)) == [
        "--update: say with --job_name which job is replaced"
    ]


@pytest.mark.parametrize("brings", ["--setup_file=./setup.py", "--extra_package=m.whl"])
def test_millstream_may_come_as_a_package(brings):
    check_flags([*without("--sdk_container_image"), brings], streaming=False)


@pytest.mark.parametrize("missing", ["no_such_module", "no_such_package.inside"])
def test_without_googles_packages_it_is_said_how_to_install_them(monkeypatch, missing):
    monkeypatch.setattr(dataflow, "_GCP", (missing,))
    with pytest.raises(JobError, match=r"pip install 'millstream\[gcp\]'"):
        check_flags(GOOD, streaming=False)


def test_a_classic_template_is_told_from_the_launch_of_a_flex_template(monkeypatch):
    classic = [*GOOD, "--template_location=gs://bucket/templates/clicks"]
    launched = "gs://bucket/staging/template_launches/2026-11-29_01_02_03-456/job_object"
    flex = [*GOOD, f"--template_location={launched}"]
    assert not is_flex_launch(classic)
    assert is_flex_launch(flex)
    check_flags(flex, streaming=False)
    check_flags(classic, streaming=True)
    monkeypatch.setenv("MILLSTREAM_TEMPLATE", "files")
    check_flags(classic, streaming=False)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("/data/events/*.jsonl", "/data/events/*.jsonl is on this machine"),
        ("events/a.csv", "events/a.csv is on this machine"),
        ("parquet:/data/clicks?max_rows=5", "/data/clicks is on this machine"),
        ("delta:/data/clicks", "/data/clicks is on this machine"),
        ("duckdb:/data/clicks.duckdb/clicks", "/data/clicks.duckdb/clicks is on this machine"),
        ("kafka://kafka.example:9092,127.0.0.1:9093/clicks", "127.0.0.1 is this machine"),
        ("kafka://[::1]:9092/clicks", "::1 is this machine"),
        ("kafka://k.example/clicks?config=/etc/kafka", "config=/etc/kafka (say it as secrets: "),
        ("kafka://k.example/t?format=avro&registry=http://localhost:8081", "registry: localhost"),
        ("kinesis://eu-west-1/clicks?endpoint=http://127.0.0.1:4566", "endpoint: 127.0.0.1"),
        ("postgresql://me@localhost/db/clicks", "localhost is this machine"),
        ("postgresql:///db/clicks", "a socket of this machine"),
        ("postgresql://pg.example/db/t?password_file=/run/pw", "password_file=/run/pw"),
        ("gs://bucket/events/*.jsonl", ""),
        ("s3://bucket/events/*.jsonl", ""),
        ("parquet:gs://bucket/clicks?layout=x", ""),
        ("delta:gs://bucket/clicks", ""),
        ("bigquery:project.dataset.table", ""),
        ("pubsub://project/topic", ""),
        ("generate://?rate=10", ""),
        ("kafka://10.0.0.7:9092/clicks", ""),
        ("postgresql://me@pg.example:5432/db/clicks?sslrootcert=system", ""),
    ],
)
def test_what_is_on_this_machine_alone_is_out_of_reach(uri, said):
    found = out_of_reach(uri)
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("uri", "warehouse", "said"),
    [
        ("sqlite:////data/catalog.db", "gs://bucket/w", "the catalog lake is on this machine"),
        ("http://localhost:8181", "gs://bucket/w", "the catalog lake is on localhost"),
        ("https://u:hush@lake.example", "file:///data", "the warehouse of the catalog lake is on"),
        ("https://u:hush@lake.example", "gs://bucket/w", ""),
    ],
)
def test_a_catalog_of_iceberg_is_looked_at_where_it_is(monkeypatch, uri, warehouse, said):
    pytest.importorskip("pyiceberg")
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__URI", uri)
    monkeypatch.setenv("PYICEBERG_CATALOG__LAKE__WAREHOUSE", warehouse)
    found = out_of_reach("iceberg:lake/web.clicks")
    assert found.startswith(said)
    assert bool(found) == bool(said)
    assert "hush" not in found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"input": ["events/*.jsonl"]}, "--input: events/*.jsonl is on this machine, where"),
        ({"output": "duckdb:/data/d/clicks"}, "--output: /data/d/clicks is on this machine"),
        ({"ledger": "jsonl:/data/ledger"}, "--ledger: /data/ledger is on this machine"),
        ({"late": "jsonl:late"}, "--late: late is on this machine"),
        ({"state": "/data/state"}, "--state: /data/state is on this machine"),
        (
            {"steps": [{"enrich": {"from": "csv:/d/c.csv", "on": {"a": "a"}, "add": {"b": "b"}}}]},
            "--steps[0].enrich.from: /d/c.csv is on this machine",
        ),
        ({"quality": {"quarantine": "csv:/d/q"}}, "--quality.quarantine: /d/q is on this machine"),
        ({"quality": {"scores": "jsonl:/d/s"}}, "--quality.scores: /d/s is on this machine"),
        (
            {"secrets": {"PGPASSWORD": "/run/secrets/pg"}},
            "--secrets: PGPASSWORD: /run/secrets/pg is on this machine",
        ),
    ],
)
def test_a_job_with_something_out_of_reach_is_refused(staged, keys, said):
    job, places = load_job(None, {**JOB, **keys})
    with pytest.raises(JobError) as raised:
        check_job(job, GOOD, False, places)
    assert str(raised.value).startswith(said)
    assert staged == []


def test_a_job_within_reach_passes_and_its_staging_is_looked_at(staged):
    job, places = load_job(None, JOB)
    check_job(job, [*GOOD, "--staging_location=gs://other/staging/"], False, places)
    assert staged == ["gs://bucket/temp/-", "gs://other/staging/-"]


def test_a_mistake_names_the_line_of_the_job_file(staged, tmp_path: Path):
    path = tmp_path / "job.yaml"
    lines = [f"{key}: {value}" for key, value in JOB.items()]
    path.write_text("\n".join(lines).replace("gs://bucket/dead", "dead"), "utf-8")
    job, places = load_job(str(path), {})
    with pytest.raises(JobError, match=rf"^{path}:5 dead_letters: {tmp_path}/dead is on this mach"):
        check_job(job, GOOD, False, places)


def test_modules_of_steps_have_to_be_brought(staged):
    job, places = load_job(None, {**JOB, "steps": [{"python": "mine:clean"}]})
    brought = [*without("--sdk_container_image"), "--requirements_file=r.txt"]
    with pytest.raises(JobError, match=r"--steps\[0\]\.python: mine is a module of this machine"):
        check_job(job, brought, False, places)
    check_job(job, [*brought, "--extra_package=mine.whl"], False, places)


def test_what_clients_come_in_by_has_to_be_a_secret_of_the_job(staged, monkeypatch):
    kafka = {**JOB, "input": ["kafka://kafka.example:9092/clicks"]}
    job, places = load_job(None, kafka)
    check_job(job, GOOD, True, places)
    monkeypatch.setenv("MILLSTREAM_KAFKA_CONFIG", "/run/secrets/hush")
    with pytest.raises(JobError, match="MILLSTREAM_KAFKA_CONFIG is set here") as raised:
        check_job(job, GOOD, True, places)
    assert "hush" not in str(raised.value)
    secrets = {"MILLSTREAM_KAFKA_CONFIG": {"file": "gs://bucket/kafka.properties"}}
    job, places = load_job(None, {**kafka, "secrets": secrets})
    check_job(job, GOOD, True, places)


def test_keys_of_dead_letters_have_to_be_a_secret_of_the_job(staged, monkeypatch):
    monkeypatch.setenv("LETTER_KEYS", "hush")
    keys = {**JOB, "encrypt_dead_letters": "LETTER_KEYS"}
    job, places = load_job(None, keys)
    with pytest.raises(JobError, match="LETTER_KEYS is set here") as raised:
        check_job(job, GOOD, False, places)
    assert "hush" not in str(raised.value)
    secrets = {"LETTER_KEYS": "projects/p/secrets/s/versions/1"}
    job, places = load_job(None, {**keys, "secrets": secrets})
    check_job(job, GOOD, False, places)


def test_files_that_keep_arriving_need_somebody_who_starts_runs(staged):
    job, places = load_job(None, JOB)
    with pytest.raises(JobError, match="say until: now instead"):
        check_job(job, GOOD, True, places)


def test_helpers_are_said_to_be_of_no_use(staged, capsys):
    job, places = load_job(None, {**JOB, "helpers": 2})
    check_job(job, GOOD, False, places)
    assert "helpers are processes of the local runner" in capsys.readouterr().err
