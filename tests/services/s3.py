"""An S3 of our own: ``moto_server``, in memory. It honours ``If-None-Match`` and ``If-Match``."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tests.services.serving import free_port, serving

SECRET = "not-a-secret-but-never-to-be-shown"


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    missing = [module for module in ("moto", "boto3", "flask") if find_spec(module) is None]
    return f"{missing[0]} is not installed; pip install -e '.[s3,emulators]'" if missing else ""


@contextmanager
def running(bucket: str) -> Iterator[str]:
    """Its address, with a bucket made, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, port):
        address = f"http://127.0.0.1:{port}"
        made = urllib.request.Request(f"{address}/{bucket}", method="PUT")
        urllib.request.urlopen(made, timeout=30).close()
        yield address


def environment(address: str) -> dict[str, str]:
    """What a process needs to know to use it."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
