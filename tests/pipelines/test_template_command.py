"""Flex Templates: what they ask for follows from the keys of a job, and spec files hold it."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.flex_templates import TEMPLATES, metadata, parameter
from millstream.pipelines.job import KEYS, JobError, flag_value, load_job
from millstream.pipelines.job_parts import job_duration

IMAGE = "europe-docker.pkg.dev/project-one/images/millstream:0.1.0"
LOCAL = {"helpers", "progress"}
"""Keys that only matter where this process works itself."""
KINDS = {"TEXT", "NUMBER", "BOOLEAN", "ENUM", "GCS_READ_FILE", "GCS_WRITE_FOLDER"}
"""Of the kinds that Dataflow knows, those used here."""


def parameters(name: str) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in metadata(TEMPLATES[name])["parameters"]}


def test_every_key_of_a_job_is_a_parameter_of_some_template():
    asked = {key for template in TEMPLATES.values() for key in template.keys}
    assert asked == {"job", *KEYS} - LOCAL


@pytest.mark.parametrize("name", TEMPLATES)
def test_parameters_say_what_dataflow_wants_of_them(name):
    found = parameters(name)
    assert list(found) == list(TEMPLATES[name].keys), "in order, none twice"
    for key, said in found.items():
        assert re.fullmatch("[a-z_]+", key)
        assert said["paramType"] in KINDS
        assert said["isOptional"]
        assert said["label"]
        assert len(said["helpText"]) > 10
        for pattern in said.get("regexes", []):
            re.compile(pattern)
        assert ("enumOptions" in said) == (said["paramType"] == "ENUM")


def test_kinds_are_those_of_the_keys():
    kinds = {key: said["paramType"] for key, said in parameters("stream").items()}
    assert kinds["commit_every"] == kinds["poll_rows"] == kinds["shards"] == "NUMBER"
    assert kinds["close_windows"] == "BOOLEAN"
    assert kinds["format"] == kinds["deduplicate"] == "ENUM"
    assert kinds["input"] == kinds["aggregates"] == kinds["secrets"] == "TEXT"
    assert kinds["job"] == "GCS_READ_FILE"
    options = parameter("deduplicate")["enumOptions"]
    assert [o["value"] for o in options] == ["no", "run", "committed", "horizon"]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("output", ["parquet:gs://b/t", "bigquery:p.d.t"], ["warehouse", "b/t"]),
        ("run_id", ["night-2026.11.29", "-1", "a" * 64], ["a b", "../x", "a" * 65, "_a"]),
    ],
)
def test_patterns_let_pass_what_a_job_takes(key, good, bad):
    (pattern,) = parameter(key)["regexes"]
    assert all(re.fullmatch(pattern, text) for text in good)
    assert not any(re.fullmatch(pattern, text) for text in bad)


NEEDED = {"name": "n", "contract": "c", "output": "parquet:o", "dead_letters": "jsonl:d"}


@pytest.mark.parametrize("key", ["disorder", "idle", "horizon"])
@pytest.mark.parametrize(
    "text",
    [
        "0", "0s", "0m", "30", "30s", "5 m", "010ms", "-1s", "1w", "PT1M", "P1D", "P1DT2H3M4.5S",
        "P1W", "P", "PT", "soon", "",
    ],
)  # fmt: skip
def test_durations_pass_as_the_job_takes_them(key, text):
    (pattern,) = parameter(key)["regexes"]
    job, places = load_job(None, {**NEEDED, "input": ["i"], "ledger": "jsonl:l", key: text})
    try:
        # A horizon of nothing is none.
        taken = job_duration(job, key, places) > (0 if key == "horizon" else -1)
    except JobError:
        taken = False
    assert bool(re.fullmatch(pattern, text)) == taken


def test_a_name_may_be_any_as_the_job_takes_it():
    assert "regexes" not in parameter("name")
    assert flag_value("name")("Klicks / größe") == "Klicks / größe"


def test_what_a_job_waits_for_its_lock_is_said_to_both():
    assert all("wait" in parameters(name) for name in TEMPLATES)


def test_only_what_streams_is_said_to():
    for name, template in TEMPLATES.items():
        said = metadata(template)
        assert said["streaming"] == (name == "stream")
        assert said["supportsExactlyOnce"]
        assert ("defaultStreamingMode" in said) == said["streaming"]


def test_list_names_them_all(cli):
    done = cli("template", "list")
    assert done.code == exit_codes.OK
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["ingest", "batch"],
        ["stream", "streaming"],
    ]


def test_show_prints_the_metadata(cli):
    done = cli("template", "show", "stream")
    assert json.loads(done.out) == metadata(TEMPLATES["stream"])


def test_build_writes_spec_files(cli, tmp_path):
    done = cli("template", "build", f"--image={IMAGE}-{{template}}", f"--output={tmp_path}/specs")
    assert done.code == exit_codes.OK
    paths = [Path(line) for line in done.out.splitlines()]
    assert paths == [tmp_path / "specs" / f"{name}.json" for name in TEMPLATES]
    for path, template in zip(paths, TEMPLATES.values(), strict=True):
        spec = json.loads(path.read_text("utf-8"))
        assert spec["image"] == f"{IMAGE}-{template.name}"
        assert spec["defaultEnvironment"]["sdkContainerImage"] == spec["image"]
        assert spec["sdkInfo"] == {"language": "PYTHON"}
        assert spec["metadata"] == metadata(template)


DIGEST = f"sha256:{'0a' * 32}"


@pytest.mark.parametrize(
    ("image", "good"),
    [
        ("millstream", True),
        ("millstream:V1.0-RC1", True),
        (f"images.example:5000/a/b__c/{{template}}:1@{DIGEST}", True),
        (f"Images.example/millstream@{DIGEST}", True),
        ("millstream@sha256:0a", False),
        ("millstream:", False),
        ("a//b", False),
        ("gs://bucket/millstream", False),
        ("https://images.example/millstream", False),
        ("images.example/Millstream", False),
        ("a/{tmpl}", False),
    ],
)
def test_an_image_is_named_as_registries_name_it(cli, tmp_path, image, good):
    done = cli("template", "build", "stream", f"--image={image}", f"--output={tmp_path}")
    assert done.code == (exit_codes.OK if good else exit_codes.USAGE), done.err
    assert (tmp_path / "stream.json").exists() == good


def test_one_image_launches_one_template(cli, tmp_path):
    """The image says which: another template's spec file would launch that one with it."""
    for names in ([], list(TEMPLATES)):
        done = cli("template", "build", *names, f"--image={IMAGE}", f"--output={tmp_path}")
        assert done.code == exit_codes.USAGE
        assert "an image launches one template: name it (ingest or stream), or write" in done.err
    assert not list(tmp_path.iterdir())


def test_build_writes_what_is_asked_for(cli, tmp_path):
    cli("template", "build", "stream", f"--image={IMAGE}", f"--output={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["stream.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "strem"], "no template 'strem'; did you mean 'stream'?"),
        (["show", "x"], "no template 'x'; there are 'ingest' or 'stream'"),
        (
            ["build", "--image=a b", "--output=."],
            "argument --image: not the name of an image: 'a b'",
        ),
        (["build", "--output=."], "the following arguments are required: --image"),
        (["build", f"--image={IMAGE}", "--output=.", "x"], "no template 'x'"),
    ],
)
def test_mistakes(cli, arguments, said):
    done = cli("template", *arguments)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith(f"millstream: {said}")
    assert not done.out


def test_a_folder_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "file").touch(mode=stat.S_IRUSR)
    done = cli("template", "build", "ingest", f"--image={IMAGE}", f"--output={tmp_path}/file/specs")
    assert done.code == exit_codes.FAILED
    assert "cannot write" in done.err


def test_a_job_file_may_say_it_all():
    """So that no parameter has to be needed: what is missing is named by the launcher."""
    with pytest.raises(ValueError, match="name is not given: write it in the job file, or --name"):
        load_job(None, {})
