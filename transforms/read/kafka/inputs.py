"""What is to be read of which topic: ``kafka://HOST:PORT[,HOST:PORT…]/TOPIC?…``.

What else clients have to know, passwords above all, stands in a file of librdkafka's settings:
``config=FILE``, or the environment variable ``MILLSTREAM_KAFKA_CONFIG``. Further options:

- ``start=``: where to begin, if nothing is committed yet. ``earliest`` (the default), ``latest``,
  ``committed`` (what the group has, else the earliest), a time, or offsets by their partitions.
- ``until=``: where to end. A time, offsets by their partitions, or ``now``.
- ``format=json|avro``, and with ``avro`` ``registry=URL``; its credentials are in the environment
  variable ``SCHEMA_REGISTRY_BASIC_AUTH`` or in the file, as ``schema.registry.…``.
- ``isolation=read_committed|read_uncommitted``: whether messages are left out that belong to no
  committed transaction.
- ``group=NAME``: under which positions are published, for those who watch how far behind readers
  are. Nothing is ever assigned by the group.

A time is written as ``2026-11-29T12:00:00Z`` and stands for the first message of each partition
whose time stamp is not before it. Offsets are written as ``0:1200,1:70``; of partitions that are
not named, ``start`` takes the earliest and ``until`` what there is, so that nothing is left out.

A message that is refused as it is read or parsed has in the ``attributes`` of its dead letter:

- ``kafka.key``, if it has one;
- ``kafka.timestamp``, in milliseconds since the epoch, if it has one;
- ``kafka.header.NAME``, one for each header, in their order; null where a header has no value. If
  the name of one is no UTF-8, the client can read none: ``kafka.headers`` is there, and null.

Bytes that are no UTF-8, or hold a NUL, are base64, under ``kafka.key_base64`` and
``kafka.header_base64.NAME``. Topic, partition and offset are in ``source`` and ``position``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from ....schemas.problems import did_you_mean, list_names
from ... import storage
from ...kafka.addresses import Address, checked_url, parse_address
from ..errors import SourceError
from ..options import given_options, moment_of, naming, one_of

SCHEME = "kafka"
OPTIONS = ("start", "until", "format", "registry", "isolation", "group", "config")

Format = Literal["json", "avro"]
Isolation = Literal["read_committed", "read_uncommitted"]
Beginning = Literal["earliest", "latest", "committed"]
Ending = Literal["now"]

_FORMATS: tuple[Format, ...] = get_args(Format)
_ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)
_LONGEST = 249
"""How many characters Kafka allows a topic's name."""
_OFFSET = re.compile(r"(\d{1,10}):(\d{1,19})")
_LIKE_OFFSETS = re.compile(r"[\d:,]+")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND = dt.timedelta(milliseconds=1)


@dataclass(frozen=True)
class Since:
    """The first message whose time stamp is not before a time, in milliseconds since the epoch."""

    ms: int

    def __str__(self) -> str:
        moment = (_EPOCH + self.ms * _MILLISECOND).replace(tzinfo=None)
        return f"{moment.isoformat(timespec='milliseconds')}Z"


@dataclass(frozen=True)
class Offsets:
    """An offset of each of some partitions, sorted by them."""

    pairs: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return ",".join(f"{partition}:{offset}" for partition, offset in self.pairs)


@dataclass(frozen=True)
class KafkaInput:
    """What is to be read of a topic."""

    servers: str
    topic: str
    start: Beginning | Since | Offsets = "earliest"
    until: Ending | Since | Offsets | None = None
    format: Format = "json"
    registry: str = ""
    isolation: Isolation = "read_committed"
    group: str = ""
    config: str = ""

    @property
    def place(self) -> str:
        """The topic's URI, without options."""
        return Address(self.servers, self.topic, "").place(SCHEME)

    @property
    def uri(self) -> str:
        """The URI that says this, without what is so by default."""
        said = {
            "start": "" if self.start == "earliest" else str(self.start),
            "until": str(self.until or ""),
            "format": "" if self.format == "json" else self.format,
            "registry": self.registry,
            "isolation": "" if self.isolation == "read_committed" else self.isolation,
            "group": self.group,
            "config": self.config,
        }
        query = urlencode({key: value for key, value in said.items() if value}, safe=",/:")
        return f"{self.place}?{query}" if query else self.place


def parse_input(uri: str) -> KafkaInput:
    """What a URI says.

    Raises:
        SourceError: it names no topic, has a password in it, or an option cannot be used.
    """
    scheme, _, rest = uri.partition(":")
    if scheme != SCHEME:
        raise SourceError(f"{scheme}: is no topic; write {SCHEME}://HOST:PORT/TOPIC")
    address = parse_address(scheme, rest, _LONGEST, SourceError)
    with naming(scheme):
        given = given_options(address.query, OPTIONS)
        group = given.get("group", "")
        start = _position("start", given.get("start", "earliest"), get_args(Beginning))
        if start == "committed" and not group:
            raise SourceError("start=committed: of which group? Say group=NAME")
        until = given.get("until")
        registry, config = given.get("registry", ""), given.get("config", "")
        return KafkaInput(
            servers=address.servers,
            topic=address.topic,
            start=start,
            until=_position("until", until, get_args(Ending)) if until else None,
            format=one_of("format", given.get("format", "json"), _FORMATS),
            registry=checked_url(registry, SourceError) if registry else "",
            isolation=one_of("isolation", given.get("isolation", "read_committed"), _ISOLATIONS),
            group=group,
            config=storage.absolute(config) if config else "",
        )


def source_name(topic: str, partition: int) -> str:
    """What rows have as their ``_source``; their ``_position`` is the offset.

    >>> source_name("clicks", 3)
    'kafka:clicks/3'
    """
    return f"{SCHEME}:{topic}/{partition}"


def _position(option: str, text: str, words: Collection[str]) -> Any:
    """One of some words, a time, or offsets."""
    if text in words:
        return text
    if _LIKE_OFFSETS.fullmatch(text) and ":" in text:
        return _offsets(option, text)
    hint = did_you_mean(text, words) or (
        f"; expected {list_names(words)}, a time as 2026-11-29T12:00:00Z, or offsets as 0:1200,1:70"
    )
    moment = moment_of(option, text, hint)
    return Since(-((_EPOCH - moment) // _MILLISECOND))


def _offsets(option: str, text: str) -> Offsets:
    found: dict[int, int] = {}
    for pair in text.split(","):
        matched = _OFFSET.fullmatch(pair)
        if not matched:
            raise SourceError(f"{option}={text}: {pair!r} is not PARTITION:OFFSET")
        partition, offset = map(int, matched.groups())
        if partition in found:
            raise SourceError(f"{option}={text}: partition {partition} is there twice")
        found[partition] = offset
    return Offsets(tuple(sorted(found.items())))
