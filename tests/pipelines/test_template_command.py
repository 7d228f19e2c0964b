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
from millstream.pipelines.job import KEYS, load_job

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
        ("disorder", ["0", "30s", "5 m"], ["30", "-1s"]),
        ("run_id", ["night-2026.11.29"], ["a b", "../x"]),
    ],
)
def test_patterns_let_pass_what_a_job_takes(key, good, bad):
    (pattern,) = parameter(key)["regexes"]
    assert all(re.fullmatch(pattern, text) for text in good)
    assert not any(re.fullmatch(pattern, text) for text in bad)


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
    done = cli("template", "build", f"--image={IMAGE}", f"--output={tmp_path}/file/specs")
    assert done.code == exit_codes.FAILED
    assert "cannot write" in done.err


def test_a_job_file_may_say_it_all():
    """So that no parameter has to be needed: what is missing is named by the launcher."""
    with pytest.raises(ValueError, match="name is not given: write it in the job file, or --name"):
        load_job(None, {})
