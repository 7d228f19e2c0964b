"""Where Prism comes from, and what is said where it cannot be had."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from tests.services import prism


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A checkout without Prism, on a machine without Go."""
    monkeypatch.setattr(prism, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_it_goes_with_the_installed_beam():
    assert prism.wanted_version() == f"v{version('apache-beam')}"


def test_without_go_it_is_neither_found_nor_built(bare, capsys):
    assert prism.prism_location() is None
    assert prism.why_not() == "Prism is not there, and Go, which builds it, is not installed"
    assert prism.main() == 1
    assert "not built: Go is not installed; tests that need it will be skipped" in (
        capsys.readouterr().err
    )


def test_a_built_one_is_found_and_not_built_again(bare, capsys):
    built = prism._folder() / "prism"
    built.parent.mkdir(parents=True)
    built.touch(mode=0o755)
    assert prism.prism_location() == str(built)
    assert prism.main() == 0
    assert capsys.readouterr().out == f"prism: {built}\n"


def test_one_of_another_version_is_not_taken(bare, monkeypatch):
    (bare / "prism").touch(mode=0o755)
    said = f"prism: go1.26\n\tpath\tx\n\tmod\t{prism.MODULE}\tv2.1.0\th1:x\n"
    monkeypatch.setattr(prism, "_go", lambda *arguments: said if arguments[0] == "version" else "")
    assert prism.prism_location() is None
    monkeypatch.setattr(prism, "wanted_version", lambda: "v2.1.0")
    assert prism.prism_location() == str(bare / "prism")


def test_a_build_that_fails_says_so(bare, monkeypatch):
    go = bare / "go"
    go.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    go.chmod(0o755)
    with pytest.raises(prism.NoPrism, match="returned non-zero exit status 1"):
        prism.build()
    assert re.search("run: python -m tests.services.prism", prism.why_not())
