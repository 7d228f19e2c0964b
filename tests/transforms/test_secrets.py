"""Secrets by reference: where they are looked up, where they end up, and that they show nowhere."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.transforms import secrets
from millstream.transforms.secrets import SecretError, SecretFile

SECRET = "pa ss=wörd"


@pytest.fixture(autouse=True)
def as_before(monkeypatch) -> Iterator[None]:
    """The environment is as it was, once a test has put something into it."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    yield
    secrets.forget()


@pytest.fixture
def kept(tmp_path) -> str:
    """The path of a file that holds the secret, as a mounted one does."""
    path = tmp_path / "kept"
    path.write_text(f"{SECRET}\n", "utf-8")
    return str(path)


def test_a_secret_becomes_a_variable(kept):
    secrets.install({"A_PASSWORD": kept})
    assert os.environ["A_PASSWORD"] == SECRET


def test_a_secret_becomes_a_file_that_nobody_else_reads(kept):
    secrets.install({"A_CONFIG": SecretFile(kept)})
    path = Path(os.environ["A_CONFIG"])
    assert path.read_bytes() == Path(kept).read_bytes(), "to the byte"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    secrets.forget()
    assert not path.parent.exists()


def test_what_is_fetched_again_takes_the_place_of_what_was(kept):
    secrets.install({"A": SecretFile(kept)})
    Path(kept).write_text("new", "utf-8")
    secrets.install({"A": SecretFile(kept)})
    assert Path(os.environ["A"]).read_text("utf-8") == "new"


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe"])
def test_a_variable_can_hold_text_alone(kept, data):
    Path(kept).write_bytes(data)
    with pytest.raises(SecretError, match=r"^A: the secret is no text.*say \{file: …\}"):
        secrets.install({"A": kept})
    secrets.install({"A": SecretFile(kept)})
    assert Path(os.environ["A"]).read_bytes() == data


def test_a_secret_that_is_not_there(tmp_path):
    with pytest.raises(SecretError, match=r"^A: there is no file of the name that is given"):
        secrets.install({"A": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        "x" * 5000,
        "a/b+c==",
        f"postgresql://etl:{SECRET}@db.example/shop",
        f"https://hooks.example/{SECRET}",
        f"s3://{SECRET}@bucket/key",
        f"arn:aws:{SECRET}",
    ],
)
def test_a_secret_in_the_place_of_its_reference_is_not_repeated(secret):
    with pytest.raises(SecretError, match=r"^A: there is no file") as raised:
        secrets.install({"A": secret})
    assert secret not in "".join(traceback.format_exception(raised.value))


def test_a_name_that_no_variable_has(kept):
    with pytest.raises(SecretError, match="'A=B' cannot be the name of an environment variable"):
        secrets.install({"A=B": kept})


def test_a_service_whose_client_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-a1b2c3"
    with pytest.raises(SecretError, match=r"needs boto3; .*pip install 'millstream\[s3\]'"):
        secrets.install({"A": arn})


def test_only_files_are_paths():
    assert secrets.is_path("gs://bucket/kafka.properties")
    assert secrets.is_path("/var/run/secrets/db")
    assert not secrets.is_path("projects/p/secrets/s/versions/latest")
    assert not secrets.is_path("arn:aws:secretsmanager:eu-west-1:1:secret:s")


WORKER = """
import json, os, sys
from apache_beam.runners.worker.sdk_worker_main import create_harness
create_harness({
    "CONTROL_API_SERVICE_DESCRIPTOR": "",
    "PIPELINE_OPTIONS": json.dumps({
        f"beam:option:{name}:v1": value for name, value in json.loads(sys.argv[1]).items()
    }),
}, dry_run=True)
print(os.environ["A_PASSWORD"], open(os.environ["A_FILE"], encoding="utf-8").read())
print(os.environ["A_FILE"])
"""
"""What Beam does in a worker of its own before it begins to work."""


def worker(references: secrets.References) -> subprocess.CompletedProcess[str]:
    options = {
        "beam_plugins": ["millstream.transforms.worker"],
        secrets.FLAG.removeprefix("--"): secrets.encode(references),
    }
    command = [sys.executable, "-c", WORKER, json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_a_worker_fetches_them_before_it_works(kept):
    done = worker({"A_PASSWORD": kept, "A_FILE": SecretFile(kept)})
    assert done.stdout.split("\n")[0] == f"{SECRET} {SECRET}", done.stderr
    assert SECRET not in done.stderr
    path = Path(done.stdout.split("\n")[-2])
    assert path.name == "A_FILE"
    assert not path.parent.exists(), "it leaves none of them behind"


@pytest.mark.slow
def test_a_worker_that_cannot_have_them_does_not_work(tmp_path):
    done = worker({"A_PASSWORD": str(tmp_path / "none")})
    assert done.returncode != 0
    assert "SecretError: A_PASSWORD: " in done.stderr
