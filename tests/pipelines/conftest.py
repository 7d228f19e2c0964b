"""Fixtures for the tests of whole jobs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from millstream.pipelines.cli import main

from tests.pipelines.clicks import Done
from tests.services import prism as prism_service


@pytest.fixture
def cli(capfd) -> Callable[..., Done]:
    """The command line in this process: ``cli("ingest", "--job", …)``."""

    def run(*arguments: str) -> Done:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)  # no waiting for the disk
            code = main(list(map(str, arguments)))
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def ingest_here(cli) -> Callable[..., Done]:
    """``millstream ingest`` in this process."""
    return lambda *arguments: cli("ingest", *arguments)


@pytest.fixture(scope="session")
def prism() -> str:
    """The path of Prism. Tests that use it are marked ``service``."""
    location = prism_service.prism_location()
    if location is None:
        pytest.skip(prism_service.why_not())
    return location
