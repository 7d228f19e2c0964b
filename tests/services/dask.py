"""A Dask cluster of two worker processes on this machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tests.services.serving import free_port, serving

WORKERS = 2
_END_SECONDS = 20


def why_not() -> str:
    """Why there can be none; empty if there can."""
    return "" if find_spec("distributed") else "pip install 'millstream[dask]'"


@contextmanager
def running() -> Iterator[str]:
    """The address of a scheduler, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with (
        serving(_command("scheduler", "--host", "127.0.0.1", "--port", str(port)), port),
        tempfile.TemporaryDirectory() as folder,
    ):
        at = ["--host", "127.0.0.1", "--local-directory", folder]
        size = ["--nworkers", str(WORKERS), "--nthreads", "1"]
        command = _command("worker", address, *size, *at)
        workers = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        try:
            yield address
        finally:
            workers.terminate()
            workers.wait(_END_SECONDS)


def _command(name: str, *arguments: str) -> list[str]:
    module = f"distributed.cli.dask_{name}"
    return [sys.executable, "-W", "ignore", "-m", module, "--no-dashboard", *arguments]
