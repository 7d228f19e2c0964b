"""Where Java programs come from, and what is said where they cannot be had."""

from __future__ import annotations

import pytest

from tests.services import kafka, maven, registry

PROGRAM = maven.Program("Thing", "1.2", ".thing", "tests.services.thing")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A checkout without programs, on a machine with Java and nothing else."""
    monkeypatch.setattr(maven, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    put(tmp_path / "java", "exit 0")
    return tmp_path


def put(program, does: str) -> None:
    program.write_text(f"#!/bin/sh\n{does}\n", "utf-8")
    program.chmod(0o755)


def test_what_is_missing_is_said(bare):
    assert PROGRAM.why_not() == (
        "Thing is not there, and Maven, which fetches it, is not installed"
    )
    put(bare / "mvn", "exit 0")
    assert PROGRAM.why_not() == "Thing 1.2 is not fetched; run: python -m tests.services.thing"
    PROGRAM.home.mkdir(parents=True)
    assert PROGRAM.why_not() == ""
    (bare / "java").unlink()
    assert PROGRAM.why_not() == "Java, which Thing needs, is not installed"


@pytest.mark.parametrize("service", [kafka, registry])
def test_without_maven_nothing_is_fetched(bare, capsys, service):
    assert maven.main(service.PROGRAM, service.fetch) == 1
    said = "not fetched: Maven is not installed; tests that need it will be skipped\n"
    assert capsys.readouterr().err == f"{service.PROGRAM.name}: {said}"


def test_what_was_fetched_is_not_fetched_again(bare, capsys):
    def fetch() -> None:
        with PROGRAM.fetching() as folder:
            (folder / "thing.jar").touch()

    assert maven.main(PROGRAM, fetch) == 0
    assert maven.main(PROGRAM, lambda: pytest.fail("fetched again")) == 0
    assert capsys.readouterr().out == (
        f"Thing: fetching 1.2\nThing: {PROGRAM.home}\nThing: {PROGRAM.home}\n"
    )
    assert [path.name for path in PROGRAM.home.iterdir()] == ["thing.jar"]


def test_what_fails_leaves_nothing(bare, capsys):
    put(bare / "mvn", "echo '[ERROR] no such artifact'; echo more; exit 1")
    assert maven.main(kafka.PROGRAM, kafka.fetch) == 1
    assert "not fetched: [ERROR] no such artifact; tests" in capsys.readouterr().err
    assert list(kafka.PROGRAM.home.parent.iterdir()) == []
