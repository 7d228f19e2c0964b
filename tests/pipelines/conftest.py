"""Fixtures for the tests of whole jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
from millstream.pipelines.cli import main

from tests.pipelines.clicks import Done
from tests.services import dask as dask_service
from tests.services import prism as prism_service
from tests.services.serving import or_skip


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
def skip_visibly(pytestconfig) -> Callable[[str], NoReturn]:
    """Skip a test and say why, also where pytest is told to be quiet."""

    def skip(reason: str) -> NoReturn:
        capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\nskipped: {reason}", flush=True)
        pytest.skip(reason)

    return skip


@pytest.fixture(scope="session")
def prism(skip_visibly) -> str:
    """The path of Prism. Tests that use it are marked ``service``."""
    return prism_service.prism_location() or skip_visibly(prism_service.why_not())


@pytest.fixture(scope="session")
def dask() -> Iterator[str]:
    """The address of a Dask cluster. Tests that use it are marked ``service``."""
    with or_skip("dask", dask_service.why_not, dask_service.running) as address:
        yield address
