"""A schema registry with Confluent's API: who asks it, and which schema has a number."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError

from ...schemas.avro.schema import Avro
from ..errors import Unavailable
from .addresses import checked_url
from .names import CREDENTIALS_VARIABLE

try:  # whichever of the two confluent-kafka uses
    import httpx2 as httpx  # pyright: ignore[reportMissingImports]
except ImportError:
    import httpx  # pyright: ignore[reportMissingImports]

SECONDS = 4
NOT_FOUND = 404
_NO_SCHEMA = 40403
"""The registry's own code for a number that no schema has."""
_NOT_LET_IN = {401, 403}
_NO_REGISTRY = (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError, KeyError)
"""What the client raises of an answer that it cannot make out, as a proxy's page."""
_NUMBERS = {"timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity"}


class UnknownSchema(LookupError):
    """A number under which the registry has no schema, or none of Avro."""


class Registry:
    """A registry's client, to be closed by leaving a ``with`` block.

    Args:
        url: where it is; if empty, the settings say it.
        settings: confluent-kafka's, without ``schema.registry.`` before them.
        mistake: what is raised where trying again does not help.

    Raises:
        ValueError: the ``mistake``: there is no URL, or one with a password in it; or a setting is
            none.
    """

    def __init__(self, url: str, settings: Mapping[str, str], mistake: type[ValueError]) -> None:
        given: dict[str, Any] = {"max.retries": 1, "timeout": SECONDS, **settings}
        self.url = checked_url(url or given.get("url", ""), mistake)
        self._mistake = mistake
        given["url"] = self.url
        if credentials := os.environ.get(CREDENTIALS_VARIABLE):
            given["basic.auth.user.info"] = credentials
        try:
            for name in _NUMBERS & given.keys():  # the file's are texts
                given[name] = float(given[name])
            self._client = SchemaRegistryClient(given)
        except (TypeError, ValueError, OSError) as error:
            raise mistake(f"schema registry {self.url}: {error}") from None

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._client.__exit__(*raised)

    def schema_of(self, number: int) -> Avro:
        """The schema that has a number: a message's writer gave it.

        Raises:
            UnknownSchema: there is none, or it is not of Avro.
            ValueError: the ``mistake``: the registry does not let us in, or is none.
            Unavailable: it does not answer.
        """
        with self._explained(f"schema {number}"):
            try:
                found = self._client.get_schema(number)
            except SchemaRegistryError as error:
                if error.error_code == _NO_SCHEMA:
                    raise UnknownSchema(
                        f"the schema registry {self.url} has no schema {number}"
                    ) from error
                raise
        if found.schema_type != "AVRO":
            raise UnknownSchema(
                f"schema {number} of the schema registry {self.url} is of {found.schema_type}, not "
                "of Avro"
            )
        return json.loads(found.schema_str or "null")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Raise what the client raises in our words."""
        try:
            yield
        except SchemaRegistryError as error:
            status = error.http_status_code
            said = f"schema registry {self.url}, {what}: HTTP {status}"
            if status in _NOT_LET_IN:
                raise self._mistake(f"{said}; see {CREDENTIALS_VARIABLE}") from error
            if status < 500 and status != 408 and status != 429:
                raise self._mistake(f"{said}: {error.error_message}") from error
            raise Unavailable(said) from error
        except _NO_REGISTRY as error:
            said = f"schema registry {self.url}, {what}: it answers, but not as a registry does"
            raise self._mistake(f"{said}; is this its URL?") from error
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
            raise Unavailable(f"schema registry {self.url} does not answer: {why}") from error
