"""Fixtures of the conformance suite: it runs once for each destination."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from conformance_support import Target

from tests.services.destinations import DESTINATIONS, Known, parameters, reach
from tests.services.peers import Peer


class Running(NamedTuple):
    """A destination whose service runs."""

    scheme: str
    known: Known
    peer: Peer


@pytest.fixture(scope="session", params=parameters())
def running(request) -> Iterator[Running]:
    """Each destination in turn; where its service cannot be had, tests are skipped and say why."""
    scheme, known = request.param, DESTINATIONS[request.param]
    with known.apart_or_skip() as peer:  # for it lasts as long as others' tests
        yield Running(scheme, known, peer)


@pytest.fixture
def target(running, tmp_path) -> Iterator[Target]:
    """A table of the destination that nobody has used."""
    with pytest.MonkeyPatch.context() as patch:
        reach(running.peer, patch)
        yield Target(running.scheme, running.known, running.peer, str(tmp_path / "state"))
