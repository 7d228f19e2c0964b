"""A schema registry with Confluent's API: Apicurio, fetched from Maven, in memory.

``python -m tests.services.registry`` fetches it into ``.registry`` of the checkout. As a peer it is
a Kafka whose messages are Avro.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from tests.services import kafka, maven
from tests.services.serving import NoServer, free_port, serving

PASSWORD = kafka.PASSWORD
PROGRAM = maven.Program("Apicurio Registry", "3.0.9", ".registry", "tests.services.registry")

_ARTIFACT = f"io.apicurio:apicurio-registry-app:{PROGRAM.version}:tar.gz:all"
_SECONDS = 60


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    if reason := kafka.why_not():
        return reason
    try:
        importlib.import_module("confluent_kafka.schema_registry.avro")
    except ImportError as error:
        return f"{error.name} is not installed; pip install -e '.[dev]'"
    return PROGRAM.why_not()


def fetch() -> None:
    """Fetch and unpack the registry.

    Raises:
        NoProgram: it cannot be had.
    """
    with PROGRAM.fetching() as folder:
        # First alone: what it would depend on is inside of it, and its parent is nowhere.
        maven.maven(["dependency:get", f"-Dartifact={_ARTIFACT}", "-Dtransitive=false"], folder)
        copied = [f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={folder}"]
        maven.maven(["dependency:copy", *copied], folder)
        (packed,) = folder.glob("*.tar.gz")
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        packed.unlink()


@contextmanager
def registry() -> Iterator[str]:
    """The URL of a registry without schemas, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    port = free_port()
    classes = f"{PROGRAM.home}/*:{PROGRAM.home}/lib/*"
    command = [
        "java", *maven.QUICK, "-Xmx512m",
        "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}",
        "-cp", classes, "io.quarkus.runner.GeneratedMain",
    ]  # fmt: skip
    with serving(command, port, dict(os.environ)):
        url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        _wait(url)
        # As Confluent's does from the start.
        put(f"{url}/config", {"compatibility": "BACKWARD"})
        yield url


@contextmanager
def running() -> Iterator[kafka.Kafka]:
    """A broker and a registry, for as long as the block lasts.

    Raises:
        NoServer: one of them does not start.
    """
    with registry() as url, kafka.running() as peer:
        yield replace(peer, registry=url)


def put(url: str, said: Mapping[str, str]) -> None:
    """Set something of a registry."""
    body = json.dumps(said).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="PUT")
    urllib.request.urlopen(request, timeout=_SECONDS).close()


def _wait(url: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/subjects", timeout=5).close()
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise NoServer(f"the registry does not answer: {error}") from error
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(maven.main(PROGRAM, fetch))
