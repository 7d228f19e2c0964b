"""Writers' schemas by their numbers: what is asked of the registry, and what it means."""

from __future__ import annotations

import json
import pickle
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from millstream.schemas.avro.messages import AvroMessageDecoder, NoSchema
from millstream.schemas.contract import Contract, Field
from millstream.transforms.errors import Unavailable
from millstream.transforms.kafka import writer_schemas
from millstream.transforms.kafka.registry import CREDENTIALS_VARIABLE, UnknownSchema
from millstream.transforms.kafka.writer_schemas import UNKNOWN_SECONDS, WriterSchemas
from millstream.transforms.read.errors import SourceError

from tests.avro_support import encoded
from tests.services import registry as service
from tests.services.serving import NoServer, free_port

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}
WIDER = {
    "type": "record",
    "name": "R",
    "fields": [*SCHEMA["fields"], {"name": "s", "type": ["null", "string"], "default": None}],
}
CONTRACT = Contract("c", "1", "c", (Field("n", "integer"), Field("s", "string")))


def nothing() -> Mapping[str, str]:
    return {}


# ------------------------------------------------------------------------------- what is kept


class FakeRegistry:
    """Knows some schemas, or does not answer."""

    made: list[tuple[Any, ...]]

    def __init__(self) -> None:
        self.made, self.asked, self.closed = [], [], 0
        self.schemas: dict[int, Any] = {1: SCHEMA}
        self.away = False

    def __call__(self, *made_of: Any) -> FakeRegistry:
        self.made.append(made_of)
        return self

    def __enter__(self) -> FakeRegistry:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.closed += 1

    def schema_of(self, number: int) -> Any:
        self.asked.append(number)
        if self.away:
            raise Unavailable("does not answer")
        if number not in self.schemas:
            raise UnknownSchema(f"no schema {number}")
        return self.schemas[number]


@pytest.fixture
def fake(monkeypatch) -> FakeRegistry:
    made = FakeRegistry()
    monkeypatch.setattr(writer_schemas, "WriterRegistry", made)
    return made


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What the time is, to be set."""
    now = [1_000.0]
    monkeypatch.setattr(writer_schemas.time, "monotonic", lambda: now[0])
    return now


def test_a_schema_is_asked_for_once_whatever_becomes_of_the_registry(fake, clock):
    schemas = WriterSchemas("http://r", nothing, SourceError)
    assert json.loads(schemas(1)) == SCHEMA
    fake.away = True
    clock[0] += 10 * UNKNOWN_SECONDS
    assert json.loads(schemas(1)) == SCHEMA
    assert fake.asked == [1]


def test_an_unknown_number_is_asked_for_again_after_a_while(fake, clock):
    schemas = WriterSchemas("http://r", nothing, SourceError)
    for _ in range(3):
        with pytest.raises(NoSchema, match=r"^is not to be had: no schema 2$"):
            schemas(2)
    assert fake.asked == [2]
    fake.schemas[2] = WIDER
    clock[0] += UNKNOWN_SECONDS - 1
    with pytest.raises(NoSchema):
        schemas(2)
    clock[0] += 1
    assert json.loads(schemas(2)) == WIDER
    assert fake.asked == [2, 2]


def test_a_registry_that_is_away_is_asked_again_at_once(fake):
    schemas = WriterSchemas("http://r", nothing, SourceError)
    fake.away = True
    with pytest.raises(Unavailable):
        schemas(1)
    fake.away = False
    assert json.loads(schemas(1)) == SCHEMA


def test_numbers_that_are_none_take_no_memory_without_end(fake, monkeypatch):
    monkeypatch.setattr(writer_schemas, "_MOST_UNKNOWN", 3)
    schemas = WriterSchemas("http://r", nothing, SourceError)
    for number in range(10, 20):
        with pytest.raises(NoSchema):
            schemas(number)
        assert len(schemas._unknown) <= 3


def test_the_registry_is_opened_when_it_is_needed(fake):
    schemas = WriterSchemas("http://r", nothing, SourceError)
    assert fake.made == []
    schemas.close()
    schemas(1)
    assert fake.made == [("http://r", {}, SourceError)]
    schemas.close()
    schemas.close()
    assert fake.closed == 1
    fake.schemas[2] = WIDER
    schemas(2)
    assert len(fake.made) == 2


def _secret() -> Mapping[str, str]:
    return {"basic.auth.user.info": "".join(("hun", "ter", "2"))}


def test_a_pickle_is_small_and_holds_no_secret(fake):
    schemas = WriterSchemas("http://r", _secret, SourceError)
    schemas(1)
    data = pickle.dumps(schemas)
    assert b"hunter2" not in data
    assert b"record" not in data
    again = pickle.loads(data)
    assert json.loads(again(1)) == SCHEMA
    assert fake.made[1] == ("http://r", _secret(), SourceError)


def test_a_url_with_a_password_is_refused_without_repeating_it():
    schemas = WriterSchemas("http://me:hunter2@r", nothing, SourceError)
    with pytest.raises(SourceError, match=CREDENTIALS_VARIABLE) as raised:
        schemas(1)
    assert "hunter2" not in str(raised.value)


# --------------------------------------------------------------------------- a real registry


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with started() as url:
        yield url


def started() -> Any:
    if reason := service.why_not():
        pytest.skip(f"registry: {reason}")
    try:
        return service.registry()
    except NoServer as error:
        pytest.skip(f"registry: {error}")


def register(url: str, subject: str, schema: Any, kind: str = "AVRO", **more: Any) -> int:
    """Register a schema as its writer does; its number."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    body = json.dumps({"schema": text, "schemaType": kind, **more}).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(f"{url}/subjects/{subject}/versions", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["id"]


def message(number: int, schema: Any, value: Any) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + encoded(schema, value)


def binary(payloads: list[bytes]) -> pa.Array:
    return pa.array(payloads, pa.binary())


@contextmanager
def reading(url: str) -> Iterator[AvroMessageDecoder]:
    with WriterSchemas(url, nothing, SourceError) as schemas:
        yield AvroMessageDecoder(CONTRACT, schemas)


@pytest.mark.service
def test_messages_of_schemas_that_evolved_are_read(url):
    first, second = register(url, "evolved", SCHEMA), register(url, "evolved", WIDER)
    assert first != second
    unknown = second + 1_000
    messages = [
        message(second, WIDER, {"n": 1, "s": "a"}),
        message(unknown, SCHEMA, {"n": 2}),
        message(first, SCHEMA, {"n": 3}),
        message(second, WIDER, {"n": 4, "s": None}),
    ]
    with reading(url) as decoder:
        found = decoder.decode(binary(messages))
    assert found.records.to_pylist() == [
        {"n": 1, "s": "a"},
        {"n": 3, "s": None},
        {"n": 4, "s": None},
    ]
    (violation,) = found.violations
    assert violation.row == 1
    assert violation.message == (
        f"names the schema {unknown}, which is not to be had: "
        f"the schema registry {url} has no schema {unknown}"
    )


@pytest.mark.service
def test_schemas_that_are_not_of_avro_are_told(url):
    text = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'
    number = register(url, "json", text, "JSON")
    with reading(url) as decoder:
        found = decoder.decode(binary([message(number, SCHEMA, {"n": 1})]))
    assert found.violations[0].message.endswith("is of JSON, not of Avro")


@pytest.mark.service
def test_schemas_may_name_types_of_other_subjects(url):
    unit = {"type": "enum", "name": "Unit", "symbols": ["s", "ms"]}
    lasting = {"type": "record", "name": "x.Lasting", "fields": [
        {"name": "count", "type": "int"}, {"name": "unit", "type": "Unit"},
    ]}  # fmt: skip
    named = [{"name": "s", "type": "Lasting"}, {"name": "more", "type": ["null", "x.Lasting"]}]
    schema = {**SCHEMA, "namespace": "x", "fields": [*SCHEMA["fields"], *named]}
    register(url, "unit", unit)
    refer = {"name": "Unit", "subject": "unit", "version": 1}
    register(url, "lasting", lasting, references=[refer])
    refer = {"name": "x.Lasting", "subject": "lasting", "version": 1}
    number = register(url, "naming", schema, references=[refer])
    with WriterSchemas(url, nothing, SourceError) as schemas:
        contract = replace(CONTRACT, fields=(Field("n", "integer"), Field("s", "json")))
        found = AvroMessageDecoder(contract, schemas).decode(
            binary([b"\0" + number.to_bytes(4, "big") + b"\2\4\2\2\6\0"])
        )
    assert found.violations == []
    assert found.records.to_pylist() == [{"n": 1, "s": '{"count":2,"unit":"ms"}'}]


@pytest.mark.service
def test_what_is_no_registry_is_a_mistake(url):
    elsewhere = url.removesuffix("/ccompat/v7") + "/nowhere"
    with (
        WriterSchemas(elsewhere, nothing, SourceError) as schemas,
        pytest.raises(SourceError, match="HTTP 404"),
    ):
        schemas(1)


@pytest.mark.service
def test_a_registry_that_stops_makes_no_dead_letters():
    with started() as url, reading(url) as decoder:
        first, second = register(url, "stops", SCHEMA), register(url, "stops", WIDER)
        known = message(first, SCHEMA, {"n": 1})
        assert decoder.decode(binary([known])).records.column("n").to_pylist() == [1]
    new = message(second, WIDER, {"n": 2, "s": "a"})
    with pytest.raises(Unavailable, match="does not answer"):
        decoder.decode(binary([known, b"{}", new]))
    assert decoder.decode(binary([known, b"{}"])).refused == [1]


@pytest.mark.slow
def test_nobody_there_is_unavailable():
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        WriterSchemas(nobody, nothing, SourceError) as schemas,
        pytest.raises(Unavailable, match="does not answer"),
    ):
        schemas(1)
