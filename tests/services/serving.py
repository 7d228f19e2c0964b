"""Starting a server as a process of its own, waiting until it answers, and ending it."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

_Peer = TypeVar("_Peer")

_START_SECONDS = 120
_END_SECONDS = 10


class NoServer(Exception):
    """A server cannot be had here. The message says why."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a server for as long as the block lasts; it begins when the port answers.

    Raises:
        NoServer: it ends at once, or does not answer in time. The message has what it said.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    tail = said.read()[-2000:].decode("utf-8", "replace")
                    raise NoServer(f"{command[0]} does not answer on port {port}: {tail}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_END_SECONDS)


def _answers(port: int) -> bool:
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def or_skip(
    service: str, why_not: Callable[[], str], start: Callable[[], AbstractContextManager[_Peer]]
) -> Iterator[_Peer]:
    """A peer that is started; where it cannot be had, tests are skipped and say why."""
    import pytest  # services are started on their own too

    if reason := why_not():
        pytest.skip(f"{service}: {reason}")
    try:
        with start() as peer:
            yield peer
    except NoServer as error:
        pytest.skip(f"{service}: {error}")
