"""Starting a server as a process of its own, waiting until it answers, and ending it."""

from __future__ import annotations

import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

_Peer = TypeVar("_Peer")

_START_SECONDS = 120
_END_SECONDS = 10
_PORTS = range(15_000, 32_000)
_given: set[int] = set()


class NoServer(Exception):
    """A server cannot be had here. The message says why."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, given once only.

    It lies below those that systems give to whoever connects: until the server takes it, one of
    these would be anybody's.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


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
