"""Contracts in a schema registry with Confluent's API: published under a subject, and fetched.

What is registered is the contract's schema in Avro or JSON Schema, with one attribute more that
holds the whole ODCS document as its text. Registries keep the text of a schema as it is given, and
both languages let a schema have attributes that nobody else knows: so the contract comes back to
the last letter, and whoever knows nothing of it reads the schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from confluent_kafka.schema_registry import Schema, SchemaRegistryError

from ...schemas.arrow import record_schema
from ...schemas.avro.schema import avro_schema
from ...schemas.contract import Contract
from ...schemas.forms.json_schema import json_schema
from .registry import NOT_FOUND, Registry

Form = Literal["avro", "json"]
FORMS: tuple[Form, ...] = get_args(Form)

ATTRIBUTE: dict[str, str] = {"AVRO": "millstream.contract", "JSON": "x-millstream-contract"}
"""By the registry's type of schema: the attribute that holds the contract."""
FORMAT = "millstream.contract-document/1"

_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
"""What registries compare: Apicurio 3.0 fails at 2020-12, of which nothing is used here that draft
7 has not."""
_CONFLICT = 409
_NEWEST = "latest"


class SubjectError(ValueError):
    """A mistake that trying again does not mend: no such subject or version, no contract in it, or
    a schema that the registry does not take."""


@dataclass(frozen=True)
class Published:
    """What a subject has: a version of it, the schema's number, whether it is new."""

    subject: str
    version: int
    number: int
    new: bool


@dataclass(frozen=True)
class Fetched:
    """A contract's document as it was published; ``schema`` is the schema object taken of it."""

    subject: str
    version: int
    number: int
    document: str
    schema: str
    digest: str


def registered_schema(contract: Contract, document: str, form: Form) -> Schema:
    """The schema to register: that of the contract's records, and in it the document.

    Raises:
        ValueError: the contract cannot be said in Avro; the message names the field.
    """
    kind = form.upper()
    said: dict[str, Any]
    if form == "avro":
        said = avro_schema(record_schema(contract), contract.name)
    else:
        said = {**json_schema(contract), "$schema": _DRAFT_7}
    held = {
        "format": FORMAT,
        "id": contract.id,
        "version": contract.version,
        "schema": contract.name,
        "digest": contract.digest,
        "document": document,
    }
    return Schema(json.dumps({**said, ATTRIBUTE[kind]: held}, ensure_ascii=False), kind)


class Subjects(Registry):
    """A registry's subjects, for as long as a ``with`` block lasts.

    Raises:
        SubjectError: the URL is none, or has a password in it; or the registry does not let us in.
        Unavailable: from every method: it does not answer.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, {}, SubjectError)

    def find(self, subject: str, schema: Schema) -> Published | None:
        """The version of a subject that is this very schema."""
        with self._explained(f"subject {subject}"):
            try:
                found = self._client.lookup_schema(subject, schema)
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND:
                    return None
                raise
        return Published(subject, _whole(found.version), _whole(found.schema_id), new=False)

    def newest(self, subject: str) -> int | None:
        """The newest version of a subject; ``None`` if there is no such subject."""
        with self._explained(f"subject {subject}"):
            try:
                return max(self._client.get_versions(subject))
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND:
                    return None
                raise

    def takes(self, subject: str, schema: Schema) -> bool:
        """The registry's own verdict: whether it holds a schema for compatible with the newest."""
        with self._explained(f"subject {subject}"):
            return self._client.test_compatibility(subject, schema)

    def register(self, subject: str, schema: Schema) -> Published:
        """Register a schema as the subject's next version.

        Raises:
            SubjectError: it is not compatible by the rules that the registry has for the subject.
        """
        with self._explained(f"subject {subject}"):
            try:
                self._client.register_schema(subject, schema)
            except SchemaRegistryError as error:
                if error.http_status_code == _CONFLICT:
                    raise SubjectError(
                        f"the schema registry {self.url} does not take it for subject {subject}: "
                        f"{error.error_message}"
                    ) from error
                raise
        found = self.find(subject, schema)
        if found is None:
            raise SubjectError(f"subject {subject}: registered, but not found again")
        return Published(subject, found.version, found.number, new=True)

    def fetch(self, subject: str, version: int | None = None) -> Fetched:
        """The contract that was published as a version of a subject, the newest by default.

        Raises:
            SubjectError: there is no such version, or its schema holds no contract.
        """
        named = f"version {version}" if version else "the newest version"
        with self._explained(f"subject {subject}"):
            try:
                found = self._client.get_version(subject, version or _NEWEST)
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND:
                    raise SubjectError(
                        f"the schema registry {self.url} has no subject {subject}, or not "
                        f"{named} of it"
                    ) from error
                raise
        kind = found.schema.schema_type if found.schema else None
        held = _held(found.schema.schema_str if found.schema else None, kind)
        if held is None:
            raise SubjectError(
                f"{named} of subject {subject} is a schema of {kind} without a contract in it: it "
                "was not published from one; save it, and make one with: contract import"
            )
        return Fetched(
            subject,
            _whole(found.version),
            _whole(found.schema_id),
            held["document"],
            held["schema"],
            held["digest"],
        )


def _whole(number: int | None) -> int:
    return number if number is not None else 0


def _held(text: str | None, kind: str | None) -> dict[str, str] | None:
    """What the attribute holds, if it is one of ours."""
    try:
        said = json.loads(text or "null")
    except ValueError:
        return None
    held = said.get(ATTRIBUTE.get(kind or "", "")) if isinstance(said, dict) else None
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        return None
    keys = ("document", "schema", "digest")
    return held if all(isinstance(held.get(key), str) for key in keys) else None
