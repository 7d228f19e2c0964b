"""A Google Cloud Storage of our own: ``gcp-storage-emulator``, in memory.

It takes ``if_generation_match`` and ignores it: of two writers it lets the later one win.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tests.services.serving import free_port, serving


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    missing = [m for m in ("gcp_storage_emulator", "google.cloud.storage") if not _is_there(m)]
    return f"{missing[0]} is not installed; pip install -e '.[gcp,emulators]'" if missing else ""


@contextmanager
def running(bucket: str) -> Iterator[str]:
    """Its address, with a bucket made, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory", "--quiet"]
    with serving([*command, "--host=127.0.0.1", f"--port={port}"], port):
        address = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(
            f"{address}/storage/v1/b?project=p",
            json.dumps({"name": bucket}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=30).close()
        yield address


def environment(address: str) -> dict[str, str]:
    """What a process needs to know to use it."""
    return {"STORAGE_EMULATOR_HOST": address, "NO_GCE_CHECK": "true"}


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
