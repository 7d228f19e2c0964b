"""Subjects of a registry: what is registered holds the contract, and what does not is told."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("confluent_kafka.schema_registry", reason="confluent-kafka is not installed")

from confluent_kafka.schema_registry import Schema
from millstream.schemas.odcs import parse_contract
from millstream.transforms.kafka.subjects import (
    ATTRIBUTE,
    FORMS,
    SubjectError,
    Subjects,
    registered_schema,
)

from tests.services import registry

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: shop
version: 1.0.0
schema:
- name: orders
  properties:
  - {name: id, logicalType: integer, required: true}
"""


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "https://", "me:secret@host"])
def test_what_is_no_url(url: str):
    with pytest.raises(SubjectError) as raised:
        Subjects(url)
    said = "what is given is no URL of a schema registry: say registry=https://…"
    assert str(raised.value) == said


@pytest.mark.parametrize("body", [b"<html>Sign in", b"[]", b'"up"', b"\xff\xfe"])
def test_what_answers_and_is_no_registry(body: bytes):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    schema = registered_schema(parse_contract(CONTRACT, "c.yaml"), CONTRACT, "avro")
    try:
        with Subjects(f"http://127.0.0.1:{server.server_port}") as subjects:
            for ask in (lambda: subjects.fetch("s"), lambda: subjects.find("s", schema)):
                with pytest.raises(SubjectError, match="subject s: it answers, but not as a reg"):
                    ask()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("form", FORMS)
def test_the_schema_is_one_that_others_read(form):
    contract = parse_contract(CONTRACT, "c.yaml")
    schema = registered_schema(contract, CONTRACT, form)
    said = json.loads(schema.schema_str or "")
    held = said.pop(ATTRIBUTE[form.upper()])
    assert held["document"] == CONTRACT
    assert held["digest"] == contract.digest
    if form == "avro":
        fastavro = pytest.importorskip("fastavro")
        fastavro.parse_schema({**said, ATTRIBUTE["AVRO"]: held})
    else:
        jsonschema = pytest.importorskip("jsonschema")
        jsonschema.Draft7Validator.check_schema(said)
        assert jsonschema.Draft7Validator(said).is_valid({"id": 1})
        assert not jsonschema.Draft7Validator(said).is_valid({"id": "1"})


@pytest.fixture(scope="module")
def subjects() -> Iterator[Subjects]:
    if reason := registry.why_not():
        pytest.skip(reason)
    with registry.registry() as url, Subjects(url) as found:
        yield found


@pytest.mark.service
@pytest.mark.parametrize("attribute", [None, "text", {"format": "another/1"}])
def test_a_schema_without_a_contract(subjects: Subjects, attribute):
    subject = uuid.uuid4().hex
    said = {"type": "record", "name": "r", "fields": [], ATTRIBUTE["AVRO"]: attribute}
    subjects.register(subject, Schema(json.dumps(said), "AVRO"))
    assert subjects.newest(subject) == 1
    with pytest.raises(SubjectError, match="is a schema of AVRO without a contract in it"):
        subjects.fetch(subject)


@pytest.mark.service
def test_what_is_registered_meanwhile_is_not_overwritten(subjects: Subjects):
    subject = uuid.uuid4().hex
    other = {"type": "record", "name": "orders", "fields": [{"name": "id", "type": "string"}]}
    subjects.register(subject, Schema(json.dumps(other), "AVRO"))
    schema = registered_schema(parse_contract(CONTRACT, "c.yaml"), CONTRACT, "avro")
    assert not subjects.takes(subject, schema)
    with pytest.raises(SubjectError, match="does not take it for subject"):
        subjects.register(subject, schema)
    assert subjects.newest(subject) == 1
    assert subjects.find(subject, schema) is None
