"""A schema registry with Confluent's API: asking whether schemas fit, and registering them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from ....schemas.avro.schema import Avro
from ..errors import DestinationError, Unavailable
from ..evolution import TableMismatch

try:  # whichever of the two confluent-kafka uses
    import httpx2 as httpx  # pyright: ignore[reportMissingImports]
except ImportError:
    import httpx  # pyright: ignore[reportMissingImports]

CREDENTIALS_VARIABLE = "SCHEMA_REGISTRY_BASIC_AUTH"
"""The environment variable that has ``USER:PASSWORD``."""
SECONDS = 4
_CONFLICT = 409
_NOT_FOUND = 404
_NOT_LET_IN = {401, 403}


class Registry:
    """A registry's client, to be closed by leaving a ``with`` block.

    Args:
        url: where it is; if empty, the settings say it.
        settings: confluent-kafka's, without ``schema.registry.`` before them.

    Raises:
        DestinationError: there is no URL, or one with a password in it; or a setting is none.
    """

    def __init__(self, url: str, settings: Mapping[str, str]) -> None:
        given: dict[str, Any] = {"max.retries": 1, "timeout": SECONDS, **settings}
        self._url = checked_url(url or given.get("url", ""))
        given["url"] = self._url
        if credentials := os.environ.get(CREDENTIALS_VARIABLE):
            given["basic.auth.user.info"] = credentials
        try:
            self._client = SchemaRegistryClient(given)
        except (TypeError, ValueError, OSError) as error:
            raise DestinationError(f"schema registry {self._url}: {error}") from None

    def __enter__(self) -> Registry:
        self._client.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._client.__exit__(*raised)

    def latest(self, subject: str) -> Avro | None:
        """The schema that was registered last for a subject, if any was.

        Raises:
            TableMismatch: it is not of Avro.
            DestinationError, Unavailable: as :meth:`check`.
        """
        with self._explained(subject):
            try:
                found = self._client.get_latest_version(subject).schema
            except SchemaRegistryError as error:
                if error.http_status_code == _NOT_FOUND:
                    return None
                raise
        if found.schema_type != "AVRO":
            raise TableMismatch(
                f"subject {subject} of the schema registry {self._url} has schemas of "
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
        with self._explained(subject):
            try:
                said = self._client.test_compatibility(subject, _text(schema), "latest")
            except SchemaRegistryError as error:
                if error.http_status_code == _NOT_FOUND:
                    return  # nothing is registered yet
                raise
        if not said:
            raise TableMismatch(self._mismatch(subject))

    def register(self, subject: str, schema: Avro) -> int:
        """The schema's number, under which it is registered from now on, if it was not.

        Raises:
            TableMismatch, DestinationError, Unavailable: as :meth:`check`.
        """
        with self._explained(subject):
            return self._client.register_schema(subject, _text(schema))

    @contextmanager
    def _explained(self, subject: str) -> Iterator[None]:
        try:
            yield
        except SchemaRegistryError as error:
            status = error.http_status_code
            if status == _CONFLICT:
                raise TableMismatch(self._mismatch(subject)) from error
            said = f"schema registry {self._url}, subject {subject}: HTTP {status}"
            if status in _NOT_LET_IN:
                raise DestinationError(f"{said}; see {CREDENTIALS_VARIABLE}") from error
            if status < 500 and status != 408 and status != 429:
                raise DestinationError(f"{said}: {error.error_message}") from error
            raise Unavailable(said) from error
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
            raise Unavailable(f"schema registry {self._url} does not answer: {why}") from error

    def _mismatch(self, subject: str) -> str:
        return (
            f"subject {subject} of the schema registry {self._url} does not take the schema that "
            "is written: it is not compatible with those that are registered. Change the contract, "
            "or write to another topic"
        )


def checked_url(url: str) -> str:
    """The URL.

    Raises:
        DestinationError: it is none, or has a password in it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None:
        raise DestinationError(
            "the schema registry's URL has credentials in it; put USER:PASSWORD into the "
            f"environment variable {CREDENTIALS_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DestinationError("format=avro needs the schema registry: say registry=https://…")
    return url


def _text(schema: Avro) -> Schema:
    return Schema(json.dumps(schema, separators=(",", ":")), "AVRO")
