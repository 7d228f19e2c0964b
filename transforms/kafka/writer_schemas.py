"""The schemas that messages were written by, asked of a schema registry and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from confluent_kafka.schema_registry import Schema

from ...schemas.avro.messages import NoSchema
from ...schemas.avro.references import with_definitions
from ...schemas.avro.schema import Avro
from .registry import Registry, UnknownSchema

UNKNOWN_SECONDS = 60.0
"""How long a number that the registry did not know is taken for unknown without asking again."""
_MOST_UNKNOWN = 10_000  # bytes that are no messages name a new number each


class WriterRegistry(Registry):
    """A registry, for those who read."""

    def schema_of(self, number: int) -> Avro:
        """The schema that has a number, with the types of other subjects that it names.

        Raises:
            UnknownSchema, ValueError, Unavailable: as :meth:`Registry.schema_of`.
        """
        schema = super().schema_of(number)
        found: dict[str, Avro] = {}
        with self._explained(f"schema {number}"):
            self._add_named(self._client.get_schema(number), found)  # which the client has kept
        return with_definitions(schema, found)

    def _add_named(self, schema: Schema, found: dict[str, Avro]) -> None:
        for named in schema.references or ():
            if named.name is None or named.name in found:
                continue
            other = self._client.get_version(named.subject or "", named.version or -1).schema
            found[named.name] = json.loads(other.schema_str or "null")
            self._add_named(other, found)


class WriterSchemas:
    """Gives the schema of a number, as JSON: what ``AvroMessageDecoder`` takes.

    A number never changes its schema: each is asked for once. A number that is not known is asked
    for again after a minute, for it may be registered meanwhile. Pickled, it is only what it was
    made of. To be closed, or left as a ``with`` block, when it is not needed any more.

    Args:
        url: where the registry is; if empty, the settings say it.
        settings: gives those of :class:`~.registry.Registry`, which may be secret: it is called
            where the registry is asked, and what it gives is never pickled.
        mistake: what is raised where trying again does not help.
    """

    def __init__(
        self,
        url: str,
        settings: Callable[[], Mapping[str, str]],
        mistake: type[ValueError],
    ) -> None:
        self._made_of = (url, settings, mistake)
        self._registry: WriterRegistry | None = None
        self._known: dict[int, str] = {}
        self._unknown: dict[int, tuple[str, float]] = {}  # what is said of it, and until when

    def __reduce__(self) -> tuple[Any, ...]:
        return WriterSchemas, self._made_of

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def __call__(self, number: int) -> str:
        """The schema of a number.

        Raises:
            NoSchema: the registry has none, or one that is not of Avro.
            Unavailable: the registry does not answer.
            ValueError: the ``mistake``: it does not let us in, is none, or a setting is none.
        """
        known = self._known.get(number)
        if known is None:
            self._refuse_unknown(number)
            known = self._known[number] = self._asked(number)
        return known

    def close(self) -> None:
        """Let go of the registry. What is asked for afterwards opens it again."""
        if self._registry is not None:
            self._registry.__exit__(None, None, None)
            self._registry = None

    def _asked(self, number: int) -> str:
        if self._registry is None:
            url, settings, mistake = self._made_of
            self._registry = WriterRegistry(url, settings(), mistake).__enter__()
        try:
            return json.dumps(self._registry.schema_of(number), separators=(",", ":"))
        except UnknownSchema as error:
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            why = f"is not to be had: {error}"
            self._unknown[number] = (why, time.monotonic() + UNKNOWN_SECONDS)
            raise NoSchema(why) from error

    def _refuse_unknown(self, number: int) -> None:
        why, until = self._unknown.get(number, ("", 0.0))
        if why and time.monotonic() < until:
            raise NoSchema(why)
