"""Subjects of a schema registry: asking whether schemas fit, and registering them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.schema_registry import Schema, SchemaRegistryError

from ....schemas.avro.schema import Avro
from ...kafka.registry import NOT_FOUND, Registry
from ..evolution import TableMismatch

_CONFLICT = 409


class Subjects(Registry):
    """A registry, for those who write."""

    def latest(self, subject: str) -> Avro | None:
        """The schema that was registered last for a subject, if any was.

        Raises:
            TableMismatch: it is not of Avro.
            DestinationError, Unavailable: as :meth:`check`.
        """
        with self._fitting(subject):
            try:
                found = self._client.get_latest_version(subject).schema
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND:
                    return None
                raise
        if found.schema_type != "AVRO":
            raise TableMismatch(
                f"subject {subject} of the schema registry {self.url} has schemas of "
                f"{found.schema_type}, not of Avro"
            )
        return json.loads(found.schema_str or "null")

    def check(self, subject: str, schema: Avro) -> None:
        """See whether a schema could be registered, as far as can be told.

        Raises:
            TableMismatch: it is not compatible with those of the subject.
            DestinationError: the registry does not let us in.
            Unavailable: it does not answer.
        """
        with self._fitting(subject):
            try:
                said = self._client.test_compatibility(subject, _text(schema), "latest")
            except SchemaRegistryError as error:
                if error.http_status_code == NOT_FOUND:
                    return  # nothing is registered yet
                raise
        if not said:
            raise TableMismatch(self._mismatch(subject))

    def register(self, subject: str, schema: Avro) -> int:
        """The schema's number, under which it is registered from now on, if it was not.

        Raises:
            TableMismatch, DestinationError, Unavailable: as :meth:`check`.
        """
        with self._fitting(subject):
            return self._client.register_schema(subject, _text(schema))

    @contextmanager
    def _fitting(self, subject: str) -> Iterator[None]:
        with self._explained(f"subject {subject}"):
            try:
                yield
            except SchemaRegistryError as error:
                if error.http_status_code == _CONFLICT:
                    raise TableMismatch(self._mismatch(subject)) from error
                raise

    def _mismatch(self, subject: str) -> str:
        return (
            f"subject {subject} of the schema registry {self.url} does not take the schema that "
            "is written: it is not compatible with those that are registered. Change the contract, "
            "or write to another topic"
        )


def _text(schema: Avro) -> Schema:
    return Schema(json.dumps(schema, separators=(",", ":")), "AVRO")
