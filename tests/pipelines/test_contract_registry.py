"""``millstream contract publish`` and ``contract fetch``, with a registry of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.pipelines.cli import main

from tests.services import registry
from tests.services.serving import free_port

CONTRACT = """\
# kept to the letter: é, 漢, "quotes"
apiVersion: v3.1.0
kind: DataContract
id: shop
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, primaryKey: true, logicalTypeOptions: {minimum: 1}}
  - {name: state, logicalType: string, enum: [{value: open}, {value: paid}]}
"""

pytestmark = pytest.mark.service
FORMATS = pytest.mark.parametrize("form", ["avro", "json"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if reason := registry.why_not():
        pytest.skip(reason)
    with registry.registry() as found:
        yield found


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(CONTRACT, "utf-8")
    return f"orders-{uuid.uuid4().hex}"


def _publish(url: str, subject: str, file: str, *more: str) -> int:
    return main(["contract", "publish", file, "--registry", url, "--subject", subject, *more])


def _fetch(url: str, subject: str, *more: str) -> int:
    return main(["contract", "fetch", "--registry", url, "--subject", subject, *more])


@FORMATS
def test_the_whole_contract_comes_back(url, subject, form, capsys):
    assert _publish(url, subject, "old.yaml", "--format", form) == 0
    assert f"{subject}: registered as version 1, schema " in capsys.readouterr().out
    assert _fetch(url, subject, "-o", "back.yaml") == 0
    assert Path("back.yaml").read_bytes() == Path("old.yaml").read_bytes()
    capsys.readouterr()
    assert _fetch(url, subject, "--version", "1") == 0
    assert capsys.readouterr().out == CONTRACT


@FORMATS
def test_published_twice_it_is_there_once(url, subject, form, capsys):
    for _ in range(2):
        assert _publish(url, subject, "old.yaml", "--format", form) == 0
    assert f"{subject}: is there already: version 1, schema " in capsys.readouterr().out


@FORMATS
def test_the_registry_decides(url, subject, form, capsys):
    # What the registry compares are types: of a rule it knows nothing in Avro.
    Path("new.yaml").write_text(CONTRACT.replace("integer", "boolean").replace(
        ", logicalTypeOptions: {minimum: 1}", ""), "utf-8")  # fmt: skip
    assert _publish(url, subject, "old.yaml", "--format", form) == 0
    capsys.readouterr()
    assert _publish(url, subject, "new.yaml", "--format", form) == 1
    said = capsys.readouterr().out
    assert f"{subject}: the registry's verdict: not compatible with version 1\n" in said
    assert "  id: is a value of int64, not of boolean\n" in said
    assert _fetch(url, subject) == 0
    assert capsys.readouterr().out == CONTRACT


@FORMATS
def test_a_version_more(url, subject, form, capsys):
    more = CONTRACT.replace("1.0.0", "1.1.0") + "  - {name: note, logicalType: boolean}\n"
    Path("new.yaml").write_text(more, "utf-8")
    options = ["--format", form]
    assert _publish(url, subject, "old.yaml", *options) == 0
    if form == "json":  # to whoever lets records hold anything, a new field is a narrower one
        registry.put(f"{url}/config/{subject}", {"compatibility": "FORWARD"})
    assert _publish(url, subject, "new.yaml", "--dry_run", *options) == 0
    assert "not registered: --dry_run" in capsys.readouterr().out
    assert _publish(url, subject, "new.yaml", *options) == 0
    said = capsys.readouterr().out
    assert "the registry's verdict: compatible with version 1\n" in said
    assert "registered as version 2, schema " in said
    assert _fetch(url, subject) == 0
    assert capsys.readouterr().out == more
    assert _fetch(url, subject, "--version", "1") == 0
    assert capsys.readouterr().out == CONTRACT


def test_mistakes(url, subject, capsys):
    assert _fetch(url, subject) == 2
    assert f"has no subject {subject}, or not the newest version of it" in capsys.readouterr().err
    assert _publish(url, subject, "none.yaml") == 2
    assert capsys.readouterr().err.startswith("none.yaml: cannot be read: ")
    assert _publish("http://me:secret@127.0.0.1", subject, "old.yaml") == 2
    said = capsys.readouterr().err
    assert "SCHEMA_REGISTRY_BASIC_AUTH" in said
    assert "secret" not in said
    Path("new.yaml").write_text(CONTRACT.replace("name: state", "name: its-state"), "utf-8")
    assert _publish(url, subject, "new.yaml") == 2
    assert "new.yaml: column 'its-state': Avro allows only letters" in capsys.readouterr().err


def test_a_registry_that_does_not_answer(subject, capsys):
    assert _publish(f"http://127.0.0.1:{free_port()}", subject, "old.yaml") == 1
    assert "does not answer" in capsys.readouterr().err
